/* Entrypoints: how their rows are found, how long they usually take, and how many of their requests run. */
#pragma once

#include "arena.h"

/* The number by which the arena names an entrypoint: FNV-1a of its name, never 0. */
static inline uint64_t molt_entry_id(const uint8_t *name, uint64_t bytes) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint64_t i = 0; i < bytes; i++)
        hash = (hash ^ name[i]) * 0x100000001b3u;
    return hash ? hash : 1;
}

/* The row of an entrypoint; NULL: it has none. With `free_too` the free row that it may have instead. */
static inline molt_entry *molt_find_entry(const molt_arena *a, uint64_t id, int free_too) {
    for (uint64_t i = 0; i < MOLT_ENTRIES; i++) {
        molt_entry *entry = &a->entries[(id + i) & (MOLT_ENTRIES - 1)];
        uint64_t found = atomic_load_explicit(&entry->id, memory_order_acquire);
        if (found == id && id)
            return entry;
        if (!found)
            return free_too ? entry : NULL;
    }
    return NULL;
}

static inline molt_entry *molt_entry_of(const molt_arena *a, uint32_t channel) {
    return molt_find_entry(a, atomic_load_explicit(&a->entry_of[channel], memory_order_relaxed), 0);
}

static inline uint64_t molt_usual_ns(const molt_entry *entry) {
    return entry ? atomic_load_explicit(&entry->mean_ns, memory_order_relaxed) : 0;
}

/* Whether requests that usually take so long are over sooner than a caller gives up spinning: what staying awake is for. */
static inline int molt_is_quick(uint64_t usual_ns, uint64_t spin_ns) { return usual_ns <= spin_ns; }

/* How many of its requests may run at once; 0: any number. */
static inline uint64_t molt_limit_of(const molt_entry *entry) {
    return entry ? atomic_load_explicit(&entry->limit, memory_order_relaxed) : 0;
}

/* When it is the turn of a channel's request: when it came, and the delay of its class. */
static inline uint64_t molt_turn(const molt_arena *a, uint32_t channel, const molt_entry *entry) {
    return atomic_load_explicit(&a->turn_of[channel], memory_order_relaxed) +
           (entry ? atomic_load_explicit(&entry->delay_ns, memory_order_relaxed) : 0);
}

/* Of overload/estimate.py. */
enum { MOLT_GAIN_SHIFT = 4, MOLT_WARM_UP = 2 };

/* Count what a request took, as `Estimate.learn` does. Of two executors that do so at once, one may go uncounted. */
static inline void molt_learn_usual(molt_entry *entry, uint64_t took_ns, int stopped) {
    int64_t took = (int64_t)molt_earlier(took_ns, INT64_MAX / 2);
    int64_t mean = (int64_t)molt_earlier(atomic_load_explicit(&entry->mean_ns, memory_order_relaxed), INT64_MAX / 2);
    int64_t deviation = (int64_t)molt_earlier(atomic_load_explicit(&entry->deviation_ns, memory_order_relaxed), INT64_MAX / 2);
    uint64_t samples = atomic_load_explicit(&entry->samples, memory_order_relaxed);
    atomic_store_explicit(&entry->learnt_ns, molt_now_ns(), memory_order_relaxed);
    if (stopped && took <= mean)
        return;
    if (samples < MOLT_WARM_UP) {
        mean = took, deviation = took / 2;
    } else {
        int64_t error = took - mean;
        int shift = (int)molt_earlier(63 - (uint64_t)__builtin_clzll(samples), MOLT_GAIN_SHIFT);
        mean += error >> shift;
        deviation += ((error < 0 ? -error : error) - deviation) >> shift;
    }
    atomic_store_explicit(&entry->mean_ns, (uint64_t)mean, memory_order_relaxed);
    atomic_store_explicit(&entry->deviation_ns, (uint64_t)deviation, memory_order_relaxed);
    atomic_store_explicit(&entry->samples, samples + 1, memory_order_relaxed);
}

/* Say that this slot's executor runs a request of an entrypoint with a limit, unless as many others do. 1, or 0: it may not.
 *
 * It says so before it counts. Of two that do so at once at least one sees the other, so there are never more than the
 * limit; both may see each other and step back, and then both look again. Nothing has to be given back when an executor
 * dies: its slot is made anew. */
static inline int molt_enter(molt_arena *a, uint32_t slot, uint64_t id, uint64_t limit) {
    uint64_t others = 0;
    atomic_store(&a->slots[slot].holds, id);
    MOLT_FAILPOINT(executor.entering);
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        others += i != slot && atomic_load(&a->slots[i].holds) == id;
    if (others < limit)
        return 1;
    atomic_store(&a->slots[slot].holds, 0);
    return 0;
}

/* Let go of the entrypoint that this slot's executor ran. 1, or 0: it had none with a limit. */
static inline int molt_leave(molt_arena *a, uint32_t slot) {
    if (!atomic_load_explicit(&a->slots[slot].holds, memory_order_relaxed))
        return 0;
    atomic_store(&a->slots[slot].holds, 0);
    return 1;
}
