/* Two processes that ring each other's doorbell, over the project's native core and nothing else: what a hand-over
 * costs below any interpreter, and what each manner of waiting is worth.
 *
 *     pingpong park|spin|policy WARMUP CALLS LIMIT_NS PAUSE_NS
 *
 * `park`: sleep at once. `spin`: stay awake, whatever else is there. `policy`: as clients and executors do.
 *
 * Writes the nanoseconds of each round trip to stdout, as 64-bit words: at most CALLS, for about LIMIT_NS, after WARMUP
 * that are not written, with a pause between them.
 */
#include "molt_core.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define LEAST_CALLS 3

typedef struct {
    molt_doorbell asked, answered;
    molt_word asked_at, answered_at; /* where each side runs */
    molt_word over;
    molt_crowd crowd;
} table;

#define SPIN_NS 50000u

static const char *mode;
static molt_patience patience;
static molt_mover mover;

/* As a client or an executor does. Both count as awake: at most one of the two isn't. */
static int contended(molt_crowd *crowd) {
    uint64_t now_ns = molt_now_ns();
    if (molt_has_to_look(crowd, now_ns))
        molt_note_runnable(crowd, now_ns, molt_runnable(), 2);
    return atomic_load(&crowd->contended) != 0;
}

static void await_by_policy(table *shared, molt_doorbell *doorbell, uint64_t seen) {
    uint64_t start_ns = molt_now_ns();
    int manner = MOLT_SLEEP;
    if (molt_is_short(&patience, SPIN_NS))
        manner = molt_manner(&patience, !contended(&shared->crowd), molt_is_beside(&patience), SPIN_NS);
    while (atomic_load(&doorbell->count) == seen) {
        if (manner && molt_now_ns() - start_ns < SPIN_NS)
            molt_stay_awake(&patience, &shared->crowd, &manner, &doorbell->count, seen, start_ns + SPIN_NS);
        else
            molt_park(doorbell, &doorbell->count, seen, molt_now_ns() + MOLT_PARK_NS);
    }
    molt_learn(&patience, molt_now_ns() - start_ns);
}

/* Until the doorbell has been rung more often than `seen`. */
static void await_doorbell(table *shared, molt_doorbell *doorbell, uint64_t seen) {
    if (!strcmp(mode, "policy"))
        await_by_policy(shared, doorbell, seen);
    while (atomic_load(&doorbell->count) == seen) {
        if (!strcmp(mode, "park"))
            molt_park(doorbell, &doorbell->count, seen, molt_now_ns() + MOLT_PARK_NS);
        else
            molt_spin(&shared->crowd, &doorbell->count, seen, MOLT_NEVER);
    }
}

static void answer(table *shared) {
    for (uint64_t seen = 0;; seen++) {
        await_doorbell(shared, &shared->asked, seen);
        if (atomic_load(&shared->over))
            return;
        molt_hear_of(&patience, (uint32_t)atomic_load(&shared->asked_at));
        molt_follow(&mover, &patience, !strcmp(mode, "policy") && contended(&shared->crowd));
        atomic_store(&shared->answered_at, molt_processor());
        molt_doorbell_ring(&shared->answered);
    }
}

int main(int argc, char **argv) {
    if (argc != 6)
        return 2;
    mode = argv[1];
    uint64_t warmup = strtoull(argv[2], NULL, 10), calls = strtoull(argv[3], NULL, 10);
    uint64_t limit_ns = strtoull(argv[4], NULL, 10), pause_ns = strtoull(argv[5], NULL, 10);
    struct timespec pause = {(time_t)(pause_ns / 1000000000u), (long)(pause_ns % 1000000000u)};
    uint64_t *samples = calloc(calls + 1, sizeof *samples), count = 0;
    table *shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!samples || shared == MAP_FAILED || molt_doorbell_init(&shared->asked) || molt_doorbell_init(&shared->answered)) {
        perror("pingpong");
        return 1;
    }
    atomic_store(&shared->crowd.cpus, (uint64_t)sysconf(_SC_NPROCESSORS_ONLN));
    pid_t parent = getpid(), child = fork();
    if (child < 0) {
        perror("pingpong: fork");
        return 1;
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() == parent)
            answer(shared);
        _exit(0);
    }
    uint64_t until_ns = MOLT_NEVER;
    for (uint64_t i = 0; i < warmup + calls; i++) {
        uint64_t begun_ns = molt_now_ns();
        if (i == warmup)
            until_ns = begun_ns + limit_ns;
        atomic_store(&shared->asked_at, molt_processor());
        molt_doorbell_ring(&shared->asked);
        await_doorbell(shared, &shared->answered, i);
        molt_hear_of(&patience, (uint32_t)atomic_load(&shared->answered_at));
        uint64_t ended_ns = molt_now_ns();
        if (i >= warmup)
            samples[count++] = ended_ns - begun_ns;
        if (ended_ns > until_ns && count >= LEAST_CALLS)
            break;
        if (pause_ns)
            nanosleep(&pause, NULL);
    }
    atomic_store(&shared->over, 1);
    molt_doorbell_ring(&shared->asked);
    waitpid(child, NULL, 0);
    return fwrite(samples, sizeof *samples, count, stdout) == count && !fflush(stdout) ? 0 : 1;
}
