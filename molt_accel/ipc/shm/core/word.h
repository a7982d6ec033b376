/* What all of the core is made of: atomic words, the clock, and failpoints. */
#pragma once

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#define MOLT_CACHE_LINE 64
#define MOLT_NEVER UINT64_MAX

typedef _Atomic uint64_t molt_word;
/* Atomics that are not lock-free would lock within one process only. */
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "this processor has no atomic 64-bit words");
typedef _Atomic uint8_t molt_flag;

/* Nanoseconds of CLOCK_MONOTONIC. */
static inline uint64_t molt_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t molt_earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* A moment between two steps, at which a test build lets a process die or stop; see tests/system/crash/failpoints. Otherwise nothing. */
#ifdef MOLT_FAILPOINTS
#include <failpoints.h>
#else
#define MOLT_FAILPOINT(name) ((void)0)
#endif
