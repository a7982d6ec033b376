/* The core under load: clients, executors and a supervisor as threads on one mapping, patient, impatient, or each with a chance to die.
 *
 *     core_stress (patient | impatient | mortal) SECONDS SEED
 *
 * Built with a MOLT_PARK_NS of a minute: then nobody looks again by himself, and a wake-up that is lost is a hang, which
 * main notices. Each request has a number of its own, and its bytes follow from it, so what any side gets is checked to the
 * last byte: a reply is the request's, a failure is the request's, a request runs at most once, one that was taken back
 * from the queue runs never, and one that was answered ran once. Requests are of three entrypoints, two of them with a limit:
 * never more of one run than may, counted outside of the arena.
 *
 * A death is a thread that stops in the middle of what it does, as far as the others can tell; between the calls of the
 * core, that is, since nobody can be stopped inside one here. The supervisor does what molt_worker/supervisor/shm does about it.
 */
#include "testing.h"

#include <pthread.h>
#include <unistd.h>

enum { CLIENTS = 4, SLOTS = 3, RING = 4096, LARGEST = 5 * RING };
enum { STUCK_S = 30 };
enum fate { ALIVE, DEAD, REAPED };

/* What travels before the bytes. */
typedef struct {
    uint64_t number, size;
} label;

typedef struct {
    pthread_mutex_t lock; /* of `call`, where others may end it */
    molt_call call;
    uint64_t number; /* of the request under way */
    _Atomic int fate;
    molt_word ended, answered, failed, taken_back, given_up, crowded_out;
} client;

typedef struct {
    _Atomic int fate;
    uint32_t epoch; /* the supervisor's to change, while there is nobody in the slot */
    molt_word claimed;
} executor;

static molt_arena arena;
static client clients[CLIENTS];
static executor executors[SLOTS];
static int impatient, mortal; /* the mortal are impatient too */
static uint64_t seed;
static _Atomic int leaving, stopping; /* clients end their last call while the others still serve them */
static const molt_flag open_flag = 0;

/* The entrypoints; a request's number says of which it is. */
enum { ENTRIES = 3 };
static const struct {
    uint64_t id, delay_ns, limit;
} entries[ENTRIES] = {{11, 1000000, 0}, {12, 0, 1}, {11 + MOLT_ENTRIES, 500000, 2}}; /* two share a place in the table */
static _Atomic int running[ENTRIES];

enum { REQUESTS = 1 << 22 };
static _Atomic uint8_t runs[REQUESTS];
static molt_word numbers, withdrawn, kills, deaths, clients_lost;

#define FAILED_BY_EXECUTOR(number) ((number) << 8 | 2)
#define FAILED_BY_SUPERVISOR 1u

static uint8_t byte_of(uint64_t number, uint64_t at) { return (uint8_t)(number * 251 + at * 7 + (at >> 8)); }

static void fill(uint8_t *bytes, label about) {
    for (uint64_t i = 0; i < about.size; i++)
        bytes[i] = byte_of(about.number, i);
}

static void check_bytes(const uint8_t *bytes, label about) {
    for (uint64_t i = 0; i < about.size; i++)
        CHECK(bytes[i] == byte_of(about.number, i));
}

static uint64_t some_size(uint64_t *state) {
    switch (chance(state, 4)) {
    case 0: return chance(state, LARGEST);
    case 1: return RING - sizeof(label) - 2 + chance(state, 4); /* just so, or just not */
    default: return chance(state, 200);
    }
}

static uint64_t some_spin(uint64_t *state) { return chance(state, 2) ? 0 : 20000; }

/* -- executors ------------------------------------------------------------------------------------------------- */

/* Whether this thread shall be taken for dead from here on. */
static int dies(uint64_t *state) { return mortal && !chance(state, 100); }

/* Move bytes; 0 if the request was taken away. */
static int move(molt_executor *e, uint64_t *state, void *to, const void *from, uint64_t n) {
    uint64_t done = 0;
    int code = molt_transfer(&arena, e, to, from, n, &done, some_spin(state));
    CHECK(code == MOLT_TRANSFERRED || code == MOLT_TRANSFER_LOST);
    return code == MOLT_TRANSFERRED;
}

/* From here on another may run in its place. */
static int leaves(int *entry) {
    if (*entry >= 0)
        atomic_fetch_sub(&running[*entry], 1);
    *entry = -1;
    return 1;
}

static int finish(molt_executor *e, int *entry, uint32_t state, uint64_t reason) {
    leaves(entry);
    return molt_finish(&arena, e, state, reason);
}

static int begins(const molt_executor *e) {
    for (int i = 0; i < ENTRIES; i++)
        if (entries[i].id == e->entry) {
            int others = atomic_fetch_add(&running[i], 1);
            CHECK(!entries[i].limit || (uint64_t)others < entries[i].limit);
            return i;
        }
    CHECK(0);
}

/* Serve one request. Returns 0 if the executor has died of it. */
static int serve(molt_executor *e, uint64_t *state, uint8_t *bytes) {
    label about;
    int entry = begins(e);
    atomic_fetch_add(&executors[e->slot].claimed, 1);
    if (dies(state))
        goto died;
    if (!move(e, state, &about, NULL, sizeof about))
        goto lost;
    CHECK(about.size <= LARGEST && about.number < REQUESTS && entries[about.number % ENTRIES].id == e->entry);
    if (!move(e, state, bytes, NULL, about.size))
        goto lost;
    check_bytes(bytes, about);
    CHECK(atomic_fetch_add(&runs[about.number], 1) == 0);
    if (dies(state))
        goto died;
    if (!chance(state, 10)) {
        if (!finish(e, &entry, MOLT_FAILED, FAILED_BY_EXECUTOR(about.number)))
            goto lost;
        return 1;
    }
    about.size = some_size(state);
    fill(bytes, about);
    if (!move(e, state, NULL, &about, sizeof about))
        goto lost;
    if (dies(state))
        goto died;
    uint64_t half = chance(state, about.size + 1);
    if (!move(e, state, NULL, bytes, half))
        goto lost;
    if (dies(state))
        goto died;
    if (!move(e, state, NULL, bytes + half, about.size - half))
        goto lost;
    if (dies(state))
        goto died;
    if (finish(e, &entry, MOLT_DONE, 0))
        return 1;
lost:
    finish(e, &entry, MOLT_FAILED, FAILED_BY_EXECUTOR(REQUESTS)); /* ends it where its client gave up, if it is its */
    /* One that is being killed waits for that. */
    uint64_t word = molt_look(&arena, e->channel);
    return MOLT_STATE(word) != MOLT_KILLING || word >> 8 != e->word >> 8;
died:
    leaves(&entry);
    return 0;
}

static void *run_executor(void *argument) {
    uint32_t slot = (uint32_t)(uintptr_t)argument;
    executor *self = &executors[slot];
    uint64_t state = seed * 77777 + slot;
    uint8_t *bytes = malloc(LARGEST);
    CHECK(bytes);
    while (!atomic_load(&stopping)) {
        molt_executor e = {.slot = slot, .epoch = self->epoch};
        atomic_store(&arena.slots[slot].state, MOLT_SLOT_IDLE);
        for (;;) {
            int next = molt_next_request(&arena, &e, some_spin(&state), (uint32_t)chance(&state, SLOTS));
            if (next == MOLT_NEXT_RETIRE)
                break;
            if (next == MOLT_NEXT_SIGNAL)
                continue;
            CHECK(next == MOLT_NEXT_REQUEST);
            if (!serve(&e, &state, bytes) || (mortal && !chance(&state, 500)))
                break;
        }
        atomic_fetch_add(&deaths, 1);
        atomic_store(&self->fate, DEAD);
        while (atomic_load(&self->fate) == DEAD && !atomic_load(&stopping))
            usleep(50);
    }
    free(bytes);
    return NULL;
}

/* -- clients --------------------------------------------------------------------------------------------------- */

/* Wait for an outcome as the binding does: AWAIT_BUFFER says that the next part of the reply has no place yet. */
static int await(client *c, uint64_t *state, uint64_t until_ns, label *reply, uint8_t *bytes, int *stage) {
    for (;;) {
        int code = molt_await(&arena, &c->call, until_ns, some_spin(state), (uint32_t)chance(state, CLIENTS), &open_flag);
        if (code == MOLT_AWAIT_SIGNAL)
            continue;
        if (code != MOLT_AWAIT_BUFFER)
            return code;
        CHECK(*stage < 2);
        if (*stage == 1)
            CHECK(reply->size <= LARGEST);
        c->call.into = *stage ? bytes : (uint8_t *)reply;
        c->call.wanted = *stage ? reply->size : sizeof *reply;
        ++*stage;
    }
}

static void take_reply(client *c, label *reply, uint8_t *bytes, int stage) {
    for (;;) {
        if (c->call.wanted)
            CHECK(molt_take_more(&arena, &c->call) == 1 && !c->call.wanted);
        if (stage == 2)
            break;
        c->call.into = stage ? bytes : (uint8_t *)reply;
        c->call.wanted = stage ? reply->size : sizeof *reply;
        stage++;
    }
    CHECK(molt_reply_there(&arena, &c->call) == 0);
    CHECK(reply->number == c->number);
    check_bytes(bytes, *reply);
}

/* Nobody but the supervisor may be in the way of a channel that has an outcome. */
static void free_channel(client *c, uint64_t word) {
    CHECK(molt_step(&arena, c->call.channel, word, MOLT_IDLE_WORD(MOLT_GENERATION(word))));
}

/* Wait until the channel of a request that was given up is free. */
static void linger(client *c) {
    for (;;) {
        uint64_t word = molt_look(&arena, c->call.channel);
        uint32_t state = MOLT_STATE(word);
        if (state == MOLT_IDLE)
            return;
        if (state == MOLT_DONE || state == MOLT_FAILED)
            free_channel(c, word);
        else
            usleep(20);
    }
}

static void end_of_call(client *c, uint64_t *state, label *reply, uint8_t *bytes) {
    int stage = 0, code;
    uint64_t until_ns = impatient && !chance(state, 3) ? molt_now_ns() + chance(state, 300000) : UINT64_MAX;
    if (chance(state, 20) == 0)
        molt_redirect(&arena, &c->call, c->call.channel); /* to itself: a place to catch up */
    code = await(c, state, until_ns, reply, bytes, &stage);
    if (code == MOLT_AWAIT_TIME) {
        int only_queued = (int)chance(state, 2);
        uint32_t found = molt_give_up(&arena, &c->call, only_queued);
        if (found == MOLT_READY) {
            atomic_fetch_add(&c->taken_back, 1);
            CHECK(atomic_fetch_add(&runs[c->number], 100) == 0); /* it never runs */
            return;
        }
        if (found == MOLT_KILLING || (found == MOLT_CLAIMED && !only_queued)) {
            atomic_fetch_add(&c->given_up, 1);
            linger(c);
            return;
        }
        code = await(c, state, UINT64_MAX, reply, bytes, &stage);
    }
    CHECK(code == MOLT_AWAIT_OUTCOME);
    uint64_t word = molt_look(&arena, c->call.channel);
    CHECK(MOLT_GENERATION(word) == MOLT_GENERATION(c->call.word));
    switch (MOLT_STATE(word)) {
    case MOLT_DONE:
        take_reply(c, reply, bytes, stage);
        CHECK(atomic_load(&runs[c->number]) == 1);
        atomic_fetch_add(&c->answered, 1);
        free_channel(c, word);
        break;
    case MOLT_FAILED: {
        uint64_t reason = atomic_load(&arena.failure[c->call.channel]);
        CHECK(reason == FAILED_BY_EXECUTOR(c->number) || (mortal && reason == FAILED_BY_SUPERVISOR));
        atomic_fetch_add(&c->failed, 1);
        free_channel(c, word);
        break;
    }
    default: /* given up by the canceller; it will never be answered */
        atomic_fetch_add(&c->given_up, 1);
        linger(c);
    }
}

static void *run_client(void *argument) {
    uint32_t index = (uint32_t)(uintptr_t)argument;
    client *c = &clients[index];
    uint64_t state = seed * 99991 + index;
    uint8_t *request = malloc(LARGEST), *bytes = malloc(LARGEST);
    CHECK(request && bytes);
    while (!atomic_load(&leaving)) {
        label about = {atomic_fetch_add(&numbers, 1), some_size(&state)}, reply;
        if (about.number >= REQUESTS)
            break;
        fill(request, about);
        pthread_mutex_lock(&c->lock);
        c->number = about.number;
        c->call.part[0] = (const uint8_t *)&about, c->call.left[0] = sizeof about;
        c->call.part[1] = request, c->call.left[1] = about.size;
        c->call.entry = entries[about.number % ENTRIES].id;
        c->call.turn = molt_now_ns();
        CHECK(molt_publish(&arena, &c->call));
        int undecided = !chance(&state, 4); /* nobody is told for a while, and it may be withdrawn */
        if (undecided && chance(&state, 2))
            usleep((useconds_t)chance(&state, 50));
        uint32_t over = molt_excess(&arena, &c->call, (uint32_t)chance(&state, 2));
        int busy = over && chance(&state, 2) && molt_give_up(&arena, &c->call, 1) == MOLT_READY;
        if (!busy && undecided && chance(&state, 2) && molt_give_up(&arena, &c->call, 1) == MOLT_READY)
            busy = 1, atomic_fetch_add(&withdrawn, 1);
        if (!busy)
            molt_announce(&arena, &c->call);
        pthread_mutex_unlock(&c->lock);
        if (busy) {
            CHECK(atomic_fetch_add(&runs[about.number], 100) == 0);
            atomic_fetch_add(&c->crowded_out, 1);
        } else if (mortal && !chance(&state, 200)) {
            /* It dies; somebody else gets its channel when the supervisor has got it back. */
            atomic_store(&c->fate, DEAD);
            while (atomic_load(&c->fate) == DEAD)
                usleep(50);
            uint64_t word = molt_look(&arena, index);
            CHECK(MOLT_STATE(word) == MOLT_IDLE);
            pthread_mutex_lock(&c->lock);
            memset(&c->call, 0, sizeof c->call);
            c->call.channel = index;
            pthread_mutex_unlock(&c->lock);
        } else {
            end_of_call(c, &state, &reply, bytes);
        }
        atomic_fetch_add(&c->ended, 1);
    }
    free(request);
    free(bytes);
    return NULL;
}

/* Ends calls of others, as another thread of a server does whose client has gone away. */
static void *run_canceller(void *argument) {
    uint64_t state = seed * 4242;
    (void)argument;
    while (!atomic_load(&stopping)) {
        client *c = &clients[chance(&state, CLIENTS)];
        if (atomic_load(&c->fate) == ALIVE) {
            pthread_mutex_lock(&c->lock);
            if (c->call.word && molt_give_up(&arena, &c->call, 0) == MOLT_READY)
                CHECK(atomic_fetch_add(&runs[c->number], 100) == 0);
            pthread_mutex_unlock(&c->lock);
        }
        usleep((useconds_t)chance(&state, 2000));
    }
    return NULL;
}

/* -- the supervisor -------------------------------------------------------------------------------------------- */

static int held(uint64_t word) {
    uint32_t state = MOLT_STATE(word);
    return state == MOLT_CLAIMED || state == MOLT_ABANDONED || state == MOLT_KILLING;
}

static void reap(uint32_t slot) {
    for (uint32_t i = 0; i < CLIENTS; i++)
        for (;;) {
            uint64_t word = molt_look(&arena, i), after = MOLT_IDLE_WORD(MOLT_GENERATION(word));
            if (!held(word) || MOLT_SLOT(word) != slot)
                break;
            CHECK((word >> 24 & 0xff) == executors[slot].epoch);
            if (MOLT_STATE(word) != MOLT_ABANDONED) {
                atomic_store(&arena.failure[i], FAILED_BY_SUPERVISOR);
                after = MOLT_WITH_STATE(word, MOLT_FAILED);
            }
            if (molt_step(&arena, i, word, after)) {
                molt_ring_client(&arena, i);
                break;
            }
        }
    molt_slot *s = &arena.slots[slot];
    atomic_store(&s->state, MOLT_SLOT_FREE);
    atomic_store(&s->retire, 0);
    atomic_store(&s->holds, 0);
    CHECK(molt_doorbell_init(&s->doorbell) == 0);
    atomic_store(&arena.executor_awake[slot], 0);
    executors[slot].epoch = (executors[slot].epoch + 1) & 0xff;
    if (molt_ahead_of(&arena, 1ull << 62))
        molt_look_again(&arena);
}

/* Take back the channel of a client that is gone. Returns 1 when it is done. */
static int reclaim(uint32_t channel) {
    uint64_t word = molt_look(&arena, channel);
    uint32_t state = MOLT_STATE(word);
    if (state == MOLT_CLAIMED) {
        if (molt_step(&arena, channel, word, MOLT_WITH_STATE(word, MOLT_ABANDONED)))
            molt_ring_executor(&arena, word); /* a signal, there */
    } else if (state == MOLT_READY || state == MOLT_DONE || state == MOLT_FAILED) {
        molt_step(&arena, channel, word, MOLT_IDLE_WORD(MOLT_GENERATION(word)));
    }
    if (MOLT_STATE(molt_look(&arena, channel)) != MOLT_IDLE)
        return 0;
    molt_channel *ch = molt_channel_at(&arena, channel);
    CHECK(molt_doorbell_init(&ch->doorbell) == 0);
    atomic_store(&ch->doorbell_of, channel);
    atomic_store(&arena.client_awake[channel], 0);
    return 1;
}

static void *run_supervisor(void *argument) {
    uint64_t state = seed * 31337;
    (void)argument;
    while (!atomic_load(&stopping)) {
        for (uint32_t i = 0; i < SLOTS; i++)
            if (atomic_load(&executors[i].fate) == DEAD) {
                reap(i);
                atomic_store(&executors[i].fate, REAPED);
            }
        for (uint32_t i = 0; i < CLIENTS; i++)
            if (atomic_load(&clients[i].fate) == DEAD && reclaim(i)) {
                atomic_fetch_add(&clients_lost, 1);
                atomic_store(&clients[i].fate, ALIVE);
            }
        if (mortal && !chance(&state, 20)) {
            uint32_t channel = (uint32_t)chance(&state, CLIENTS);
            uint64_t word = molt_look(&arena, channel);
            if ((MOLT_STATE(word) == MOLT_CLAIMED || MOLT_STATE(word) == MOLT_ABANDONED) &&
                molt_step(&arena, channel, word, MOLT_WITH_STATE(word, MOLT_KILLING))) {
                atomic_fetch_add(&kills, 1);
                molt_ring_executor(&arena, word); /* a signal, there */
            }
        }
        usleep((useconds_t)chance(&state, 200));
    }
    return NULL;
}

/* -- the run --------------------------------------------------------------------------------------------------- */

static void describe(void) {
    for (uint32_t i = 0; i < CLIENTS; i++)
        fprintf(stderr, "channel %u: word %#llx, fate %d, ended %llu, parked %llu, sent on: %llu left\n", i,
                (unsigned long long)molt_look(&arena, i), atomic_load(&clients[i].fate),
                (unsigned long long)atomic_load(&clients[i].ended),
                (unsigned long long)atomic_load(&molt_channel_at(&arena, i)->doorbell.parked),
                (unsigned long long)(clients[i].call.left[0] + clients[i].call.left[1]));
    for (uint32_t i = 0; i < SLOTS; i++)
        fprintf(stderr, "slot %u: state %llu, holds %llu, fate %d, claimed %llu, parked %llu, spins %d\n", i,
                (unsigned long long)atomic_load(&arena.slots[i].state),
                (unsigned long long)atomic_load(&arena.slots[i].holds), atomic_load(&executors[i].fate),
                (unsigned long long)atomic_load(&executors[i].claimed),
                (unsigned long long)atomic_load(&arena.slots[i].doorbell.parked), atomic_load(&arena.executor_awake[i]));
}

/* Until the time is over, or somebody has not got on for so long that he never will. */
static void watch(double seconds) {
    uint64_t until_ns = molt_now_ns() + (uint64_t)(seconds * 1e9), seen[CLIENTS] = {0}, since_ns[CLIENTS];
    for (int i = 0; i < CLIENTS; i++)
        since_ns[i] = molt_now_ns();
    while (molt_now_ns() < until_ns && atomic_load(&numbers) < REQUESTS) {
        usleep(10000);
        for (int i = 0; i < CLIENTS; i++) {
            uint64_t ended = atomic_load(&clients[i].ended), now_ns = molt_now_ns();
            if (ended != seen[i])
                seen[i] = ended, since_ns[i] = now_ns;
            if (now_ns - since_ns[i] > STUCK_S * 1000000000ull) {
                fprintf(stderr, "client %d is stuck\n", i);
                describe();
                abort();
            }
        }
    }
}

int main(int argc, char **argv) {
    pthread_t callers[CLIENTS], others[SLOTS + 2];
    size_t n = 0;
    CHECK(argc == 4);
    mortal = strcmp(argv[1], "mortal") == 0;
    impatient = strcmp(argv[1], "patient") != 0;
    atomic_store(&numbers, 0);
    seed = strtoull(argv[3], NULL, 10);
    CHECK(seed);
    arena = new_arena(CLIENTS, SLOTS, RING);
    for (int i = 0; i < ENTRIES; i++) {
        molt_entry *row = molt_find_entry(&arena, entries[i].id, 1);
        CHECK(row);
        atomic_store(&row->delay_ns, entries[i].delay_ns);
        atomic_store(&row->limit, entries[i].limit);
        atomic_store(&row->id, entries[i].id);
    }
    for (uint32_t i = 0; i < CLIENTS; i++) {
        pthread_mutex_init(&clients[i].lock, NULL);
        clients[i].call.channel = i;
    }
    for (uint32_t i = 0; i < SLOTS; i++)
        CHECK(pthread_create(&others[n++], NULL, run_executor, (void *)(uintptr_t)i) == 0);
    CHECK(pthread_create(&others[n++], NULL, run_supervisor, NULL) == 0);
    if (impatient)
        CHECK(pthread_create(&others[n++], NULL, run_canceller, NULL) == 0);
    for (uint32_t i = 0; i < CLIENTS; i++)
        CHECK(pthread_create(&callers[i], NULL, run_client, (void *)(uintptr_t)i) == 0);

    watch(atof(argv[2]));

    atomic_store(&leaving, 1);
    for (uint32_t i = 0; i < CLIENTS; i++)
        CHECK(pthread_join(callers[i], NULL) == 0);
    atomic_store(&stopping, 1);
    for (uint32_t i = 0; i < SLOTS; i++) {
        atomic_store(&arena.slots[i].retire, 1);
        atomic_fetch_add(&arena.header->published, 1);
        molt_doorbell_ring(&arena.slots[i].doorbell);
    }
    for (size_t i = 0; i < n; i++)
        CHECK(pthread_join(others[i], NULL) == 0);

    uint64_t answered = 0, failed = 0, taken_back = 0, given_up = 0, crowded_out = 0;
    for (int i = 0; i < CLIENTS; i++) {
        answered += clients[i].answered, failed += clients[i].failed, taken_back += clients[i].taken_back;
        given_up += clients[i].given_up, crowded_out += clients[i].crowded_out;
        CHECK(clients[i].answered > 10);
    }
    printf("answered %llu, failed %llu, taken back %llu, given up %llu, no place %llu; deaths %llu, kills %llu, "
           "clients lost %llu\n",
           (unsigned long long)answered, (unsigned long long)failed, (unsigned long long)taken_back,
           (unsigned long long)given_up, (unsigned long long)crowded_out, (unsigned long long)deaths,
           (unsigned long long)kills, (unsigned long long)clients_lost);
    fflush(stdout);
    CHECK(failed > 10 && crowded_out && withdrawn);
    for (uint32_t i = 0; i < SLOTS; i++)
        CHECK(mortal || !atomic_load(&arena.slots[i].holds));
    CHECK(impatient ? taken_back && given_up : !taken_back && !given_up);
    if (mortal)
        CHECK(kills && deaths > SLOTS && clients_lost);
    else
        CHECK(deaths <= SLOTS && !kills && !clients_lost);
    for (uint64_t i = 0; i < REQUESTS; i++) /* run once, or taken back before */
        CHECK(runs[i] <= 1 || runs[i] == 100);
    free_arena(&arena);
    return 0;
}
