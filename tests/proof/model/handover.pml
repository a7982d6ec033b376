/* The hand-over of requests in shared memory, with processes that die or are stopped between any two steps.
 *
 * Each step here is one access to shared memory of the code, named after the function that makes it: molt_* are of
 * molt_accel/ipc/shm/core, the supervisor's of molt_worker/supervisor/shm (deadlines.py, audit.py, reclaim.py,
 * clients.py), the client's of molt_accel/transports/shm (transport.py, connection.py). States and actors have the names
 * of molt_accel/ipc/shm/layout.py, and every step on a state word is a `step(...)` with state before, state after and
 * actor: a test holds them against layout.CHANNEL_TRANSITIONS.
 *
 * check.py has the configurations (how many of whom, which faults) and the mutations (one rule left out), runs
 * them all and says what each has shown. The invariants, and how each is checked:
 *   1 one outcome for each generation         assertion in step()
 *   2 a client takes only its own generation  assertions in take()
 *   3 one live executor owns a channel        assertion in Executor, when it has claimed
 *   4 no READY request that everybody sleeps through; and
 *   7 every call ends, every channel comes back: no invalid end state. A park has no time limit, so that a wake-up that is
 *     lost is a deadlock; but where a configuration says BOUNDED_..., since there ringers die between two steps.
 *     Every run ends (check.py looks for cycles, too), so nothing hangs on who gets the processor when.
 *   5 a channel isn't handed on while a former owner may store: assertions at each store, in step() and at each grant
 *   6 a kill or an interrupt touches only its own request: assertions at the kill and in the interrupt's handler
 *
 *   8 never more run of an entrypoint with a limit (1, here) than may: assertion in Executor, when it has claimed
 *
 * What is left out, since nothing hangs on it: whose turn it is (any READY request is claimed), the queue's length, how long to spin, and time: a deadline may come at any moment.
 * What waiters compare with what they noted (a doorbell's `count`, `published`) is one bit for each waiter here: whether it
 * has grown since. A signal that the kernel has sent counts as delivered: who was sent SIGKILL stores nothing more.
 */

/* Sizes: channels, each with a client, and executors, two at most; requests of each client. */
#ifndef C
#define C 1
#endif
#ifndef E
#define E 1
#endif
#ifndef R
#define R 1
#endif
/* Faults, at most so many: */
#ifndef EXECUTOR_KILLS
#define EXECUTOR_KILLS 0
#endif
#ifndef EXECUTOR_STOPS      /* SIGSTOP and the like, for good */
#define EXECUTOR_STOPS 0
#endif
#ifndef CLIENT_KILLS        /* of client 0 */
#define CLIENT_KILLS 0
#endif
#ifndef SUPERVISOR_KILLS
#define SUPERVISOR_KILLS 0
#endif
#ifndef HANGS               /* requests that run until they are killed */
#define HANGS 0
#endif
#ifndef DEADLINES           /* requests that are late though they don't hang */
#define DEADLINES 0
#endif
#ifndef GIVE_UPS            /* by the thread that waits, as its time is up */
#define GIVE_UPS 0
#endif
#ifndef CANCELS             /* by another thread of the client */
#define CANCELS 0
#endif
#ifndef LOST_CONNECTIONS          /* of client 0: its socket is closed, and its thread goes on for a moment */
#define LOST_CONNECTIONS 0
#endif
#ifndef RETIREMENTS         /* executors that are to exit when they have no request */
#define RETIREMENTS 0
#endif
#ifndef HEIRS               /* clients that channel 0 is granted to when its own is gone */
#define HEIRS 0
#endif
#ifndef REVIEWS             /* of the marks: the supervisor's looks. 0: there are no marks */
#define REVIEWS 0
#endif
#ifndef SCRIBBLES           /* all marks are gone, and the supervisor looks again after that */
#define SCRIBBLES 0
#endif
#ifndef BOUNDED_EXECUTORS   /* parks that end by themselves */
#define BOUNDED_EXECUTORS 0
#endif
#ifndef BOUNDED_CLIENTS
#define BOUNDED_CLIENTS 0
#endif
/* LIMIT: so many channels, the first ones, carry requests of an entrypoint of which one may run; E is 2 then. ENDLESS: what
 * the last channel carries runs for ever, and nobody stops it. UNDECIDED: a client may withdraw what it has published before
 * it tells anybody. PATIENT: so that there is less to explore, clients wait without being rung, and one step each are: to look
 * for a request, to wake an executor, to write a request and publish it, to announce it, to end one, to take its outcome. What they consist
 * of is explored without it. SPINS: executors stay awake before they park, and say so. LARGE: what client 0 sends doesn't fit its ring. STALLS: it is stopped before
 * it sends the rest. FAILS: executors give requests
 * up, whose bytes don't come. RESPAWN: a reaped executor has a successor in its slot. INTERRUPTS: soft interrupts.
 * TSO: processors with store buffers. REVIEWS: executors look at channels that are marked, and the supervisor reviews the
 * marks. */

/* layout.ChannelState */
#define IDLE 0
#define READY 1
#define CLAIMED 2
#define DONE 3
#define FAILED 4
#define ABANDONED 5
#define KILLING 6
/* layout.Actor */
#define CLIENT 1
#define EXECUTOR 2
#define SUPERVISOR 3

/* The state word, with fewer bits: state (0-2), executor's slot (3), its epoch (4-5), generation (6-). */
#define STATE(w) ((w) & 7)
#define SLOT(w) (((w) >> 3) & 1)
#define EPOCH(w) (((w) >> 4) & 3)
#define GENERATION(w) ((w) >> 6)
#define CLAIM(w) ((w) >> 3)
#define WITH_STATE(w, s) ((((w) >> 3) << 3) | (s))
#define IDLE_WORD(g) ((g) << 6)
#define CLAIMED_BY(w, slot) (IDLE_WORD(GENERATION(w)) | (epoch[slot] << 4) | ((slot) << 3) | CLAIMED)
#define HELD(w) (STATE(w) == CLAIMED || STATE(w) == ABANDONED || STATE(w) == KILLING)
#define SERIAL(c, g) ((g) * 4 + (c))
#define A_REQUEST_IS_READY (STATE(word[0]) == READY || STATE(word[C / 2]) == READY || STATE(word[C - 1]) == READY)
#ifdef LIMIT
#define LIMITED(c) ((c) < LIMIT)
#define LIMITED_IS(what) (what(word[0]) || (LIMIT > 1 && what(word[1])))
#define IS_READY(w) (STATE(w) == READY)
#else
#define LIMITED(c) false
#endif

/* -- the arena --------------------------------------------------------------------------------------------- */
short word[C];
byte failure[C];                /* the generation that the reason is of */
byte request[C], reply[C];      /* the generation whose bytes stand in the ring; 0: none */
bool rung[C], client_parked[C]; /* the channel's doorbell: whether its count has grown, and the rest of it */
byte client_sem[C];
#define SLOT_FREE 0
#define SLOT_BUSY 1
#define SLOT_IDLE 2
byte slot_state[E];
bool news[E];                   /* whether `published` has grown since this executor noted it */
bool slot_rung[E], slot_parked[E];
#ifdef LIMIT
bool holds[E];                  /* the entrypoint with a limit */
bool runs[E];                   /* and whether it does run, which nobody sees */
#endif
byte slot_sem[E];
#ifdef SPINS
bool executor_awake[E];
#endif
#if RETIREMENTS > 0
bool retire[E];
#endif
#if REVIEWS > 0
byte marks;                     /* a bit for each channel; all in one word of the code, too */
#define IS_MARKED(marks, c) (((marks) >> (c)) & 1)
#define LOOKED_AT(c) IS_MARKED(marks_seen, c)
#define LOAD_MARKS marks_seen = marks
byte reviews;
bool scribbled;                 /* and not yet looked at */
#else
#define LOOKED_AT(c) true
#define LOAD_MARKS skip
#endif
#ifdef LARGE
bool room, sent;                /* of channel 0: the first part was read, the second was written */
#endif

/* -- what the kernel and the processes know ------------------------------------------------------------------ */
#define ALIVE 0
#define STOPPED 1
#define KILLED 2                /* SIGKILL was sent */
#define DEAD 3                  /* and waits to be reaped */
#define REAPED 4
byte fate[E];
byte epoch[E];
byte told[E];                   /* molt_tell_claim: what it may be storing to, where only the supervisor looks */
byte serves[E];                 /* the serial of what this executor has; it may store to that channel */
bool hung[E];
#ifdef INTERRUPTS
byte stop_word[E];
bool signalled[E];
#endif

#define NOBODY 255
byte owner[C];                  /* the client that may store to a channel */
byte client_fate[C + HEIRS];
bool ended[C + HEIRS];          /* all its calls have an outcome */
bool calling[C];                /* a call has none yet: not ShmCall.done */
bool gil[C];                    /* Python's lock, where a client has two threads */
bool closed[C + HEIRS];                 /* Arena.close: its connection has ended */
bool gone[C], certain[C];       /* what the supervisor sees of a client: end of file; its death, or that it has detached */
bool freed[C];
bool cancel_sent[C];            /* a CANCEL is in the socket */
short stop[C];                  /* Deadlines._stops: the claim that was told to stop; 0: none */
bool supervisor_killed, supervisor_gone;
byte decided[C];                /* the last generation that has ended */
byte hangs, deadlines, give_ups, cancels;

#define SERVED(c) ((serves[0] && serves[0] % 4 == c) || (serves[E - 1] && serves[E - 1] % 4 == c))
#ifndef MOST_TOKENS
#define MOST_TOKENS (2 * (C + HEIRS + 2)) /* tokens: late and new ones of the clients, a canceller, the supervisor */
#endif

/* -- memory ------------------------------------------------------------------------------------------------ */
#ifdef TSO
/* A plain store may stay in its processor's buffer while later loads are made; whatever locks the bus waits for it. */
#define PARKED 1
#define AWAKE 2
#define NOT_AWAKE 3
#define PUBLISHED 4
#define RUNG 5
byte buffer[2]; /* of executor 0, of client 0 */
#define DRAINED (self > 1 || buffer[self] == 0)
#define plain_store(target, value, what) atomic { DRAINED -> buffer[self] = what }
active proctype Memory() {
end:
  do
  :: d_step { buffer[0] == PARKED -> slot_parked[0] = true; buffer[0] = 0 }
#ifdef SPINS
  :: d_step { buffer[0] == AWAKE -> executor_awake[0] = true; buffer[0] = 0 }
  :: d_step { buffer[0] == NOT_AWAKE -> executor_awake[0] = false; buffer[0] = 0 }
#endif
  :: d_step { buffer[0] == RUNG -> rung[0] = true; buffer[0] = 0 }
  :: d_step { buffer[1] == PARKED -> client_parked[0] = true; buffer[1] = 0 }
  :: d_step { buffer[1] == PUBLISHED -> news[0] = true; buffer[1] = 0 }
  od
}
#else
#define DRAINED true
#define plain_store(target, value, what) target = value
#endif
#ifdef NO_FENCE_WAITER
#define FENCED true
#else
#define FENCED DRAINED
#endif
#ifdef NO_FENCE_RINGER
#define ringer_store(target, what) plain_store(target, true, what)
#else
#define ringer_store(target, what) atomic { DRAINED -> target = true }
#endif

/* molt_step: word[c] becomes `after` if it is `seen`; `won` says whether it was. The invariants ride along. */
inline step(c, from, to, actor, after) {
  d_step {
    DRAINED ->
    won = (word[c] == seen);
    if
    :: won ->
       assert(STATE(seen) == from && STATE(after) == to);
       if
       :: to == DONE || to == FAILED || (to == IDLE && (from == READY || from == ABANDONED)) ->
          assert(GENERATION(seen) > decided[c]); /* 1 */
          decided[c] = GENERATION(seen)
       :: else
       fi;
       assert(actor != SUPERVISOR || !HELD(seen) || HELD(after) || !SERVED(c)); /* 5 */
       assert(actor != CLIENT || owner[c] == id); /* 5 */
       word[c] = after
    :: else
    fi
  }
}

/* molt_doorbell_wake. Its first load of `parked` and the exchange are one step: who loads true and exchanges false might as
 * well have loaded later. */
inline doorbell_wake(parked, sem) {
  if
  :: !parked
  :: atomic { DRAINED && parked -> parked = false };
     atomic { sem++; assert(sem <= MOST_TOKENS) } /* sem_post */
  fi
}

/* molt_wake_executor */
inline wake_executor() {
#ifdef PATIENT
  d_step {
    if
    :: slot_state[0] == SLOT_IDLE && slot_parked[0] -> slot_parked[0] = false; slot_sem[0]++
    :: else ->
       if
       :: slot_state[E - 1] == SLOT_IDLE && slot_parked[E - 1] -> slot_parked[E - 1] = false; slot_sem[E - 1]++
       :: else
       fi
    fi
  }
#else
  do
  :: atomic { i < E && slot_state[i] != SLOT_IDLE -> i++ }
  :: atomic { i < E && slot_state[i] == SLOT_IDLE -> skip };
     if
     :: atomic { !slot_parked[i] -> i++ }
     :: atomic { DRAINED && slot_parked[i] -> slot_parked[i] = false };
        atomic { slot_sem[i]++; assert(slot_sem[i] <= MOST_TOKENS) };
        if
#ifdef WAKES_WHOM_IT_SAW
        :: atomic { true -> i = E }
#else
        :: atomic { slot_state[i] == SLOT_IDLE -> i = E }
        :: atomic { slot_state[i] != SLOT_IDLE -> i++ } /* it waited for bytes of its request */
#endif
        fi
     fi
  :: atomic { i >= E -> i = 0; break }
  od
#endif
}

/* molt_look_again */
inline look_again() {
  atomic { news[0] = true; news[E - 1] = true };
  wake_executor()
}

/* molt_ring_client, and molt_doorbell_ring of a channel's doorbell */
inline ring_client(c) {
#ifdef PATIENT
  skip
#else
  ringer_store(rung[c], RUNG);
  doorbell_wake(client_parked[c], client_sem[c])
#endif
}

/* molt_ring_executor */
inline ring_executor(slot) {
  slot_rung[slot] = true;
  doorbell_wake(slot_parked[slot], slot_sem[slot])
}

/* -- the executor ------------------------------------------------------------------------------------------ */
/* What it may store: only while the word is of its claim. Invariants 3 and 5. */
#define OWNS (HELD(word[c]) && CLAIM(word[c]) == CLAIM(claim))

proctype Executor(byte me) {
  byte c, i, id;
  short seen, claim;
  bool won;
#if REVIEWS > 0
  byte marks_seen;
#endif
#ifdef LIMIT
  bool made_room, stepped_back, tells_room;
#endif
#ifdef LARGE
  bool tells;
#endif
#ifdef TSO
  byte self = me;
#endif
end_unborn:
  (fate[me] == ALIVE || fate[me] == KILLED);
  {
    slot_state[me] = SLOT_IDLE; /* Slot.open */

next: /* molt_next_request */
    atomic { news[me] = false; claim = 0; c = 0 }; /* notes `published` */
#ifdef LIMIT
    stepped_back = false;
#endif
#if RETIREMENTS > 0
    if
    :: retire[me] -> goto leave
    :: else
    fi;
#endif
#if REVIEWS > 0
    LOAD_MARKS;
#endif
    do /* molt_claim */
#ifdef PATIENT
    :: atomic {
         c < C && STATE(word[c]) != READY -> c++;
         do
         :: c < C && STATE(word[c]) != READY -> c++
         :: else -> break
         od
       }
#else
    :: atomic { c < C && (!LOOKED_AT(c) || STATE(word[c]) != READY) -> c++ }
#endif
#ifdef LIMIT
    :: atomic { /* the other one's turn is earlier */
         c == 0 && !LIMITED(C - 1) && STATE(word[C - 1]) == READY ->
         c = C - 1; seen = word[c]; told[me] = SERIAL(c, GENERATION(seen))
       };
       goto claiming
#endif
    :: atomic { c < C && LOOKED_AT(c) && STATE(word[c]) == READY -> seen = word[c]; told[me] = SERIAL(c, GENERATION(seen)) };
#ifdef LIMIT
       if /* molt_enter */
       :: LIMITED(c) ->
#ifndef COUNTS_BEFORE_IT_SAYS
          holds[me] = true;
#endif
          if
          :: atomic { holds[1 - me] -> skip };
             holds[me] = false;
             if /* molt_limit_reached */
             :: LIMITED_IS(HELD)
             :: !LIMITED_IS(HELD) -> stepped_back = true
             fi;
             goto passed
          :: !holds[1 - me]
          fi;
#ifdef COUNTS_BEFORE_IT_SAYS
          holds[me] = true
#endif
       :: !LIMITED(c)
       fi;
claiming:
#endif
       atomic {
         step(c, READY, CLAIMED, EXECUTOR, CLAIMED_BY(seen, me));
         if
         :: won ->
            assert(!SERVED(c)); /* 3 */
            claim = CLAIMED_BY(seen, me);
            serves[me] = SERIAL(c, GENERATION(seen));
#ifdef LIMIT
            assert(!LIMITED(c) || !runs[1 - me]); /* 8 */
            runs[me] = LIMITED(c);
            tells_room = (made_room || stepped_back) && A_REQUEST_IS_READY;
            made_room = false;
#endif
            goto serve
         :: else -> c = 0; LOAD_MARKS
         fi
       }
#ifdef LIMIT
       ;
       holds[me] = false; /* molt_leave */
       if
       :: false -> /* it may not run: not this one, at this look */
passed:   atomic { c = LIMIT }
       :: true
       fi
#endif
    :: atomic { c == C -> told[me] = 0; c = 0; seen = 0; won = false; break }
    od;
#ifdef SPINS
    if
    :: plain_store(executor_awake[me], true, AWAKE);
       true /* molt_stay_awake, until it sees that `published` has grown or not */
    :: true
    fi;
    plain_store(executor_awake[me], false, NOT_AWAKE);
#endif
    /* molt_park. To drain the semaphore and to store `parked` is one step, since a post between them might as well come
     * after both; and so is to leave. */
    atomic {
      DRAINED ->
#ifndef NO_DRAIN
      slot_sem[me] = 0;
#endif
      plain_store(slot_parked[me], true, PARKED)
    };
    if
#ifndef NO_RECHECK
    :: atomic { FENCED && news[me] -> goto parked }
    :: atomic { FENCED && !news[me] -> skip }
#else
    :: true
#endif
    fi;
end_parked:
    if
    :: atomic { DRAINED && slot_sem[me] > 0 -> slot_sem[me]--; slot_parked[me] = false; goto next }
    :: atomic { BOUNDED_EXECUTORS && DRAINED && A_REQUEST_IS_READY -> skip }
#if defined(LIMIT) && !defined(NO_LOOK_SOON)
    :: atomic { stepped_back && LIMITED_IS(IS_READY) && !holds[1 - me] -> skip } /* a park that is short */
#endif
    fi;
parked:
    atomic { DRAINED -> slot_parked[me] = false; goto next };

serve:
#ifdef SPINS
    plain_store(executor_awake[me], false, NOT_AWAKE);
#endif
#ifdef LARGE
    slot_state[me] = SLOT_BUSY;
    if
    :: atomic { c == 0 -> tells = false };
       do /* molt_transfer */
       :: slot_rung[me] = false; /* notes the count */
          if
          :: sent -> ring_client(c); break
          :: atomic { !sent -> assert(OWNS); room = true }
          fi;
          if
          :: word[c] != claim -> goto finish /* LOST */
          :: word[c] == claim
          fi;
          if
          :: !tells -> ring_client(c); tells = true
          :: tells
          fi;
          atomic { slot_sem[me] = 0; slot_parked[me] = true };
          if
          :: slot_rung[me]
          :: !slot_rung[me] ->
end_transfer: /* it waits as long as its client is stopped; as built, for 5 s */
             if
             :: atomic { slot_sem[me] > 0 -> slot_sem[me]-- }
             :: BOUNDED_EXECUTORS && (sent || word[c] != claim)
             fi
          fi;
          slot_parked[me] = false
       od
    :: c != 0
    fi;
#endif
#ifdef LIMIT
    slot_state[me] = SLOT_BUSY;
#ifndef NO_ROOM_TOLD
    if /* molt_tell_room */
    :: atomic { tells_room -> tells_room = false }; look_again()
    :: !tells_room
    fi;
#endif
#endif
#ifdef ENDLESS
    if
    :: c == C - 1 ->
end_endless:
       false
    :: c != C - 1
    fi;
#endif
    if /* it says that it is busy, has read the request, and runs */
#ifdef PATIENT
    :: atomic { true -> assert(OWNS && request[c] == GENERATION(claim)); goto finish /* 5 */ }
#else
    :: atomic { true -> slot_state[me] = SLOT_BUSY; assert(OWNS && request[c] == GENERATION(claim)) /* 5 */ }
#endif
#if HANGS > 0
    :: atomic { hangs < HANGS -> hangs++; hung[me] = true; slot_state[me] = SLOT_BUSY }; false
#endif
    fi;
#ifdef INTERRUPTS
    if
    :: true
    :: atomic { /* Runner.interrupt, the signal's handler */
         signalled[me] -> signalled[me] = false;
#ifndef NO_SERIAL
         if
         :: stop_word[me] == serves[me] /* it raises */
         :: else
         fi
#else
         assert(stop_word[me] == serves[me]) /* 6 */
#endif
       }
    fi;
#endif
finish: /* molt_transfer writes the reply. molt_finish: molt_leave, molt_holds, idle, and the step that decides */
#ifdef LIMIT
    atomic { made_room = LIMITED(c); runs[me] = false; holds[me] = false };
#endif
#ifdef SPINS
    plain_store(executor_awake[me], true, AWAKE); /* it will look for the next one */
#endif
#ifdef PATIENT
    atomic {
      assert(OWNS && owner[c] != NOBODY); /* 5 */
      reply[c] = GENERATION(claim);
      slot_state[me] = SLOT_IDLE;
      seen = claim;
      step(c, CLAIMED, DONE, EXECUTOR, WITH_STATE(seen, DONE));
      assert(won); /* nobody gives up what runs, or is late */
      serves[me] = 0; told[me] = 0;
      seen = 0; won = false;
      goto next
    };
#endif
    atomic {
      assert(OWNS && owner[c] != NOBODY); /* 5 */
      reply[c] = GENERATION(claim);
      slot_state[me] = SLOT_IDLE;
      seen = claim
    };
    if
#ifdef LARGE
    :: c == 0 && !sent -> goto failing
#endif
    :: true ->
#ifdef OUTCOME_IN_TWO_STEPS
       if
       :: word[c] == seen ->
          d_step {
            won = true;
            assert(GENERATION(seen) > decided[c]);
            decided[c] = GENERATION(seen);
            word[c] = WITH_STATE(seen, DONE);
            serves[me] = 0
          }
       :: atomic { word[c] != seen -> won = false }
       fi
#else
       atomic {
         step(c, CLAIMED, DONE, EXECUTOR, WITH_STATE(seen, DONE));
         if
         :: won -> serves[me] = 0
         :: else
         fi
       }
#endif
#ifdef FAILS
    :: goto failing
#endif
    fi;
    goto stepped;
failing:
    failure[c] = GENERATION(seen);
    atomic {
      step(c, CLAIMED, FAILED, EXECUTOR, WITH_STATE(seen, FAILED));
      if
      :: won -> serves[me] = 0
      :: else
      fi
    };
stepped:
    if
    :: won -> ring_client(c); told[me] = 0
    :: atomic {
         !won ->
         seen = WITH_STATE(claim, ABANDONED);
         step(c, ABANDONED, IDLE, EXECUTOR, IDLE_WORD(GENERATION(claim)));
         if
         :: won -> serves[me] = 0; told[me] = 0; goto next
         :: else
         fi
       };
       slot_state[me] = SLOT_BUSY;
       false /* KILLING: ShmPort._give_up waits for it */
    fi;
    goto next;
leave:
    fate[me] = KILLED /* it exits */
  } unless { fate[me] != ALIVE };
end_stopped:
  (fate[me] == KILLED);
  /* dead: it stores nothing any more */
  atomic {
    serves[me] = 0;
    hung[me] = false;
    fate[me] = DEAD;
    c = 0; i = 0; seen = 0; claim = 0; won = false;
#ifdef LIMIT
    runs[me] = false; made_room = false; stepped_back = false; tells_room = false;
#endif
    goto end_unborn
  }
}

/* -- the client -------------------------------------------------------------------------------------------- */
/* Whether the waiting thread may run Python: another thread of its process may have the lock. */
#if CANCELS > 0
#define UNLOCKED !gil[c]
#else
#define UNLOCKED true
#endif

/* molt_give_up, by the waiting thread or another. `found` is the state that it returns. */
inline give_up() {
  do
  :: atomic {
       seen = word[c];
       found = STATE(seen);
       assert(GENERATION(seen) == GENERATION(mine));
       if
       :: found == READY || found == CLAIMED
       :: else -> break
       fi
     };
     atomic {
       if
       :: found == READY -> step(c, READY, IDLE, CLIENT, WITH_STATE(seen, IDLE))
       :: found == CLAIMED -> step(c, CLAIMED, ABANDONED, CLIENT, WITH_STATE(seen, ABANDONED))
       fi
     };
     if
     :: won ->
#ifndef NO_RING_OF_EXECUTOR
        if
        :: found == CLAIMED -> ring_executor(SLOT(seen))
        :: found == READY
        fi;
#endif
        ring_client(c);
        break
     :: !won
     fi
  od
}

/* Connection.cancel, after a CLAIMED request was ABANDONED */
inline tell_of_cancel() {
#ifndef NO_CANCEL_MESSAGE
  if
  :: atomic { found == CLAIMED -> cancel_sent[c] = true }
  :: found != CLAIMED
  fi
#else
  skip
#endif
}

/* Channel.take */
inline take() {
  atomic {
    UNLOCKED -> seen = word[c];
    assert(GENERATION(seen) == GENERATION(mine)); /* 2 */
    assert(STATE(seen) != DONE || reply[c] == GENERATION(mine) || gone[c]); /* 2 */
    assert(STATE(seen) != FAILED || failure[c] == GENERATION(mine) || gone[c]) /* 2 */
  };
  atomic {
    UNLOCKED ->
    if
    :: STATE(seen) == DONE -> step(c, DONE, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)))
    :: STATE(seen) == FAILED -> step(c, FAILED, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)))
    :: else /* it was given up */
    fi
  }
}

proctype Client(byte c; byte id) {
  byte n, i, found;
  short seen, mine;
  bool won;
#ifdef SPINS
  bool deferred;
#endif
#ifdef LARGE
  bool untold; /* it has written on, and no executor had the request to be told of it */
#endif
#ifdef TSO
  byte self = 1;
#endif
end_unborn:
  (id < C || owner[c] == id); /* an heir waits until it is granted the channel */
  {
    n = 0;
lease: /* ChannelPool.give_back and lease: a channel that lingers is clear()ed as soon as it may be */
    if
    :: atomic { STATE(word[c]) == DONE -> seen = word[c] };
       step(c, DONE, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)));
       goto lease
    :: atomic { STATE(word[c]) == FAILED -> seen = word[c] };
       step(c, FAILED, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)));
       goto lease
    :: atomic {
         STATE(word[c]) == IDLE && n < R && !closed[id] -> /* molt_publish */
         seen = word[c];
         assert(owner[c] == id && !SERVED(c)); /* 5 */
         request[c] = GENERATION(seen) + 1;
         reply[c] = 0;
#ifdef LARGE
         if
         :: c == 0 -> room = false; sent = false
         :: else
         fi;
#endif
         mine = WITH_STATE(IDLE_WORD(GENERATION(seen) + 1), READY);
#ifdef PATIENT
         goto publish
#endif
       }
    :: closed[id] || (STATE(word[c]) == IDLE && n == R) -> goto leave
    fi;

publish:
#ifdef MARKS_BEFORE_READY
    if
    :: atomic { IS_MARKED(marks, c) -> skip }
    :: atomic { !IS_MARKED(marks, c) -> skip };
       atomic { marks = marks | (1 << c) }
    fi;
#endif
#ifdef PUBLISHED_BEFORE_READY
    atomic { news[0] = true; news[E - 1] = true };
#endif
    atomic {
      step(c, IDLE, READY, CLIENT, mine); assert(won); calling[c] = true; seen = mine;
#if defined(PATIENT) && !defined(UNDECIDED)
      goto announce
#endif
    };
#if REVIEWS > 0 && !defined(MARKS_BEFORE_READY)
    if
    :: atomic { IS_MARKED(marks, c) -> skip }
    :: atomic { !IS_MARKED(marks, c) -> skip };
       atomic { marks = marks | (1 << c) } /* molt_mark */
    fi;
#endif
#ifdef UNDECIDED
    if /* ShmTransport._decide */
    :: step(c, READY, IDLE, CLIENT, WITH_STATE(mine, IDLE)); /* molt_give_up, of what is queued */
       if
       :: won -> goto over
       :: else /* an executor has taken it up */
       fi
    :: true
#ifdef UNDECIDED_FORGOTTEN
       -> goto look
#endif
    fi;
#endif
    /* molt_announce */
#ifndef PUBLISHED_BEFORE_READY
#ifdef TSO
    ringer_store(news[0], PUBLISHED);
#else
announce:
    atomic {
      news[0] = true; news[E - 1] = true;
#ifdef PATIENT
      wake_executor()
#endif
    };
#endif
#endif
#ifdef SPINS
    if
    :: atomic { executor_awake[0] || executor_awake[E - 1] -> deferred = true; goto look }
    :: !executor_awake[0] && !executor_awake[E - 1]
    fi;
#endif
#ifndef PATIENT
    wake_executor();
#endif
#ifdef STALLS
    if
    :: c == 0 -> client_fate[id] = STOPPED
    :: c != 0
    fi;
#endif
#ifdef ENDLESS
    if
    :: c == C - 1 -> client_fate[id] = STOPPED
    :: c != C - 1
    fi;
#endif

#ifdef PATIENT
    atomic {
      STATE(word[c]) == DONE || STATE(word[c]) == FAILED -> seen = word[c];
      assert(GENERATION(seen) == GENERATION(mine)); /* 2 */
      if
      :: STATE(seen) == DONE -> step(c, DONE, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)))
      :: STATE(seen) == FAILED -> step(c, FAILED, IDLE, CLIENT, IDLE_WORD(GENERATION(seen)))
      fi;
      calling[c] = false; seen = 0; mine = 0; won = false; n++;
      if
      :: n == R -> goto leave
      :: n < R -> goto lease
      fi
    };
#endif
look: /* molt_await */
    rung[c] = false; /* notes the count */
    atomic {
      seen = word[c];
      assert(GENERATION(seen) == GENERATION(mine)); /* 2 */
      if
      :: STATE(seen) == READY || STATE(seen) == CLAIMED || STATE(seen) == KILLING
      :: else -> goto outcome
      fi
    };
#ifdef LARGE
    if
    :: c == 0 && room && !sent -> atomic { sent = true; untold = true } /* molt_send_more */
    :: else
    fi;
    if
    :: atomic { untold && STATE(seen) == CLAIMED -> untold = false }; ring_executor(SLOT(seen)); goto look
    :: else
    fi;
#endif
#if LOST_CONNECTIONS > 0 || SUPERVISOR_KILLS > 0
    if
    :: closed[id] -> goto gives_up /* ShmCall._orphaned */
    :: !closed[id]
    fi;
#endif
#ifdef SPINS
#ifndef DEFERRED_WAKE_FORGOTTEN
    if
    :: atomic { deferred -> deferred = false }; /* molt_catch_up */
       if
       :: STATE(word[c]) == READY -> wake_executor()
       :: STATE(word[c]) != READY
       fi
    :: !deferred
    fi;
#endif
#endif
    /* molt_park, as in Executor */
    atomic { DRAINED -> client_sem[c] = 0; plain_store(client_parked[c], true, PARKED) };
    if
#ifndef NO_RECHECK_BY_CLIENT
    :: atomic { FENCED && rung[c] -> goto parked }
    :: atomic { FENCED && !rung[c] -> skip }
#else
    :: true
#endif
    fi;
    if
    :: atomic { DRAINED && client_sem[c] > 0 -> client_sem[c]--; client_parked[c] = false; goto look }
    :: atomic {
         BOUNDED_CLIENTS && DRAINED &&
         (closed[id] || (STATE(word[c]) != READY && STATE(word[c]) != CLAIMED && STATE(word[c]) != KILLING)) -> skip
       }
#if GIVE_UPS > 0
    :: atomic { give_ups < GIVE_UPS -> give_ups++; client_parked[c] = false; goto gives_up } /* its time is up */
#endif
    fi;
parked:
    atomic { DRAINED -> client_parked[c] = false; goto look };

#if LOST_CONNECTIONS > 0 || SUPERVISOR_KILLS > 0 || GIVE_UPS > 0
gives_up: /* ShmCall.abandon */
    atomic { UNLOCKED -> gil[c] = (CANCELS > 0) };
    give_up();
    gil[c] = false;
    tell_of_cancel();
    if
    :: found == DONE || found == FAILED
    :: else -> goto over
    fi;
#endif

outcome: /* ShmCall._take */
    take();
over:
    atomic { UNLOCKED -> calling[c] = false; found = 0; seen = 0; mine = 0; won = false; n++ };
    goto lease;
leave:
    atomic { ended[id] = true; certain[c] = gone[c] } /* Connection.close: DETACH, or the process exits */
  } unless { client_fate[id] != ALIVE };
  if
  :: client_fate[id] == KILLED -> atomic { gone[c] = true; certain[c] = true }
  :: else
  fi
}

#if CANCELS > 0
/* Another thread of client 0: ShmCall.abandon, which holds Python's lock between its look at `done` and the step. */
proctype Canceller() {
  byte c, i, found, id;
  short seen, mine;
  bool won;
#ifdef TSO
  byte self = 2;
#endif
  {
end:
    do
    :: atomic { cancels < CANCELS && calling[0] && !gil[0] -> cancels++; gil[0] = true; mine = word[0] };
       give_up();
       gil[0] = false;
       tell_of_cancel();
       atomic { found = 0; seen = 0; mine = 0; won = false }
    od
  } unless { client_fate[0] != ALIVE }
}
#endif

#if LOST_CONNECTIONS > 0 || SUPERVISOR_KILLS > 0
/* Connection._listen, on its own thread, and Connection._end */
proctype Monitor(byte c) {
#ifdef TSO
  byte self = 2;
#endif
  {
    skip;
end:
    if
    :: supervisor_gone
    :: ended[c] -> goto over
#if LOST_CONNECTIONS > 0
    :: atomic { c == 0 && !ended[0] -> gone[0] = true } /* Connection.fail: both ends see it */
#endif
    fi;
#ifndef RING_BEFORE_CLOSED
    closed[c] = true;
    ring_client(c);
#else
    ring_client(c);
    closed[c] = true;
#endif
over:
    skip
  } unless { client_fate[c] != ALIVE }
}
#endif

/* -- the supervisor ---------------------------------------------------------------------------------------- */
#define LATE(c) (STATE(word[c]) == CLAIMED && stop[c] != CLAIM(word[c]) && \
                 (deadlines < DEADLINES || hung[SLOT(word[c])] || fate[SLOT(word[c])] == STOPPED))
#ifdef NO_GENERATION
#define SAME_CLAIM(claim, w) (((claim) & 7) == (CLAIM(w) & 7))
#else
#define SAME_CLAIM(claim, w) ((claim) == CLAIM(w))
#endif
/* Stop.is_of */
#define MEANS(c, w) (stop[c] != 0 && SAME_CLAIM(stop[c], w) && HELD(w))
#define DUE(c) (stop[c] != 0 && !(MEANS(c, word[c]) && STATE(word[c]) == KILLING))
#define TO_STOP(c) (STATE(word[c]) == ABANDONED && !MEANS(c, word[c]))
#ifdef REUSE_BEFORE_CERTAIN
#define CERTAIN(c) true
#else
#define CERTAIN(c) certain[c]
#endif
#define TO_RECLAIM(c) \
  (gone[c] && !freed[c] && \
   (STATE(word[c]) == READY || STATE(word[c]) == CLAIMED || TO_STOP(c) || \
    ((STATE(word[c]) == DONE || STATE(word[c]) == FAILED) && !TOLD(c)) || \
    (STATE(word[c]) == IDLE && CERTAIN(c) && !TOLD(c))))
#ifdef REPAIR_WITHOUT_SLOT
#define CLAIM_OF(c, s) (SERIAL(c, GENERATION(word[c])) == claimed)
#else
#define CLAIM_OF(c, s) (SLOT(word[c]) == s && SERIAL(c, GENERATION(word[c])) == claimed)
#endif
/* StopWords.is_claimed: whether an executor says that it may store to it */
#define TOLD(c) ((told[0] && told[0] % 4 == c) || (told[E - 1] && told[E - 1] % 4 == c))

/* Deadlines.stop */
inline tell_to_stop() {
  atomic { stop[c] = CLAIM(seen) };
#ifdef INTERRUPTS
  stop_word[SLOT(seen)] = SERIAL(c, GENERATION(seen));
  signalled[SLOT(seen)] = true /* by the forkserver */
#else
  skip
#endif
}

/* ShmSupervisor.on_reaped and Audit.end_of_dead: what this slot's executor has said that it has */
inline repair() {
  c = 0;
  do
  :: atomic { c < C && !(HELD(word[c]) && CLAIM_OF(c, s)) -> c++ }
  :: atomic { c < C && HELD(word[c]) && CLAIM_OF(c, s) -> seen = word[c] };
     if
     :: STATE(seen) == ABANDONED -> step(c, ABANDONED, IDLE, SUPERVISOR, IDLE_WORD(GENERATION(seen)))
     :: else ->
#ifndef FAILURE_AFTER_STEP
        failure[c] = GENERATION(seen);
#endif
        if
        :: STATE(seen) == CLAIMED -> step(c, CLAIMED, FAILED, SUPERVISOR, WITH_STATE(seen, FAILED))
        :: STATE(seen) == KILLING -> step(c, KILLING, FAILED, SUPERVISOR, WITH_STATE(seen, FAILED))
        fi
#ifdef FAILURE_AFTER_STEP
        ; failure[c] = GENERATION(seen)
#endif
     fi;
     if
     :: atomic { won -> stop[c] = 0 }; ring_client(c); c++
     :: !won /* its client has given up just now */
     fi
  :: atomic { c >= C -> c = 0; break }
  od
}

/* Arena.reset_slot */
inline reset_slot() {
  slot_state[s] = SLOT_FREE;
#if defined(LIMIT) && !defined(PLACE_OF_THE_DEAD_KEPT)
  holds[s] = false;
#endif
#if RETIREMENTS > 0
  retire[s] = false;
#endif
  slot_parked[s] = false; /* molt_doorbell_init */
  atomic { slot_sem[s] = 0; slot_rung[s] = false };
#ifdef SPINS
  executor_awake[s] = false;
#endif
#ifdef INTERRUPTS
  atomic { stop_word[s] = 0; signalled[s] = false }; /* StopWords.lend; a signal to a dead process is none */
#endif
  epoch[s] = (epoch[s] + 1) & 3
}

proctype Supervisor() {
  byte c, i, s, id, claimed;
  short seen;
  bool won;
#if REVIEWS > 0
  bool missed, is_marked;
#endif
#if RETIREMENTS > 0
  byte retired;
#endif
#ifdef TSO
  byte self = 2;
#endif
  {
end:
    do
    :: atomic { /* Deadlines.look */
         LATE(0) || LATE(C - 1) ->
         if
         :: LATE(0) -> c = 0
         :: LATE(C - 1) -> c = C - 1
         fi;
         seen = word[c];
         if
         :: !hung[SLOT(seen)] && fate[SLOT(seen)] != STOPPED -> deadlines++
         :: else
         fi
       };
       tell_to_stop();
       atomic { c = 0; seen = 0 }

    :: atomic { cancel_sent[0] || cancel_sent[C - 1] -> /* on_cancel, _stop_abandoned */
         if
         :: cancel_sent[0] -> c = 0
         :: cancel_sent[C - 1] -> c = C - 1
         fi;
         cancel_sent[c] = false
       };
       seen = word[c];
       if
       :: STATE(seen) == ABANDONED && !MEANS(c, seen) -> tell_to_stop()
       :: else
       fi;
       atomic { c = 0; seen = 0 }

    :: atomic { DUE(0) || DUE(C - 1) -> /* _look_at_stops, when the grace time is over */
         if
         :: DUE(0) -> c = 0
         :: DUE(C - 1) -> c = C - 1
         fi
       };
       seen = word[c];
       if
       :: !MEANS(c, seen) -> stop[c] = 0
       :: else ->
#ifdef KILL_WITHOUT_KILLING
          won = true;
#else
          if
          :: STATE(seen) == CLAIMED -> step(c, CLAIMED, KILLING, SUPERVISOR, WITH_STATE(seen, KILLING))
          :: STATE(seen) == ABANDONED -> step(c, ABANDONED, KILLING, SUPERVISOR, WITH_STATE(seen, KILLING))
          fi;
#endif
          if
          :: won ->
             atomic { /* Deadlines.kill */
               s = SLOT(seen);
               assert(fate[s] > STOPPED || serves[s] == SERIAL(c, stop[c] >> 3)); /* 6 */
               if
               :: fate[s] < KILLED -> fate[s] = KILLED
               :: else
               fi
#ifdef KILL_WITHOUT_KILLING
               ; stop[c] = 0
#endif
             };
#ifdef ANSWER_WITHOUT_REAPING
             atomic { seen = word[c]; failure[c] = GENERATION(seen) };
             step(c, KILLING, FAILED, SUPERVISOR, WITH_STATE(seen, FAILED));
             ring_client(c);
#endif
             s = 0
          :: else /* it has just ended, or was given up */
          fi
       fi;
       atomic { c = 0; seen = 0; won = false }

    :: atomic { fate[0] == DEAD || fate[E - 1] == DEAD -> /* Pool._on_exited, ShmSupervisor.on_reaped */
         if
         :: fate[0] == DEAD -> s = 0
         :: fate[E - 1] == DEAD -> s = E - 1
         fi;
         fate[s] = REAPED;
         claimed = told[s]
       };
#ifdef SLOT_REUSED_BEFORE_REPAIR
       atomic { reset_slot(); fate[s] = ALIVE };
       repair();
#else
       repair();
       reset_slot();
       told[s] = 0; /* StopWords.give_back */
#endif
#ifndef NO_WAKE_AFTER_REAP
       do /* Arena.ready */
       :: atomic { c < C && STATE(word[c]) != READY -> c++ }
#ifdef NO_NEWS_AFTER_REAP
       :: c < C && STATE(word[c]) == READY -> wake_executor(); break
#else
       :: c < C && STATE(word[c]) == READY -> look_again(); break
#endif
       :: c == C -> break
       od;
#endif
#if defined(RESPAWN) && !defined(SLOT_REUSED_BEFORE_REPAIR)
       fate[s] = ALIVE;
#endif
       atomic { c = 0; s = 0; seen = 0; claimed = 0; won = false }

    :: atomic { TO_RECLAIM(0) || TO_RECLAIM(C - 1) -> /* _reclaim */
         if
         :: TO_RECLAIM(0) -> c = 0
         :: TO_RECLAIM(C - 1) -> c = C - 1
         fi
       };
       seen = word[c];
       if
       :: STATE(seen) == READY -> step(c, READY, IDLE, SUPERVISOR, IDLE_WORD(GENERATION(seen)))
       :: STATE(seen) == CLAIMED ->
          step(c, CLAIMED, ABANDONED, SUPERVISOR, WITH_STATE(seen, ABANDONED));
          if
          :: won -> tell_to_stop()
          :: else
          fi
       :: STATE(seen) == ABANDONED -> tell_to_stop()
       :: STATE(seen) == DONE && !TOLD(c) -> step(c, DONE, IDLE, SUPERVISOR, IDLE_WORD(GENERATION(seen)))
       :: STATE(seen) == FAILED && !TOLD(c) -> step(c, FAILED, IDLE, SUPERVISOR, IDLE_WORD(GENERATION(seen)))
       :: else
       fi;
       if
       :: CERTAIN(c) && STATE(word[c]) == IDLE && !TOLD(c) ->
          atomic { client_parked[c] = false; client_sem[c] = 0; rung[c] = false }; /* Arena.reset_channel */
          atomic {
            freed[c] = true;
            assert(!SERVED(c)); /* 5 */
            owner[c] = NOBODY;
#if HEIRS > 0
            gone[c] = false; certain[c] = false; calling[c] = false;
            owner[c] = C
#endif
          }
       :: else
       fi;
       atomic { c = 0; seen = 0; won = false }

#if REVIEWS > 0
    :: atomic { reviews < REVIEWS || scribbled -> /* molt_review_marks */
         if
         :: scribbled -> scribbled = false
         :: else -> reviews++
         fi;
         c = 0; missed = false
       };
       do
       :: c < C ->
          if
          :: atomic { IS_MARKED(marks, c) -> is_marked = true };
             if
             :: atomic { STATE(word[c]) == IDLE -> skip };
                atomic { marks = marks & ~(1 << c); is_marked = false }
             :: atomic { STATE(word[c]) != IDLE -> skip }
             fi
          :: atomic { !IS_MARKED(marks, c) -> is_marked = false }
          fi;
          if
#ifdef NO_LOOK_AFTER_UNMARKING
          :: true
#else
          :: atomic { is_marked || STATE(word[c]) == IDLE -> skip }
          :: atomic { !is_marked && STATE(word[c]) != IDLE -> skip };
             atomic { marks = marks | (1 << c); missed = true }
#endif
          fi;
          atomic { is_marked = false; c++ }
       :: atomic { c == C -> c = 0; break }
       od;
       if
#ifndef NO_NEWS_OF_MARKS
       :: atomic { missed -> missed = false };
          look_again()
#endif
       :: atomic { !missed -> skip }
#ifdef NO_NEWS_OF_MARKS
       :: atomic { missed -> missed = false }
#endif
       fi
#endif

#if RETIREMENTS > 0
    :: atomic { retired < RETIREMENTS && fate[0] == ALIVE -> retired++ }; /* Slots.withdraw, Arena.retire */
       retire[0] = true;
       atomic { news[0] = true; news[E - 1] = true };
       ring_executor(0)
#endif
    od
  } unless { supervisor_killed };
  supervisor_gone = true; /* the kernel closes its sockets, and kills the forkserver, and that kills the executors */
  i = 0;
  do
  :: i < E ->
     atomic {
       if
       :: fate[i] < KILLED -> fate[i] = KILLED
       :: else
       fi;
       i++
     }
  :: else -> break
  od
}

#if SCRIBBLES > 0
/* The only thing here that anybody scribbles over: what else a scribbler does may break the invariants. */
active proctype Scribbler() {
  atomic { marks = 0; scribbled = true }
}
#endif

/* -- whoever kills ----------------------------------------------------------------------------------------- */
#ifdef STOPS_SPINNERS
#define STOPPABLE(e) (executor_awake[e] && !told[e]) /* one that has a request is killed at its deadline */
#else
#define STOPPABLE(e) true
#endif
#if EXECUTOR_KILLS + EXECUTOR_STOPS + CLIENT_KILLS + SUPERVISOR_KILLS > 0
active proctype Killer() {
  byte kills, stops;
end:
  do
#if EXECUTOR_KILLS > 0
  :: atomic { kills < EXECUTOR_KILLS && fate[0] == ALIVE -> fate[0] = KILLED; kills++ }
#ifndef PATIENT /* they are alike */
  :: atomic { kills < EXECUTOR_KILLS && fate[E - 1] == ALIVE -> fate[E - 1] = KILLED; kills++ }
#endif
#endif
#if EXECUTOR_STOPS > 0
  :: atomic { stops < EXECUTOR_STOPS && fate[0] == ALIVE && STOPPABLE(0) -> fate[0] = STOPPED; stops++ }
#endif
#if CLIENT_KILLS > 0
  :: atomic { client_fate[0] == ALIVE && !ended[0] -> client_fate[0] = KILLED }
#endif
#if SUPERVISOR_KILLS > 0
  :: atomic { !supervisor_killed -> supervisor_killed = true }
#endif
  od
}
#endif

#define ENDED(id) (ended[id] || client_fate[id] != ALIVE)
#define BACK(c) (supervisor_gone || !gone[c] || freed[c])

init {
  byte c;
  atomic {
    do
    :: c < C -> owner[c] = c; run Client(c, c); c++
    :: else -> break
    od;
#if HEIRS > 0
    run Client(0, C);
#endif
    run Executor(0);
#if E > 1
    run Executor(1);
#endif
    run Supervisor();
#if CANCELS > 0
    run Canceller();
#endif
#if LOST_CONNECTIONS > 0 || SUPERVISOR_KILLS > 0
    run Monitor(0);
#if C > 1
    run Monitor(1)
#endif
#endif
  };
  /* 7. Not to get beyond here is an invalid end state. */
  (ENDED(0) && ENDED(C / 2) && ENDED(C - 1) && BACK(0) && BACK(C - 1));
#if HEIRS > 0
  (!freed[0] || ended[C])
#endif
}
