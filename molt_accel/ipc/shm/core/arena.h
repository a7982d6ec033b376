/* The arena: what the shared memory consists of, and where everything is in it. */
#pragma once

#include "bell.h"
#include "doorbell.h"
#include "processors.h"
#include "ring.h"

/* State word: state (bits 0-7), executor's slot (8-23), its epoch (24-31), generation (32-63). */
enum molt_state { MOLT_IDLE, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING };

#define MOLT_STATE(word) ((uint32_t)((word) & 0xff))
#define MOLT_SLOT(word) ((uint32_t)(((word) >> 8) & 0xffff))
#define MOLT_GENERATION(word) ((uint32_t)((word) >> 32))
/* Whether an executor has the request of a state word. */
#define MOLT_IS_CLAIMED(state) ((state) == MOLT_CLAIMED || (state) == MOLT_ABANDONED || (state) == MOLT_KILLING)
#define MOLT_WITH_STATE(word, state) (((word) & ~(uint64_t)0xff) | (uint64_t)(state))
#define MOLT_IDLE_WORD(generation) ((uint64_t)(generation) << 32 | MOLT_IDLE)

/* What names a request, a stop word's and a claim's: unique among all that an executor can have. */
static inline uint64_t molt_serial(uint32_t channel, uint64_t word) {
    return (uint64_t)channel << 32 | MOLT_GENERATION(word);
}

#define MOLT_PAGE 4096u
#define MOLT_MAGIC 0x31616e6572416c4dULL
#define MOLT_ARENA_VERSION 3u
#define MOLT_MAX_CHANNELS 4096u
#define MOLT_MAX_SLOTS 4096u
#define MOLT_GAUGES 64
#define MOLT_SLOT_GAUGES 32
#define MOLT_BUCKETS 128
#define MOLT_ENTRIES 1024u /* a power of two */
#define MOLT_ENTRY_NAME 56

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
    _Alignas(MOLT_CACHE_LINE) molt_crowd crowd;    /* who else wants the processors */
    _Alignas(MOLT_CACHE_LINE) molt_word in_use;    /* channels from this index on were never granted */
    molt_word gauges[MOLT_GAUGES];                   /* named in layout.py */
    molt_bell bells[MOLT_BELLS];
} molt_header;

/* What the pool knows of an entrypoint. The supervisor writes the first three, executors the next four, clients the
 * others. */
typedef struct {
    _Alignas(MOLT_CACHE_LINE) molt_word id;   /* of its name, see molt_entry_id; 0: the row is free */
    molt_word delay_ns;                       /* its class, as overload/priority.py has it */
    molt_word limit;                          /* how many of its requests may run at once; 0: any number */
    molt_word mean_ns, deviation_ns, samples; /* of overload/estimate.py */
    molt_word learnt_ns;                      /* when one of its requests ended last */
    molt_word standing;                       /* of overload/admission.py */
    molt_word refused;                        /* requests */
    char name[MOLT_ENTRY_NAME];               /* for observers: what fits of it, and zeros */
} molt_entry;

enum molt_slot_state { MOLT_SLOT_FREE = 0, MOLT_SLOT_BUSY = 1, MOLT_SLOT_IDLE = 2 };

/* An executor's place: what it tells of itself, and is told. */
typedef struct {
    molt_doorbell doorbell;
    _Alignas(MOLT_CACHE_LINE) molt_word state; /* enum molt_slot_state */
    molt_word retire;                          /* 1: exit as soon as there is no request */
    molt_word runs_at;                         /* on which processor; see molt_processor */
    molt_word holds;                           /* the entrypoint with a limit that it runs or is about to; see molt_enter */
    _Alignas(MOLT_CACHE_LINE) molt_word gauges[MOLT_SLOT_GAUGES]; /* named in layout.py */
    molt_word queue_us[MOLT_BUCKETS], exec_us[MOLT_BUCKETS];    /* how often; see molt_bucket */
} molt_slot;

typedef struct {
    molt_doorbell doorbell;
    molt_word doorbell_of;  /* the channel whose doorbell its client listens to, usually itself; or MOLT_A_BELL and a bell */
    molt_word published_at; /* on which processor; see molt_processor */
    molt_ring request, reply;
} molt_channel;

#define MOLT_A_BELL (1ull << 32)

typedef struct {
    molt_geometry geometry;
    uint8_t *base;
    molt_header *header;
    molt_word *words, *ticket_of, *failure;   /* by channel */
    molt_word *entry_of, *turn_of, *began_ns; /* by channel: whose request, when it is its turn, when it was begun */
    molt_flag *client_awake;   /* by channel: its client stays awake for an outcome */
    molt_flag *executor_awake; /* by slot: its executor will look for a request soon, without being woken */
    molt_word *marks; /* a bit for each channel, see marks.h */
    molt_slot *slots;
    molt_entry *entries; /* a hash table of MOLT_ENTRIES */
    uint8_t *channels;
    uint64_t stride;
    const molt_bell_end *bells; /* the writing ends that this process has, by bell */
    uint32_t bell_count;
    int bells_lost; /* whether this process could not ring one */
} molt_arena;

static inline uint64_t molt_align(uint64_t n, uint64_t to) { return (n + to - 1) & ~(to - 1); }

/* Changes with whatever two builds could disagree about. */
static inline uint32_t molt_abi(void) {
    return (uint32_t)(sizeof(molt_header) * 1000003u ^ sizeof(molt_slot) * 10007u ^ sizeof(molt_channel) * 101u ^
                      sizeof(molt_entry) * 31u ^
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
    a->entry_of = (molt_word *)(base + at), at += array;
    a->turn_of = (molt_word *)(base + at), at += array;
    a->began_ns = (molt_word *)(base + at), at += array;
    a->client_awake = (molt_flag *)(base + at), at += molt_align(channels, MOLT_CACHE_LINE);
    a->executor_awake = (molt_flag *)(base + at), at += molt_align(slots, MOLT_CACHE_LINE);
    a->marks = (molt_word *)(base + at), at += molt_align((channels + 63) / 64 * sizeof(molt_word), MOLT_CACHE_LINE);
    a->entries = (molt_entry *)(base + at), at += MOLT_ENTRIES * sizeof(molt_entry);
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

/* The bucket of a histogram that a value counts in: four to each power of two. */
static inline uint32_t molt_bucket(uint64_t value) {
    if (value < 4)
        return (uint32_t)value;
    uint32_t power = 63u - (uint32_t)__builtin_clzll(value), bucket = 4 * (power - 1) + ((value >> (power - 2)) & 3);
    return bucket < MOLT_BUCKETS ? bucket : MOLT_BUCKETS - 1;
}
