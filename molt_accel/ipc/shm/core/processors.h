/* The processors: on which one a thread runs, how it gets to another one, and whether others want them. */
#pragma once

#include "word.h"

#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/resource.h>
#include <unistd.h>

/* -- where a thread runs --------------------------------------------------------------------------------------- */

/* The processor that this thread runs on just now, counted from 1; 0: not known. Reads a word that the kernel keeps for
 * each thread. */
static inline uint32_t molt_processor(void) {
    int found = sched_getcpu();
    return found < 0 ? 0 : (uint32_t)found + 1;
}

/* Go on on another processor, if this thread may run there; the kernel may move it again at any time. It is the way to get
 * two threads to where a wake-up is only a switch: the kernel by itself wakes a thread where it ran before. */
static inline void molt_move_to(uint32_t processor) {
    cpu_set_t allowed, one;
    if (!processor || processor > CPU_SETSIZE || sched_getaffinity(0, sizeof allowed, &allowed) ||
        !CPU_ISSET(processor - 1, &allowed))
        return;
    CPU_ZERO(&one);
    CPU_SET(processor - 1, &one);
    if (!sched_setaffinity(0, sizeof one, &one))
        sched_setaffinity(0, sizeof allowed, &allowed);
}

/* -- who else wants them --------------------------------------------------------------------------------------- */

/* What the processes of a pool know together. */
typedef struct {
    molt_word cpus;       /* processors of the machine; 0: never contended */
    molt_word narrow;     /* 1: this pool may use only some of them, or not all the time */
    molt_word look_at_ns; /* when somebody shall look again */
    molt_word contended;  /* 1: others want so many that not two are left, for a caller and an executor */
    molt_word suspected;  /* 1: it was so at the last look, for the first time */
    molt_word pushed_ns;  /* when a process that spun was pushed off last */
    molt_word distrust;   /* how often that was so in a row */
} molt_crowd;

/* How often somebody looks, since a look costs some microseconds; and how often its interval is doubled by processes
 * that are pushed off and can't see why. */
#define MOLT_LOOK_NS 20000000u
/* Once others were found they are looked for so often, and after the first time sooner still: much on a machine wants to run
 * for microseconds only. */
#define MOLT_RECHECK_NS 5000000u
#define MOLT_CONFIRM_NS 1000000u
#define MOLT_MOST_DISTRUST 5u
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
    int known = atomic_load_explicit(&crowd->contended, memory_order_relaxed) ||
                atomic_load_explicit(&crowd->suspected, memory_order_relaxed);
    atomic_store_explicit(&crowd->contended, wanted && known, memory_order_relaxed);
    atomic_store_explicit(&crowd->suspected, wanted && !known, memory_order_relaxed);
    if (wanted)
        atomic_store_explicit(&crowd->look_at_ns, now_ns + (known ? MOLT_RECHECK_NS : MOLT_CONFIRM_NS),
                              memory_order_relaxed);
}

/* A process that spun was away. Where this pool may use only some of the machine's processors or has a quota, what is found
 * on the machine tells little. There this is the sign that there is no processor to spin on, if it was another process that
 * ran meanwhile, and not only the machine's host that had taken the processor: for the time of a look, twice as long each
 * time in a row. `switches`: the thread's involuntary switches when it looked last; private to it. */
static inline void molt_note_away(molt_crowd *crowd, uint64_t now_ns, int64_t *switches) {
    struct rusage usage;
    if (!atomic_load_explicit(&crowd->narrow, memory_order_relaxed))
        return;
    if (getrusage(RUSAGE_THREAD, &usage) || usage.ru_nivcsw == *switches)
        return;
    *switches = usage.ru_nivcsw;
    uint64_t distrust = atomic_load_explicit(&crowd->distrust, memory_order_relaxed);
    uint64_t since_ns = now_ns - atomic_load_explicit(&crowd->pushed_ns, memory_order_relaxed);
    distrust = since_ns > (uint64_t)MOLT_LOOK_NS << MOLT_MOST_DISTRUST ? 0 : molt_earlier(distrust + 1, MOLT_MOST_DISTRUST);
    atomic_store_explicit(&crowd->distrust, distrust, memory_order_relaxed);
    atomic_store_explicit(&crowd->pushed_ns, now_ns, memory_order_relaxed);
    atomic_store_explicit(&crowd->look_at_ns, now_ns + ((uint64_t)MOLT_LOOK_NS << distrust), memory_order_relaxed);
    atomic_store_explicit(&crowd->contended, 1, memory_order_relaxed);
}
