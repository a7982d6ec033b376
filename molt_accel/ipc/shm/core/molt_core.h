/* The shared-memory core: state words, byte rings, doorbells, and the waiting between them. C11, no Python, no
 * allocation.
 *
 * Everything here works on memory that other processes write to. A peer's word is loaded once, checked, and then
 * used; a value that can't be is reported and never followed.
 *
 * Every hand-over is one compare-and-swap on a channel's state word; molt_accel/ipc/shm/layout.py has the table of who
 * may take which step. Doorbells only wake and guard nothing: a waiter notes a word, looks at the state, and sleeps
 * only while the word is what it noted, so no order of events loses a wake-up; and every sleep is bounded, so that
 * a ringer who died between changing the word and ringing costs a delay and not a hang.
 */
#ifndef MOLT_CORE_H
#define MOLT_CORE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define MOLT_CACHE_LINE 64
#define MOLT_PAGE 4096u
#define MOLT_NEVER UINT64_MAX

typedef _Atomic uint64_t molt_word;
/* Others than lock-free ones lock within one process only. */
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "this processor has no atomic 64-bit words");
typedef _Atomic uint8_t molt_flag;

static inline uint64_t molt_now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline uint64_t molt_earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

/* A moment between two steps, at which a test build lets a process die or stop; see tests/system/crash/failpoints. Otherwise nothing. */
#ifdef MOLT_FAILPOINTS
#include <failpoints.h>
#else
#define MOLT_FAILPOINT(name) ((void)0)
#endif

/* -- doorbell -------------------------------------------------------------------------------------------------- */

/* One waiter, any number of ringers. `count` grows with every ring. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word count;
    molt_word parked;
    sem_t sem;
} molt_doorbell;

/* Only where no living process can be using the semaphore: one killed in sem_wait leaves it with a false count. */
static inline int molt_doorbell_init(molt_doorbell *doorbell) {
    atomic_store(&doorbell->count, 0);
    atomic_store(&doorbell->parked, 0);
    return sem_init(&doorbell->sem, 1, 0);
}

/* glibc keeps a semaphore's count in its first eight bytes. The others never change, and say how to ask the kernel: where
 * somebody has scribbled over them, it aborts the process, or has it sleep for ever. So they are put right before use. */
#define MOLT_SEM_COUNT 8

static inline void molt_doorbell_repair(molt_doorbell *doorbell) {
    sem_t good;
    memset(&good, 0, sizeof good);
    sem_init(&good, 1, 0);
    char *rest = (char *)&doorbell->sem + MOLT_SEM_COUNT, *right = (char *)&good + MOLT_SEM_COUNT;
    if (memcmp(rest, right, sizeof good - MOLT_SEM_COUNT))
        memcpy(rest, right, sizeof good - MOLT_SEM_COUNT);
}

/* Wake the waiter if it sleeps; 1 if it did. Whatever it shall see was stored before, sequentially consistent: either
 * the waiter's last look before it sleeps sees it, or this sees `parked`. */
static inline int molt_doorbell_wake(molt_doorbell *doorbell) {
    if (!atomic_load(&doorbell->parked) || !atomic_exchange(&doorbell->parked, 0))
        return 0;
    MOLT_FAILPOINT(doorbell.ringing);
    molt_doorbell_repair(doorbell);
    sem_post(&doorbell->sem);
    return 1;
}

static inline void molt_doorbell_ring(molt_doorbell *doorbell) {
    atomic_fetch_add(&doorbell->count, 1);
    molt_doorbell_wake(doorbell);
}

/* Parks are bounded by this, then everything is looked at again. With a long one, a lost wake-up is a hang: for tests. */
#ifndef MOLT_PARK_NS
#define MOLT_PARK_NS 100000000u
#endif

/* Tokens whose ringers came late for earlier waits, at most one each. A semaphore that holds more was scribbled over, and is
 * made anew: its one waiter is just here, and a token that is lost by that is one of those that a bounded sleep is for. */
#define MOLT_LATE_TOKENS 64

enum molt_wait { MOLT_CHANGED = 0, MOLT_TIMED_OUT = 1, MOLT_INTERRUPTED = 2 };

/* Sleep until the doorbell rings, a signal comes, or `until_ns` (of CLOCK_MONOTONIC); not at all if the watched word is no
 * longer `seen`. */
static inline int molt_park(molt_doorbell *doorbell, const molt_word *watched, uint64_t seen, uint64_t until_ns) {
    int outcome = MOLT_CHANGED;
    struct timespec until = {(time_t)(until_ns / 1000000000u), (long)(until_ns % 1000000000u)};
    molt_doorbell_repair(doorbell);
    for (int late = 0; late <= MOLT_LATE_TOKENS && sem_trywait(&doorbell->sem) == 0; late++) {
        if (late == MOLT_LATE_TOKENS)
            sem_init(&doorbell->sem, 1, 0);
    }
    atomic_store(&doorbell->parked, 1);
    MOLT_FAILPOINT(doorbell.parked);
    if (atomic_load(watched) == seen && sem_clockwait(&doorbell->sem, CLOCK_MONOTONIC, &until) != 0)
        outcome = errno == EINTR ? MOLT_INTERRUPTED : MOLT_TIMED_OUT;
    MOLT_FAILPOINT(doorbell.woken);
    atomic_store(&doorbell->parked, 0);
    return outcome;
}

/* -- spinning -------------------------------------------------------------------------------------------------- */

/* What a waiter has learned; private to it. */
typedef struct {
    uint64_t usual_ns; /* running mean of its waits */
    uint32_t crowded;  /* waits for which the processor is taken to be shared, most likely with whom it waits for */
    uint32_t hogged;   /* waits for which it is taken to be wanted by somebody who doesn't let go of it */
    uint32_t hogged_before; /* what `hogged` began with last time: it doubles while that stays true */
} molt_patience;

/* A spin that yields costs system calls, and one that doesn't keeps the very process off the processor that it waits
 * for. So: this long without yielding where nobody else seems to want the processor, then yielding. */
#define MOLT_QUIET_NS 20000u
#define MOLT_CROWDED_QUIET_NS 500u
/* A yield that took longer has let somebody else run; one that took this long, somebody who computes. Who yields to such a
 * one waits for a time slice, and who sleeps is let in before its end: then it is better to sleep. */
#define MOLT_YIELDED_NS 2500u
#define MOLT_HOGGED_NS 300000u
#define MOLT_REMEMBERED_WAITS 64u
#define MOLT_MAX_REMEMBERED_WAITS 16384u

static inline void molt_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Somebody else computes on this processor: sleep in the waits to come, longer each time that it is still so. */
static inline void molt_note_hog(molt_patience *patience) {
    uint64_t longer = 2ull * patience->hogged_before;
    if (longer < MOLT_REMEMBERED_WAITS)
        longer = MOLT_REMEMBERED_WAITS;
    patience->hogged = patience->hogged_before = (uint32_t)molt_earlier(longer, MOLT_MAX_REMEMBERED_WAITS);
}

/* Spin until the watched word is no longer `seen` (1), or until `until_ns` or it doesn't pay any more (0). */
static inline int molt_spin(molt_patience *patience, const molt_word *watched, uint64_t seen, uint64_t until_ns) {
    uint64_t start_ns = molt_now_ns(), now_ns = start_ns;
    uint64_t quiet_until_ns = start_ns + (patience->crowded ? MOLT_CROWDED_QUIET_NS : MOLT_QUIET_NS);
    int changed = 0;
    while (!changed && now_ns < until_ns) {
        uint64_t before_ns = now_ns;
        int yields = now_ns >= quiet_until_ns;
        if (yields)
            sched_yield();
        for (unsigned turn = 0; turn < 16 && !changed; turn++) {
            changed = atomic_load_explicit(watched, memory_order_acquire) != seen;
            if (!changed)
                molt_pause();
        }
        now_ns = molt_now_ns();
        uint64_t away_ns = now_ns - before_ns;
        if (away_ns > MOLT_HOGGED_NS) { /* yielded to, or pushed off by */
            molt_note_hog(patience);
            return changed;
        }
        if (yields && away_ns > MOLT_YIELDED_NS)
            patience->crowded = MOLT_REMEMBERED_WAITS;
    }
    patience->hogged_before -= patience->hogged_before > 0;
    return changed;
}

/* Once a wait: whether the processor is there to be spun on. */
static inline int molt_may_spin(molt_patience *patience, uint64_t spin_ns) {
    patience->crowded -= patience->crowded > 0;
    patience->hogged -= patience->hogged > 0;
    return spin_ns && !patience->hogged;
}

/* And whether it is likely to pay: the wait is usually not much longer than sleeping and being woken would take. */
static inline int molt_worth_spinning(molt_patience *patience, uint64_t spin_ns) {
    return molt_may_spin(patience, spin_ns) && patience->usual_ns <= 2 * spin_ns;
}

static inline void molt_learn(molt_patience *patience, uint64_t waited_ns) {
    /* One long wait must not end spinning, nor a series of them keep it from coming back. */
    waited_ns = molt_earlier(waited_ns, 10000000u);
    patience->usual_ns += (waited_ns >> 3) - (patience->usual_ns >> 3);
}

/* -- ring ------------------------------------------------------------------------------------------------------ */

/* Bytes of one direction. Both counts start at 0 with each request, so a small exchange always touches the same, warm
 * page. Each side keeps its own count in private memory; a scribbled word can't move it. */
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

/* -- arena ----------------------------------------------------------------------------------------------------- */

/* State word: state (bits 0-7), executor's slot (8-23), its epoch (24-31), generation (32-63). */
enum molt_state {
    MOLT_IDLE = 0,
    MOLT_READY = 1,
    MOLT_CLAIMED = 2,
    MOLT_DONE = 3,
    MOLT_FAILED = 4,
    MOLT_ABANDONED = 5,
    MOLT_KILLING = 6
};

#define MOLT_STATE(word) ((uint32_t)((word) & 0xff))
#define MOLT_SLOT(word) ((uint32_t)(((word) >> 8) & 0xffff))
#define MOLT_GENERATION(word) ((uint32_t)((word) >> 32))
#define MOLT_WITH_STATE(word, state) (((word) & ~(uint64_t)0xff) | (uint64_t)(state))
#define MOLT_IDLE_WORD(generation) ((uint64_t)(generation) << 32 | MOLT_IDLE)

#define MOLT_MAGIC 0x31616e6572416c4dULL
#define MOLT_ARENA_VERSION 1u
#define MOLT_MAX_CHANNELS 4096u
#define MOLT_MAX_SLOTS 4096u
#define MOLT_GAUGES 64
#define MOLT_SLOT_GAUGES 32
#define MOLT_BUCKETS 128

/* Where things are. Written once; every process checks it and from then on uses its own copy. */
typedef struct {
    uint64_t magic;
    uint32_t version, abi, channels, slots;
    uint64_t ring_bytes, size;
} molt_geometry;

typedef struct {
    molt_geometry geometry;
    _Alignas(MOLT_CACHE_LINE) molt_word tickets;   /* who published first is served first */
    _Alignas(MOLT_CACHE_LINE) molt_word published; /* grows after each READY; what idle executors watch */
    _Alignas(MOLT_CACHE_LINE) molt_word cpus;      /* how many processors there are for this pool */
    molt_word looked_ns, contended;                /* see molt_contended */
    _Alignas(MOLT_CACHE_LINE) molt_word in_use;    /* channels from this index on were never granted */
    molt_word gauges[MOLT_GAUGES];                   /* named in layout.py */
} molt_header;

enum molt_slot_state { MOLT_SLOT_FREE = 0, MOLT_SLOT_BUSY = 1, MOLT_SLOT_IDLE = 2 };

/* An executor's place: what it tells of itself, and is told. */
typedef struct {
    molt_doorbell doorbell;
    _Alignas(MOLT_CACHE_LINE) molt_word state; /* enum molt_slot_state */
    molt_word retire;                          /* 1: exit as soon as there is no request */
    _Alignas(MOLT_CACHE_LINE) molt_word gauges[MOLT_SLOT_GAUGES]; /* named in layout.py */
    molt_word queue_us[MOLT_BUCKETS], exec_us[MOLT_BUCKETS];    /* how often; see molt_bucket */
} molt_slot;

typedef struct {
    molt_doorbell doorbell;
    molt_word doorbell_of; /* the channel whose doorbell its client listens to, usually itself */
    molt_ring request, reply;
} molt_channel;

typedef struct {
    molt_geometry geometry;
    uint8_t *base;
    molt_header *header;
    molt_word *words, *ticket_of, *failure;   /* by channel */
    molt_flag *client_spins, *executor_spins; /* by channel, by slot */
    molt_slot *slots;
    uint8_t *channels;
    uint64_t stride;
} molt_arena;

static inline uint64_t molt_align(uint64_t n, uint64_t to) { return (n + to - 1) & ~(to - 1); }

/* Changes with whatever two builds could disagree about. */
static inline uint32_t molt_abi(void) {
    return (uint32_t)(sizeof(molt_header) * 1000003u ^ sizeof(molt_slot) * 10007u ^ sizeof(molt_channel) * 101u ^
                      sizeof(sem_t) * 7u ^ sizeof(void *));
}

/* Fill in where things are, from `base`, channels, slots and ring_bytes. Returns the size, or 0: impossible. */
static inline uint64_t molt_arena_plan(molt_arena *a, uint32_t channels, uint32_t slots, uint64_t ring_bytes) {
    if (!channels || channels > MOLT_MAX_CHANNELS || !slots || slots > MOLT_MAX_SLOTS || ring_bytes < MOLT_PAGE ||
        ring_bytes > (1u << 30) || (ring_bytes & (ring_bytes - 1)))
        return 0;
    /* In numbers, since whoever only asks for the size has no memory yet. */
    uintptr_t base = (uintptr_t)a->base;
    uint64_t at = molt_align(sizeof(molt_header), MOLT_PAGE);
    uint64_t array = molt_align(channels * sizeof(molt_word), MOLT_CACHE_LINE);
    a->header = (molt_header *)a->base;
    a->words = (molt_word *)(base + at), at += array;
    a->ticket_of = (molt_word *)(base + at), at += array;
    a->failure = (molt_word *)(base + at), at += array;
    a->client_spins = (molt_flag *)(base + at), at += molt_align(channels, MOLT_CACHE_LINE);
    a->executor_spins = (molt_flag *)(base + at), at += molt_align(slots, MOLT_CACHE_LINE);
    at = molt_align(at, MOLT_PAGE);
    a->slots = (molt_slot *)(base + at);
    at = molt_align(at + slots * sizeof(molt_slot), MOLT_PAGE);
    a->channels = (uint8_t *)(base + at);
    a->stride = molt_align(sizeof(molt_channel), MOLT_CACHE_LINE) + 2 * ring_bytes;
    at += channels * a->stride;
    a->geometry = (molt_geometry){MOLT_MAGIC, MOLT_ARENA_VERSION, molt_abi(), channels, slots, ring_bytes, at};
    return at;
}

static inline molt_channel *molt_channel_at(const molt_arena *a, uint32_t channel) {
    return (molt_channel *)(a->channels + channel * a->stride);
}

static inline uint8_t *molt_request_data(const molt_arena *a, uint32_t channel) {
    return a->channels + channel * a->stride + molt_align(sizeof(molt_channel), MOLT_CACHE_LINE);
}

static inline uint8_t *molt_reply_data(const molt_arena *a, uint32_t channel) {
    return molt_request_data(a, channel) + a->geometry.ring_bytes;
}

/* Make zeroed memory an arena. The magic comes last: a half-made one is none. Returns 0 or -1 with errno. */
static inline int molt_arena_create(molt_arena *a) {
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        if (molt_doorbell_init(&a->slots[i].doorbell))
            return -1;
    for (uint32_t i = 0; i < a->geometry.channels; i++) {
        if (molt_doorbell_init(&molt_channel_at(a, i)->doorbell))
            return -1;
        atomic_store(&molt_channel_at(a, i)->doorbell_of, i);
    }
    molt_geometry unfinished = a->geometry;
    unfinished.magic = 0;
    a->header->geometry = unfinished;
    atomic_thread_fence(memory_order_seq_cst);
    MOLT_FAILPOINT(supervisor.arena);
    a->header->geometry.magic = MOLT_MAGIC;
    return 0;
}

/* Plan from the header of `size` mapped bytes. Returns NULL, or what is wrong with it. */
static inline const char *molt_arena_attach(molt_arena *a, uint64_t size) {
    molt_geometry found;
    if (size < sizeof(molt_header))
        return "it is too small";
    memcpy(&found, a->base, sizeof found);
    if (found.magic != MOLT_MAGIC)
        return "it is none, or was never finished";
    if (found.version != MOLT_ARENA_VERSION || found.abi != molt_abi())
        return "it was made by another version of this library";
    if (molt_arena_plan(a, found.channels, found.slots, found.ring_bytes) != size || found.size != size)
        return "its size is not what its geometry says";
    return NULL;
}

/* -- hand-over ------------------------------------------------------------------------------------------------- */

static inline uint64_t molt_look(const molt_arena *a, uint32_t channel) { return atomic_load(&a->words[channel]); }

static inline int molt_step(molt_arena *a, uint32_t channel, uint64_t from, uint64_t to) {
    return atomic_compare_exchange_strong(&a->words[channel], &from, to);
}

static inline uint32_t molt_in_use(const molt_arena *a) {
    uint64_t n = atomic_load_explicit(&a->header->in_use, memory_order_relaxed);
    return n < a->geometry.channels ? (uint32_t)n : a->geometry.channels;
}

static inline uint32_t molt_spinning(const molt_flag *flags, uint32_t n) {
    uint32_t count = 0;
    for (uint32_t i = 0; i < n; i++)
        count += atomic_load_explicit(&flags[i], memory_order_relaxed) != 0;
    return count;
}

/* How often it is looked who else wants the processors. */
#define MOLT_LOOK_NS 20000000u

/* Processes that want to run just now, on the whole machine; 0: not known. The fourth field of /proc/loadavg. */
static inline uint32_t molt_runnable(void) {
    char text[128];
    int fd = open("/proc/loadavg", O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return 0;
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    if (n <= 0)
        return 0;
    text[n] = 0;
    const char *at = text;
    for (int spaces = 0; *at && spaces < 3; at++)
        spaces += *at == ' ';
    return (uint32_t)strtoul(at, NULL, 10);
}

/* Whether others want so many processors that there are no two left, for a caller and an executor. Then who spins takes his
 * share of time from himself: he is made to wait for whole time slices, where a sleeper is let in at once.
 * One process looks for all of them; a look costs some microseconds. */
static inline int molt_contended(molt_arena *a, uint64_t now_ns) {
    molt_header *h = a->header;
    uint64_t looked_ns = atomic_load_explicit(&h->looked_ns, memory_order_relaxed);
    if (now_ns - looked_ns > MOLT_LOOK_NS && atomic_compare_exchange_strong(&h->looked_ns, &looked_ns, now_ns)) {
        uint32_t ours = 1 + molt_spinning(a->client_spins, molt_in_use(a));
        for (uint32_t i = 0; i < a->geometry.slots; i++)
            ours += atomic_load(&a->slots[i].state) == MOLT_SLOT_BUSY ||
                    atomic_load_explicit(&a->executor_spins[i], memory_order_relaxed);
        uint32_t runnable = molt_runnable(), others = runnable > ours ? runnable - ours : 0;
        uint64_t cpus = atomic_load(&h->cpus);
        atomic_store_explicit(&h->contended, cpus && others + 2 > cpus, memory_order_relaxed);
    }
    return atomic_load_explicit(&h->contended, memory_order_relaxed) != 0;
}

/* Wake one executor that sleeps until there is a request; 1 if there was one. One that was idle a moment ago may by now
 * have a request and sleep until its bytes come: it is woken for nothing, and another has to be. */
static inline int molt_wake_executor(molt_arena *a) {
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        if (atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE && molt_doorbell_wake(&a->slots[i].doorbell) &&
            atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE)
            return 1;
    return 0;
}

/* Ring whom a channel's client listens to. */
static inline void molt_ring_client(molt_arena *a, uint32_t channel) {
    uint64_t at = atomic_load(&molt_channel_at(a, channel)->doorbell_of); /* ordered after the state that it rings for */
    if (at < a->geometry.channels)
        molt_doorbell_ring(&molt_channel_at(a, (uint32_t)at)->doorbell);
}

static inline void molt_ring_executor(molt_arena *a, uint64_t word) {
    if (MOLT_SLOT(word) < a->geometry.slots)
        molt_doorbell_ring(&a->slots[MOLT_SLOT(word)].doorbell);
}

/* -- frames ---------------------------------------------------------------------------------------------------- */

/* The header of molt_accel/ipc/frame.py, which says what the fields mean and what is wrong with a bad one. Here only plainly
 * good ones are made and read. */
typedef struct __attribute__((packed)) {
    uint8_t version, kind, codec, status;
    uint16_t entry_bytes, flags;
    uint64_t request_id;
    uint32_t generation, payload_bytes;
    uint64_t deadline_ns, sent_ns;
    uint32_t max_wait_ms, queue_depth, in_flight, queue_us, decode_us, handler_us, encode_us, exec_us, executor;
    uint32_t reserved;
} molt_frame;

enum { MOLT_FRAME_VERSION = 2, MOLT_REQUEST = 1, MOLT_RESPONSE = 2, MOLT_ENTRY_BYTES = 255, MOLT_FLAG_COMPILED = 1 };

/* A frame before its payload, as it travels. */
typedef struct __attribute__((packed)) {
    uint32_t size; /* of header, entry and payload */
    molt_frame header;
    uint8_t entry[MOLT_ENTRY_BYTES];
} molt_head;

_Static_assert(sizeof(molt_frame) == 80, "the header of frame.py");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian, and so must this machine be");

static inline uint64_t molt_head_bytes(const molt_head *head) {
    return sizeof head->size + sizeof head->header + head->header.entry_bytes;
}

/* -- the client's side of a call ------------------------------------------------------------------------------- */

/* A channel as its client holds it; private memory. */
typedef struct {
    uint32_t channel;
    uint64_t word;                         /* READY, as published */
    const uint8_t *part[2];                /* what is still to be sent: header, payload */
    uint64_t left[2], sent, taken;         /* `sent` and `taken`: own counts of the two rings */
    uint8_t *into;                         /* where the next part of the reply goes */
    uint64_t wanted;                       /* bytes of it still to come */
    int deferred;                          /* no sleeping executor was woken, because one spins */
    int untold;                            /* bytes were moved, and no executor had the request to be told of it */
    molt_patience patience;
} molt_call;

/* Write on while there is room. Returns 1 if anything was written, 0, or MOLT_CORRUPT. */
static inline int molt_send_more(molt_arena *a, molt_call *c) {
    int any = 0;
    for (int i = 0; i < 2; i++) {
        if (!c->left[i])
            continue; /* there may be no such part */
        int64_t n = molt_ring_write(&molt_channel_at(a, c->channel)->request, molt_request_data(a, c->channel),
                                    a->geometry.ring_bytes, &c->sent, c->part[i], c->left[i]);
        if (n < 0)
            return MOLT_CORRUPT;
        c->part[i] += n, c->left[i] -= (uint64_t)n, any |= n > 0;
        if (c->left[i]) {
            MOLT_FAILPOINT(client.mid_payload);
            break;
        }
    }
    return any;
}

/* READY requests that were published before ticket. */
static inline uint32_t molt_ahead_of(const molt_arena *a, uint64_t ticket) {
    uint32_t ahead = 0, n = molt_in_use(a);
    for (uint32_t i = 0; i < n; i++)
        ahead += MOLT_STATE(molt_look(a, i)) == MOLT_READY &&
                 (int64_t)(atomic_load_explicit(&a->ticket_of[i], memory_order_relaxed) - ticket) < 0;
    return ahead;
}

static inline uint32_t molt_idle_executors(const molt_arena *a) {
    uint32_t idle = 0;
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        idle += atomic_load(&a->slots[i].state) == MOLT_SLOT_IDLE;
    return idle;
}

/* How far behind the last place of a queue of `capacity` the request stands: 0: it has a place. */
static inline uint32_t molt_excess(const molt_arena *a, const molt_call *c, uint32_t capacity) {
    uint32_t ahead = molt_ahead_of(a, atomic_load_explicit(&a->ticket_of[c->channel], memory_order_relaxed));
    if (ahead < capacity)
        return 0;
    capacity += molt_idle_executors(a);
    return ahead < capacity ? 0 : ahead - capacity + 1;
}

/* Start a request on a channel that is IDLE: IDLE -> READY, with as much of it in the ring as fits. Returns 1, or 0: the
 * channel is not IDLE. Nobody is woken yet. */
static inline int molt_publish(molt_arena *a, molt_call *c) {
    molt_channel *ch = molt_channel_at(a, c->channel);
    uint64_t idle = molt_look(a, c->channel);
    if (MOLT_STATE(idle) != MOLT_IDLE)
        return 0;
    atomic_store_explicit(&ch->request.head, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->request.tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->reply.head, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->reply.tail, 0, memory_order_relaxed);
    atomic_store_explicit(&ch->doorbell_of, c->channel, memory_order_relaxed);
    c->sent = c->taken = c->wanted = 0;
    c->deferred = c->untold = 0;
    molt_send_more(a, c);
    uint32_t generation = MOLT_GENERATION(idle) + 1;
    c->word = MOLT_WITH_STATE(MOLT_IDLE_WORD(generation ? generation : 1), MOLT_READY);
    atomic_store_explicit(&a->ticket_of[c->channel], atomic_fetch_add(&a->header->tickets, 1), memory_order_relaxed);
    return molt_step(a, c->channel, idle, c->word);
}

/* Let executors know. One that spins sees it by itself; only if it doesn't soon is another woken, by molt_await, since
 * waking somebody is what costs most of a call. */
static inline void molt_announce(molt_arena *a, molt_call *c) {
    MOLT_FAILPOINT(client.published);
    atomic_fetch_add(&a->header->published, 1);
    MOLT_FAILPOINT(client.announced);
    c->deferred = molt_spinning(a->executor_spins, a->geometry.slots) > 0;
    if (!c->deferred)
        molt_wake_executor(a);
}

/* Wake the executor that was not woken because one was spinning. */
static inline void molt_catch_up(molt_arena *a, molt_call *c) {
    c->deferred = 0;
    if (MOLT_STATE(molt_look(a, c->channel)) == MOLT_READY)
        molt_wake_executor(a);
}

/* Have the doorbell of another channel rung for this one, where a thread of the same client waits for many. Look at the
 * channel afterwards: what happened before may have rung its own doorbell. */
static inline void molt_redirect(molt_arena *a, molt_call *c, uint32_t doorbell_of) {
    atomic_store(&molt_channel_at(a, c->channel)->doorbell_of, doorbell_of);
    if (c->deferred)
        molt_catch_up(a, c);
}

/* End a call from the client's side, or only if it is still queued. Returns the state it was found in: READY (it is IDLE
 * now, and nobody will run it), CLAIMED (it is ABANDONED now, unless `only_queued`), or one that can't be ended. */
static inline uint32_t molt_give_up(molt_arena *a, molt_call *c, int only_queued) {
    for (;;) {
        uint64_t word = molt_look(a, c->channel);
        uint32_t state = MOLT_STATE(word);
        if (MOLT_GENERATION(word) != MOLT_GENERATION(c->word) || (state != MOLT_READY && (state != MOLT_CLAIMED || only_queued)))
            return state;
        uint64_t to = state == MOLT_READY ? MOLT_WITH_STATE(word, MOLT_IDLE) : MOLT_WITH_STATE(word, MOLT_ABANDONED);
        if (molt_step(a, c->channel, word, to)) {
            MOLT_FAILPOINT(client.gave_up);
            if (state == MOLT_CLAIMED)
                molt_ring_executor(a, word); /* it may be waiting for bytes */
            molt_doorbell_ring(&molt_channel_at(a, c->channel)->doorbell); /* and a thread of this client for it */
            return state;
        }
    }
}

enum molt_await {
    MOLT_AWAIT_OUTCOME = 0, /* DONE, FAILED, or given up by another thread */
    MOLT_AWAIT_TIME = 1,
    MOLT_AWAIT_SIGNAL = 2, /* there may be one; it is asked for at least as often as parks end */
    MOLT_AWAIT_CLOSED = 3, /* the connection has ended */
    MOLT_AWAIT_BUFFER = 4, /* the reply is larger than the ring: it needs another `into` to go on */
    MOLT_AWAIT_CORRUPT = 5
};

/* How long a spinning executor has for a request before a sleeping one is woken too. */
#define MOLT_DEFER_NS 30000u

/* Read what is there of a reply. Returns 1 if anything was, 0, or MOLT_CORRUPT. */
static inline int molt_take_more(molt_arena *a, molt_call *c) {
    int64_t n = molt_ring_read(&molt_channel_at(a, c->channel)->reply, molt_reply_data(a, c->channel),
                               a->geometry.ring_bytes, &c->taken, c->into, c->wanted);
    if (n < 0)
        return MOLT_CORRUPT;
    c->into += n, c->wanted -= (uint64_t)n;
    if (c->wanted)
        MOLT_FAILPOINT(client.mid_reply);
    return n > 0;
}

static inline uint64_t molt_reply_there(const molt_arena *a, const molt_call *c) {
    return atomic_load_explicit(&molt_channel_at(a, c->channel)->reply.head, memory_order_acquire) - c->taken;
}

/* A look that lasts: for an answer that usually comes within microseconds, spin that long and no longer. 1 if the call has an
 * outcome. For a caller who would have to give something up to wait properly (Python's lock: with other threads after it, it
 * costs more to have it back than this look). */
#define MOLT_GLANCE_NS 15000u

static inline int molt_glance(molt_arena *a, molt_call *c, uint64_t spin_ns) {
    if (!spin_ns || c->patience.hogged || 2 * c->patience.usual_ns > MOLT_GLANCE_NS || c->left[0] || c->left[1])
        return 0;
    molt_doorbell *doorbell = &molt_channel_at(a, c->channel)->doorbell;
    uint64_t start_ns = molt_now_ns(), now_ns = start_ns, until_ns = start_ns + molt_earlier(spin_ns, MOLT_GLANCE_NS);
    if (molt_contended(a, start_ns))
        return 0;
    uint32_t state = MOLT_READY;
    atomic_store_explicit(&a->client_spins[c->channel], 1, memory_order_relaxed);
    while ((state == MOLT_READY || state == MOLT_CLAIMED) && now_ns < until_ns) {
        uint64_t seen = atomic_load(&doorbell->count);
        state = MOLT_STATE(molt_look(a, c->channel));
        for (unsigned turn = 0; turn < 16 && atomic_load_explicit(&doorbell->count, memory_order_acquire) == seen; turn++)
            molt_pause();
        now_ns = molt_now_ns();
    }
    atomic_store_explicit(&a->client_spins[c->channel], 0, memory_order_relaxed);
    if (now_ns - start_ns > MOLT_HOGGED_NS)
        molt_note_hog(&c->patience);
    if (state != MOLT_DONE)
        return 0;
    molt_learn(&c->patience, now_ns - start_ns);
    return 1;
}

/* Move the call on until it has an outcome, at most until `until_ns` (0: don't wait). Spins at most `spin_ns`, if no more
 * than `spinners` clients do. */
static inline int molt_await(molt_arena *a, molt_call *c, uint64_t until_ns, uint64_t spin_ns, uint32_t spinners,
                             const molt_flag *closed) {
    molt_channel *ch = molt_channel_at(a, c->channel);
    uint64_t start_ns = 0, spin_until_ns = 0;
    int may_spin = 0, flows = 0;
    for (;;) {
        uint64_t seen = atomic_load(&ch->doorbell.count), word = molt_look(a, c->channel);
        uint32_t state = MOLT_STATE(word);
        if (MOLT_GENERATION(word) != MOLT_GENERATION(c->word) || state > MOLT_KILLING)
            return MOLT_AWAIT_CORRUPT;
        if (state == MOLT_DONE || state == MOLT_FAILED || state == MOLT_IDLE || state == MOLT_ABANDONED) {
            if (start_ns && !flows)
                molt_learn(&c->patience, molt_now_ns() - start_ns);
            return MOLT_AWAIT_OUTCOME;
        }
        int moved = c->left[0] || c->left[1] ? molt_send_more(a, c) : 0;
        if (moved >= 0 && state == MOLT_CLAIMED && molt_reply_there(a, c) >= a->geometry.ring_bytes / 2) {
            if (!c->wanted)
                return MOLT_AWAIT_BUFFER;
            int more = molt_take_more(a, c);
            moved = more < 0 ? more : moved | more;
        }
        if (moved < 0)
            return MOLT_AWAIT_CORRUPT;
        c->untold |= moved;
        if (c->untold && state == MOLT_CLAIMED) {
            molt_ring_executor(a, word);
            c->untold = 0;
        }
        if (moved) {
            /* Bytes flow: the next are microseconds away, whatever such calls take as a whole. */
            if (!flows)
                may_spin = molt_may_spin(&c->patience, spin_ns) && !molt_contended(a, molt_now_ns());
            flows = 1;
            spin_until_ns = molt_now_ns() + spin_ns;
            continue;
        }
        if (atomic_load(closed))
            return MOLT_AWAIT_CLOSED;
        if (!until_ns)
            return MOLT_AWAIT_TIME;
        uint64_t now_ns = molt_now_ns();
        if (!start_ns) {
            start_ns = now_ns;
            spin_until_ns = now_ns + spin_ns;
            if (!flows)
                may_spin = molt_worth_spinning(&c->patience, spin_ns) && !molt_contended(a, now_ns) &&
                           molt_spinning(a->client_spins, molt_in_use(a)) < spinners;
        }
        if (now_ns >= until_ns)
            return MOLT_AWAIT_TIME;
        if (c->deferred && (!may_spin || now_ns >= start_ns + MOLT_DEFER_NS))
            molt_catch_up(a, c);
        if (may_spin && now_ns < spin_until_ns) {
            uint64_t until = molt_earlier(until_ns, spin_until_ns);
            if (c->deferred)
                until = molt_earlier(until, start_ns + MOLT_DEFER_NS);
            atomic_store_explicit(&a->client_spins[c->channel], 1, memory_order_relaxed);
            if (!molt_spin(&c->patience, &ch->doorbell.count, seen, until))
                may_spin &= !c->patience.hogged;
            atomic_store_explicit(&a->client_spins[c->channel], 0, memory_order_relaxed);
            continue;
        }
        if (c->deferred)
            molt_catch_up(a, c); /* before it sleeps, somebody must be on the way */
        /* Time is up: a signal that came before it slept has interrupted nothing, and must be looked for too. */
        if (molt_park(&ch->doorbell, &ch->doorbell.count, seen, molt_earlier(until_ns, now_ns + MOLT_PARK_NS)) != MOLT_CHANGED)
            return MOLT_AWAIT_SIGNAL;
    }
}

/* -- the executor's side --------------------------------------------------------------------------------------- */

/* An executor in its slot; private memory. */
typedef struct {
    uint32_t slot, epoch, channel;
    uint64_t word; /* CLAIMED */
    uint64_t taken, sent;
    uint32_t queued, running; /* seen at the last claim, without and with this request */
    molt_word *claim; /* where it says what it claims, in memory that no client can map; NULL: nowhere */
    molt_patience patience, transfer_patience;
} molt_executor;

/* Say what this executor may be storing to, as layout.serial_of names it; 0: nothing. */
static inline void molt_tell_claim(molt_executor *e, uint64_t serial) {
    if (e->claim && atomic_load_explicit(e->claim, memory_order_relaxed) != serial)
        atomic_store(e->claim, serial);
}

enum molt_next { MOLT_NEXT_REQUEST = 0, MOLT_NEXT_SIGNAL = 1, MOLT_NEXT_RETIRE = 2 };

/* Claim the READY request that was published first; 1, or 0: there is none. */
static inline int molt_claim(molt_arena *a, molt_executor *e) {
    for (;;) {
        uint32_t n = molt_in_use(a), best = n;
        uint64_t best_word = 0, best_ticket = 0;
        e->queued = e->running = 0;
        for (uint32_t i = 0; i < n; i++) {
            uint64_t word = molt_look(a, i);
            uint32_t state = MOLT_STATE(word);
            e->running += state == MOLT_CLAIMED || state == MOLT_ABANDONED || state == MOLT_KILLING;
            if (state != MOLT_READY)
                continue;
            uint64_t ticket = atomic_load_explicit(&a->ticket_of[i], memory_order_relaxed);
            if (!e->queued++ || (int64_t)(ticket - best_ticket) < 0)
                best = i, best_word = word, best_ticket = ticket;
        }
        if (best == n) {
            molt_tell_claim(e, 0);
            return 0;
        }
        /* Before the claim: a claim that was not told of is a forged one. */
        molt_tell_claim(e, (uint64_t)best << 32 | MOLT_GENERATION(best_word));
        MOLT_FAILPOINT(executor.scanned);
        e->word = MOLT_CLAIMED | (uint64_t)e->slot << 8 | (uint64_t)(e->epoch & 0xff) << 24 |
                  (uint64_t)MOLT_GENERATION(best_word) << 32;
        if (molt_step(a, best, best_word, e->word)) {
            e->channel = best;
            e->queued--, e->running++;
            e->taken = e->sent = 0;
            return 1;
        }
    }
}

/* Whether the word is still of this executor's claim. */
static inline int molt_holds(const molt_executor *e, uint64_t word) {
    uint32_t state = MOLT_STATE(word);
    return word >> 8 == e->word >> 8 && (state == MOLT_CLAIMED || state == MOLT_ABANDONED || state == MOLT_KILLING);
}

/* Wait for the next request and claim it. Spins at most `spin_ns`, if fewer than `spinners` executors do. */
static inline int molt_next_request(molt_arena *a, molt_executor *e, uint64_t spin_ns, uint32_t spinners) {
    molt_slot *slot = &a->slots[e->slot];
    uint64_t start_ns = 0, spin_until_ns = 0;
    for (;;) {
        uint64_t seen = atomic_load(&a->header->published);
        if (atomic_load(&slot->retire))
            return MOLT_NEXT_RETIRE;
        if (molt_claim(a, e)) {
            MOLT_FAILPOINT(executor.claimed);
            atomic_store(&slot->state, MOLT_SLOT_BUSY);
            if (start_ns)
                molt_learn(&e->patience, molt_now_ns() - start_ns);
            else
                molt_learn(&e->patience, 0);
            return MOLT_NEXT_REQUEST;
        }
        if (atomic_load(&slot->state) != MOLT_SLOT_IDLE)
            atomic_store(&slot->state, MOLT_SLOT_IDLE); /* its last request was taken away from it */
        uint64_t now_ns = molt_now_ns();
        if (!start_ns) {
            start_ns = now_ns;
            if (molt_worth_spinning(&e->patience, spin_ns) && !molt_contended(a, now_ns) &&
                molt_spinning(a->executor_spins, a->geometry.slots) < spinners)
                spin_until_ns = now_ns + spin_ns;
        }
        if (now_ns < spin_until_ns) {
            atomic_store_explicit(&a->executor_spins[e->slot], 1, memory_order_relaxed);
            int changed = molt_spin(&e->patience, &a->header->published, seen, spin_until_ns);
            atomic_store_explicit(&a->executor_spins[e->slot], 0, memory_order_relaxed);
            if (changed)
                continue;
            spin_until_ns = 0;
        }
        if (molt_park(&slot->doorbell, &a->header->published, seen, now_ns + MOLT_PARK_NS) == MOLT_INTERRUPTED)
            return MOLT_NEXT_SIGNAL;
    }
}

enum molt_transfer {
    MOLT_TRANSFERRED = 0,
    MOLT_TRANSFER_SIGNAL = 1,
    MOLT_TRANSFER_LOST = 2,    /* the request is no longer this executor's to answer */
    MOLT_TRANSFER_STALLED = 3, /* the client has not moved for MOLT_STALL_NS */
    MOLT_TRANSFER_CORRUPT = 4
};

/* A client that is alive moves bytes within milliseconds; one that was stopped must not hold an executor. */
#ifndef MOLT_STALL_NS
#define MOLT_STALL_NS 5000000000u
#endif

/* Whether n bytes can be moved without waiting for the client. */
static inline int molt_fits(const molt_arena *a, const molt_executor *e, int out_of_request, uint64_t n) {
    molt_channel *ch = molt_channel_at(a, e->channel);
    if (out_of_request)
        return atomic_load_explicit(&ch->request.head, memory_order_acquire) - e->taken >= n;
    return n <= a->geometry.ring_bytes - (e->sent - atomic_load_explicit(&ch->reply.tail, memory_order_acquire));
}

/* Move n bytes out of the request (`to`) or into the reply (`from`), waiting for the client where the ring is empty or full.
 * *done counts them over repeated calls, after a signal. */
static inline int molt_transfer(molt_arena *a, molt_executor *e, uint8_t *to, const uint8_t *from, uint64_t n,
                                uint64_t *done, uint64_t spin_ns) {
    molt_channel *ch = molt_channel_at(a, e->channel);
    molt_slot *slot = &a->slots[e->slot];
    uint64_t capacity = a->geometry.ring_bytes, moved_ns = 0;
    int may_spin = molt_may_spin(&e->transfer_patience, spin_ns) && !molt_contended(a, molt_now_ns());
    for (;;) {
        uint64_t seen = atomic_load(&slot->doorbell.count);
        int64_t moved = to ? molt_ring_read(&ch->request, molt_request_data(a, e->channel), capacity, &e->taken,
                                            to + *done, n - *done)
                           : molt_ring_write(&ch->reply, molt_reply_data(a, e->channel), capacity, &e->sent,
                                             from + *done, n - *done);
        if (moved < 0)
            return MOLT_TRANSFER_CORRUPT;
        *done += (uint64_t)moved;
        if (*done == n && !moved_ns)
            return MOLT_TRANSFERRED; /* it all fitted: the client doesn't wait for room */
        if (to)
            MOLT_FAILPOINT(executor.mid_request);
        else
            MOLT_FAILPOINT(executor.mid_reply);
        if (molt_look(a, e->channel) != e->word)
            return MOLT_TRANSFER_LOST;
        uint64_t now_ns = molt_now_ns();
        if (moved || !moved_ns) {
            moved_ns = now_ns;
            molt_ring_client(a, e->channel);
            if (*done == n)
                return MOLT_TRANSFERRED;
        } else if (now_ns - moved_ns > MOLT_STALL_NS) {
            return MOLT_TRANSFER_STALLED;
        }
        if (may_spin && now_ns - moved_ns < spin_ns) {
            if (!molt_spin(&e->transfer_patience, &slot->doorbell.count, seen, moved_ns + spin_ns))
                may_spin &= !e->transfer_patience.hogged;
            continue;
        }
        if (molt_park(&slot->doorbell, &slot->doorbell.count, seen, now_ns + MOLT_PARK_NS) == MOLT_INTERRUPTED)
            return MOLT_TRANSFER_SIGNAL;
    }
}

/* End the request: CLAIMED -> DONE, or FAILED with a reason. Returns 1, or 0: it was not this executor's to answer any more
 * (ABANDONED, which it ends; KILLING; or ended before). The slot counts as idle before: whoever sees the outcome sees that
 * too. */
static inline int molt_finish(molt_arena *a, molt_executor *e, uint32_t state, uint64_t reason) {
    if (!molt_holds(e, molt_look(a, e->channel))) {
        molt_tell_claim(e, 0);
        return 0; /* the channel may be in use again */
    }
    atomic_store(&a->slots[e->slot].state, MOLT_SLOT_IDLE);
    if (state == MOLT_FAILED)
        atomic_store_explicit(&a->failure[e->channel], reason, memory_order_relaxed);
    MOLT_FAILPOINT(executor.replied);
    int answered = molt_step(a, e->channel, e->word, MOLT_WITH_STATE(e->word, state));
    if (answered) {
        MOLT_FAILPOINT(executor.done);
        molt_ring_client(a, e->channel);
    } else if (!molt_step(a, e->channel, MOLT_WITH_STATE(e->word, MOLT_ABANDONED),
                          MOLT_IDLE_WORD(MOLT_GENERATION(e->word)))) {
        atomic_store(&a->slots[e->slot].state, MOLT_SLOT_BUSY); /* it is about to be killed */
        return 0;
    }
    molt_tell_claim(e, 0);
    return answered;
}

/* The bucket of a histogram that a value counts in: four to each power of two. */
static inline uint32_t molt_bucket(uint64_t value) {
    if (value < 4)
        return (uint32_t)value;
    uint32_t power = 63u - (uint32_t)__builtin_clzll(value), bucket = 4 * (power - 1) + ((value >> (power - 2)) & 3);
    return bucket < MOLT_BUCKETS ? bucket : MOLT_BUCKETS - 1;
}

#endif
