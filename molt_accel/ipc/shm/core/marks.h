/* Marks: which channels may have a request. Whoever looks for requests looks at marked channels only, so that a look costs
 * by how many channels are used, and not by how many were granted.
 *
 * A client marks its channel when it has published a request, if there is no mark, and before it tells anybody. The mark
 * stays when the request has ended, so most calls find it and store nothing. A mark of an IDLE channel costs a look. The
 * supervisor takes such marks away now and then. A client may be publishing just then: it stores the state word and then
 * looks at the mark, the supervisor stores the mark and then looks at the state word, so one of them sees the other and marks
 * the channel again. The supervisor also finds what is not IDLE and has no mark: its client has died or sleeps between the
 * two steps, or somebody has scribbled.
 */
#pragma once

#include "arena.h"

static inline uint64_t molt_mark_bit(uint32_t channel) { return (uint64_t)1 << (channel % 64); }

static inline int molt_is_marked(const molt_arena *a, uint32_t channel) {
    return (atomic_load(&a->marks[channel / 64]) & molt_mark_bit(channel)) != 0;
}

static inline void molt_mark(molt_arena *a, uint32_t channel) {
    atomic_fetch_or(&a->marks[channel / 64], molt_mark_bit(channel));
}

/* Channels from this index on were never granted to a client. */
static inline uint32_t molt_in_use(const molt_arena *a) {
    uint64_t n = atomic_load_explicit(&a->header->in_use, memory_order_relaxed);
    return n < a->geometry.channels ? (uint32_t)n : a->geometry.channels;
}

/* A walk over the marked channels in use, by their indexes. */
typedef struct {
    const molt_word *marks;
    uint64_t left;       /* marks that were not yet given, of the word before `word` */
    uint32_t word, end; /* `end`: how many channels are in use */
} molt_walk;

static inline molt_walk molt_walk_marked(const molt_arena *a) { return (molt_walk){a->marks, 0, 0, molt_in_use(a)}; }

/* The next marked channel: 1, or 0: there is none. */
static inline int molt_next_marked(molt_walk *walk, uint32_t *channel) {
    while (!walk->left) {
        if (walk->word * 64 >= walk->end)
            return 0;
        walk->left = atomic_load(&walk->marks[walk->word++]);
    }
    *channel = (walk->word - 1) * 64 + (uint32_t)__builtin_ctzll(walk->left);
    walk->left &= walk->left - 1;
    return *channel < walk->end; /* else it is scribbled */
}

/* The supervisor's look at all channels: take marks away from those that are IDLE, and mark those that are not. Returns how
 * many had to be marked: an executor may have missed their requests, and has to look again. */
static inline uint32_t molt_review_marks(molt_arena *a) {
    uint32_t missed = 0;
    for (uint32_t i = 0; i < a->geometry.channels; i++) {
        int is_marked = molt_is_marked(a, i);
        if (is_marked && MOLT_STATE(atomic_load(&a->words[i])) == MOLT_IDLE) {
            atomic_fetch_and(&a->marks[i / 64], ~molt_mark_bit(i));
            is_marked = 0;
            MOLT_FAILPOINT(supervisor.unmarked);
        }
        if (!is_marked && MOLT_STATE(atomic_load(&a->words[i])) != MOLT_IDLE) {
            molt_mark(a, i);
            missed++;
        }
    }
    return missed;
}
