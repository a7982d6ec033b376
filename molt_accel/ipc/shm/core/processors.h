/* The processors: on which one a thread runs, how it gets to another one, and whether others want them. */
#pragma once

#include "word.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

/* -- where a thread runs --------------------------------------------------------------------------------------- */

/* The processor that this thread runs on just now, counted from 1; 0: not known. Reads a word that the kernel keeps for
 * each thread. */
static inline uint32_t molt_processor(void) {
    int found = sched_getcpu();
    return found < 0 ? 0 : (uint32_t)found + 1;
}

/* What a thread knows of its moves; private to it. */
typedef struct {
    cpu_set_t online;  /* the machine's processors when it moved first */
    int knows;         /* 1: `online` was found out */
    int stays;         /* 1: it can't move */
    uint32_t held_at;  /* the one processor that it may use, since it could not be set free after a move; 0: none */
    uint64_t moved_ns; /* when it tried to move last */
} molt_mover;

/* A move takes some microseconds, in which others see this thread bound to one processor. So it moves at most once in this
 * time. */
#define MOLT_MOVE_NS 2000000u

/* The processors that are online, by the kernel's list, such as 0-3,8; none if it can't be read. The C library's number of
 * processors is not it: some take it from the affinity. */
static inline void molt_find_online(cpu_set_t *online) {
    unsigned first, last;
    FILE *file = fopen("/sys/devices/system/cpu/online", "re");
    CPU_ZERO(online);
    for (int n; file && (n = fscanf(file, "%u-%u", &first, &last)) > 0;) {
        for (last = n == 2 ? last : first; first <= last && first < CPU_SETSIZE; first++)
            CPU_SET(first, online);
        if (fscanf(file, ",") == EOF)
            break;
    }
    if (file)
        fclose(file);
}

static inline cpu_set_t molt_one_processor(uint32_t processor) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(processor - 1, &one);
    return one;
}

/* Let a thread that has moved run everywhere again; not if somebody else has told it where to run meanwhile. Where that is
 * forbidden it stays held, and tries again. */
static inline void molt_set_free(molt_mover *mover) {
    cpu_set_t now, held = molt_one_processor(mover->held_at), everywhere;
    memset(&everywhere, 0xff, sizeof everywhere); /* the kernel leaves out what isn't there, or not in its cpuset */
    if (sched_getaffinity(0, sizeof now, &now))
        return;
    if (!CPU_EQUAL(&now, &held) || !sched_setaffinity(0, sizeof everywhere, &everywhere))
        mover->held_at = 0;
}

/* Go on on another processor; or, if this thread is still held since its last move, only try again to be set free. The kernel
 * may move it again at any time. It is the way to get two threads to where a wake-up is only a switch: the kernel by itself
 * wakes a thread where it ran before.
 *
 * Only a thread that may run everywhere moves. A narrower affinity could not be put back as it was: what the kernel tells is
 * what is left of it within the cpuset, and what a wider cpuset adds later would be lost. */
static inline void molt_move_to(molt_mover *mover, uint32_t processor, uint64_t now_ns) {
    cpu_set_t now, one;
    if (mover->stays || now_ns - mover->moved_ns < MOLT_MOVE_NS)
        return;
    mover->moved_ns = now_ns;
    if (mover->held_at) {
        molt_set_free(mover);
        return;
    }
    if (!mover->knows)
        molt_find_online(&mover->online);
    mover->knows = 1;
    if (!processor || processor > CPU_SETSIZE || !CPU_ISSET(processor - 1, &mover->online))
        return;
    one = molt_one_processor(processor);
    if (sched_getaffinity(0, sizeof now, &now) || !CPU_EQUAL(&now, &mover->online))
        return;
    if (sched_setaffinity(0, sizeof one, &one)) {
        mover->stays = 1;
        return;
    }
    mover->held_at = processor;
    molt_set_free(mover);
}

/* -- who else wants them --------------------------------------------------------------------------------------- */

/* What the processes of a pool know together. */
typedef struct {
    molt_word cpus;       /* processors of the machine, 1: always contended, as a pool may use less than two; 0: never */
    molt_word narrow;     /* 1: this pool may use only some of them, or not all the time */
    molt_word look_at_ns; /* when somebody shall look again */
    molt_word contended;  /* not 0: others want so many that not two are left, for a caller and an executor; how many looks
                           * in a row have found that, up to MOLT_MOST_SURE */
    molt_word suspected;  /* 1: it was so at the last look, for the first time */
    molt_word pushed_ns;  /* when a process that spun was pushed off last */
    molt_word distrust;   /* how often that was so in a row */
} molt_crowd;

/* How often somebody looks, since a look costs some microseconds; and how often its interval is doubled by processes
 * that are pushed off and can't see why. */
#define MOLT_LOOK_NS 20000000u
/* Once others were found they are looked for so soon, and after the first time sooner still: much on a machine wants to run
 * for microseconds only. While they stay, the time until the next look doubles, until it is MOLT_LOOK_NS: a look every few
 * milliseconds makes one call in a few hundred slower, which is what their p99 is made of; and after they have gone, calls
 * are slower until the next look. */
#define MOLT_RECHECK_NS 5000000u
#define MOLT_CONFIRM_NS 1000000u
#define MOLT_MOST_SURE 3u
#define MOLT_MOST_DISTRUST 5u
_Static_assert(MOLT_RECHECK_NS << (MOLT_MOST_SURE - 1) == MOLT_LOOK_NS, "looks for others become as rare as others");
/* A look at a word that took longer than this: the process did not run meanwhile. */
#define MOLT_AWAY_NS 300000u

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

/* Whether it is this process that has to look now: 1 for one of all. */
static inline int molt_has_to_look(molt_crowd *crowd, uint64_t now_ns) {
    uint64_t at_ns = atomic_load_explicit(&crowd->look_at_ns, memory_order_relaxed);
    /* A time that is farther off than any that is written here was scribbled. */
    if (now_ns < at_ns && at_ns - now_ns <= (uint64_t)MOLT_LOOK_NS << MOLT_MOST_DISTRUST)
        return 0;
    return atomic_compare_exchange_strong(&crowd->look_at_ns, &at_ns, now_ns + MOLT_LOOK_NS);
}

/* Take a look into account: so many want to run, and so many of these are this pool's callers and executors. */
static inline void molt_note_runnable(molt_crowd *crowd, uint64_t now_ns, uint32_t runnable, uint32_t ours) {
    uint64_t cpus = atomic_load_explicit(&crowd->cpus, memory_order_relaxed), others = runnable > ours ? runnable - ours : 0;
    int wanted = cpus && others + 2 > cpus;
    if (!wanted && atomic_load_explicit(&crowd->pushed_ns, memory_order_relaxed) - now_ns < MOLT_LOOK_NS)
        return; /* somebody was pushed off while this one looked; a time that is farther off was scribbled */
    uint64_t sure = atomic_load_explicit(&crowd->contended, memory_order_relaxed);
    int known = sure || atomic_load_explicit(&crowd->suspected, memory_order_relaxed);
    sure = wanted && known ? molt_earlier(sure, MOLT_MOST_SURE - 1) + 1 : 0;
    atomic_store_explicit(&crowd->contended, sure, memory_order_relaxed);
    atomic_store_explicit(&crowd->suspected, wanted && !known, memory_order_relaxed);
    if (wanted)
        atomic_store_explicit(&crowd->look_at_ns, now_ns + (sure ? (uint64_t)MOLT_RECHECK_NS << (sure - 1) : MOLT_CONFIRM_NS),
                              memory_order_relaxed);
}

/* How often others were given this thread's processor while it wanted to run, to be held against later (molt_note_away);
 * where nobody wants to know, 0. */
static inline int64_t molt_pushed_so_far(const molt_crowd *crowd) {
    struct rusage usage;
    if (!atomic_load_explicit(&crowd->narrow, memory_order_relaxed))
        return 0;
    return getrusage(RUSAGE_THREAD, &usage) ? 0 : usage.ru_nivcsw;
}

/* A process that spun was away. Where this pool may use only some of the machine's processors or has a quota, what is found
 * on the machine tells little. There this is the sign that there is no processor to spin on, if it was another process that
 * ran meanwhile, and not only the machine's host that had taken the processor: for the time of a look, twice as long each
 * time in a row. `pushed`: molt_pushed_so_far when it began to spin. */
static inline void molt_note_away(molt_crowd *crowd, uint64_t now_ns, int64_t pushed) {
    if (molt_pushed_so_far(crowd) == pushed)
        return;
    uint64_t distrust = atomic_load_explicit(&crowd->distrust, memory_order_relaxed);
    uint64_t since_ns = now_ns - atomic_load_explicit(&crowd->pushed_ns, memory_order_relaxed);
    distrust = since_ns > (uint64_t)MOLT_LOOK_NS << MOLT_MOST_DISTRUST ? 0 : molt_earlier(distrust + 1, MOLT_MOST_DISTRUST);
    atomic_store_explicit(&crowd->distrust, distrust, memory_order_relaxed);
    atomic_store_explicit(&crowd->pushed_ns, now_ns, memory_order_relaxed);
    atomic_store_explicit(&crowd->look_at_ns, now_ns + ((uint64_t)MOLT_LOOK_NS << distrust), memory_order_relaxed);
    atomic_store_explicit(&crowd->contended, 1, memory_order_relaxed);
}
