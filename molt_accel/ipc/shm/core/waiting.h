/* The waiting policy: whether a waiter stays awake for what it waits for, and in which manner.
 *
 * To sleep and be woken costs more than all the rest of a small call. There are two ways around it, and which one is right
 * depends on where the other side runs:
 * - On another processor: spin, if both processors are free for it. If they are not, a process that spins uses up its
 *   share, and waits for whole time slices later; one that sleeps is let in at once.
 * - On the same one: give way. To spin would keep the other side from running; a yield lets it run at once, and comes back
 *   when that one gives way in turn: two switches, no wake-up. */
#pragma once

#include "processors.h"

/* What a waiter has learned; private to it. */
typedef struct {
    uint64_t usual_ns;   /* running mean of its waits */
    uint32_t other_at;   /* the processor on which the other side ran when it was heard of last, as molt_processor has it */
    uint32_t steady;     /* how often in a row it ran there, up to MOLT_STEADY */
    uint32_t pass, vain; /* waits in which it doesn't give way, because it was in vain; and how many they were last time */
    /* Waits that begin without a glance, and how many they were last time: where an executor is awake, and where one has to
     * be woken first. */
    uint32_t blind[2], missed[2];
} molt_patience;

/* How a wait is to go on. */
enum molt_manner { MOLT_SLEEP, MOLT_GIVE_WAY, MOLT_SPIN };

/* A spinning waiter makes no system call for so long. Then it yields between its looks, for the sake of those that it
 * doesn't know of. */
#define MOLT_QUIET_NS 20000u
/* A yield shorter than this has let nobody run. After so many of them the other side is not here, or the scheduler shares
 * this processor out among groups (sessions, containers), and lets nobody of another group run yet. */
#define MOLT_NOBODY_NS 1500u
#define MOLT_YIELDS_TO_NOBODY 2u
#define MOLT_MOST_YIELDS 64u
/* For how many waits giving way isn't tried again after it was in vain: from, to. It doubles meanwhile. */
#define MOLT_LEAST_PASS 8u
#define MOLT_MOST_PASS 512u
/* The same for a glance, from 1. */
#define MOLT_MOST_BLIND 64u
/* How often in a row the other side must have run on one processor before it is followed. */
#define MOLT_STEADY 16u

static inline void molt_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* The other side runs on this processor, or did so a moment ago. */
static inline void molt_hear_of(molt_patience *patience, uint32_t other_at) {
    uint32_t again = patience->steady < MOLT_STEADY ? patience->steady + 1 : MOLT_STEADY;
    patience->steady = other_at == patience->other_at ? again : 1;
    patience->other_at = other_at;
}

/* Where others want the processors, go to where the other side runs: to wake a process on another processor takes several
 * times as long as to let one run on the same. The kernel doesn't bring the two together by itself: a semaphore doesn't tell
 * it that whoever posts is about to sleep, as a pipe does. Only one of two sides may do this. */
static inline int molt_has_to_follow(const molt_patience *patience, int contended) {
    return contended && patience->steady == MOLT_STEADY && patience->other_at != molt_processor();
}

static inline void molt_follow(molt_mover *mover, const molt_patience *patience, int contended) {
    if (mover->held_at || molt_has_to_follow(patience, contended))
        molt_move_to(mover, patience->other_at, molt_now_ns());
}

/* Whether the other side runs on this thread's processor, as far as is known. */
static inline int molt_is_beside(const molt_patience *patience) {
    return patience->other_at && patience->other_at == molt_processor();
}

/* Decide on a wait that begins. `free`: there is a processor to spin on; `beside`: see molt_is_beside; `spin_ns`: the longest
 * spin, 0: never stay awake. */
static inline int molt_manner(molt_patience *patience, int free, int beside, uint64_t spin_ns) {
    if (!spin_ns)
        return MOLT_SLEEP;
    if (!beside)
        return free ? MOLT_SPIN : MOLT_SLEEP;
    if (!patience->pass)
        return MOLT_GIVE_WAY;
    patience->pass--;
    return MOLT_SLEEP; /* it is woken on another processor, if one is free */
}

/* Whether waits are usually short enough to stay awake for: not much longer than sleeping and being woken. */
static inline int molt_is_short(const molt_patience *patience, uint64_t spin_ns) {
    return patience->usual_ns <= 2 * spin_ns;
}

/* Take a wait into account. What counts of a long one is bounded: one must not end spinning, nor many keep it from coming
 * back. */
static inline void molt_learn(molt_patience *patience, uint64_t waited_ns) {
    waited_ns = molt_earlier(waited_ns, 10000000u);
    patience->usual_ns += (waited_ns >> 3) - (patience->usual_ns >> 3);
}

/* Something was tried in a wait: in how many waits it isn't tried now. None if it has helped; else twice as many as last
 * time, within bounds. */
static inline uint32_t molt_back_off(uint32_t last, int helped, uint32_t least, uint32_t most) {
    uint32_t more = 2 * last > least ? 2 * last : least;
    return helped ? 0 : (uint32_t)molt_earlier(more, most);
}

static inline void molt_learn_way(molt_patience *patience, int helped) {
    patience->pass = patience->vain = molt_back_off(patience->vain, helped, MOLT_LEAST_PASS, MOLT_MOST_PASS);
}

static inline void molt_learn_glance(molt_patience *patience, int wakes, int helped) {
    patience->blind[wakes] = patience->missed[wakes] = molt_back_off(patience->missed[wakes], helped, 1, MOLT_MOST_BLIND);
}

static inline int molt_has_changed(const molt_word *watched, uint64_t seen) {
    return atomic_load_explicit(watched, memory_order_acquire) != seen;
}

/* Look for some tens of nanoseconds, in silence, whether the watched word is no longer `seen`. */
static inline int molt_watch(const molt_word *watched, uint64_t seen) {
    for (unsigned turn = 0; turn < 16; turn++) {
        if (molt_has_changed(watched, seen))
            return 1;
        molt_pause();
    }
    return 0;
}

/* Let others of this processor run until the watched word is no longer `seen` (1), or nobody else runs here (0). */
static inline int molt_give_way(molt_patience *patience, const molt_word *watched, uint64_t seen) {
    int changed = molt_has_changed(watched, seen);
    uint64_t before_ns = molt_now_ns();
    for (unsigned yields = 0, to_nobody = 0; !changed && yields < MOLT_MOST_YIELDS && to_nobody < MOLT_YIELDS_TO_NOBODY; yields++) {
        sched_yield();
        changed = molt_has_changed(watched, seen);
        uint64_t now_ns = molt_now_ns();
        to_nobody += now_ns - before_ns < MOLT_NOBODY_NS;
        before_ns = now_ns;
    }
    molt_learn_way(patience, changed);
    return changed;
}

#define MOLT_AWAY (-1)

/* Spin until the watched word is no longer `seen` (1) or until `until_ns` (0). MOLT_AWAY: it was pushed off the processor
 * before either. */
static inline int molt_spin(molt_crowd *crowd, const molt_word *watched, uint64_t seen, uint64_t until_ns) {
    int64_t pushed = molt_pushed_so_far(crowd);
    uint64_t now_ns = molt_now_ns(), quiet_until_ns = now_ns + MOLT_QUIET_NS;
    int changed = 0;
    while (!changed && now_ns < until_ns) {
        uint64_t before_ns = now_ns;
        if (now_ns >= quiet_until_ns)
            sched_yield();
        changed = molt_watch(watched, seen);
        now_ns = molt_now_ns();
        if (now_ns - before_ns > MOLT_AWAY_NS) {
            molt_note_away(crowd, now_ns, pushed);
            return changed ? 1 : MOLT_AWAY;
        }
    }
    return changed;
}

/* Stay awake as `manner` says, until the watched word is no longer `seen` or at most until `until_ns`, and make it
 * MOLT_SLEEP if that need not be tried again in this wait. The caller looks at everything afterwards. */
static inline void molt_stay_awake(molt_patience *patience, molt_crowd *crowd, int *manner, const molt_word *watched,
                                   uint64_t seen, uint64_t until_ns) {
    if (*manner == MOLT_GIVE_WAY) {
        *manner = MOLT_SLEEP;
        molt_give_way(patience, watched, seen);
    } else if (molt_spin(crowd, watched, seen, until_ns) == MOLT_AWAY) {
        *manner = MOLT_SLEEP;
    }
}
