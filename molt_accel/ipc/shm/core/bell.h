/* Bells: how an event loop is woken, which can't sleep at a doorbell.
 *
 * A bell is a pipe. Executors have its writing end, one client at a time has the reading end in its loop's selector. A pipe
 * has two open file descriptions, so nothing that a client does to its end makes a write at the other end block; of an
 * eventfd there is one, and whoever holds it can take O_NONBLOCK off it for all.
 *
 * Executors run code of others, which may close descriptors that it did not open, and get their numbers for files of its own.
 * So who rings looks first whether the number still stands for the pipe.
 */
#pragma once

#include "word.h"

#include <sys/stat.h>
#include <unistd.h>

#define MOLT_BELLS 64u

enum molt_bell_armed {
    MOLT_BELL_QUIET = 0, /* a ring is on its way, or nobody listens */
    MOLT_BELL_ARMED = 1, /* the client has read what was written, and looks at its calls after it has stored this */
    MOLT_BELL_LOST = 2   /* an executor that should have rung has no such descriptor any more */
};

/* In shared memory. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word armed; /* enum molt_bell_armed */
} molt_bell;

/* The writing end that this process has: its number, and what it was when it was made. */
typedef struct {
    int fd;
    dev_t device;
    ino_t inode;
} molt_bell_end;

/* Note what a descriptor is. Returns 0, or -1 with errno. */
static inline int molt_bell_know(molt_bell_end *end, int fd) {
    struct stat found;
    if (fstat(fd, &found))
        return -1;
    *end = (molt_bell_end){fd, found.st_dev, found.st_ino};
    return 0;
}

/* Whether the number still stands for what it was. */
static inline int molt_bell_is_there(const molt_bell_end *end) {
    struct stat found;
    return !fstat(end->fd, &found) && found.st_ino == end->inode && found.st_dev == end->device;
}

/* Ring: write a byte, unless one is on its way. The caller has stored what the client shall see, sequentially consistent:
 * either the client sees it when it looks, or the caller sees that the bell is armed. If the caller dies before it writes, the
 * client looks at the end of a bounded time. A full pipe wakes the client, too.
 *
 * Returns 0 if this process can't ring it. Nothing was written then, and the client is told: it looks in time as well, and
 * has its calls waited for otherwise. */
static inline int molt_bell_ring(molt_bell *bell, const molt_bell_end *end) {
    uint64_t armed = MOLT_BELL_ARMED;
    /* Not an exchange, which would take back what another executor has said. */
    if (atomic_load(&bell->armed) != armed || !atomic_compare_exchange_strong(&bell->armed, &armed, MOLT_BELL_QUIET))
        return 1;
    MOLT_FAILPOINT(bell.ringing);
    if (!molt_bell_is_there(end)) {
        atomic_store(&bell->armed, MOLT_BELL_LOST);
        return 0;
    }
    ssize_t written = write(end->fd, "", 1);
    (void)written;
    return 1;
}
