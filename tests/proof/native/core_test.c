/* The core on one thread: geometry, attaching to what is damaged, rings, doorbells, every step of a state word, queueing. */
#include "word.h"

#include <sched.h>
#include <semaphore.h>
#include <sys/resource.h>

static void (*just_before_post)(void); /* called once, between the look at a sleeper and its wake-up */
static int watched_sem_post(sem_t *sem) {
    void (*happens)(void) = just_before_post;
    just_before_post = NULL;
    if (happens)
        happens();
    return sem_post(sem);
}
#define sem_post watched_sem_post

static void (*at_yield)(void); /* called before every yield */
static int watched_yield(void) {
    if (at_yield)
        at_yield();
    return sched_yield();
}
#define sched_yield watched_yield

static const int64_t *pushes; /* what is told as the involuntary switches of this thread; NULL: what the kernel says */
static int watched_getrusage(int who, struct rusage *usage) {
    int failed = getrusage(who, usage);
    if (pushes)
        usage->ru_nivcsw = *pushes;
    return failed;
}
#define getrusage watched_getrusage

static void (*at_moment)(const char *name); /* called wherever the core names a moment */
static void reach(const char *name) {
    if (at_moment)
        at_moment(name);
}
#undef MOLT_FAILPOINT
#define MOLT_FAILPOINT(name) reach(#name)

#include "testing.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

static const molt_flag open_flag = 0, closed_flag = 1;

/* -- geometry -------------------------------------------------------------------------------------------------- */

typedef struct {
    const uint8_t *from;
    uint64_t bytes;
} region;

static void check_regions(const molt_arena *a) {
    uint32_t channels = a->geometry.channels, slots = a->geometry.slots;
    region all[12 + 3 * 8];
    size_t n = 0;
    CHECK(channels <= 8);
    all[n++] = (region){(uint8_t *)a->header, sizeof(molt_header)};
    all[n++] = (region){(uint8_t *)a->words, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->ticket_of, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->failure, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->entry_of, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->turn_of, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->began_ns, channels * sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->client_awake, channels};
    all[n++] = (region){(uint8_t *)a->executor_awake, slots};
    all[n++] = (region){(uint8_t *)a->marks, sizeof(molt_word)};
    all[n++] = (region){(uint8_t *)a->entries, MOLT_ENTRIES * sizeof(molt_entry)};
    all[n++] = (region){(uint8_t *)a->slots, slots * sizeof(molt_slot)};
    for (uint32_t i = 0; i < channels; i++) {
        all[n++] = (region){(uint8_t *)molt_channel_at(a, i), sizeof(molt_channel)};
        all[n++] = (region){molt_request_data(a, i), a->geometry.ring_bytes};
        all[n++] = (region){molt_reply_data(a, i), a->geometry.ring_bytes};
    }
    for (size_t i = 0; i < n; i++) {
        CHECK(all[i].from >= a->base && all[i].from + all[i].bytes <= a->base + a->geometry.size);
        if (i)
            CHECK(all[i].from >= all[i - 1].from + all[i - 1].bytes);
    }
    for (uint32_t i = 0; i < channels; i++)
        CHECK((uintptr_t)molt_channel_at(a, i) % MOLT_CACHE_LINE == 0);
    CHECK(((uint8_t *)a->slots - a->base) % MOLT_PAGE == 0 && ((uint8_t *)a->words - a->base) % MOLT_PAGE == 0);
}

static void test_nothing_in_an_arena_overlaps(void) {
    for (uint32_t channels = 1; channels <= 8; channels++)
        for (uint32_t slots = 1; slots <= 70; slots += 23)
            for (uint64_t ring = MOLT_PAGE; ring <= 4 * MOLT_PAGE; ring *= 2) {
                molt_arena a = new_arena(channels, slots, ring);
                check_regions(&a);
                free_arena(&a);
            }
}

static void test_impossible_geometries_have_no_size(void) {
    CHECK(planned(1, 1, MOLT_PAGE));
    CHECK(planned(MOLT_MAX_CHANNELS, MOLT_MAX_SLOTS, MOLT_PAGE));
    CHECK(!planned(0, 1, MOLT_PAGE));
    CHECK(!planned(1, 0, MOLT_PAGE));
    CHECK(!planned(MOLT_MAX_CHANNELS + 1, 1, MOLT_PAGE));
    CHECK(!planned(1, MOLT_MAX_SLOTS + 1, MOLT_PAGE));
    CHECK(!planned(UINT32_MAX, UINT32_MAX, MOLT_PAGE));
    CHECK(!planned(1, 1, MOLT_PAGE / 2));
    CHECK(!planned(1, 1, MOLT_PAGE + 1));
    CHECK(!planned(1, 1, 3 * MOLT_PAGE));
    CHECK(!planned(1, 1, 2ull << 30));
    CHECK(!planned(1, 1, UINT64_MAX));
    CHECK(!planned(1, 1, 0));
}

static void test_an_arena_is_found_as_it_was_made(void) {
    molt_arena a = new_arena(3, 2, 2 * MOLT_PAGE), b = {.base = a.base};
    CHECK(molt_arena_attach(&b, a.geometry.size) == NULL);
    CHECK(memcmp(&b, &a, sizeof a) == 0);
    for (uint32_t i = 0; i < 3; i++) {
        CHECK(molt_look(&b, i) == MOLT_IDLE_WORD(0));
        CHECK(atomic_load(&molt_channel_at(&b, i)->doorbell_of) == i);
    }
    free_arena(&a);
}

/* Any flipped bit of the header is refused, or what it leads to lies inside the memory all the same: two numbers of slots
 * can take as many pages. */
static void test_damaged_headers_lead_nowhere(void) {
    molt_arena a = new_arena(3, 2, MOLT_PAGE);
    uint64_t size = a.geometry.size;
    for (size_t bit = 0; bit < 8 * sizeof(molt_geometry); bit++) {
        molt_arena b = {.base = a.base};
        a.base[bit / 8] ^= (uint8_t)(1u << bit % 8);
        if (molt_arena_attach(&b, size) == NULL) {
            CHECK(bit / 8 >= offsetof(molt_geometry, slots) && bit / 8 < offsetof(molt_geometry, ring_bytes));
            CHECK(b.geometry.size == size);
            check_regions(&b);
        }
        a.base[bit / 8] ^= (uint8_t)(1u << bit % 8);
    }
    for (uint64_t other = 0; other < 2 * size; other += 64) {
        molt_arena b = {.base = a.base};
        CHECK((molt_arena_attach(&b, other) == NULL) == (other == size));
    }
    memset(a.base, 0, sizeof(molt_geometry));
    CHECK(molt_arena_attach(&(molt_arena){.base = a.base}, size) != NULL);
    free_arena(&a);
}

/* -- rings ----------------------------------------------------------------------------------------------------- */

static void test_a_ring_gives_what_it_was_given(void) {
    enum { CAPACITY = 4096 };
    static uint8_t data[CAPACITY], from[3 * CAPACITY], to[3 * CAPACITY];
    static const uint64_t starts[] = {0, 1, CAPACITY - 1, UINT64_MAX - 100, UINT64_MAX - 3 * CAPACITY};
    uint64_t state = 910;
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        uint64_t head = starts[s], tail = starts[s], written = 0, read = 0;
        molt_ring ring;
        atomic_store(&ring.head, head);
        atomic_store(&ring.tail, tail);
        for (int turn = 0; turn < 20000; turn++) {
            uint64_t used = written - read, n = chance(&state, 4) ? chance(&state, 200) : chance(&state, 3 * CAPACITY);
            if (chance(&state, 2)) {
                for (uint64_t i = 0; i < n; i++)
                    from[i] = (uint8_t)((written + i) * 31 >> 3);
                int64_t moved = molt_ring_write(&ring, data, CAPACITY, &head, from, n);
                CHECK((uint64_t)moved == molt_earlier(n, CAPACITY - used));
                written += (uint64_t)moved;
            } else {
                int64_t moved = molt_ring_read(&ring, data, CAPACITY, &tail, to, n);
                CHECK((uint64_t)moved == molt_earlier(n, used));
                for (uint64_t i = 0; i < (uint64_t)moved; i++)
                    CHECK(to[i] == (uint8_t)((read + i) * 31 >> 3));
                read += (uint64_t)moved;
            }
            CHECK(atomic_load(&ring.head) == head && head == starts[s] + written);
            CHECK(atomic_load(&ring.tail) == tail && tail == starts[s] + read);
        }
        CHECK(written > 100 * CAPACITY);
    }
}

static void test_counts_that_cant_be_are_not_followed(void) {
    enum { CAPACITY = 4096 };
    static uint8_t data[CAPACITY], bytes[CAPACITY];
    static const uint64_t wrong[] = {CAPACITY + 1, UINT64_MAX, 1ull << 63, UINT64_MAX - CAPACITY};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint64_t mine = 0;
        molt_ring ring;
        atomic_store(&ring.head, wrong[i]);
        atomic_store(&ring.tail, 0);
        CHECK(molt_ring_read(&ring, data, CAPACITY, &mine, bytes, 1) == MOLT_CORRUPT);
        atomic_store(&ring.head, 0);
        atomic_store(&ring.tail, -wrong[i]);
        CHECK(molt_ring_write(&ring, data, CAPACITY, &mine, bytes, 1) == MOLT_CORRUPT);
        CHECK(mine == 0 && atomic_load(&ring.head) == 0);
    }
}

/* -- doorbells ----------------------------------------------------------------------------------------------------- */

static void nothing(int signum) { (void)signum; }

static void test_a_park_ends_with_a_ring_a_change_a_signal_or_the_time(void) {
    molt_doorbell doorbell;
    CHECK(molt_doorbell_init(&doorbell) == 0);
    uint64_t soon = molt_now_ns() + 20000000, never = molt_now_ns() + 60000000000u;
    CHECK(molt_park(&doorbell, &doorbell.count, 0, soon) == MOLT_TIMED_OUT);
    CHECK(molt_now_ns() >= soon);
    CHECK(molt_park(&doorbell, &doorbell.count, 1, never) == MOLT_CHANGED);

    CHECK(molt_doorbell_wake(&doorbell) == 0); /* nobody sleeps */
    atomic_store(&doorbell.parked, 1);     /* now somebody is about to */
    CHECK(molt_doorbell_wake(&doorbell) == 1 && molt_doorbell_wake(&doorbell) == 0);
    /* Its token came too late for that wait, and ends no other. */
    CHECK(molt_park(&doorbell, &doorbell.count, 0, molt_now_ns() + 20000000) == MOLT_TIMED_OUT);

    struct sigaction action = {.sa_handler = nothing};
    struct itimerval timer = {.it_value = {.tv_usec = 20000}, .it_interval = {.tv_usec = 20000}};
    sigaction(SIGALRM, &action, NULL);
    setitimer(ITIMER_REAL, &timer, NULL);
    CHECK(molt_park(&doorbell, &doorbell.count, 0, never) == MOLT_INTERRUPTED);
    setitimer(ITIMER_REAL, &(struct itimerval){0}, NULL);

    molt_doorbell_ring(&doorbell);
    CHECK(atomic_load(&doorbell.count) == 1 && atomic_load(&doorbell.parked) == 0);
}

/* What molt_doorbell_repair takes for granted of the C library. */
static void test_nothing_but_a_semaphore_s_count_changes_as_it_is_used(void) {
    molt_doorbell doorbell;
    char before[sizeof(sem_t)];
    CHECK(molt_doorbell_init(&doorbell) == 0);
    molt_doorbell_repair(&doorbell);
    memcpy(before, &doorbell.sem, sizeof before);
    for (int i = 0; i < 3; i++)
        CHECK(sem_post(&doorbell.sem) == 0);
    for (int i = 0; i < 3; i++)
        CHECK(sem_trywait(&doorbell.sem) == 0);
    CHECK(molt_park(&doorbell, &doorbell.count, 0, molt_now_ns() + 1000000) == MOLT_TIMED_OUT);
    CHECK(memcmp(before + MOLT_SEM_COUNT, (char *)&doorbell.sem + MOLT_SEM_COUNT, sizeof before - MOLT_SEM_COUNT) == 0);
}

static void test_a_semaphore_that_was_scribbled_over_is_put_right(void) {
    molt_doorbell doorbell;
    uint64_t seed = 5;
    for (int round = 0; round < 300; round++) {
        CHECK(molt_doorbell_init(&doorbell) == 0);
        for (size_t i = 0; i < sizeof doorbell.sem; i++)
            if (chance(&seed, 2))
                ((uint8_t *)&doorbell.sem)[i] = (uint8_t)chance(&seed, 256);
        atomic_store(&doorbell.parked, round % 2);
        CHECK(molt_doorbell_wake(&doorbell) == round % 2); /* neither aborts nor sleeps */
        /* Nor does it let nobody sleep from now on. */
        molt_park(&doorbell, &doorbell.count, 1, 0);
        CHECK(molt_park(&doorbell, &doorbell.count, 0, molt_now_ns() + 10000) == MOLT_TIMED_OUT);
    }
}

static void *ring_it(void *doorbell) {
    while (!atomic_load(&((molt_doorbell *)doorbell)->parked))
        sched_yield();
    molt_doorbell_ring(doorbell);
    return NULL;
}

static void test_a_ring_wakes_who_sleeps(void) {
    molt_doorbell doorbell;
    CHECK(molt_doorbell_init(&doorbell) == 0);
    for (uint64_t round = 0; round < 50; round++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, ring_it, &doorbell) == 0);
        CHECK(molt_park(&doorbell, &doorbell.count, round, molt_now_ns() + 60000000000u) == MOLT_CHANGED);
        CHECK(atomic_load(&doorbell.count) == round + 1);
        pthread_join(thread, NULL);
    }
}

/* -- the waiting policy ---------------------------------------------------------------------------------------- */

static void test_a_spin_sees_a_change_and_ends_with_its_time(void) {
    molt_crowd crowd = {0};
    molt_word word = 5;
    CHECK(molt_spin(&crowd, &word, 4, UINT64_MAX) == 1);
    CHECK(molt_spin(&crowd, &word, 5, molt_now_ns() + 1000000) != 1);
}

/* What happens at a yield: so much time passes, then the word changes if it is the `yields_until_change`th yield, and others
 * have been given the processor if `others_ran`. */
static uint64_t yields_made, yields_until_change, first_yield_ns, yield_takes_ns;
static int64_t pushes_made;
static int others_ran;
static molt_word yielded_for;

static void a_yield(void) {
    uint64_t now_ns = molt_now_ns(), until_ns = now_ns + yield_takes_ns;
    if (!yields_made++)
        first_yield_ns = now_ns;
    while (molt_now_ns() < until_ns)
        molt_pause();
    if (yields_made == yields_until_change)
        atomic_fetch_add(&yielded_for, 1);
    pushes_made += others_ran;
}

static uint64_t watch_yields(uint64_t takes_ns, uint64_t until_change) {
    yields_made = first_yield_ns = 0;
    yield_takes_ns = takes_ns;
    yields_until_change = until_change;
    at_yield = a_yield;
    pushes = &pushes_made;
    return atomic_load(&yielded_for);
}

static void watch_no_yields(void) {
    at_yield = NULL;
    pushes = NULL;
}

static void test_a_spin_is_silent_first_and_yields_then(void) {
    molt_crowd crowd = {0};
    uint64_t start_ns = 0, seen = watch_yields(0, 0);
    for (int i = 0; i < 1000 && !yields_made; i++) { /* it ends at once where this thread doesn't run for a while */
        start_ns = molt_now_ns();
        CHECK(molt_spin(&crowd, &yielded_for, seen, start_ns + 1000000) != 1);
    }
    CHECK(yields_made && first_yield_ns - start_ns >= MOLT_QUIET_NS);
    seen = watch_yields(0, 1);
    int found = 0;
    while (!yields_made)
        found = molt_spin(&crowd, &yielded_for, seen, molt_now_ns() + 1000000);
    CHECK(found == 1);
    watch_no_yields();
}

static void test_a_spin_that_was_away_ends_and_asks_who_ran_instead(void) {
    for (others_ran = 0; others_ran < 2; others_ran++) {
        for (uint64_t change = 0; change < 2; change++) {
            molt_crowd crowd = {.cpus = 1000, .narrow = 1};
            uint64_t seen = watch_yields(2 * MOLT_AWAY_NS, change);
            int manner = MOLT_SPIN, found = MOLT_AWAY;
            while (!yields_made) /* it may be away before its first yield, too */
                found = molt_spin(&crowd, &yielded_for, seen, molt_now_ns() + 1000000000);
            CHECK(found == (change ? 1 : MOLT_AWAY));
            CHECK((crowd.contended != 0) == others_ran);
            watch_yields(2 * MOLT_AWAY_NS, 0);
            molt_stay_awake(&(molt_patience){0}, &crowd, &manner, &yielded_for, seen + change, molt_now_ns() + 1000000000);
            CHECK(manner == MOLT_SLEEP);
        }
    }
    others_ran = 0;
    watch_no_yields();
}

static void test_what_the_kernel_counts_is_known_where_it_matters(void) {
    molt_crowd crowd = {0};
    struct rusage usage;
    int64_t before, told;
    CHECK(molt_pushed_so_far(&crowd) == 0);
    atomic_store(&crowd.narrow, 1);
    do {
        CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
        before = usage.ru_nivcsw;
        told = molt_pushed_so_far(&crowd);
        CHECK(getrusage(RUSAGE_THREAD, &usage) == 0);
    } while (usage.ru_nivcsw != before);
    CHECK(told == before);
}

static void test_long_waits_end_staying_awake_and_short_ones_bring_it_back(void) {
    molt_patience patience = {0};
    const uint64_t spin_ns = 50000;
    CHECK(molt_is_short(&patience, spin_ns));
    molt_learn(&patience, UINT64_MAX);
    CHECK(!molt_is_short(&patience, spin_ns));
    for (int i = 0; i < 1000; i++)
        molt_learn(&patience, UINT64_MAX);
    int needed = 0;
    while (!molt_is_short(&patience, spin_ns) && needed < 1000)
        molt_learn(&patience, 1000), needed++;
    CHECK(needed > 10 && needed < 50);
    patience.usual_ns = 2 * spin_ns;
    CHECK(molt_is_short(&patience, spin_ns));
    patience.usual_ns++;
    CHECK(!molt_is_short(&patience, spin_ns));
}

static void test_the_manner_of_a_wait_depends_on_the_crowd_and_on_where_the_other_side_runs(void) {
    molt_patience patience = {0};
    CHECK(molt_manner(&patience, 1, 0, 50000) == MOLT_SPIN);
    CHECK(molt_manner(&patience, 0, 0, 50000) == MOLT_SLEEP);
    CHECK(molt_manner(&patience, 0, 1, 50000) == MOLT_GIVE_WAY); /* a spin would keep the other side from running */
    CHECK(molt_manner(&patience, 1, 1, 50000) == MOLT_GIVE_WAY);
    for (int free = 0; free < 2; free++)
        for (int beside = 0; beside < 2; beside++)
            CHECK(molt_manner(&patience, free, beside, 0) == MOLT_SLEEP);
}

static void test_giving_way_in_vain_is_tried_again_ever_more_rarely(void) {
    molt_patience patience = {0};
    for (uint32_t expected = MOLT_LEAST_PASS; expected < 4 * MOLT_MOST_PASS; expected *= 2) {
        molt_learn_way(&patience, 0);
        uint32_t passed = 0;
        while (molt_manner(&patience, 0, 1, 50000) == MOLT_SLEEP)
            passed++;
        CHECK(passed == molt_earlier(expected, MOLT_MOST_PASS));
    }
    molt_learn_way(&patience, 1);
    CHECK(molt_manner(&patience, 0, 1, 50000) == MOLT_GIVE_WAY);
    molt_learn_way(&patience, 0);
    CHECK(patience.pass == MOLT_LEAST_PASS);
}

static void test_giving_way_ends_with_a_change_or_where_nobody_else_runs(void) {
    molt_patience patience = {0};
    molt_word word = 5;
    CHECK(molt_give_way(&patience, &word, 4) == 1);
    CHECK(patience.pass == 0);
    CHECK(molt_give_way(&patience, &word, 5) == 0);
    CHECK(patience.pass == MOLT_LEAST_PASS);
    uint64_t seen = watch_yields(2 * MOLT_NOBODY_NS, 5); /* somebody runs in each yield */
    CHECK(molt_give_way(&patience, &yielded_for, seen) == 1);
    CHECK(yields_made == 5 && patience.pass == 0);
    seen = watch_yields(2 * MOLT_NOBODY_NS, 0);
    CHECK(molt_give_way(&patience, &yielded_for, seen) == 0);
    CHECK(yields_made == MOLT_MOST_YIELDS && patience.pass == MOLT_LEAST_PASS);
    watch_no_yields();
}

static void test_staying_awake_tries_each_manner_once(void) {
    molt_patience patience = {0};
    molt_crowd crowd = {0};
    molt_word word = 5;
    int manner = MOLT_GIVE_WAY;
    molt_stay_awake(&patience, &crowd, &manner, &word, 5, molt_now_ns() + 1000000);
    CHECK(manner == MOLT_SLEEP);
    manner = MOLT_SPIN;
    molt_stay_awake(&patience, &crowd, &manner, &word, 4, molt_now_ns() + 1000000);
    CHECK(manner == MOLT_SPIN);
}

static void test_the_other_side_is_followed_only_where_it_stays(void) {
    molt_patience patience = {0};
    uint32_t here = molt_processor();
    CHECK(here);
    for (uint32_t i = 1; i <= MOLT_STEADY; i++) {
        molt_hear_of(&patience, here);
        CHECK(patience.steady == i && molt_is_beside(&patience));
    }
    molt_hear_of(&patience, here);
    CHECK(patience.steady == MOLT_STEADY);
    molt_hear_of(&patience, 1u << 20); /* scribbled: there is no such processor */
    CHECK(patience.steady == 1 && !molt_is_beside(&patience));
    for (uint32_t i = 1; i < MOLT_STEADY; i++) {
        CHECK(!molt_has_to_follow(&patience, 1));
        molt_hear_of(&patience, 1u << 20);
    }
    CHECK(molt_has_to_follow(&patience, 1) && !molt_has_to_follow(&patience, 0));
    int follows;
    molt_patience beside = patience;
    do {
        beside.other_at = here = molt_processor();
        follows = molt_has_to_follow(&beside, 1);
    } while (molt_processor() != here);
    CHECK(!follows);
    molt_mover mover = {0};
    molt_follow(&mover, &patience, 1); /* which leads nowhere */
    CHECK(!mover.held_at);
    molt_hear_of(&patience, 0);
    CHECK(!molt_is_beside(&patience));
}

static cpu_set_t affinity(void) {
    cpu_set_t now;
    CHECK(sched_getaffinity(0, sizeof now, &now) == 0);
    return now;
}

static void set_affinity(cpu_set_t to) { CHECK(sched_setaffinity(0, sizeof to, &to) == 0); }

static int is_affinity(cpu_set_t expected) {
    cpu_set_t now = affinity();
    return CPU_EQUAL(&now, &expected);
}

/* A processor that this thread may use; 0: it may use only one. */
static uint32_t another_processor(cpu_set_t may) {
    for (uint32_t processor = 1; processor <= CPU_SETSIZE; processor++)
        if (CPU_ISSET(processor - 1, &may) && processor != molt_processor())
            return processor;
    return 0;
}

/* A move takes a thread anywhere, and leaves it free to go everywhere afterwards. */
static void test_a_thread_moves_and_stays_free(void) {
    molt_mover mover = {0};
    cpu_set_t before = affinity();
    uint64_t now_ns = molt_now_ns();
    const uint32_t nowhere[] = {0, CPU_SETSIZE, CPU_SETSIZE + 1, UINT32_MAX};
    for (uint32_t processor = 1; processor < 16; processor++) {
        molt_move_to(&mover, processor, now_ns += MOLT_MOVE_NS);
        CHECK(is_affinity(before) && !mover.held_at && !mover.stays && mover.moved_ns == now_ns);
    }
    CHECK(CPU_COUNT(&mover.online));
    for (size_t i = 0; i < sizeof nowhere / sizeof *nowhere; i++) {
        molt_move_to(&mover, nowhere[i], now_ns += MOLT_MOVE_NS);
        CHECK(is_affinity(before) && !mover.held_at);
    }
}

static void test_a_thread_moves_seldom(void) {
    molt_mover mover = {0};
    uint64_t now_ns = molt_now_ns();
    molt_move_to(&mover, 1, now_ns);
    molt_move_to(&mover, 1, now_ns + MOLT_MOVE_NS - 1);
    CHECK(mover.moved_ns == now_ns);
    molt_move_to(&mover, 1, now_ns + MOLT_MOVE_NS);
    CHECK(mover.moved_ns == now_ns + MOLT_MOVE_NS);
}

/* Whoever narrows a thread's affinity decides on it, before a move and in the middle of one. */
static void test_what_others_say_of_where_a_thread_runs_holds(void) {
    cpu_set_t before = affinity();
    uint32_t here = molt_processor(), there = another_processor(before);
    if (!there)
        return;
    molt_mover mover = {0};
    set_affinity(molt_one_processor(here));
    molt_move_to(&mover, there, molt_now_ns());
    CHECK(is_affinity(molt_one_processor(here)) && !mover.held_at);

    mover.held_at = there; /* it was moved there, and then told to stay here */
    molt_set_free(&mover);
    CHECK(is_affinity(molt_one_processor(here)) && !mover.held_at);

    mover.held_at = here; /* it was moved here, and nobody has said anything */
    molt_set_free(&mover);
    CHECK(is_affinity(before) && !mover.held_at);
}

/* A thread that could not be set free is set free at the next request, wherever its client runs. */
static void test_a_thread_that_is_held_is_set_free_later(void) {
    cpu_set_t before = affinity();
    molt_patience patience = {0};
    molt_mover mover = {.held_at = molt_processor()};
    set_affinity(molt_one_processor(mover.held_at));
    molt_move_to(&mover, another_processor(before), molt_now_ns());
    CHECK(is_affinity(before) && !mover.held_at);

    uint64_t now_ns = molt_now_ns();
    mover = (molt_mover){.held_at = molt_processor(), .moved_ns = now_ns + MOLT_MOVE_NS}; /* it has tried just now */
    set_affinity(molt_one_processor(mover.held_at));
    molt_move_to(&mover, 0, mover.moved_ns + MOLT_MOVE_NS - 1);
    CHECK(is_affinity(molt_one_processor(mover.held_at)));
    mover.moved_ns = 0;
    molt_follow(&mover, &patience, 0); /* whether it has to follow or not */
    CHECK(is_affinity(before) && !mover.held_at);
}

/* Where it is forbidden to choose a processor, that is tried once. */
static void test_a_forbidden_move_is_not_tried_again(void) {
    struct sock_filter rules[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sched_setaffinity, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog filter = {sizeof rules / sizeof *rules, rules};
    cpu_set_t before = affinity(), online;
    molt_find_online(&online);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        molt_mover mover = {0};
        uint64_t now_ns = molt_now_ns();
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter))
            _exit(0); /* not on this machine */
        molt_move_to(&mover, molt_processor(), now_ns);
        CHECK(is_affinity(before) && !mover.held_at && mover.stays == CPU_EQUAL(&before, &online));
        molt_move_to(&mover, molt_processor(), now_ns + MOLT_MOVE_NS);
        CHECK(!mover.stays || mover.moved_ns == now_ns);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void test_processors_are_contended_if_others_leave_less_than_two_at_two_looks(void) {
    const struct { uint32_t runnable, ours; uint64_t contended; } cases[] = {
        {1, 1, 0}, {4, 4, 0}, {3, 1, 0}, {4, 1, 1}, {6, 4, 0}, {7, 4, 1}, {0, 3, 0}, {UINT32_MAX, 0, 1},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        molt_crowd crowd = {.cpus = 4};
        uint64_t now_ns = molt_now_ns();
        CHECK(molt_has_to_look(&crowd, now_ns));
        molt_note_runnable(&crowd, now_ns, cases[i].runnable, cases[i].ours);
        CHECK(!crowd.contended && crowd.suspected == cases[i].contended);
        CHECK(crowd.look_at_ns == now_ns + (cases[i].contended ? MOLT_CONFIRM_NS : MOLT_LOOK_NS));
        for (unsigned again = 0; again < 2 * MOLT_MOST_SURE; again++) { /* others that stay are looked for ever more rarely */
            unsigned doubled = again < MOLT_MOST_SURE ? again : MOLT_MOST_SURE - 1;
            molt_note_runnable(&crowd, now_ns, cases[i].runnable, cases[i].ours);
            CHECK(crowd.contended == (cases[i].contended ? doubled + 1 : 0));
            CHECK(crowd.look_at_ns == now_ns + (cases[i].contended ? (uint64_t)MOLT_RECHECK_NS << doubled : MOLT_LOOK_NS));
        }
        molt_note_runnable(&crowd, now_ns, 1, 1);
        CHECK(!crowd.contended && !crowd.suspected);
    }
    molt_crowd scribbled = {.cpus = 4, .contended = UINT64_MAX};
    uint64_t at_ns = molt_now_ns();
    molt_note_runnable(&scribbled, at_ns, 4, 1);
    CHECK(scribbled.contended == MOLT_MOST_SURE);
    CHECK(scribbled.look_at_ns == at_ns + ((uint64_t)MOLT_RECHECK_NS << (MOLT_MOST_SURE - 1)));
    molt_crowd crowd = {.cpus = 0};
    molt_note_runnable(&crowd, molt_now_ns(), 100, 1);
    CHECK(!crowd.contended && !crowd.suspected);
}

/* As many processes that compute want to run, whoever else does. */
static void test_who_wants_to_run_is_seen_and_leaves_no_descriptor(void) {
    pid_t computing[3], parent = getpid();
    uint32_t count = sizeof computing / sizeof *computing;
    for (uint32_t i = 0; i < count; i++) {
        computing[i] = fork();
        CHECK(computing[i] >= 0);
        if (computing[i] == 0) {
            while (getppid() == parent) /* it may end before its time */
                molt_pause();
            _exit(0);
        }
    }
    int next = dup(STDERR_FILENO);
    CHECK(close(next) == 0);
    uint64_t until_ns = molt_now_ns() + 60000000000u;
    while (molt_runnable() < count)
        CHECK(molt_now_ns() < until_ns);
    CHECK(dup(STDERR_FILENO) == next && close(next) == 0);
    for (uint32_t i = 0; i < count; i++)
        CHECK(kill(computing[i], SIGKILL) == 0 && waitpid(computing[i], NULL, 0) == computing[i]);
}

static void test_a_look_does_not_undo_what_happened_meanwhile(void) {
    uint64_t now_ns = molt_now_ns();
    const struct { uint64_t pushed_ns, contended; } cases[] = {
        {now_ns - 1, 0}, {now_ns, 1}, {now_ns + 1000, 1}, {now_ns + MOLT_LOOK_NS, 0}, {UINT64_MAX, 0}, {0, 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        molt_crowd crowd = {.cpus = 1000, .narrow = 1, .contended = 1, .pushed_ns = cases[i].pushed_ns};
        molt_note_runnable(&crowd, now_ns, 1, 1);
        CHECK(crowd.contended == cases[i].contended);
    }
}

static void test_one_process_looks_at_a_time_whatever_is_scribbled(void) {
    molt_crowd crowd = {0};
    uint64_t now_ns = molt_now_ns();
    CHECK(molt_has_to_look(&crowd, now_ns) && !molt_has_to_look(&crowd, now_ns));
    CHECK(!molt_has_to_look(&crowd, now_ns + MOLT_LOOK_NS - 1) && molt_has_to_look(&crowd, now_ns + MOLT_LOOK_NS));
    uint64_t farthest_ns = (uint64_t)MOLT_LOOK_NS << MOLT_MOST_DISTRUST;
    atomic_store(&crowd.look_at_ns, now_ns + farthest_ns);
    CHECK(!molt_has_to_look(&crowd, now_ns));
    atomic_store(&crowd.look_at_ns, now_ns + farthest_ns + 1);
    CHECK(molt_has_to_look(&crowd, now_ns));
    atomic_store(&crowd.look_at_ns, UINT64_MAX);
    CHECK(molt_has_to_look(&crowd, now_ns) && !molt_has_to_look(&crowd, now_ns));
}

static void test_who_is_pushed_off_distrusts_the_processors_for_longer_each_time(void) {
    molt_crowd crowd = {.cpus = 1000, .narrow = 1};
    const int64_t none = -1; /* not what the kernel says */
    uint64_t now_ns = molt_now_ns(), most = (uint64_t)MOLT_LOOK_NS << MOLT_MOST_DISTRUST;
    for (unsigned i = 0; i < 2 * MOLT_MOST_DISTRUST; i++) {
        molt_note_away(&crowd, now_ns, none);
        CHECK(crowd.contended);
        CHECK(crowd.look_at_ns == now_ns + molt_earlier((uint64_t)MOLT_LOOK_NS << i, most));
        CHECK(!molt_has_to_look(&crowd, now_ns));
    }
    now_ns += most + 1; /* long ago */
    molt_note_away(&crowd, now_ns, none);
    CHECK(crowd.look_at_ns == now_ns + MOLT_LOOK_NS);
    crowd = (molt_crowd){.cpus = 1000}; /* the whole machine is seen in a look */
    molt_note_away(&crowd, now_ns, molt_pushed_so_far(&crowd));
    CHECK(!crowd.contended);
}

/* -- bells --------------------------------------------------------------------------------------------------------- */

static void new_pipe(int ends[2]) { CHECK(pipe2(ends, O_NONBLOCK | O_CLOEXEC) == 0); }

static ssize_t bytes_in(int end) {
    char bytes[65536];
    ssize_t n = read(end, bytes, sizeof bytes);
    return n < 0 ? 0 : n;
}

/* A pipe with nothing in it, and its writing end as an executor knows it. */
static molt_bell_end new_bell_end(int ends[2]) {
    molt_bell_end end;
    new_pipe(ends);
    CHECK(molt_bell_know(&end, ends[1]) == 0);
    return end;
}

static void test_a_bell_is_rung_once_for_each_time_that_it_is_armed(void) {
    molt_bell bell = {0};
    int ends[2];
    molt_bell_end end = new_bell_end(ends);
    CHECK(molt_bell_ring(&bell, &end) && bytes_in(ends[0]) == 0);
    for (int round = 0; round < 3; round++) {
        atomic_store(&bell.armed, MOLT_BELL_ARMED);
        for (int i = 0; i < 3; i++)
            CHECK(molt_bell_ring(&bell, &end));
        CHECK(atomic_load(&bell.armed) == MOLT_BELL_QUIET && bytes_in(ends[0]) == 1);
    }
    atomic_store(&bell.armed, UINT64_MAX); /* scribbled */
    CHECK(molt_bell_ring(&bell, &end) && bytes_in(ends[0]) == 0);
    close(ends[0]), close(ends[1]);
}

/* Code that an executor runs has closed the descriptor, or has got its number for something else: nothing is written to that,
 * and what the client is told stays until it arms the bell again. */
static void test_a_bell_whose_end_is_gone_is_said_to_be_lost(void) {
    for (int reused = 0; reused < 2; reused++) {
        molt_bell bell = {0};
        int ends[2], others[2];
        molt_bell_end lost = new_bell_end(ends), good = new_bell_end(others);
        CHECK(reused ? dup2(others[1], ends[1]) == ends[1] : close(ends[1]) == 0);
        atomic_store(&bell.armed, MOLT_BELL_ARMED);
        for (int i = 0; i < 2; i++) {
            CHECK(molt_bell_ring(&bell, &lost) == i); /* not asked to ring the second time */
            CHECK(atomic_load(&bell.armed) == MOLT_BELL_LOST);
        }
        CHECK(molt_bell_ring(&bell, &good) && atomic_load(&bell.armed) == MOLT_BELL_LOST);
        CHECK(bytes_in(others[0]) == 0);
        if (reused)
            close(ends[1]);
        close(ends[0]), close(others[0]), close(others[1]);
    }
    molt_bell_end none;
    CHECK(molt_bell_know(&none, -1) == -1 && errno == EBADF);
}

static void test_nobody_who_rings_waits_for_who_does_not_read(void) {
    molt_bell bell = {.armed = MOLT_BELL_ARMED};
    int ends[2];
    molt_bell_end end = new_bell_end(ends);
    char bytes[4096] = {0};
    while (write(ends[1], bytes, sizeof bytes) > 0)
        ;
    CHECK(molt_bell_ring(&bell, &end)); /* full */
    CHECK(atomic_load(&bell.armed) == MOLT_BELL_QUIET);
    close(ends[0]), close(ends[1]);
}

/* -- steps ----------------------------------------------------------------------------------------------------- */

enum { RING = 4096 };

static molt_executor executor_in(uint32_t slot, uint32_t epoch) {
    return (molt_executor){.slot = slot, .epoch = epoch};
}

static int publish(molt_arena *a, molt_call *c, uint32_t channel, const void *bytes, uint64_t n) {
    /* Its turn comes when it is published. */
    uint64_t turn = atomic_load(&a->header->tickets);
    *c = (molt_call){.channel = channel, .turn = turn, .part = {bytes, NULL}, .left = {n, 0}};
    return molt_publish(a, c);
}

static void must_publish(molt_arena *a, molt_call *c, uint32_t channel) { CHECK(publish(a, c, channel, "word", 4) == 1); }

static void put(molt_arena *a, uint32_t channel, uint64_t word) {
    atomic_store(&a->words[channel], word);
    molt_mark(a, channel);
}

static uint64_t word_of(uint32_t state, uint32_t slot, uint32_t epoch, uint32_t generation) {
    return state | (uint64_t)slot << 8 | (uint64_t)epoch << 24 | (uint64_t)generation << 32;
}

static void test_a_small_exchange_goes_through_each_state(void) {
    molt_arena a = new_arena(2, 2, RING);
    molt_executor e = executor_in(1, 7);
    molt_call c;
    uint8_t bytes[8];
    uint64_t done = 0;

    must_publish(&a, &c, 1);
    CHECK(molt_look(&a, 1) == word_of(MOLT_READY, 0, 0, 1) && c.word == molt_look(&a, 1));
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME);

    CHECK(molt_claim(&a, &e) == 1 && e.channel == 1);
    CHECK(molt_look(&a, 1) == word_of(MOLT_CLAIMED, 1, 7, 1) && e.word == molt_look(&a, 1));
    CHECK(e.queued == 0 && e.running == 1);
    CHECK(molt_transfer(&a, &e, bytes, NULL, 4, &done, 0) == MOLT_TRANSFERRED);
    CHECK(done == 4 && memcmp(bytes, "word", 4) == 0);
    done = 0;
    CHECK(molt_transfer(&a, &e, NULL, (const uint8_t *)"answer", 6, &done, 0) == MOLT_TRANSFERRED);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME);

    uint64_t rung = atomic_load(&molt_channel_at(&a, 1)->doorbell.count);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) == 1);
    CHECK(molt_look(&a, 1) == word_of(MOLT_DONE, 1, 7, 1));
    CHECK(atomic_load(&molt_channel_at(&a, 1)->doorbell.count) == rung + 1);
    CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &open_flag) == MOLT_AWAIT_OUTCOME);
    c.into = bytes, c.wanted = 6;
    CHECK(molt_reply_there(&a, &c) == 6 && molt_take_more(&a, &c) == 1 && c.wanted == 0);
    CHECK(memcmp(bytes, "answer", 6) == 0 && molt_reply_there(&a, &c) == 0);
    CHECK(molt_look(&a, 0) == MOLT_IDLE_WORD(0));
    free_arena(&a);
}

/* Each operation, from each state: it takes the steps that layout.py has for it, and no other. */
static void test_operations_take_their_own_steps_only(void) {
    enum { NONE = MOLT_KILLING + 1 };
    typedef struct {
        const char *name;
        uint32_t to[NONE]; /* by the state it starts in; the same state: it takes no step */
    } expectation;
    static const expectation expected[] = {
        /*                IDLE        READY         CLAIMED         DONE       FAILED       ABANDONED       KILLING */
        {"publish", {MOLT_READY, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING}},
        {"give up", {MOLT_IDLE, MOLT_IDLE, MOLT_ABANDONED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING}},
        {"give up the place", {MOLT_IDLE, MOLT_IDLE, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING}},
        {"await", {MOLT_IDLE, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING}},
        {"claim", {MOLT_IDLE, MOLT_CLAIMED, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING}},
        {"finish", {MOLT_IDLE, MOLT_READY, MOLT_DONE, MOLT_DONE, MOLT_FAILED, MOLT_IDLE, MOLT_KILLING}},
        {"fail", {MOLT_IDLE, MOLT_READY, MOLT_FAILED, MOLT_DONE, MOLT_FAILED, MOLT_IDLE, MOLT_KILLING}},
    };
    molt_arena a = new_arena(1, 2, RING);
    for (size_t op = 0; op < sizeof expected / sizeof *expected; op++)
        for (uint32_t from = 0; from < NONE; from++)
            for (uint32_t slot = 0; slot < 2; slot++) {
                int held = from != MOLT_IDLE && from != MOLT_READY;
                uint64_t before = word_of(from, held ? slot : 0, held ? slot : 0, 9);
                molt_executor e = executor_in(slot, slot);
                molt_call c = {.channel = 0, .word = word_of(MOLT_READY, 0, 0, 9)};
                e.word = word_of(MOLT_CLAIMED, slot, slot, 9);
                put(&a, 0, before);
                switch (op) {
                case 0: CHECK(publish(&a, &c, 0, "", 0) == (from == MOLT_IDLE)); break;
                case 1: CHECK(molt_give_up(&a, &c, 0) == from); break;
                case 2: CHECK(molt_give_up(&a, &c, 1) == from); break;
                case 3:
                    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) ==
                          (from == MOLT_READY || from == MOLT_CLAIMED || from == MOLT_KILLING ? MOLT_AWAIT_TIME
                                                                                              : MOLT_AWAIT_OUTCOME));
                    break;
                case 4: CHECK(molt_claim(&a, &e) == (from == MOLT_READY)); break;
                case 5: CHECK(molt_finish(&a, &e, MOLT_DONE, 0) == (from == MOLT_CLAIMED)); break;
                default: CHECK(molt_finish(&a, &e, MOLT_FAILED, 5) == (from == MOLT_CLAIMED)); break;
                }
                uint64_t after = molt_look(&a, 0);
                if (MOLT_STATE(after) != expected[op].to[from]) {
                    fprintf(stderr, "%s from %u leads to %u\n", expected[op].name, from, MOLT_STATE(after));
                    abort();
                }
                CHECK(MOLT_GENERATION(after) == (op == 0 && from == MOLT_IDLE ? 10 : 9));
                if (MOLT_STATE(after) == MOLT_IDLE || MOLT_STATE(after) == MOLT_READY)
                    CHECK((after & 0xffffff00u) == 0); /* nobody's */
            }
    free_arena(&a);
}

static void test_a_word_that_cant_be_ends_the_wait(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_call c;
    must_publish(&a, &c, 0);
    for (uint32_t state = MOLT_KILLING + 1; state < 256; state++) {
        put(&a, 0, MOLT_WITH_STATE(c.word, state));
        CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &open_flag) == MOLT_AWAIT_CORRUPT);
        CHECK(molt_give_up(&a, &c, 0) == state && molt_look(&a, 0) == MOLT_WITH_STATE(c.word, state));
    }
    put(&a, 0, word_of(MOLT_READY, 0, 0, MOLT_GENERATION(c.word) + 1)); /* another's request */
    CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &open_flag) == MOLT_AWAIT_CORRUPT);
    CHECK(molt_give_up(&a, &c, 0) == MOLT_READY && MOLT_STATE(molt_look(&a, 0)) == MOLT_READY);
    free_arena(&a);
}

static void test_a_late_finish_touches_neither_the_channel_nor_the_slot(void) {
    molt_arena a = new_arena(1, 2, RING);
    molt_executor late = executor_in(0, 0), other = executor_in(1, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &late));
    CHECK(molt_give_up(&a, &c, 0) == MOLT_CLAIMED);
    CHECK(molt_finish(&a, &late, MOLT_DONE, 0) == 0); /* ends it */
    CHECK(molt_look(&a, 0) == MOLT_IDLE_WORD(1) && atomic_load(&a.slots[0].state) == MOLT_SLOT_IDLE);

    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &other));
    atomic_store(&a.failure[0], 77);
    CHECK(molt_finish(&a, &late, MOLT_FAILED, 5) == 0); /* once more */
    CHECK(molt_look(&a, 0) == other.word && atomic_load(&a.failure[0]) == 77);
    CHECK(atomic_load(&a.slots[0].state) == MOLT_SLOT_IDLE); /* it can still be woken for another request */
    free_arena(&a);
}

static void test_an_executor_that_is_being_killed_counts_as_busy(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e));
    CHECK(molt_step(&a, 0, e.word, MOLT_WITH_STATE(e.word, MOLT_KILLING)));
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) == 0);
    CHECK(MOLT_STATE(molt_look(&a, 0)) == MOLT_KILLING && atomic_load(&a.slots[0].state) == MOLT_SLOT_BUSY);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME); /* the outcome is the supervisor's */
    free_arena(&a);
}

static void test_generations_go_round_without_0(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    put(&a, 0, MOLT_IDLE_WORD(UINT32_MAX - 1));
    for (int turn = 0; turn < 3; turn++) {
        static const uint32_t generations[] = {UINT32_MAX, 1, 2};
        must_publish(&a, &c, 0);
        CHECK(MOLT_GENERATION(c.word) == generations[turn]);
        CHECK(molt_claim(&a, &e) && molt_finish(&a, &e, MOLT_DONE, 0));
        CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_OUTCOME);
        put(&a, 0, MOLT_IDLE_WORD(MOLT_GENERATION(c.word)));
    }
    free_arena(&a);
}

/* -- the queue ------------------------------------------------------------------------------------------------- */

static void test_first_come_first_served_wherever_turns_stand(void) {
    static const uint64_t starts[] = {0, (1ull << 32) - 3, (1ull << 62) - 3, (1ull << 63) - 3, UINT64_MAX - 3};
    static const uint32_t order[] = {5, 0, 7, 3, 1, 6, 2, 4};
    for (size_t s = 0; s < sizeof starts / sizeof *starts; s++) {
        molt_arena a = new_arena(8, 1, RING);
        molt_executor e = executor_in(0, 0);
        molt_call c[8];
        atomic_store(&a.header->tickets, starts[s]);
        for (uint32_t i = 0; i < 8; i++)
            must_publish(&a, &c[order[i]], order[i]);
        CHECK(molt_give_up(&a, &c[order[2]], 0) == MOLT_READY); /* whoever leaves the queue is passed over */
        for (uint32_t i = 0; i < 8; i++) {
            if (i == 2)
                continue;
            CHECK(molt_claim(&a, &e) && e.channel == order[i]);
            CHECK(e.queued == (i < 2 ? 6 - i : 7 - i) && e.running == 1);
            CHECK(molt_finish(&a, &e, MOLT_DONE, 0));
        }
        CHECK(!molt_claim(&a, &e) && e.queued == 0 && e.running == 0);
        free_arena(&a);
    }
}

/* Have this thread stay on one processor, and allow it all that it could use before. */
static cpu_set_t stay(void) {
    cpu_set_t before, one;
    CHECK(sched_getaffinity(0, sizeof before, &before) == 0);
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    CHECK(sched_setaffinity(0, sizeof one, &one) == 0);
    return before;
}

static void test_where_others_want_the_processors_requests_from_elsewhere_come_a_little_later(void) {
    static const struct { uint64_t contended, later_ns; uint32_t first; } cases[] = {
        {0, 0, 0}, {1, 0, 1}, {1, MOLT_ELSEWHERE_NS - 1, 1}, {1, MOLT_ELSEWHERE_NS + 1, 0},
    };
    cpu_set_t before = stay();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        molt_arena a = new_arena(2, 1, RING);
        molt_executor e = executor_in(0, 0);
        molt_call c;
        must_publish(&a, &c, 0);
        atomic_store(&molt_channel_at(&a, 0)->published_at, molt_processor() + 1);
        atomic_store(&a.turn_of[0], 1000);
        must_publish(&a, &c, 1);
        atomic_store(&a.turn_of[1], 1000 + cases[i].later_ns + (cases[i].later_ns == 0));
        atomic_store(&a.header->crowd.contended, cases[i].contended);
        CHECK(molt_claim(&a, &e) && e.channel == cases[i].first);
        free_arena(&a);
    }
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

static void test_places_are_those_of_the_queue_and_of_idle_executors(void) {
    enum { CHANNELS = 8, PLACES = 3 };
    for (uint32_t idle = 0; idle <= 3; idle++) {
        molt_arena a = new_arena(CHANNELS, 3, RING);
        molt_call c[CHANNELS];
        for (uint32_t i = 0; i < idle; i++)
            atomic_store(&a.slots[i].state, MOLT_SLOT_IDLE);
        for (uint32_t i = 0; i < CHANNELS; i++) {
            must_publish(&a, &c[i], i);
            uint32_t capacity = PLACES + idle;
            CHECK(molt_excess(&a, &c[i], PLACES) == (i < capacity ? 0 : i - capacity + 1));
            CHECK(molt_excess(&a, &c[i], 0) == (i < idle ? 0 : i - idle + 1));
        }
        CHECK(molt_ahead_of(&a, atomic_load(&a.ticket_of[4])) == 4);
        molt_executor e = executor_in(0, 0);
        CHECK(molt_claim(&a, &e)); /* the others move up */
        CHECK(molt_excess(&a, &c[CHANNELS - 1], PLACES) == CHANNELS - 1 - PLACES - idle);
        free_arena(&a);
    }
}

/* Who has drawn a ticket and is not READY yet is overlooked by those behind him. So the queue can exceed its capacity by as many
 * as are being published at this very moment, and by no more. */
static void test_the_queue_exceeds_its_places_by_those_being_published_at_most(void) {
    enum { CHANNELS = 8, PLACES = 2 };
    molt_arena a = new_arena(CHANNELS, 1, RING);
    molt_call c[CHANNELS];
    uint64_t slow = atomic_fetch_add(&a.header->tickets, 1); /* of channel 7, which stops here */
    uint32_t admitted = 0;
    for (uint32_t i = 0; i < CHANNELS - 1; i++) {
        must_publish(&a, &c[i], i);
        if (molt_excess(&a, &c[i], PLACES))
            CHECK(molt_give_up(&a, &c[i], 1) == MOLT_READY);
        else
            admitted++;
    }
    CHECK(admitted == PLACES);
    must_publish(&a, &c[7], 7);
    atomic_store(&a.ticket_of[7], slow);
    CHECK(molt_excess(&a, &c[7], PLACES) == 0);
    free_arena(&a);
}

static void test_only_channels_in_use_are_looked_at(void) {
    molt_arena a = new_arena(4, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    atomic_store(&a.header->in_use, 2);
    must_publish(&a, &c, 2);
    CHECK(!molt_claim(&a, &e) && molt_ahead_of(&a, 1ull << 62) == 0);
    atomic_store(&a.header->in_use, UINT64_MAX); /* scribbled: no more than there are */
    CHECK(molt_in_use(&a) == 4 && molt_claim(&a, &e) && e.channel == 2);
    free_arena(&a);
}

/* -- marks ------------------------------------------------------------------------------------------------------ */

static void test_a_walk_gives_what_is_marked_and_in_use(void) {
    enum { CHANNELS = 200 };
    molt_arena a = new_arena(CHANNELS, 1, RING);
    uint64_t seed = 5;
    for (uint32_t in_use = 0; in_use <= CHANNELS; in_use++) {
        atomic_store(&a.header->in_use, in_use);
        for (uint32_t i = 0; i < 4; i++)
            atomic_store(&a.marks[i], in_use % 7 ? chance(&seed, UINT64_MAX) & chance(&seed, UINT64_MAX) : UINT64_MAX);
        molt_walk walk = molt_walk_marked(&a);
        uint32_t got;
        for (uint32_t i = 0; i < in_use; i++)
            if (molt_is_marked(&a, i))
                CHECK(molt_next_marked(&walk, &got) && got == i);
        CHECK(!molt_next_marked(&walk, &got));
    }
    free_arena(&a);
}

static void test_a_channel_is_marked_with_its_first_request_and_stays_so(void) {
    molt_arena a = new_arena(70, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    CHECK(!molt_is_marked(&a, 69));
    must_publish(&a, &c, 69);
    CHECK(molt_is_marked(&a, 69) && !molt_is_marked(&a, 68) && molt_claim(&a, &e) && e.channel == 69);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) && molt_free(&a, 69, molt_look(&a, 69)));
    CHECK(molt_is_marked(&a, 69));
    free_arena(&a);
}

static void test_a_review_marks_what_is_not_idle_and_nothing_else(void) {
    molt_arena a = new_arena(4, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c[2];
    must_publish(&a, &c[0], 0);
    must_publish(&a, &c[1], 1);
    CHECK(molt_give_up(&a, &c[1], 0) == MOLT_READY);
    molt_mark(&a, 3); /* scribbled */
    CHECK(molt_review_marks(&a) == 0 && atomic_load(&a.marks[0]) == 1);
    atomic_store(&a.marks[0], 0); /* scribbled: nobody sees the request */
    CHECK(!molt_claim(&a, &e) && molt_ahead_of(&a, 1ull << 62) == 0);
    CHECK(molt_review_marks(&a) == 1 && atomic_load(&a.marks[0]) == 1);
    CHECK(molt_claim(&a, &e) && e.channel == 0);
    CHECK(molt_review_marks(&a) == 0 && atomic_load(&a.marks[0]) == 1); /* it runs */
    free_arena(&a);
}

static molt_arena *reviewed;
static molt_call meanwhile;
static uint32_t missed;

static void publish_meanwhile(const char *name) {
    at_moment = NULL;
    CHECK(strcmp(name, "supervisor.unmarked") == 0 && !molt_is_marked(reviewed, 0));
    must_publish(reviewed, &meanwhile, 0);
    CHECK(molt_is_marked(reviewed, 0));
}

static void review_meanwhile(const char *name) {
    if (strcmp(name, "client.marking") == 0) {
        at_moment = NULL;
        missed = molt_review_marks(reviewed);
    }
}

static void test_what_is_published_during_a_review_is_marked(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_call c;
    reviewed = &a;
    must_publish(&a, &c, 0);
    CHECK(molt_give_up(&a, &c, 0) == MOLT_READY);
    at_moment = publish_meanwhile;
    CHECK(molt_review_marks(&a) == 1 && !at_moment && molt_is_marked(&a, 0)); /* it may have been missed before */
    CHECK(molt_give_up(&a, &meanwhile, 0) == MOLT_READY && molt_review_marks(&a) == 0 && !molt_is_marked(&a, 0));
    at_moment = review_meanwhile;
    must_publish(&a, &c, 0);
    CHECK(missed == 1 && !at_moment && molt_is_marked(&a, 0));
    free_arena(&a);
}

/* -- limits ----------------------------------------------------------------------------------------------------- */

enum { SLOW = 7, QUICK = 8 };

static molt_arena arena_with_a_limit(void) {
    molt_arena a = new_arena(4, 3, RING);
    molt_entry *row = molt_find_entry(&a, SLOW, 1);
    atomic_store(&row->limit, 1);
    atomic_store(&row->id, SLOW);
    return a;
}

static void publish_of(molt_arena *a, uint32_t channel, uint64_t entry) {
    molt_call c = {.channel = channel, .entry = entry, .turn = atomic_load(&a->header->tickets)};
    CHECK(molt_publish(a, &c));
}

static void test_who_makes_room_and_takes_up_something_else_wakes_another(void) {
    molt_arena a = arena_with_a_limit();
    molt_executor e = executor_in(0, 0), other = executor_in(1, 0);
    publish_of(&a, 0, SLOW);
    publish_of(&a, 1, QUICK);
    publish_of(&a, 2, SLOW);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_REQUEST && e.channel == 0 && e.entry == SLOW);
    CHECK(molt_claim(&a, &other) && other.channel == 1); /* and not 2 */
    publish_of(&a, 3, QUICK);
    atomic_store(&a.turn_of[3], 0);
    CHECK(molt_finish(&a, &other, MOLT_DONE, 0) && !other.made_room && !other.full);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) && e.made_room);
    atomic_store(&a.slots[2].state, MOLT_SLOT_IDLE);
    atomic_store(&a.slots[2].doorbell.parked, 1);
    uint64_t before = atomic_load(&a.header->published);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_REQUEST && e.channel == 3);
    CHECK(!atomic_load(&a.slots[2].doorbell.parked) && atomic_load(&a.header->published) == before + 1);
    molt_executor woken = executor_in(2, 0);
    CHECK(molt_claim(&a, &woken) && woken.channel == 2);
    free_arena(&a);
}

static void test_who_may_not_run_what_is_there_sleeps_until_it_may(void) {
    molt_arena a = arena_with_a_limit();
    molt_executor e = executor_in(0, 0), other = executor_in(1, 0);
    publish_of(&a, 0, SLOW);
    publish_of(&a, 1, SLOW);
    CHECK(molt_claim(&a, &e) && !molt_claim(&a, &other) && !other.full && other.queued == 1);
    CHECK(!atomic_load(&a.slots[1].holds));
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) && molt_claim(&a, &other) && other.channel == 1);
    free_arena(&a);
}

static void test_who_stepped_back_and_sees_nobody_run_looks_again_soon(void) {
    molt_arena a = arena_with_a_limit();
    molt_executor e = executor_in(0, 0);
    publish_of(&a, 0, SLOW);
    atomic_store(&a.slots[1].holds, SLOW); /* and is about to step back, too */
    CHECK(!molt_claim(&a, &e) && e.full);
    atomic_store(&a.slots[1].holds, 0);
    CHECK(molt_claim(&a, &e) && !e.full && atomic_load(&a.slots[0].holds) == SLOW);
    free_arena(&a);
}

static molt_arena *contested;
static molt_call withdrawn;
static molt_executor *contender;

static void withdraw_what_is_about_to_be_claimed(const char *name) {
    if (strcmp(name, "executor.scanned") == 0) {
        at_moment = NULL;
        CHECK(molt_give_up(contested, &withdrawn, 0) == MOLT_READY);
    }
}

static void test_who_loses_a_claim_holds_no_place(void) {
    molt_arena a = arena_with_a_limit();
    molt_executor e = executor_in(0, 0), other = executor_in(1, 0);
    withdrawn = (molt_call){.channel = 0, .entry = SLOW};
    CHECK(molt_publish(&a, &withdrawn) == 1);
    contested = &a, at_moment = withdraw_what_is_about_to_be_claimed;
    CHECK(!molt_claim(&a, &e) && !at_moment);
    CHECK(!atomic_load(&a.slots[0].holds)); /* it sleeps now, and nobody would wake it to let go */
    publish_of(&a, 1, SLOW);
    CHECK(molt_claim(&a, &other) && other.channel == 1);
    free_arena(&a);
}

static uint32_t places_asked_for;

static void look_at_what_was_told(const char *name) {
    if (strcmp(name, "executor.entering") == 0) {
        places_asked_for++;
        CHECK(atomic_load(contender->claim) == molt_serial(0, molt_look(contested, 0)));
        CHECK(atomic_load(&contested->slots[contender->slot].holds) == SLOW);
    }
}

/* Who has told of no claim holds nothing: so the supervisor tells a forged place from one that is being taken. */
static void test_a_claim_is_told_of_before_its_place_is_taken(void) {
    molt_arena a = arena_with_a_limit();
    molt_executor e = executor_in(0, 0);
    molt_word claim = 0;
    e.claim = &claim;
    publish_of(&a, 0, SLOW);
    contested = &a, contender = &e, at_moment = look_at_what_was_told;
    CHECK(molt_claim(&a, &e));
    at_moment = NULL;
    CHECK(places_asked_for == 1);
    free_arena(&a);
}

static void test_scribbled_estimates_are_no_numbers_that_cant_be_reckoned_with(void) {
    static const uint64_t written[] = {0, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX};
    molt_entry row;
    for (int mean = 0; mean < 4; mean++)
        for (int deviation = 0; deviation < 4; deviation++)
            for (int took = 0; took < 4; took++) {
                memset(&row, 0, sizeof row);
                atomic_store(&row.mean_ns, written[mean]);
                atomic_store(&row.deviation_ns, written[deviation]);
                atomic_store(&row.samples, 5);
                molt_learn_usual(&row, written[took], 0);
                CHECK(atomic_load(&row.mean_ns) <= INT64_MAX && atomic_load(&row.deviation_ns) <= INT64_MAX);
            }
}

/* -- waking ---------------------------------------------------------------------------------------------------- */

static void park_slot(molt_arena *a, uint32_t slot, uint32_t state) {
    atomic_store(&a->slots[slot].state, state);
    atomic_store(&a->slots[slot].doorbell.parked, 1);
}

static void test_one_idle_sleeper_is_woken_for_a_request(void) {
    molt_arena a = new_arena(1, 4, RING);
    molt_call c;
    park_slot(&a, 0, MOLT_SLOT_FREE);
    park_slot(&a, 1, MOLT_SLOT_BUSY); /* waits for bytes */
    park_slot(&a, 2, MOLT_SLOT_IDLE);
    park_slot(&a, 3, MOLT_SLOT_IDLE);
    must_publish(&a, &c, 0);
    molt_announce(&a, &c);
    CHECK(atomic_load(&a.header->published) == 1 && c.deferred == MOLT_SOON);
    CHECK(atomic_load(&a.slots[2].doorbell.parked)); /* not yet: its client has a lock to let go of */
    molt_rouse(&a, &c);
    CHECK(c.deferred == MOLT_TOLD);
    uint64_t parked = 0;
    for (uint32_t i = 0; i < 4; i++)
        parked |= atomic_load(&a.slots[i].doorbell.parked) << i;
    CHECK(parked == 0xb);
    CHECK(molt_wake_executor(&a) == 1 && molt_wake_executor(&a) == 0);
    free_arena(&a);
}

static void test_an_executor_of_this_processor_is_woken_first(void) {
    cpu_set_t before = stay();
    molt_arena a = new_arena(1, 3, RING);
    for (uint32_t i = 0; i < 3; i++) {
        park_slot(&a, i, MOLT_SLOT_IDLE);
        atomic_store(&a.slots[i].runs_at, molt_processor() + (i != 1));
    }
    CHECK(molt_wake_executor(&a) == 1 && !atomic_load(&a.slots[1].doorbell.parked));
    CHECK(molt_wake_executor(&a) == 1 && !atomic_load(&a.slots[0].doorbell.parked));
    CHECK(molt_wake_executor(&a) == 1 && molt_wake_executor(&a) == 0);
    free_arena(&a);
    CHECK(sched_setaffinity(0, sizeof before, &before) == 0);
}

static void test_who_slept_over_a_request_without_a_mark_is_woken_for_it(void) {
    molt_arena a = new_arena(2, 1, RING);
    molt_call c;
    park_slot(&a, 0, MOLT_SLOT_IDLE);
    uint64_t published = atomic_load(&a.header->published);
    CHECK(molt_mend_marks(&a) == 0 && atomic_load(&a.header->published) == published);
    must_publish(&a, &c, 1); /* and its client dies before it tells anybody */
    CHECK(molt_mend_marks(&a) == 0 && atomic_load(&a.slots[0].doorbell.parked));
    atomic_store(&a.marks[0], 0);
    CHECK(molt_mend_marks(&a) == 1 && atomic_load(&a.header->published) == published + 1);
    CHECK(!atomic_load(&a.slots[0].doorbell.parked));
    free_arena(&a);
}

static molt_slot *waking;
static void begins(void) { atomic_store(&waking->state, MOLT_SLOT_BUSY); }

static void test_one_that_has_a_request_by_now_is_not_the_one_that_is_woken(void) {
    molt_arena a = new_arena(1, 3, RING);
    for (uint32_t i = 0; i < 3; i++)
        park_slot(&a, i, MOLT_SLOT_IDLE);
    waking = &a.slots[0];
    just_before_post = begins; /* its own request's bytes are what it sleeps for now */
    CHECK(molt_wake_executor(&a) == 1);
    CHECK(!atomic_load(&a.slots[0].doorbell.parked) && !atomic_load(&a.slots[1].doorbell.parked));
    CHECK(atomic_load(&a.slots[2].doorbell.parked));
    free_arena(&a);
}

static void test_if_all_sleep_one_is_woken_as_soon_as_its_client_waits(void) {
    enum way { WAIT, POLL, GLANCE, REDIRECT, AIM, LATE };
    for (enum way way = WAIT; way <= LATE; way++) {
        molt_arena a = new_arena(1, 1, RING);
        molt_executor e = executor_in(0, 0);
        molt_call c;
        atomic_store(&a.header->crowd.look_at_ns, molt_now_ns() + MOLT_LOOK_NS);
        park_slot(&a, 0, MOLT_SLOT_IDLE);
        must_publish(&a, &c, 0);
        c.usual_ns = 1000;
        molt_announce(&a, &c);
        CHECK(c.deferred == MOLT_SOON && atomic_load(&a.slots[0].doorbell.parked));
        switch (way) {
        case WAIT: CHECK(molt_await(&a, &c, molt_now_ns() + 1000000, 60000000000u, 1, &open_flag) != MOLT_AWAIT_OUTCOME); break;
        case POLL: CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME); break;
        case GLANCE: CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS)); break;
        case REDIRECT: molt_redirect(&a, &c, 0); break;
        case AIM: molt_aim(&a, &c, 0); break;
        case LATE: /* an executor has it by now */
            CHECK(molt_claim(&a, &e));
            molt_rouse(&a, &c);
        }
        CHECK(c.deferred == MOLT_TOLD || way == WAIT); /* if it has slept, once more */
        CHECK(atomic_load(&a.slots[0].doorbell.parked) == (uint64_t)(way == LATE));
        free_arena(&a);
    }
}

static void test_while_one_spins_no_other_is_woken_unless_it_comes_too_late(void) {
    enum way { WAIT, REDIRECT, POLL };
    static const struct {
        enum way way;
        uint64_t spin_ns;
        int claimed, wakes;
    } ways[] = {
        {WAIT, 0, 0, 1},    {WAIT, 1000, 0, 1},  {WAIT, 60000000000u, 0, 1}, {WAIT, 0, 1, 0},
        {WAIT, 1000, 1, 0}, {REDIRECT, 0, 0, 1}, {REDIRECT, 0, 1, 0},        {POLL, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof ways / sizeof *ways; i++) {
        molt_arena a = new_arena(1, 2, RING);
        molt_executor e = executor_in(0, 0);
        molt_call c;
        atomic_store(&a.executor_awake[0], 1);
        atomic_store(&a.header->crowd.look_at_ns, molt_now_ns() + MOLT_LOOK_NS); /* or looking who else runs would take the time of the spin */
        park_slot(&a, 1, MOLT_SLOT_IDLE);
        must_publish(&a, &c, 0);
        molt_announce(&a, &c);
        CHECK(c.deferred == MOLT_LATER && atomic_load(&a.slots[1].doorbell.parked));
        if (ways[i].claimed)
            CHECK(molt_claim(&a, &e));
        switch (ways[i].way) {
        case WAIT: /* and sleep at once, or after a short spin, or spin all the time */
            CHECK(molt_await(&a, &c, molt_now_ns() + 500000000, ways[i].spin_ns, 1, &open_flag) != MOLT_AWAIT_OUTCOME);
            break;
        case REDIRECT: molt_redirect(&a, &c, 0); break;
        case POLL: CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME);
        }
        CHECK(atomic_load(&a.slots[1].doorbell.parked) == (uint64_t)!ways[i].wakes);
        free_arena(&a);
    }
}

/* Who answers says before that it will look for a request again: whoever sees the outcome need wake nobody. */
static void test_who_has_answered_is_awake_until_it_sleeps_or_has_a_request(void) {
    molt_arena a = new_arena(2, 2, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    park_slot(&a, 1, MOLT_SLOT_IDLE);
    must_publish(&a, &c, 0);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_REQUEST && !a.executor_awake[0]);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) && a.executor_awake[0]);
    must_publish(&a, &c, 1);
    molt_announce(&a, &c);
    CHECK(c.deferred == MOLT_LATER && atomic_load(&a.slots[1].doorbell.parked));
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_REQUEST && !a.executor_awake[0]);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) && a.executor_awake[0]);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_SIGNAL && !a.executor_awake[0]); /* it has slept for a while */
    atomic_store(&a.slots[0].retire, 1);
    molt_tell_awake(&a, &e, 1);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_RETIRE && !a.executor_awake[0]);
    free_arena(&a);
}

static void test_a_glance_is_for_requests_that_take_microseconds(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e) && molt_finish(&a, &e, MOLT_DONE, 0));
    CHECK(!molt_glance(&a, &c, 0, MOLT_GLANCE_NS)); /* never stay awake */
    c.usual_ns = MOLT_GLANCE_NS;
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS));
    c.usual_ns = 1000;
    c.left[1] = 1; /* its bytes have to be moved on */
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS));
    c.left[1] = 0;
    atomic_store(&a.header->crowd.contended, 1);
    atomic_store(&a.header->crowd.look_at_ns, molt_now_ns() + MOLT_LOOK_NS);
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS));
    atomic_store(&a.header->crowd.contended, 0);
    CHECK(molt_glance(&a, &c, 50000, MOLT_GLANCE_NS));
    put(&a, 0, MOLT_IDLE_WORD(1));
    must_publish(&a, &c, 0); /* and nobody takes it up */
    c.usual_ns = 1000;
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS) && c.patience.blind[0] == 1);
    CHECK(!a.client_awake[0]);
    c.deferred = MOLT_SOON; /* an executor has to be woken first, which is another thing to learn about */
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS) && c.patience.blind[0] == 1 && c.patience.blind[1] == 1);
    CHECK(c.deferred == MOLT_TOLD);
    CHECK(!molt_glance(&a, &c, 50000, MOLT_GLANCE_NS) && c.patience.blind[0] == 0 && c.patience.blind[1] == 1);
    uint32_t in_vain = 1, looks = 0;
    for (uint32_t wait = 0; wait < 400; wait++) { /* and ever more waits begin without */
        uint32_t before = c.patience.blind[0];
        CHECK(!molt_glance(&a, &c, 1000, MOLT_GLANCE_NS));
        if (!before) {
            in_vain = 2 * in_vain < MOLT_MOST_BLIND ? 2 * in_vain : MOLT_MOST_BLIND;
            CHECK(c.patience.blind[0] == in_vain);
            looks++;
        }
    }
    CHECK(looks > 6 && looks < 12 && c.patience.blind[1] == 1);
    c.patience.blind[0] = 0;
    CHECK(!molt_glance(&a, &c, 1000, UINT64_MAX / 2)); /* it ends with the longest spin, however long it may be */
    c.patience.blind[0] = 0;
    CHECK(!molt_glance(&a, &c, UINT64_MAX / 2, 1000)); /* and the other way around */
    c.patience.blind[0] = 0;
    CHECK(molt_claim(&a, &e) && molt_finish(&a, &e, MOLT_DONE, 0));
    CHECK(molt_glance(&a, &c, 50000, MOLT_GLANCE_NS) && c.patience.blind[0] == 0 && c.patience.missed[0] == 0);
    free_arena(&a);
}

static void test_a_redirected_channel_rings_the_other_doorbell(void) {
    molt_arena a = new_arena(3, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    molt_redirect(&a, &c, 2);
    CHECK(molt_claim(&a, &e) && molt_finish(&a, &e, MOLT_DONE, 0));
    CHECK(atomic_load(&molt_channel_at(&a, 0)->doorbell.count) == 0);
    CHECK(atomic_load(&molt_channel_at(&a, 2)->doorbell.count) == 1);
    put(&a, 0, MOLT_IDLE_WORD(1));
    must_publish(&a, &c, 0); /* which ends it */
    CHECK(molt_claim(&a, &e) && molt_finish(&a, &e, MOLT_DONE, 0));
    CHECK(atomic_load(&molt_channel_at(&a, 0)->doorbell.count) == 1);
    free_arena(&a);
}

static void test_a_channel_that_is_aimed_at_a_bell_rings_it_until_its_next_request(void) {
    molt_arena a = new_arena(2, 1, RING);
    molt_call c = {0};
    int ends[2];
    const molt_bell_end bells[2] = {{.fd = -1}, new_bell_end(ends)};
    a.bells = bells, a.bell_count = 2;
    CHECK(publish(&a, &c, 0, "x", 1));
    atomic_store(&a.header->bells[1].armed, 1);
    molt_ring_client(&a, 0);
    CHECK(bytes_in(ends[0]) == 0 && atomic_load(&molt_channel_at(&a, 0)->doorbell.count) == 1);
    molt_aim(&a, &c, 1);
    molt_ring_client(&a, 0);
    CHECK(bytes_in(ends[0]) == 1 && atomic_load(&molt_channel_at(&a, 0)->doorbell.count) == 1);
    /* Whoever has no bells rings none, and numbers of bells that can't be lead nowhere. */
    atomic_store(&a.header->bells[1].armed, 1);
    a.bell_count = 0;
    molt_ring_client(&a, 0);
    a.bell_count = 2;
    const uint64_t wrong[] = {2, MOLT_A_BELL - 1, MOLT_A_BELL + 2, MOLT_A_BELL + MOLT_BELLS, UINT64_MAX};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        atomic_store(&molt_channel_at(&a, 0)->doorbell_of, wrong[i]);
        molt_ring_client(&a, 0);
    }
    CHECK(bytes_in(ends[0]) == 0 && atomic_load(&a.header->bells[1].armed) == 1);
    molt_aim(&a, &c, 1);
    CHECK(molt_give_up(&a, &c, 0) == MOLT_READY);
    CHECK(publish(&a, &c, 0, "x", 1));
    CHECK(atomic_load(&molt_channel_at(&a, 0)->doorbell_of) == 0);
    close(ends[0]), close(ends[1]);
    free_arena(&a);
}

static void test_a_call_flows_while_bytes_are_to_be_moved(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_call c = {0};
    CHECK(publish(&a, &c, 0, "x", 1));
    CHECK(!molt_flows(&a, &c, molt_look(&a, 0)));
    uint64_t claimed = MOLT_WITH_STATE(c.word, MOLT_CLAIMED);
    CHECK(!molt_flows(&a, &c, claimed));
    atomic_store(&molt_channel_at(&a, 0)->reply.head, RING / 2 - 1);
    CHECK(!molt_flows(&a, &c, claimed));
    atomic_store(&molt_channel_at(&a, 0)->reply.head, RING / 2);
    CHECK(molt_flows(&a, &c, claimed) && !molt_flows(&a, &c, MOLT_WITH_STATE(c.word, MOLT_DONE)));
    atomic_store(&molt_channel_at(&a, 0)->reply.head, 0);
    c.left[1] = 1;
    CHECK(molt_flows(&a, &c, molt_look(&a, 0)));
    c.left[1] = 0, c.wanted = 1;
    CHECK(molt_flows(&a, &c, claimed));
    free_arena(&a);
}

static void test_who_gives_up_wakes_an_executor_that_waits_for_bytes(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e));
    CHECK(molt_give_up(&a, &c, 1) == MOLT_CLAIMED && atomic_load(&a.slots[0].doorbell.count) == 0);
    CHECK(molt_give_up(&a, &c, 0) == MOLT_CLAIMED && atomic_load(&a.slots[0].doorbell.count) == 1);
    free_arena(&a);
}

static void test_an_outcome_of_another_request_is_not_taken(void) {
    static const uint32_t states[] = {MOLT_DONE, MOLT_FAILED};
    for (size_t i = 0; i < 2; i++) {
        molt_arena a = new_arena(1, 1, RING);
        molt_call c;
        uint64_t word;
        must_publish(&a, &c, 0);
        put(&a, 0, MOLT_WITH_STATE(c.word + (1ull << 32), states[i]));
        CHECK(molt_outcome(&a, &c, &word) == MOLT_CORRUPT);
        put(&a, 0, MOLT_WITH_STATE(c.word, states[i]));
        CHECK(molt_outcome(&a, &c, &word) == (int)states[i]);
        free_arena(&a);
    }
}

static void test_scribbled_numbers_of_channels_and_slots_lead_nowhere(void) {
    static const uint64_t numbers[] = {3, 4, 100, UINT32_MAX, 1ull << 32, UINT64_MAX - 1, UINT64_MAX};
    molt_arena a = new_arena(3, 1, RING);
    molt_executor e = executor_in(0, 0);
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        molt_call c;
        put(&a, 0, MOLT_IDLE_WORD(1));
        must_publish(&a, &c, 0);
        CHECK(molt_claim(&a, &e));
        atomic_store(&molt_channel_at(&a, 0)->doorbell_of, numbers[i]);
        molt_ring_client(&a, 0);
        CHECK(molt_finish(&a, &e, MOLT_DONE, 0));
    }
    for (uint32_t slot = 1; slot <= 0xffff; slot += 0x3fff)
        molt_ring_executor(&a, word_of(MOLT_CLAIMED, slot, 0, 1));
    for (uint32_t i = 0; i < 3; i++)
        CHECK(atomic_load(&molt_channel_at(&a, i)->doorbell.count) == 0);
    free_arena(&a);
}

/* Who counts as ours, when somebody looks how many others want to run. */
static void test_executors_with_quick_requests_are_ours(void) {
    enum { QUICK = 5, LONG = 6, SPIN = 50000 };
    molt_arena a = new_arena(3, 3, RING);
    molt_executor first = executor_in(0, 0), second = executor_in(1, 0);
    molt_call c, other;
    molt_entry *slow = molt_find_entry(&a, LONG, 1);
    atomic_store(&slow->id, LONG), atomic_store(&slow->mean_ns, SPIN + 1);
    must_publish(&a, &c, 0);
    must_publish(&a, &other, 1);
    CHECK(molt_ours(&a, &c, molt_now_ns(), SPIN) == 1);
    CHECK(molt_claim(&a, &first) && first.channel == 0 && molt_claim(&a, &second));
    uint64_t now_ns = molt_now_ns();
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 3);
    c.company = 2;
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 5);
    c.company = 0;
    atomic_store(&a.client_awake[1], 1); /* another process's caller */
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 3);
    molt_tell_awake(&a, &second, 1); /* it is about to answer, and counts once */
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 3);
    molt_tell_awake(&a, &second, 0);

    atomic_store(&a.entry_of[1], LONG);
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 2);
    atomic_store(&a.entry_of[1], QUICK);
    atomic_store(&a.began_ns[1], now_ns - MOLT_QUICK_NS); /* it waits for something */
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 2);

    atomic_store(&a.entry_of[0], LONG); /* its own, whatever that takes */
    c.usual_ns = SPIN + 1;
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 2);
    put(&a, 1, word_of(MOLT_CLAIMED, 0xffff, 0, 1)); /* scribbled */
    atomic_store(&a.began_ns[1], now_ns);
    CHECK(molt_ours(&a, &c, now_ns, SPIN) == 2);
    free_arena(&a);
}

static uint32_t asleep(const molt_arena *a) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        count += atomic_load(&a->slots[i].doorbell.parked) != 0;
    return count;
}

/* The executors that were woken are stopped. Whoever sleeps wakes another one after each sleep, and whoever only looks, each
 * time that so much time has passed. */
static void test_who_waits_in_vain_wakes_another_executor(void) {
    for (int sleeps = 0; sleeps < 2; sleeps++) {
        uint64_t until_ns = sleeps ? UINT64_MAX : 0;
        int ends_by = sleeps ? MOLT_AWAIT_SIGNAL : MOLT_AWAIT_TIME;
        molt_arena a = new_arena(1, 3, RING);
        molt_call c;
        must_publish(&a, &c, 0);
        for (uint32_t slot = 0; slot < 3; slot++)
            park_slot(&a, slot, MOLT_SLOT_IDLE);
        molt_announce(&a, &c);
        CHECK(!c.insist_ns);
        uint64_t before_ns = molt_now_ns();
        CHECK(molt_await(&a, &c, until_ns, 0, 0, &open_flag) == ends_by);
        CHECK(asleep(&a) == 2 && c.insist_ns >= before_ns + MOLT_INSIST_NS);
        c.insist_ns = UINT64_MAX; /* too early */
        CHECK(molt_await(&a, &c, until_ns, 0, 0, &open_flag) == ends_by);
        CHECK(asleep(&a) == 2);
        for (uint32_t still_asleep = 1; still_asleep + 1; still_asleep--) {
            c.insist_ns = 1;
            CHECK(molt_await(&a, &c, until_ns, 0, 0, &open_flag) == ends_by);
            CHECK(asleep(&a) == still_asleep && c.insist_ns >= before_ns + MOLT_INSIST_NS);
        }
        put(&a, 0, MOLT_IDLE_WORD(MOLT_GENERATION(c.word)));
        must_publish(&a, &c, 0); /* the next request begins anew */
        CHECK(!c.insist_ns);
        free_arena(&a);
    }
}

static void test_who_waits_looks_again_by_himself(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e));
    /* The executor dies between its last step and its ring: so nobody rings. MOLT_PARK_NS is what is lost. */
    CHECK(molt_step(&a, 0, e.word, MOLT_WITH_STATE(e.word, MOLT_DONE)));
    atomic_store(&molt_channel_at(&a, 0)->doorbell.parked, 0);
    CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &open_flag) == MOLT_AWAIT_OUTCOME);

    put(&a, 0, MOLT_IDLE_WORD(1));
    must_publish(&a, &c, 0);
    /* Its caller gets to look for signals at least that often, also for those that interrupted nothing. */
    CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &open_flag) == MOLT_AWAIT_SIGNAL);
    CHECK(molt_await(&a, &c, UINT64_MAX, 0, 0, &closed_flag) == MOLT_AWAIT_CLOSED);
    CHECK(molt_await(&a, &c, 1, 0, 0, &open_flag) == MOLT_AWAIT_TIME);
    free_arena(&a);
}

static void test_one_that_shall_retire_claims_nothing(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    must_publish(&a, &c, 0);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_REQUEST);
    CHECK(atomic_load(&a.slots[0].state) == MOLT_SLOT_BUSY);
    atomic_store(&a.slots[0].retire, 1);
    CHECK(molt_finish(&a, &e, MOLT_DONE, 0) == 1);
    put(&a, 0, MOLT_IDLE_WORD(1));
    must_publish(&a, &c, 0);
    CHECK(molt_next_request(&a, &e, 0, 0) == MOLT_NEXT_RETIRE);
    CHECK(MOLT_STATE(molt_look(&a, 0)) == MOLT_READY);
    free_arena(&a);
}

/* -- transfers ------------------------------------------------------------------------------------------------- */

static void test_a_client_that_moves_nothing_on_is_given_up(void) {
    static uint8_t bytes[3 * RING];
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    uint64_t done = 0;
    CHECK(publish(&a, &c, 0, bytes, sizeof bytes) && c.left[0] == sizeof bytes - RING);
    CHECK(molt_claim(&a, &e));
    CHECK(molt_transfer(&a, &e, bytes, NULL, sizeof bytes, &done, 0) == MOLT_TRANSFER_STALLED && done == RING);
    done = 0;
    CHECK(molt_transfer(&a, &e, NULL, bytes, sizeof bytes, &done, 0) == MOLT_TRANSFER_STALLED && done == RING);
    CHECK(molt_finish(&a, &e, MOLT_FAILED, 3) == 1 && atomic_load(&a.failure[0]) == 3);
    free_arena(&a);
}

/* The client looks, an executor claims and reads, the client sends on: it has sent to somebody whom it hasn't seen yet. */
static void test_bytes_sent_before_the_claim_was_seen_are_told_when_it_is(void) {
    static uint8_t bytes[2 * RING];
    molt_arena a = new_arena(1, 2, RING);
    molt_executor e = executor_in(1, 0);
    molt_call c;
    CHECK(publish(&a, &c, 0, bytes, RING + 10));
    atomic_store(&molt_channel_at(&a, 0)->request.tail, RING);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME && c.left[0] == 0);
    CHECK(molt_claim(&a, &e) && atomic_load(&a.slots[1].doorbell.count) == 0);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME && atomic_load(&a.slots[1].doorbell.count) == 1);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_TIME && atomic_load(&a.slots[1].doorbell.count) == 1);
    free_arena(&a);
}

static void test_a_request_that_was_taken_away_is_not_waited_for(void) {
    static const uint32_t states[] = {MOLT_ABANDONED, MOLT_KILLING};
    static uint8_t bytes[2 * RING];
    for (size_t i = 0; i < 2; i++) {
        molt_arena a = new_arena(1, 1, RING);
        molt_executor e = executor_in(0, 0);
        molt_call c;
        uint64_t done = 0;
        CHECK(publish(&a, &c, 0, bytes, sizeof bytes));
        CHECK(molt_claim(&a, &e));
        put(&a, 0, MOLT_WITH_STATE(e.word, states[i]));
        CHECK(molt_transfer(&a, &e, bytes, NULL, sizeof bytes, &done, 0) == MOLT_TRANSFER_LOST);
        done = 0;
        CHECK(molt_transfer(&a, &e, NULL, bytes, sizeof bytes, &done, 0) == MOLT_TRANSFER_LOST);
        free_arena(&a);
    }
}

static void test_scribbled_counts_end_a_transfer(void) {
    uint8_t bytes[8];
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    uint64_t done = 0;
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e));
    molt_channel *ch = molt_channel_at(&a, 0);
    atomic_store(&ch->request.head, RING + 1);
    CHECK(molt_fits(&a, &e, 1, 8)); /* which is a guess; the transfer itself looks closely */
    CHECK(molt_transfer(&a, &e, bytes, NULL, 8, &done, 0) == MOLT_TRANSFER_CORRUPT && done == 0);
    atomic_store(&ch->reply.tail, 1);
    CHECK(molt_transfer(&a, &e, NULL, bytes, 8, &done, 0) == MOLT_TRANSFER_CORRUPT && done == 0);
    atomic_store(&ch->request.tail, 5);
    c.left[0] = 1;
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_CORRUPT);
    c.left[0] = 0, c.wanted = 8, c.into = bytes;
    atomic_store(&ch->reply.head, RING + 1);
    CHECK(molt_await(&a, &c, 0, 0, 0, &open_flag) == MOLT_AWAIT_CORRUPT);
    free_arena(&a);
}

static void test_what_fits_is_what_needs_no_waiting(void) {
    molt_arena a = new_arena(1, 1, RING);
    molt_executor e = executor_in(0, 0);
    molt_call c;
    uint64_t done = 0;
    static uint8_t bytes[RING];
    must_publish(&a, &c, 0);
    CHECK(molt_claim(&a, &e));
    CHECK(molt_fits(&a, &e, 1, 4) && !molt_fits(&a, &e, 1, 5));
    CHECK(molt_fits(&a, &e, 0, RING) && !molt_fits(&a, &e, 0, RING + 1));
    CHECK(molt_transfer(&a, &e, NULL, bytes, RING - 1, &done, 0) == MOLT_TRANSFERRED);
    CHECK(molt_fits(&a, &e, 0, 1) && !molt_fits(&a, &e, 0, 2));
    free_arena(&a);
}

/* -- histograms ------------------------------------------------------------------------------------------------ */

static void test_buckets_grow_by_a_quarter_of_their_power_of_two(void) {
    uint32_t before = 0;
    for (uint64_t value = 0; value < 1 << 20; value++) {
        uint32_t bucket = molt_bucket(value);
        CHECK(bucket == before || bucket == before + 1);
        before = bucket;
    }
    for (uint32_t power = 2; power < 33; power++)
        for (uint32_t quarter = 0; quarter < 4; quarter++) {
            uint64_t first = (1ull << power) + quarter * (1ull << (power - 2));
            uint32_t bucket = 4 * (power - 1) + quarter;
            CHECK(molt_bucket(first) == (bucket < MOLT_BUCKETS ? bucket : MOLT_BUCKETS - 1));
            CHECK(molt_bucket(first - 1) == (bucket - 1 < MOLT_BUCKETS ? bucket - 1 : MOLT_BUCKETS - 1));
        }
    CHECK(molt_bucket(UINT64_MAX) == MOLT_BUCKETS - 1);
}

int main(void) {
    test_nothing_in_an_arena_overlaps();
    test_impossible_geometries_have_no_size();
    test_an_arena_is_found_as_it_was_made();
    test_damaged_headers_lead_nowhere();
    test_a_ring_gives_what_it_was_given();
    test_counts_that_cant_be_are_not_followed();
    test_a_park_ends_with_a_ring_a_change_a_signal_or_the_time();
    test_nothing_but_a_semaphore_s_count_changes_as_it_is_used();
    test_a_semaphore_that_was_scribbled_over_is_put_right();
    test_a_ring_wakes_who_sleeps();
    test_a_spin_sees_a_change_and_ends_with_its_time();
    test_a_spin_is_silent_first_and_yields_then();
    test_a_spin_that_was_away_ends_and_asks_who_ran_instead();
    test_what_the_kernel_counts_is_known_where_it_matters();
    test_long_waits_end_staying_awake_and_short_ones_bring_it_back();
    test_the_manner_of_a_wait_depends_on_the_crowd_and_on_where_the_other_side_runs();
    test_giving_way_in_vain_is_tried_again_ever_more_rarely();
    test_giving_way_ends_with_a_change_or_where_nobody_else_runs();
    test_staying_awake_tries_each_manner_once();
    test_the_other_side_is_followed_only_where_it_stays();
    test_a_thread_moves_and_stays_free();
    test_a_thread_moves_seldom();
    test_what_others_say_of_where_a_thread_runs_holds();
    test_a_thread_that_is_held_is_set_free_later();
    test_a_forbidden_move_is_not_tried_again();
    test_processors_are_contended_if_others_leave_less_than_two_at_two_looks();
    test_who_wants_to_run_is_seen_and_leaves_no_descriptor();
    test_a_look_does_not_undo_what_happened_meanwhile();
    test_one_process_looks_at_a_time_whatever_is_scribbled();
    test_who_is_pushed_off_distrusts_the_processors_for_longer_each_time();
    test_a_bell_is_rung_once_for_each_time_that_it_is_armed();
    test_a_bell_whose_end_is_gone_is_said_to_be_lost();
    test_nobody_who_rings_waits_for_who_does_not_read();
    test_a_small_exchange_goes_through_each_state();
    test_operations_take_their_own_steps_only();
    test_a_word_that_cant_be_ends_the_wait();
    test_a_late_finish_touches_neither_the_channel_nor_the_slot();
    test_an_executor_that_is_being_killed_counts_as_busy();
    test_generations_go_round_without_0();
    test_first_come_first_served_wherever_turns_stand();
    test_where_others_want_the_processors_requests_from_elsewhere_come_a_little_later();
    test_places_are_those_of_the_queue_and_of_idle_executors();
    test_the_queue_exceeds_its_places_by_those_being_published_at_most();
    test_only_channels_in_use_are_looked_at();
    test_a_walk_gives_what_is_marked_and_in_use();
    test_a_channel_is_marked_with_its_first_request_and_stays_so();
    test_a_review_marks_what_is_not_idle_and_nothing_else();
    test_what_is_published_during_a_review_is_marked();
    test_who_makes_room_and_takes_up_something_else_wakes_another();
    test_who_may_not_run_what_is_there_sleeps_until_it_may();
    test_who_stepped_back_and_sees_nobody_run_looks_again_soon();
    test_who_loses_a_claim_holds_no_place();
    test_a_claim_is_told_of_before_its_place_is_taken();
    test_scribbled_estimates_are_no_numbers_that_cant_be_reckoned_with();
    test_one_idle_sleeper_is_woken_for_a_request();
    test_an_executor_of_this_processor_is_woken_first();
    test_who_slept_over_a_request_without_a_mark_is_woken_for_it();
    test_one_that_has_a_request_by_now_is_not_the_one_that_is_woken();
    test_if_all_sleep_one_is_woken_as_soon_as_its_client_waits();
    test_while_one_spins_no_other_is_woken_unless_it_comes_too_late();
    test_who_has_answered_is_awake_until_it_sleeps_or_has_a_request();
    test_a_glance_is_for_requests_that_take_microseconds();
    test_a_redirected_channel_rings_the_other_doorbell();
    test_a_channel_that_is_aimed_at_a_bell_rings_it_until_its_next_request();
    test_a_call_flows_while_bytes_are_to_be_moved();
    test_who_gives_up_wakes_an_executor_that_waits_for_bytes();
    test_an_outcome_of_another_request_is_not_taken();
    test_scribbled_numbers_of_channels_and_slots_lead_nowhere();
    test_executors_with_quick_requests_are_ours();
    test_who_waits_in_vain_wakes_another_executor();
    test_who_waits_looks_again_by_himself();
    test_one_that_shall_retire_claims_nothing();
    test_a_client_that_moves_nothing_on_is_given_up();
    test_bytes_sent_before_the_claim_was_seen_are_told_when_it_is();
    test_a_request_that_was_taken_away_is_not_waited_for();
    test_scribbled_counts_end_a_transfer();
    test_what_fits_is_what_needs_no_waiting();
    test_buckets_grow_by_a_quarter_of_their_power_of_two();
    puts("ok");
    return 0;
}
