/* Doorbells: how a process sleeps until another one has changed a word, or for a bounded time. */
#pragma once

#include "word.h"

#include <errno.h>
#include <semaphore.h>
#include <string.h>

/* One waiter, any number of ringers. `count` grows with every ring. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word count;
    molt_word parked;
    sem_t sem;
} molt_doorbell;

/* Only where no living process can be using the semaphore: one killed in sem_wait leaves it with a false count. */
static inline int molt_doorbell_init(molt_doorbell *doorbell) {
    atomic_store(&doorbell->count, 0);
    atomic_store(&doorbell->parked, 0);
    return sem_init(&doorbell->sem, 1, 0);
}

/* glibc keeps a semaphore's count in its first eight bytes. The others never change, and tell glibc how to ask the kernel.
 * If another process has scribbled over them, glibc aborts this process, or lets it sleep for ever. So they are restored
 * before each use. */
#define MOLT_SEM_COUNT 8

static inline void molt_doorbell_repair(molt_doorbell *doorbell) {
    sem_t good;
    memset(&good, 0, sizeof good);
    sem_init(&good, 1, 0);
    char *rest = (char *)&doorbell->sem + MOLT_SEM_COUNT, *right = (char *)&good + MOLT_SEM_COUNT;
    if (memcmp(rest, right, sizeof good - MOLT_SEM_COUNT))
        memcpy(rest, right, sizeof good - MOLT_SEM_COUNT);
}

/* Wake the waiter if it sleeps; 1 if it did. The caller has stored what the waiter shall see, sequentially consistent:
 * either the waiter sees it in its last look before it sleeps, or the caller sees `parked`. */
static inline int molt_doorbell_wake(molt_doorbell *doorbell) {
    if (!atomic_load(&doorbell->parked) || !atomic_exchange(&doorbell->parked, 0))
        return 0;
    MOLT_FAILPOINT(doorbell.ringing);
    molt_doorbell_repair(doorbell);
    sem_post(&doorbell->sem);
    return 1;
}

static inline void molt_doorbell_ring(molt_doorbell *doorbell) {
    atomic_fetch_add(&doorbell->count, 1);
    molt_doorbell_wake(doorbell);
}

/* The longest park, after which a waiter looks at everything again. The tests set a long one: then a lost wake-up is a hang. */
#ifndef MOLT_PARK_NS
#define MOLT_PARK_NS 100000000u
#endif

/* A ringer that is late for an earlier wait leaves a token, at most one each. A semaphore that holds more than this was
 * scribbled over, and its one waiter, who is just here, makes it anew. If that loses a token, the bounded sleep makes up
 * for it. */
#define MOLT_LATE_TOKENS 64

enum molt_wait { MOLT_CHANGED = 0, MOLT_TIMED_OUT = 1, MOLT_INTERRUPTED = 2 };

/* Sleep until the doorbell rings, a signal comes, or `until_ns` (of CLOCK_MONOTONIC); not at all if the watched word is no
 * longer `seen`. */
static inline int molt_park(molt_doorbell *doorbell, const molt_word *watched, uint64_t seen, uint64_t until_ns) {
    int outcome = MOLT_CHANGED;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    molt_doorbell_repair(doorbell);
    for (int late = 0; late <= MOLT_LATE_TOKENS && sem_trywait(&doorbell->sem) == 0; late++) {
        if (late == MOLT_LATE_TOKENS)
            sem_init(&doorbell->sem, 1, 0);
    }
    atomic_store(&doorbell->parked, 1);
    MOLT_FAILPOINT(doorbell.parked);
    if (atomic_load(watched) == seen && sem_clockwait(&doorbell->sem, CLOCK_MONOTONIC, &until) != 0)
        outcome = errno == EINTR ? MOLT_INTERRUPTED : MOLT_TIMED_OUT;
    MOLT_FAILPOINT(doorbell.woken);
    atomic_store(&doorbell->parked, 0);
    return outcome;
}
