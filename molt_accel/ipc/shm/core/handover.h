/* The hand-over: the state words, and how whoever has to look at one is woken. */
#pragma once

#include "entries.h"
#include "marks.h"
#include "waiting.h"

/* The state word of a channel. */
static inline uint64_t molt_look(const molt_arena *a, uint32_t channel) { return atomic_load(&a->words[channel]); }

/* Take a step: compare and swap the state word. 1, or 0: it was not `from`. */
static inline int molt_step(molt_arena *a, uint32_t channel, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(&a->words[channel], &from, to);
}

/* Wake the executor of a slot if it sleeps until there is a request; 1 if it did. One that was idle a moment ago may have a
 * request by now and sleep until its bytes come: then the wake-up was for nothing. */
static inline int molt_wake_idle(molt_arena *a, uint32_t slot) {
    return atomic_load(&a->slots[slot].state) == MOLT_SLOT_IDLE && molt_doorbell_wake(&a->slots[slot].doorbell) &&
           atomic_load(&a->slots[slot].state) == MOLT_SLOT_IDLE;
}

/* Wake one executor that sleeps until there is a request, best one on this processor; 1 if there was one. */
static inline int molt_wake_executor(molt_arena *a) {
    uint32_t here = molt_processor();
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        if (here && atomic_load_explicit(&a->slots[i].runs_at, memory_order_relaxed) == here && molt_wake_idle(a, i))
            return 1;
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        if (molt_wake_idle(a, i))
            return 1;
    return 0;
}

/* Have an executor look once more: there is a request that may run only now. One that is about to sleep, having looked
 * before, sees that `published` has grown. */
static inline int molt_look_again(molt_arena *a) {
    atomic_fetch_add(&a->header->published, 1);
    return molt_wake_executor(a);
}

/* Review the marks, and have an executor look once more if it may have missed a request. Returns how many were missing. */
static inline uint32_t molt_mend_marks(molt_arena *a) {
    uint32_t missed = molt_review_marks(a);
    if (missed)
        molt_look_again(a);
    return missed;
}

/* Ring the doorbell that a channel's client listens to, or its event loop's bell. */
static inline void molt_ring_client(molt_arena *a, uint32_t channel) {
    uint64_t at = atomic_load(&molt_channel_at(a, channel)->doorbell_of); /* ordered after the state that it rings for */
    if (at < a->geometry.channels)
        molt_doorbell_ring(&molt_channel_at(a, (uint32_t)at)->doorbell);
    else if (at >= MOLT_A_BELL && at - MOLT_A_BELL < a->bell_count &&
             !molt_bell_ring(&a->header->bells[at - MOLT_A_BELL], &a->bells[at - MOLT_A_BELL]))
        a->bells_lost = 1;
}

/* Ring the executor that a state word names. */
static inline void molt_ring_executor(molt_arena *a, uint64_t word) {
    if (MOLT_SLOT(word) < a->geometry.slots)
        molt_doorbell_ring(&a->slots[MOLT_SLOT(word)].doorbell);
}

/* How many of n waiters are awake just now. */
static inline uint32_t molt_count_awake(const molt_flag *flags, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += atomic_load_explicit(&flags[i], memory_order_relaxed) != 0;
    return count;
}

/* How many clients stay awake just now. They have requests, so their channels are marked. */
static inline uint32_t molt_clients_awake(const molt_arena *a) {
    uint32_t count = 0, i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);)
        count += atomic_load_explicit(&a->client_awake[i], memory_order_relaxed) != 0;
    return count;
}

/* A quick request that is not over after this time waits for something, or its executor for a processor. */
#define MOLT_QUICK_NS 1000000u

/* How many executors run quick requests just now, or look for one. */
static inline uint32_t molt_executors_awake(const molt_arena *a, uint64_t now_ns, uint64_t spin_ns) {
    uint32_t count = molt_count_awake(a->executor_awake, a->geometry.slots), i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);) {
        uint64_t word = molt_look(a, i);
        uint64_t began_ns = atomic_load_explicit(&a->began_ns[i], memory_order_relaxed);
        count += MOLT_IS_CLAIMED(MOLT_STATE(word)) && MOLT_SLOT(word) < a->geometry.slots && now_ns - began_ns < MOLT_QUICK_NS &&
                 !atomic_load_explicit(&a->executor_awake[MOLT_SLOT(word)], memory_order_relaxed) &&
                 molt_is_quick(molt_usual_ns(molt_entry_of(a, i)), spin_ns);
    }
    return count;
}

/* Whether others want so many processors that no two are left, for a caller and an executor. As it was found last. */
static inline int molt_is_contended(const molt_arena *a) {
    return atomic_load_explicit(&a->header->crowd.contended, memory_order_relaxed) != 0;
}
