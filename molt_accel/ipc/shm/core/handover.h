/* The hand-over: the state words, and how whoever has to look at one is woken. */
#pragma once

#include "entries.h"

/* The state word of a channel. */
static inline uint64_t molt_look(const molt_arena *a, uint32_t channel) { return atomic_load(&a->words[channel]); }

/* Take a step: compare and swap the state word. 1, or 0: it was not `from`. */
static inline int molt_step(molt_arena *a, uint32_t channel, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(&a->words[channel], &from, to);
}

/* Channels from this index on were never granted to a client. */
static inline uint32_t molt_in_use(const molt_arena *a) {
    uint64_t n = atomic_load_explicit(&a->header->in_use, memory_order_relaxed);
    return n < a->geometry.channels ? (uint32_t)n : a->geometry.channels;
}

/* Wake one executor that sleeps until there is a request; 1 if there was one. An executor that was idle a moment ago may
 * have a request by now and sleep until its bytes come: then the wake-up was for nothing, and another executor is woken. */
static inline int molt_wake_executor(molt_arena *a) {
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        if (atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE && molt_doorbell_wake(&a->slots[i].doorbell) &&
            atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE)
            return 1;
    return 0;
}

/* Have an executor look once more: there is a request that may run only now. One that is about to sleep, having looked
 * before, sees that `published` has grown. */
static inline int molt_look_again(molt_arena *a) {
    atomic_fetch_add(&a->header->published, 1);
    return molt_wake_executor(a);
}

/* Ring the doorbell that a channel's client listens to, or its event loop's bell. */
static inline void molt_ring_client(molt_arena *a, uint32_t channel) {
    uint64_t at = atomic_load(&molt_channel_at(a, channel)->doorbell_of); /* ordered after the state that it rings for */
    if (at < a->geometry.channels)
        molt_doorbell_ring(&molt_channel_at(a, (uint32_t)at)->doorbell);
    else if (at >= MOLT_A_BELL && at - MOLT_A_BELL < a->bell_count)
        molt_bell_ring(&a->header->bells[at - MOLT_A_BELL], a->bells[at - MOLT_A_BELL]);
}

/* Ring the executor that a state word names. */
static inline void molt_ring_executor(molt_arena *a, uint64_t word) {
    if (MOLT_SLOT(word) < a->geometry.slots)
        molt_doorbell_ring(&a->slots[MOLT_SLOT(word)].doorbell);
}
