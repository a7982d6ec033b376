/* Spinning: waiting without sleep, where the answer is microseconds away and a processor is free for it. */
#pragma once

#include "handover.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

/* What a waiter has learned; private to it. */
typedef struct {
    uint64_t usual_ns; /* running mean of its waits */
    uint32_t crowded;  /* waits for which the processor is taken to be shared, most likely with whom it waits for */
    uint32_t hogged;   /* waits for which it is taken to be wanted by somebody who doesn't let go of it */
    uint32_t hogged_before; /* what `hogged` began with last time: it doubles while that stays true */
} molt_patience;

/* A waiter that yields while it spins makes system calls; one that doesn't may keep the very process that it waits for off
 * the processor. So it spins this long in silence where nobody else seems to want the processor, and then yields. */
#define MOLT_QUIET_NS 20000u
#define MOLT_CROWDED_QUIET_NS 500u
/* A yield that took longer than the first has let another process run; longer than the second, one that computes. Yielding
 * to that one costs a whole time slice, while the kernel lets a sleeper in before its end: then it is better to sleep. */
#define MOLT_YIELDED_NS 2500u
#define MOLT_HOGGED_NS 300000u
#define MOLT_REMEMBERED_WAITS 64u
#define MOLT_MAX_REMEMBERED_WAITS 16384u

static inline void molt_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Another process computes on this processor: don't spin in the next waits, twice as many each time it is still so. */
static inline void molt_note_hog(molt_patience *patience) {
    uint64_t longer = 2ull * patience->hogged_before;
    if (longer < MOLT_REMEMBERED_WAITS)
        longer = MOLT_REMEMBERED_WAITS;
    patience->hogged = patience->hogged_before = (uint32_t)molt_earlier(longer, MOLT_MAX_REMEMBERED_WAITS);
}

/* Spin until the watched word is no longer `seen` (1), or until `until_ns` or it doesn't pay any more (0). */
static inline int molt_spin(molt_patience *patience, const molt_word *watched, uint64_t seen, uint64_t until_ns) {
    uint64_t start_ns = molt_now_ns(), now_ns = start_ns;
    uint64_t quiet_until_ns = start_ns + (patience->crowded ? MOLT_CROWDED_QUIET_NS : MOLT_QUIET_NS);
    int changed = 0;
    while (!changed && now_ns < until_ns) {
        uint64_t before_ns = now_ns;
        int yields = now_ns >= quiet_until_ns;
        if (yields)
            sched_yield();
        for (unsigned turn = 0; turn < 16 && !changed; turn++) {
            changed = atomic_load_explicit(watched, memory_order_acquire) != seen;
            if (!changed)
                molt_pause();
        }
        now_ns = molt_now_ns();
        uint64_t away_ns = now_ns - before_ns;
        if (away_ns > MOLT_HOGGED_NS) { /* yielded to, or pushed off by */
            molt_note_hog(patience);
            return changed;
        }
        if (yields && away_ns > MOLT_YIELDED_NS)
            patience->crowded = MOLT_REMEMBERED_WAITS;
    }
    patience->hogged_before -= patience->hogged_before > 0;
    return changed;
}

/* Whether the processor is free to spin on. Called once a wait. */
static inline int molt_may_spin(molt_patience *patience, uint64_t spin_ns) {
    patience->crowded -= patience->crowded > 0;
    patience->hogged -= patience->hogged > 0;
    return spin_ns && !patience->hogged;
}

/* Whether spinning is likely to pay too: waits usually take not much longer than sleeping and being woken. Instead of
 * molt_may_spin. */
static inline int molt_worth_spinning(molt_patience *patience, uint64_t spin_ns) {
    return molt_may_spin(patience, spin_ns) && patience->usual_ns <= 2 * spin_ns;
}

/* Take a wait into account. What counts of a long one is bounded: one must not end spinning, nor many keep it from coming
 * back. */
static inline void molt_learn(molt_patience *patience, uint64_t waited_ns) {
    waited_ns = molt_earlier(waited_ns, 10000000u);
    patience->usual_ns += (waited_ns >> 3) - (patience->usual_ns >> 3);
}

/* How many of n waiters spin just now. */
static inline uint32_t molt_spinning(const molt_flag *flags, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += atomic_load_explicit(&flags[i], memory_order_relaxed) != 0;
    return count;
}

/* How many clients spin just now. They have requests, so their channels are marked. */
static inline uint32_t molt_spinning_clients(const molt_arena *a) {
    uint32_t count = 0, i;
    for (molt_walk walk = molt_walk_marked(a); molt_next_marked(&walk, &i);)
        count += atomic_load_explicit(&a->client_spins[i], memory_order_relaxed) != 0;
    return count;
}

/* How often one process looks who else wants the processors. */
#define MOLT_LOOK_NS 20000000u

/* Processes that want to run just now, on the whole machine; 0: not known. The fourth field of /proc/loadavg. */
static inline uint32_t molt_runnable(void) {
    char text[128] = {0};
    unsigned runnable = 0;
    int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    if (read(fd, text, sizeof text - 1) > 0)
        sscanf(text, "%*s %*s %*s %u", &runnable);
    close(fd);
    return runnable;
}

/* Whether other processes want so many processors that there are no two left, for a caller and an executor. Then a process
 * that spins is made to wait for whole time slices, where a sleeper is let in at once.
 * One process looks for all of them, since a look costs some microseconds. */
static inline int molt_contended(molt_arena *a, uint64_t now_ns) {
    molt_header *h = a->header;
    uint64_t looked_ns = atomic_load_explicit(&h->looked_ns, memory_order_relaxed);
    if (now_ns - looked_ns > MOLT_LOOK_NS && atomic_compare_exchange_strong(&h->looked_ns, &looked_ns, now_ns)) {
        uint32_t ours = 1 + molt_spinning_clients(a);
        for (uint32_t i = 0; i < a->geometry.slots; i++)
            ours += atomic_load(&a->slots[i].state) == MOLT_SLOT_BUSY ||
                    atomic_load_explicit(&a->executor_spins[i], memory_order_relaxed);
        uint32_t runnable = molt_runnable(), others = runnable > ours ? runnable - ours : 0;
        uint64_t cpus = atomic_load(&h->cpus);
        atomic_store_explicit(&h->contended, cpus && others + 2 > cpus, memory_order_relaxed);
    }
    return atomic_load_explicit(&h->contended, memory_order_relaxed) != 0;
}
