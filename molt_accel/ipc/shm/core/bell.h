/* Bells: how an event loop is woken, which can't sleep at a doorbell.
 *
 * A bell is a pipe. Executors have its writing end, one client at a time has the reading end in its loop's selector. A pipe
 * has two open file descriptions, so nothing that a client does to its end makes a write at the other end block; of an
 * eventfd there is one, and whoever holds it can take O_NONBLOCK off it for all.
 */
#pragma once

#include "word.h"

#include <unistd.h>

#define MOLT_BELLS 64u

/* In shared memory. `armed`: the client has read what was written, and looks at its calls after it has stored this. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word armed;
} molt_bell;

/* Ring: write a byte, unless one is on its way. The caller has stored what the client shall see, sequentially consistent:
 * either the client sees it when it looks, or the caller sees `armed`. If the caller dies before it writes, the client looks
 * at the end of a bounded time. A full pipe wakes the client, too. */
static inline void molt_bell_ring(molt_bell *bell, int fd) {
    if (!atomic_load(&bell->armed) || !atomic_exchange(&bell->armed, 0))
        return;
    MOLT_FAILPOINT(bell.ringing);
    ssize_t written = write(fd, "", 1);
    (void)written;
}
