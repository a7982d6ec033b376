/* The executor's side of a call: it claims a request, reads it, answers it. */
#pragma once

#include "handover.h"

/* An executor in its slot; private memory. */
typedef struct {
    uint32_t slot, epoch, channel;
    uint64_t word, entry; /* CLAIMED; the id of its entrypoint */
    uint64_t taken, sent;
    uint32_t queued, running; /* seen at the last claim, without and with this request */
    int made_room;            /* its last request was of an entrypoint with a limit */
    int full;                 /* at the last look there were requests that may not run yet, and too few seemed to run */
    molt_word *claim; /* where it says what it claims, in memory that no client can map; NULL: nowhere */
    molt_patience patience;
    molt_mover mover;
} molt_executor;

/* Say which request this executor may be storing to, by its serial; 0: none. */
static inline void molt_tell_claim(molt_executor *e, uint64_t serial) {
    if (e->claim && atomic_load_explicit(e->claim, memory_order_relaxed) != serial)
        atomic_store(e->claim, serial);
}

/* Entrypoints that were found to be at their limits in one look. Each is run by another slot, so there are not more. */
enum { MOLT_MOST_FULL = MOLT_MAX_SLOTS };
typedef struct {
    uint32_t count;
    uint64_t ids[MOLT_MOST_FULL];
} molt_full;

static inline int molt_is_full(const molt_full *full, uint64_t id, const molt_entry *entry) {
    if (!full->count || !molt_limit_of(entry))
        return 0;
    for (uint32_t i = 0; i < full->count; i++)
        if (full->ids[i] == id)
            return 1;
    return full->count == MOLT_MOST_FULL; /* somebody scribbles: pass all that have a limit */
}

/* Where others want the processors, a request that was published on another processor counts as so much later: its client
 * would have to be woken there. */
#define MOLT_ELSEWHERE_NS 50000u

/* Find the READY request whose turn it is, and count what is queued and what runs. 1, or 0: there is none that may run. */
static inline int molt_find_next(const molt_arena *a, molt_executor *e, const molt_full *full, uint32_t *next,
                                 uint64_t *next_word) {
    uint32_t i, here = molt_is_contended(a) ? molt_processor() : 0;
    uint64_t next_turn = 0;
    int found = 0;
    e->queued = e->running = 0;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);) {
        uint64_t word = molt_look(a, i);
        uint32_t state = MOLT_STATE(word);
        e->running += MOLT_IS_CLAIMED(state);
        if (state != MOLT_READY)
            continue;
        e->queued++;
        const molt_entry *entry = molt_entry_of(a, i);
        uint64_t turn = molt_turn(a, i, entry);
        if (here && atomic_load_explicit(&molt_channel_at(a, i)->published_at, memory_order_relaxed) != here)
            turn += MOLT_ELSEWHERE_NS;
        if (found && (int64_t)(turn - next_turn) >= 0)
            continue;
        if (molt_is_full(full, atomic_load_explicit(&a->entry_of[i], memory_order_relaxed), entry))
            continue;
        *next = i, *next_word = word, next_turn = turn, found = 1;
    }
    return found;
}

/* Whether as many requests of an entrypoint run as may. */
static inline int molt_limit_reached(const molt_arena *a, uint64_t id, uint64_t limit) {
    uint64_t running = 0;
    uint32_t i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);) {
        uint32_t state = MOLT_STATE(molt_look(a, i));
        running += MOLT_IS_CLAIMED(state) &&
                   atomic_load_explicit(&a->entry_of[i], memory_order_relaxed) == id;
    }
    return running >= limit;
}

/* Whether this executor may run a request of that entrypoint; if not, it is noted in `full`. */
static inline int molt_may_run(molt_arena *a, molt_executor *e, molt_full *full, uint64_t id) {
    uint64_t limit = molt_limit_of(molt_find_entry(a, id, 0));
    if (!limit || molt_enter(a, e->slot, id, limit))
        return 1;
    if (!molt_limit_reached(a, id, limit))
        e->full = 1; /* two stepped back from each other, or one is between two steps: nobody will wake this one */
    if (full->count < MOLT_MOST_FULL)
        full->ids[full->count++] = id;
    return 0;
}

/* Claim the READY request whose turn it is; 1, or 0: there is none that may run. */
static inline int molt_claim(molt_arena *a, molt_executor *e) {
    uint32_t next = 0;
    uint64_t word = 0;
    molt_full full; /* most of it is never touched */
    full.count = 0;
    e->full = 0;
    molt_leave(a, e->slot); /* it runs nothing: a client has written that it does, and would keep others from running it */
    while (molt_find_next(a, e, &full, &next, &word)) {
        e->entry = atomic_load_explicit(&a->entry_of[next], memory_order_relaxed);
        /* Before the claim: a claim that was not told of is a forged one. And before it says what it holds: who has told
         * of no claim holds nothing. */
        molt_tell_claim(e, molt_serial(next, word));
        if (!molt_may_run(a, e, &full, e->entry))
            continue;
        MOLT_FAILPOINT(executor.scanned);
        e->word = MOLT_CLAIMED | (uint64_t)e->slot << 8 | (uint64_t)(e->epoch & 0xff) << 24 |
                  (uint64_t)MOLT_GENERATION(word) << 32;
        atomic_store_explicit(&a->began_ns[next], molt_now_ns(), memory_order_relaxed);
        if (molt_step(a, next, word, e->word)) {
            e->channel = next;
            e->queued--, e->running++;
            e->taken = e->sent = 0;
            return 1;
        }
        molt_leave(a, e->slot);
    }
    molt_tell_claim(e, 0);
    return 0;
}

/* The last request of this executor has made room for another one of its entrypoint, which it has not taken up itself:
 * others sleep, because there was none that might run. So they do if it stepped back from one that stepped back as well. */
static inline void molt_tell_room(molt_arena *a, molt_executor *e) {
    if ((e->made_room || e->full) && e->queued)
        molt_look_again(a);
    e->made_room = 0;
}

/* Whether the word is still of this executor's claim. */
static inline int molt_holds(const molt_executor *e, uint64_t word) {
    uint32_t state = MOLT_STATE(word);
    return word >> 8 == e->word >> 8 && MOLT_IS_CLAIMED(state);
}

enum molt_next { MOLT_NEXT_REQUEST = 0, MOLT_NEXT_SIGNAL = 1, MOLT_NEXT_RETIRE = 2 };

/* How an executor's wait for a request begins. Fewer than `spinners` others may be awake if it shall spin. */
static inline int molt_manner_for_request(molt_arena *a, molt_executor *e, uint64_t spin_ns, uint32_t spinners) {
    if (!spin_ns || !molt_is_short(&e->patience, spin_ns))
        return MOLT_SLEEP;
    uint32_t awake = molt_count_awake(a->executor_awake, a->geometry.slots);
    awake -= atomic_load_explicit(&a->executor_awake[e->slot], memory_order_relaxed) && awake;
    return molt_manner(&e->patience, !molt_is_contended(a) && awake < spinners, molt_is_beside(&e->patience), spin_ns);
}

/* Say whether this executor will look for a request soon, without being woken. Callers wake no other one then, or only
 * after a while. */
static inline void molt_tell_awake(molt_arena *a, const molt_executor *e, int awake) {
    atomic_store_explicit(&a->executor_awake[e->slot], (uint8_t)awake, memory_order_relaxed);
}

/* Hear from a claimed request where its client runs, and go there if that pays; say where this executor runs. Only for short
 * requests: a long one had better run beside its client. */
static inline void molt_meet_client(molt_arena *a, molt_executor *e, uint64_t spin_ns) {
    molt_hear_of(&e->patience, (uint32_t)atomic_load_explicit(&molt_channel_at(a, e->channel)->published_at, memory_order_relaxed));
    int contended = molt_is_contended(a);
    molt_follow(&e->mover, &e->patience, contended && molt_is_quick(molt_usual_ns(molt_find_entry(a, e->entry, 0)), spin_ns));
    atomic_store_explicit(&a->slots[e->slot].runs_at, molt_processor(), memory_order_relaxed);
}

/* How soon an executor looks again that has stepped back from another one; each after a time of its own. */
#define MOLT_LOOK_AGAIN_NS 200000u

/* How long an executor sleeps that finds no request. If a wake-up is lost, whoever waits for the request makes up for it much
 * sooner, see molt_insist. So a large idle pool takes next to no processor time. */
#ifndef MOLT_REST_NS
#define MOLT_REST_NS 1000000000u
#endif

/* Wait for the next request and claim it. Spins at most `spin_ns`, if fewer than `spinners` executors do. */
static inline int molt_next_request(molt_arena *a, molt_executor *e, uint64_t spin_ns, uint32_t spinners) {
    molt_slot *slot = &a->slots[e->slot];
    uint64_t start_ns = 0;
    int manner = MOLT_SLEEP;
    for (;;) {
        uint64_t seen = atomic_load(&a->header->published);
        if (atomic_load(&slot->retire)) {
            molt_tell_awake(a, e, 0);
            e->queued = 1; /* there may be one */
            molt_tell_room(a, e);
            return MOLT_NEXT_RETIRE;
        }
        if (molt_claim(a, e)) {
            molt_tell_awake(a, e, 0);
            MOLT_FAILPOINT(executor.claimed);
            atomic_store(&slot->state, MOLT_SLOT_BUSY);
            molt_tell_room(a, e);
            molt_learn(&e->patience, start_ns ? molt_now_ns() - start_ns : 0);
            molt_meet_client(a, e, spin_ns);
            return MOLT_NEXT_REQUEST;
        }
        if (atomic_load(&slot->state) != MOLT_SLOT_IDLE)
            atomic_store(&slot->state, MOLT_SLOT_IDLE); /* its last request was taken away from it */
        uint64_t now_ns = molt_now_ns();
        if (!start_ns) {
            start_ns = now_ns;
            manner = molt_manner_for_request(a, e, spin_ns, spinners);
        }
        if (manner && now_ns - start_ns < spin_ns) {
            molt_tell_awake(a, e, 1);
            molt_stay_awake(&e->patience, &a->header->crowd, &manner, &a->header->published, seen, start_ns + spin_ns);
            continue;
        }
        molt_tell_awake(a, e, 0);
        /* A signal that came just before the wait did not interrupt it: look for one after a wait in vain, too. */
        uint64_t rest_ns = e->full ? MOLT_LOOK_AGAIN_NS * (1 + e->slot % 8) : MOLT_REST_NS;
        if (molt_park(&slot->doorbell, &a->header->published, seen, now_ns + rest_ns) != MOLT_CHANGED)
            return MOLT_NEXT_SIGNAL;
    }
}

/* Say what runs from now on, in three gauges: serial, deadline (0: none), start. Whoever sees the serial sees the others. */
static inline void molt_begin(molt_executor *e, molt_word *gauges, uint64_t deadline_ns) {
    atomic_store(&gauges[1], deadline_ns);
    atomic_store(&gauges[2], molt_now_ns());
    atomic_store(&gauges[0], molt_serial(e->channel, e->word));
    MOLT_FAILPOINT(executor.begun);
}

enum molt_transfer {
    MOLT_TRANSFERRED = 0,
    MOLT_TRANSFER_SIGNAL = 1,
    MOLT_TRANSFER_LOST = 2,    /* the request is no longer this executor's to answer */
    MOLT_TRANSFER_STALLED = 3, /* the client has not moved for MOLT_STALL_NS */
    MOLT_TRANSFER_CORRUPT = 4
};

/* A client that is alive moves bytes within milliseconds; one that was stopped must not hold an executor. */
#ifndef MOLT_STALL_NS
#define MOLT_STALL_NS 5000000000u
#endif

/* Whether n bytes can be moved without waiting for the client. */
static inline int molt_fits(const molt_arena *a, const molt_executor *e, int out_of_request, uint64_t n) {
    molt_channel *ch = molt_channel_at(a, e->channel);
    if (out_of_request)
        return atomic_load_explicit(&ch->request.head, memory_order_acquire) - e->taken >= n;
    return n <= a->geometry.ring_bytes - (e->sent - atomic_load_explicit(&ch->reply.tail, memory_order_acquire));
}

/* Move what can be moved of n bytes without the `done` ones, out of the request (`to`) or into the reply (`from`). How many,
 * or MOLT_CORRUPT. */
static inline int64_t molt_move(molt_arena *a, molt_executor *e, uint8_t *to, const uint8_t *from, uint64_t done, uint64_t n) {
    molt_channel *ch = molt_channel_at(a, e->channel);
    uint64_t ring_bytes = a->geometry.ring_bytes;
    if (to)
        return molt_ring_read(&ch->request, molt_request_data(a, e->channel), ring_bytes, &e->taken, to + done, n - done);
    return molt_ring_write(&ch->reply, molt_reply_data(a, e->channel), ring_bytes, &e->sent, from + done, n - done);
}

/* Move n bytes out of the request (`to`) or into the reply (`from`), waiting for the client where the ring is empty or full.
 * *done counts them over repeated calls, after a signal. */
static inline int molt_transfer(molt_arena *a, molt_executor *e, uint8_t *to, const uint8_t *from, uint64_t n,
                                uint64_t *done, uint64_t spin_ns) {
    molt_doorbell *doorbell = &a->slots[e->slot].doorbell;
    uint64_t moved_ns = 0;
    int manner = MOLT_SLEEP;
    for (;;) {
        uint64_t seen = atomic_load(&doorbell->count);
        int64_t moved = molt_move(a, e, to, from, *done, n);
        if (moved < 0)
            return MOLT_TRANSFER_CORRUPT;
        *done += (uint64_t)moved;
        if (*done == n && !moved_ns)
            return MOLT_TRANSFERRED; /* it all fitted: the client doesn't wait for room */
        if (to)
            MOLT_FAILPOINT(executor.mid_request);
        else
            MOLT_FAILPOINT(executor.mid_reply);
        if (molt_look(a, e->channel) != e->word)
            return MOLT_TRANSFER_LOST;
        uint64_t now_ns = molt_now_ns();
        if (!moved_ns) /* most transfers don't get here: all of them fits */
            manner = molt_manner(&e->patience, !molt_is_contended(a), molt_is_beside(&e->patience), spin_ns);
        if (moved || !moved_ns) {
            moved_ns = now_ns;
            molt_ring_client(a, e->channel);
            if (*done == n)
                return MOLT_TRANSFERRED;
        } else if (now_ns - moved_ns > MOLT_STALL_NS) {
            return MOLT_TRANSFER_STALLED;
        }
        if (manner && now_ns - moved_ns < spin_ns) {
            molt_stay_awake(&e->patience, &a->header->crowd, &manner, &doorbell->count, seen, moved_ns + spin_ns);
        } else if (molt_park(doorbell, &doorbell->count, seen, now_ns + MOLT_PARK_NS) == MOLT_INTERRUPTED) {
            return MOLT_TRANSFER_SIGNAL;
        }
    }
}

/* End the request: CLAIMED -> DONE, or FAILED with a reason. Returns 1, or 0: it was not this executor's to answer any more
 * (ABANDONED, which it ends; KILLING; or ended before). The slot is IDLE before that: whoever sees the outcome sees that
 * too. */
static inline int molt_finish(molt_arena *a, molt_executor *e, uint32_t state, uint64_t reason) {
    e->made_room = molt_leave(a, e->slot);
    if (!molt_holds(e, molt_look(a, e->channel))) {
        molt_tell_claim(e, 0);
        return 0; /* the channel may be in use again */
    }
    molt_tell_awake(a, e, 1); /* or its client, who sees the outcome at once, would wake another for its next request */
    atomic_store(&a->slots[e->slot].state, MOLT_SLOT_IDLE);
    if (state == MOLT_FAILED)
        atomic_store_explicit(&a->failure[e->channel], reason, memory_order_relaxed);
    MOLT_FAILPOINT(executor.replied);
    int answered = molt_step(a, e->channel, e->word, MOLT_WITH_STATE(e->word, state));
    if (answered) {
        MOLT_FAILPOINT(executor.done);
        molt_ring_client(a, e->channel);
    } else if (!molt_step(a, e->channel, MOLT_WITH_STATE(e->word, MOLT_ABANDONED),
                          MOLT_IDLE_WORD(MOLT_GENERATION(e->word)))) {
        atomic_store(&a->slots[e->slot].state, MOLT_SLOT_BUSY); /* it is about to be killed */
        return 0;
    }
    molt_tell_claim(e, 0);
    return answered;
}
