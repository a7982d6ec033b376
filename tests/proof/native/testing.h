/* What the programs here share: a check that says where it failed, an arena in anonymous memory, and chance. */
#ifndef MOLT_TESTING_H
#define MOLT_TESTING_H

#include "molt_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

/* On both sides of all memory lies what nobody may touch; behind it there is no byte between. */
#define GUARD_BYTES ((uint64_t)1 << 20)

static inline uint8_t *new_memory(uint64_t size) {
    uint64_t inside = molt_align(size, MOLT_PAGE);
    uint8_t *whole = mmap(NULL, inside + 2 * GUARD_BYTES, PROT_NONE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(whole != MAP_FAILED);
    CHECK(mprotect(whole + GUARD_BYTES, inside, PROT_READ | PROT_WRITE) == 0);
    return whole + GUARD_BYTES + inside - size;
}

static inline void free_memory(uint8_t *base, uint64_t size) {
    uint64_t inside = molt_align(size, MOLT_PAGE);
    CHECK(munmap(base + size - inside - GUARD_BYTES, inside + 2 * GUARD_BYTES) == 0);
}

static inline uint64_t planned(uint32_t channels, uint32_t slots, uint64_t ring_bytes) {
    molt_arena plan = {.base = NULL};
    return molt_arena_plan(&plan, channels, slots, ring_bytes);
}

static inline molt_arena new_arena(uint32_t channels, uint32_t slots, uint64_t ring_bytes) {
    uint64_t size = planned(channels, slots, ring_bytes);
    CHECK(size);
    molt_arena a = {.base = new_memory(size)};
    CHECK(molt_arena_plan(&a, channels, slots, ring_bytes) == size);
    CHECK(molt_arena_create(&a) == 0);
    atomic_store(&a.header->in_use, channels);
    return a;
}

static inline void free_arena(molt_arena *a) { free_memory(a->base, a->geometry.size); }

/* xorshift64 */
static inline uint64_t chance(uint64_t *state, uint64_t below) {
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return (*state * 0x2545f4914f6cdd1dull >> 16) % below;
}

#endif
