/* The client's side of a call: it publishes a request, waits for the outcome, takes it, or gives the call up. */
#pragma once

#include "handover.h"

/* Whether a sleeping executor has still to be woken for a request: no; later, because one is awake that should see it by
 * itself; as soon as the caller may be pushed off its processor, because all sleep. */
enum molt_deferred { MOLT_TOLD = 0, MOLT_LATER = 1, MOLT_SOON = 2 };

/* A channel as its client holds it; private memory. */
typedef struct {
    uint32_t channel;
    uint64_t word;                 /* READY, as published */
    uint64_t entry, turn;          /* the id of its entrypoint; when it is its turn, but for the delay of its class */
    uint64_t usual_ns;             /* what such requests take in the executor; 0: not known */
    const uint8_t *part[2];        /* what is still to be sent: header, payload */
    uint64_t left[2], sent, taken; /* `sent` and `taken`: own counts of the two rings */
    uint8_t *into;                 /* where the next part of the reply goes */
    uint64_t wanted;               /* bytes of it still to come */
    uint32_t company;              /* more threads of this process that wait for quick requests, up to a few; see molt_contended */
    int deferred;                  /* enum molt_deferred */
    uint64_t insist_ns;            /* when another executor is woken for it, if it is still queued; 0: nobody has waited yet */
    int untold;                    /* bytes were moved, and no executor had the request to be told of it */
    molt_patience patience;
} molt_call;

/* Write on while there is room. Returns 1 if anything was written, 0, or MOLT_CORRUPT. */
static inline int molt_send_more(molt_arena *a, molt_call *c) {
    int any = 0;
    for (int i = 0; i < 2; i++) {
        if (!c->left[i])
            continue; /* there may be no such part */
        int64_t n = molt_ring_write(&molt_channel_at(a, c->channel)->request, molt_request_data(a, c->channel),
                                    a->geometry.ring_bytes, &c->sent, c->part[i], c->left[i]);
        if (n < 0)
            return MOLT_CORRUPT;
        c->part[i] += n, c->left[i] -= (uint64_t)n, any |= n > 0;
        if (c->left[i]) {
            MOLT_FAILPOINT(client.mid_payload);
            break;
        }
    }
    return any;
}

/* READY requests that were published before ticket. */
static inline uint32_t molt_ahead_of(const molt_arena *a, uint64_t ticket) {
    uint32_t ahead = 0, i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);)
        ahead += MOLT_STATE(molt_look(a, i)) == MOLT_READY &&
                 (int64_t)(atomic_load_explicit(&a->ticket_of[i], memory_order_relaxed) - ticket) < 0;
    return ahead;
}

static inline uint32_t molt_idle_executors(const molt_arena *a) {
    uint32_t idle = 0;
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        idle += atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE;
    return idle;
}

/* How far behind the last place of a queue of `capacity` the request stands; 0 if it has a place. */
static inline uint32_t molt_excess(const molt_arena *a, const molt_call *c, uint32_t capacity) {
    uint32_t ahead = molt_ahead_of(a, atomic_load_explicit(&a->ticket_of[c->channel], memory_order_relaxed));
    if (ahead < capacity)
        return 0;
    capacity += molt_idle_executors(a);
    return ahead < capacity ? 0 : ahead - capacity + 1;
}

/* The farthest that a client's requests are put off because it has others in the queue: less than a class. */
#define MOLT_FAIR_NS 500000000u

/* When it is the turn of a client's next request: when those that it has in the queue would have begun if the pool were its
 * own. So a client that asks for little goes before one that has filled the queue. What is queued is looked at each time: a
 * sum that only grows with requests says nothing of a queue that was filled before it was known what they take.
 * `generations`: by channel, of the client's last request. `last`: the turn of its last one, which goes first. */
static inline uint64_t molt_fair_turn(const molt_arena *a, const uint32_t *generations, uint64_t now_ns, uint64_t last,
                                      uint32_t executors) {
    uint64_t work_ns = 0, most_ns = (uint64_t)MOLT_FAIR_NS * (executors ? executors : 1);
    uint32_t i;
    int any = 0;
    for (molt_walk walk = molt_walk_marked(a); work_ns < most_ns && molt_next_marked(&walk, &i);) {
        if (!generations[i])
            continue;
        uint64_t word = molt_look(a, i);
        if (MOLT_STATE(word) != MOLT_READY || MOLT_GENERATION(word) != generations[i])
            continue;
        work_ns += molt_earlier(molt_usual_ns(molt_entry_of(a, i)), most_ns);
        any = 1;
    }
    if (!any)
        return now_ns;
    uint64_t turn = now_ns + molt_earlier(work_ns, most_ns) / (executors ? executors : 1);
    return turn > last ? turn : molt_earlier(last, now_ns + MOLT_FAIR_NS);
}

/* What a published request finds. */
typedef struct {
    uint32_t queued;  /* other READY requests */
    uint32_t ahead;   /* those that were published before it */
    uint32_t of_own;  /* others of its entrypoint, queued or running */
    uint64_t work_ns; /* what all others usually take together, queued or running */
} molt_around;

static inline molt_around molt_look_around(const molt_arena *a, const molt_call *c) {
    molt_around around = {0};
    uint64_t ticket = atomic_load_explicit(&a->ticket_of[c->channel], memory_order_relaxed);
    uint32_t i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);) {
        uint32_t state = MOLT_STATE(molt_look(a, i));
        if (state == MOLT_IDLE || state == MOLT_DONE || state == MOLT_FAILED || i == c->channel)
            continue;
        uint32_t queued = state == MOLT_READY;
        around.queued += queued;
        around.ahead += queued && (int64_t)(atomic_load_explicit(&a->ticket_of[i], memory_order_relaxed) - ticket) < 0;
        around.of_own += atomic_load_explicit(&a->entry_of[i], memory_order_relaxed) == c->entry;
        around.work_ns += molt_usual_ns(molt_entry_of(a, i));
    }
    return around;
}

/* Whether a request certainly waits for less than half the target (0: there is none), and can end in time: then nobody has
 * to work out how long it waits. It doesn't wait if an executor is idle for it and for all others that are queued, and
 * otherwise not for more than what all others take together. */
static inline int molt_is_light(const molt_arena *a, const molt_around *around, const molt_entry *own, uint64_t left_ns,
                                uint64_t target_ns) {
    uint64_t limit = molt_limit_of(own), usual_ns = molt_usual_ns(own);
    if (own && atomic_load_explicit(&own->standing, memory_order_relaxed))
        return 0;
    if (!around->work_ns)
        return 1;
    if (limit && around->of_own >= limit)
        return 0;
    if ((!target_ns || around->work_ns <= target_ns / 2) && around->work_ns + usual_ns <= left_ns)
        return 1;
    return usual_ns <= left_ns && molt_idle_executors(a) > around->queued;
}

/* Start a request on a channel that is IDLE: IDLE -> READY, with as much of it in the ring as fits. Returns 1, or 0: the
 * channel is not IDLE. Nobody is woken yet. */
static inline int molt_publish(molt_arena *a, molt_call *c) {
    MOLT_FAILPOINT(client.leased);
    molt_channel *ch = molt_channel_at(a, c->channel);
    uint64_t idle = molt_look(a, c->channel);
    if (MOLT_STATE(idle) != MOLT_IDLE)
        return 0;
    atomic_store_explicit(&ch->request.head, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->request.tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->reply.head, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->reply.tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->doorbell_of, c->channel, memory_order_relaxed);
    atomic_store_explicit(&ch->published_at, molt_processor(), memory_order_relaxed);
    c->sent = c->taken = c->wanted = 0;
    c->deferred = MOLT_TOLD;
    c->insist_ns = 0;
    c->untold = 0;
    molt_send_more(a, c);
    uint32_t generation = MOLT_GENERATION(idle) + 1;
    c->word = MOLT_WITH_STATE(MOLT_IDLE_WORD(generation ? generation : 1), MOLT_READY);
    atomic_store_explicit(&a->entry_of[c->channel], c->entry, memory_order_relaxed);
    atomic_store_explicit(&a->turn_of[c->channel], c->turn, memory_order_relaxed);
    atomic_store_explicit(&a->ticket_of[c->channel], atomic_fetch_add(&a->header->tickets, 1), memory_order_relaxed);
    if (!molt_step(a, c->channel, idle, c->word))
        return 0;
    if (!molt_is_marked(a, c->channel)) {
        MOLT_FAILPOINT(client.marking);
        molt_mark(a, c->channel);
    }
    return 1;
}

/* Let executors that are awake see the request. Nobody is woken yet, for two reasons. To wake a process is what costs most of
 * a call, and one that is awake may be enough. And the caller has Python's lock: the kernel likes to let whoever was woken run
 * at once, in the caller's place. Then all other threads of its process stand before a lock whose holder doesn't run, and
 * from then on they hand it over wherever one lets go of it, with switches by the dozen for each call. So molt_rouse and
 * molt_await wake somebody, once the caller has let go of it. */
static inline void molt_announce(molt_arena *a, molt_call *c) {
    MOLT_FAILPOINT(client.published);
    atomic_fetch_add(&a->header->published, 1);
    MOLT_FAILPOINT(client.announced);
    c->deferred = molt_count_awake(a->executor_awake, a->geometry.slots) ? MOLT_LATER : MOLT_SOON;
}

/* Wake the executor that has not been woken so far, if the request is still queued. */
static inline void molt_catch_up(molt_arena *a, molt_call *c) {
    c->deferred = MOLT_TOLD;
    if (MOLT_STATE(molt_look(a, c->channel)) == MOLT_READY)
        molt_wake_executor(a);
}

/* How long a request has been queued before whoever waits for it wakes another executor: the one that was woken may have been
 * stopped, or whoever should have woken one was killed. Idle ones look by themselves once in MOLT_REST_NS only. */
#define MOLT_INSIST_NS (MOLT_PARK_NS / 2)

/* Whoever waits for a call, in whatever way, comes here when there is nothing to do for it. */
static inline void molt_insist(molt_arena *a, molt_call *c, uint64_t now_ns) {
    if (c->insist_ns && now_ns < c->insist_ns)
        return;
    if (c->insist_ns)
        molt_catch_up(a, c);
    c->insist_ns = now_ns + MOLT_INSIST_NS;
}

/* After molt_announce: wake an executor, if none was awake. */
static inline void molt_rouse(molt_arena *a, molt_call *c) {
    if (c->deferred == MOLT_SOON)
        molt_catch_up(a, c);
}

/* Have the doorbell of another channel rung for this one, where a thread of the same client waits for many. The caller
 * looks at the channel afterwards: what happened before may have rung the channel's own doorbell. */
static inline void molt_redirect(molt_arena *a, molt_call *c, uint32_t doorbell_of) {
    atomic_store(&molt_channel_at(a, c->channel)->doorbell_of, doorbell_of);
    if (c->deferred)
        molt_catch_up(a, c);
}

/* Have an event loop's bell rung for this channel. The caller looks at the channel afterwards, and soon at whether an
 * executor has still to be woken. */
static inline void molt_aim(molt_arena *a, molt_call *c, uint32_t bell) {
    atomic_store(&molt_channel_at(a, c->channel)->doorbell_of, MOLT_A_BELL + bell);
    molt_rouse(a, c);
}

/* End a call from the client's side, or only if it is still queued. Returns the state it was found in: READY (it is IDLE
 * now, and nobody will run it), CLAIMED (it is ABANDONED now, unless `only_queued`), or one that can't be ended. */
static inline uint32_t molt_give_up(molt_arena *a, molt_call *c, int only_queued) {
    for (;;) {
        uint64_t word = molt_look(a, c->channel);
        uint32_t state = MOLT_STATE(word);
        if (MOLT_GENERATION(word) != MOLT_GENERATION(c->word) || (state != MOLT_READY && (state != MOLT_CLAIMED || only_queued)))
            return state;
        uint64_t to = state == MOLT_READY ? MOLT_WITH_STATE(word, MOLT_IDLE) : MOLT_WITH_STATE(word, MOLT_ABANDONED);
        if (molt_step(a, c->channel, word, to)) {
            MOLT_FAILPOINT(client.gave_up);
            if (state == MOLT_CLAIMED)
                molt_ring_executor(a, word); /* it may be waiting for bytes */
            molt_doorbell_ring(&molt_channel_at(a, c->channel)->doorbell); /* and a thread of this client for it */
            return state;
        }
    }
}

/* Look for an outcome that the client may take. Returns DONE or FAILED and the state word; 0: there is none; MOLT_CORRUPT:
 * the channel has another request. */
static inline int molt_outcome(const molt_arena *a, molt_call *c, uint64_t *word) {
    *word = molt_look(a, c->channel);
    if (MOLT_GENERATION(*word) != MOLT_GENERATION(c->word))
        return MOLT_CORRUPT;
    if (MOLT_STATE(*word) != MOLT_DONE && MOLT_STATE(*word) != MOLT_FAILED)
        return 0;
    MOLT_FAILPOINT(client.answered);
    if (MOLT_SLOT(*word) < a->geometry.slots)
        molt_hear_of(&c->patience, (uint32_t)atomic_load_explicit(&a->slots[MOLT_SLOT(*word)].runs_at, memory_order_relaxed));
    return (int)MOLT_STATE(*word);
}

/* Free the channel of an outcome that was taken: DONE or FAILED -> IDLE. 1, or 0: it was taken away meanwhile. */
static inline int molt_free(molt_arena *a, uint32_t channel, uint64_t word) {
    int freed = molt_step(a, channel, word, MOLT_IDLE_WORD(MOLT_GENERATION(word)));
    MOLT_FAILPOINT(client.taken);
    return freed;
}

enum molt_await {
    MOLT_AWAIT_OUTCOME = 0, /* DONE, FAILED, or given up by another thread */
    MOLT_AWAIT_TIME = 1,
    MOLT_AWAIT_SIGNAL = 2, /* there may be one; the caller is sent to look at least as often as parks end */
    MOLT_AWAIT_CLOSED = 3, /* the connection has ended */
    MOLT_AWAIT_BUFFER = 4, /* the reply is larger than the ring: it needs another `into` to go on */
    MOLT_AWAIT_CORRUPT = 5
};

/* How long a spinning executor has for a request before a sleeping one is woken too. */
#define MOLT_DEFER_NS 30000u

/* Read what is there of a reply. Returns 1 if anything was, 0, or MOLT_CORRUPT. */
static inline int molt_take_more(molt_arena *a, molt_call *c) {
    int64_t n = molt_ring_read(&molt_channel_at(a, c->channel)->reply, molt_reply_data(a, c->channel),
                               a->geometry.ring_bytes, &c->taken, c->into, c->wanted);
    if (n < 0)
        return MOLT_CORRUPT;
    c->into += n, c->wanted -= (uint64_t)n;
    if (c->wanted)
        MOLT_FAILPOINT(client.mid_reply);
    return n > 0;
}

static inline uint64_t molt_reply_there(const molt_arena *a, const molt_call *c) {
    return atomic_load_explicit(&molt_channel_at(a, c->channel)->reply.head, memory_order_acquire) - c->taken;
}

/* How many of those that want to run just now belong to this caller: its process's callers, and the executors that are awake
 * for the pool or run its request.
 *
 * Other client processes don't: with more of them than processors, those that spin keep each other from running. Nor do
 * executors with others' long requests: one that computes takes a processor as anybody else does, and one that waits for
 * something doesn't want to run. */
static inline uint32_t molt_ours(const molt_arena *a, const molt_call *c, uint64_t now_ns, uint64_t spin_ns) {
    int runs_long = !molt_is_quick(c->usual_ns, spin_ns) && MOLT_STATE(molt_look(a, c->channel)) == MOLT_CLAIMED;
    return 1 + c->company + molt_executors_awake(a, now_ns, spin_ns) + (uint32_t)runs_long;
}

/* Whether others want so many processors that no two are left. A client looks if it is time to; one looks for all of this
 * pool. Executors don't look, since they can't tell a client that runs from others: only those that stay awake say so. */
static inline int molt_contended(molt_arena *a, const molt_call *c, uint64_t now_ns, uint64_t spin_ns) {
    if (molt_has_to_look(&a->header->crowd, now_ns))
        molt_note_runnable(&a->header->crowd, now_ns, molt_runnable(), molt_ours(a, c, now_ns, spin_ns));
    return molt_is_contended(a);
}

/* Spin for an answer that should come within microseconds, and no longer than that. 1 if the call has an outcome. For a
 * caller who would have to give up something to wait properly: with other threads after Python's lock, having it back
 * costs more than this look.
 *
 * It goes by what such requests take in the executor, not by what waits have taken: once many threads of a process wait
 * properly they wait for each other, and would never find out that a look is enough.
 *
 * `longest_ns`: MOLT_GLANCE_NS. An event loop that waits for no other call looks for longer, until an executor that had to be
 * woken has mostly answered: if it slept instead, it would call next when the executor has fallen asleep again, and so on. */
#define MOLT_GLANCE_NS 15000u
#define MOLT_LOOP_GLANCE_NS 60000u

static inline int molt_glance(molt_arena *a, molt_call *c, uint64_t spin_ns, uint64_t longest_ns) {
    molt_patience *patience = &c->patience;
    if (!spin_ns || 2 * c->usual_ns > MOLT_GLANCE_NS || c->left[0] || c->left[1])
        return 0;
    int wakes = c->deferred == MOLT_SOON;
    if (patience->blind[wakes]) {
        patience->blind[wakes]--;
        return 0;
    }
    molt_doorbell *doorbell = &molt_channel_at(a, c->channel)->doorbell;
    uint64_t start_ns = molt_now_ns(), now_ns = start_ns, until_ns = start_ns + molt_earlier(spin_ns, longest_ns);
    if (molt_contended(a, c, start_ns, spin_ns))
        return 0;
    molt_rouse(a, c);
    int beside = molt_is_beside(patience);
    int64_t pushed = molt_pushed_so_far(&a->header->crowd);
    uint32_t state = MOLT_READY;
    atomic_store_explicit(&a->client_awake[c->channel], 1, memory_order_relaxed);
    while ((state == MOLT_READY || state == MOLT_CLAIMED) && now_ns < until_ns) {
        uint64_t seen = atomic_load(&doorbell->count);
        state = MOLT_STATE(molt_look(a, c->channel));
        if (beside && state != MOLT_DONE)
            sched_yield(); /* the executor can't run before */
        molt_watch(&doorbell->count, seen);
        now_ns = molt_now_ns();
    }
    atomic_store_explicit(&a->client_awake[c->channel], 0, memory_order_relaxed);
    if (now_ns - start_ns > MOLT_AWAY_NS)
        molt_note_away(&a->header->crowd, now_ns, pushed);
    molt_learn_glance(patience, wakes, state == MOLT_DONE);
    if (state != MOLT_DONE)
        return 0;
    molt_learn(patience, now_ns - start_ns);
    return 1;
}

/* One wait of a client. */
typedef struct {
    uint64_t start_ns, spin_until_ns; /* `start_ns`: when it first found nothing to do; 0: not yet */
    int manner, flows;                /* enum molt_manner; bytes were moved */
} molt_waiting;

/* Whether the word can be that of this call. */
static inline int molt_is_of(const molt_call *c, uint64_t word) {
    return MOLT_GENERATION(word) == MOLT_GENERATION(c->word) && MOLT_STATE(word) <= MOLT_KILLING;
}

/* Whether no executor has the request, or will have it. */
static inline int molt_is_over(uint64_t word) {
    uint32_t state = MOLT_STATE(word);
    return state == MOLT_DONE || state == MOLT_FAILED || state == MOLT_IDLE || state == MOLT_ABANDONED;
}

#define MOLT_NO_BUFFER (-2)

/* Move on what fits of the request and what is there of the reply, and tell the executor. Returns 1 if bytes were moved, 0,
 * MOLT_CORRUPT, or MOLT_NO_BUFFER: the reply has filled half the ring, and nobody said where it goes. */
static inline int molt_move_on(molt_arena *a, molt_call *c, uint64_t word) {
    int moved = c->left[0] || c->left[1] ? molt_send_more(a, c) : 0, claimed = MOLT_STATE(word) == MOLT_CLAIMED;
    if (moved >= 0 && claimed && molt_reply_there(a, c) >= a->geometry.ring_bytes / 2) {
        if (!c->wanted)
            return MOLT_NO_BUFFER;
        int more = molt_take_more(a, c);
        moved = more < 0 ? more : moved | more;
    }
    if (moved < 0)
        return MOLT_CORRUPT;
    c->untold |= moved;
    if (c->untold && claimed) {
        molt_ring_executor(a, word);
        c->untold = 0;
    }
    return moved;
}

/* Whether bytes of the request or the reply have still to be moved on, so that an executor may be waiting for that. */
static inline int molt_flows(const molt_arena *a, const molt_call *c, uint64_t word) {
    return c->left[0] || c->left[1] || c->wanted ||
           (MOLT_STATE(word) == MOLT_CLAIMED && molt_reply_there(a, c) >= a->geometry.ring_bytes / 2);
}

/* Bytes flow: the next ones are microseconds away, however long such calls take as a whole. */
static inline void molt_expect_bytes(molt_arena *a, molt_call *c, molt_waiting *w, uint64_t spin_ns) {
    uint64_t now_ns = molt_now_ns();
    if (!w->flows)
        w->manner = molt_manner(&c->patience, !molt_contended(a, c, now_ns, spin_ns), molt_is_beside(&c->patience), spin_ns);
    w->flows = 1;
    w->spin_until_ns = now_ns + spin_ns;
}

/* For the first time there is nothing to do but to wait. */
static inline void molt_start_waiting(molt_arena *a, molt_call *c, molt_waiting *w, uint64_t now_ns, uint64_t spin_ns,
                                      uint32_t spinners) {
    w->start_ns = now_ns;
    w->spin_until_ns = now_ns + spin_ns;
    if (w->flows || !molt_is_short(&c->patience, spin_ns))
        return;
    int free = !molt_contended(a, c, now_ns, spin_ns) && molt_clients_awake(a) < spinners;
    w->manner = molt_manner(&c->patience, free, molt_is_beside(&c->patience), spin_ns);
}

/* Stay awake until the doorbell is no longer at `seen`, the time is up, or a sleeping executor has to be woken. */
static inline void molt_await_awake(molt_arena *a, molt_call *c, molt_waiting *w, uint64_t seen, uint64_t until_ns) {
    until_ns = molt_earlier(until_ns, w->spin_until_ns);
    if (c->deferred)
        until_ns = molt_earlier(until_ns, w->start_ns + MOLT_DEFER_NS);
    atomic_store_explicit(&a->client_awake[c->channel], 1, memory_order_relaxed);
    molt_stay_awake(&c->patience, &a->header->crowd, &w->manner, &molt_channel_at(a, c->channel)->doorbell.count, seen,
                    until_ns);
    atomic_store_explicit(&a->client_awake[c->channel], 0, memory_order_relaxed);
}

/* Move the call on until it has an outcome, at most until `until_ns` (0: don't wait). Spins at most `spin_ns`, if no more
 * than `spinners` clients do. */
static inline int molt_await(molt_arena *a, molt_call *c, uint64_t until_ns, uint64_t spin_ns, uint32_t spinners,
                             const molt_flag *closed) {
    molt_doorbell *doorbell = &molt_channel_at(a, c->channel)->doorbell;
    molt_waiting w = {0};
    molt_rouse(a, c);
    for (;;) {
        uint64_t seen = atomic_load(&doorbell->count), word = molt_look(a, c->channel);
        if (!molt_is_of(c, word))
            return MOLT_AWAIT_CORRUPT;
        if (molt_is_over(word)) {
            if (w.start_ns && !w.flows)
                molt_learn(&c->patience, molt_now_ns() - w.start_ns);
            return MOLT_AWAIT_OUTCOME;
        }
        int moved = molt_move_on(a, c, word);
        if (moved < 0)
            return moved == MOLT_NO_BUFFER ? MOLT_AWAIT_BUFFER : MOLT_AWAIT_CORRUPT;
        if (moved) {
            molt_expect_bytes(a, c, &w, spin_ns);
            continue;
        }
        if (atomic_load(closed))
            return MOLT_AWAIT_CLOSED;
        uint64_t now_ns = molt_now_ns();
        molt_insist(a, c, now_ns);
        if (!until_ns)
            return MOLT_AWAIT_TIME;
        if (!w.start_ns)
            molt_start_waiting(a, c, &w, now_ns, spin_ns, spinners);
        if (now_ns >= until_ns)
            return MOLT_AWAIT_TIME;
        int awake = w.manner && now_ns < w.spin_until_ns;
        /* A sleeping executor must be on the way before this waiter sleeps itself, or soon if it stays awake. */
        if (c->deferred && (!awake || now_ns >= w.start_ns + MOLT_DEFER_NS))
            molt_catch_up(a, c);
        if (awake)
            molt_await_awake(a, c, &w, seen, until_ns);
        /* The caller looks for signals also when the time is up: one that came before the park has interrupted nothing. */
        else if (molt_park(doorbell, &doorbell->count, seen, molt_earlier(until_ns, now_ns + MOLT_PARK_NS)) != MOLT_CHANGED)
            return MOLT_AWAIT_SIGNAL;
    }
}
