/* A byte ring: the bytes of one direction of a channel, from one producer to one consumer. */
#pragma once

#include "word.h"

#include <string.h>

/* Both counts start at 0 with each request, so that a small exchange always touches the same, warm page. Each side keeps its
 * own count in private memory: a scribbled word can't move it. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word head; /* bytes written so far, by the producer */
    _Alignas(MOLT_CACHE_LINE) molt_word tail; /* bytes read so far, by the consumer */
} molt_ring;

#define MOLT_CORRUPT (-1)

/* Copy in as much as fits. `head` is the producer's own count. Returns the bytes copied or MOLT_CORRUPT. */
static inline int64_t molt_ring_write(molt_ring *ring, uint8_t *data, uint64_t capacity, uint64_t *head,
                                      const uint8_t *from, uint64_t n) {
    uint64_t used = *head - atomic_load_explicit(&ring->tail, memory_order_acquire);
    if (used > capacity)
        return MOLT_CORRUPT;
    n = molt_earlier(n, capacity - used);
    if (n) {
        uint64_t start = *head & (capacity - 1), first = molt_earlier(n, capacity - start);
        memcpy(data + start, from, first);
        memcpy(data, from + first, n - first);
        *head += n;
        atomic_store_explicit(&ring->head, *head, memory_order_release);
    }
    return (int64_t)n;
}

/* Copy out as much as there is. `tail` is the consumer's own count. Returns the bytes copied or MOLT_CORRUPT. */
static inline int64_t molt_ring_read(molt_ring *ring, const uint8_t *data, uint64_t capacity, uint64_t *tail,
                                     uint8_t *to, uint64_t n) {
    uint64_t there = atomic_load_explicit(&ring->head, memory_order_acquire) - *tail;
    if (there > capacity)
        return MOLT_CORRUPT;
    n = molt_earlier(n, there);
    if (n) {
        uint64_t start = *tail & (capacity - 1), first = molt_earlier(n, capacity - start);
        memcpy(to, data + start, first);
        memcpy(to + first, data, n - first);
        *tail += n;
        atomic_store_explicit(&ring->tail, *tail, memory_order_release);
    }
    return (int64_t)n;
}
