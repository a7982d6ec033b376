/* An arena's geometry: whatever is asked for or stands in a header, it is refused, or every part has its own place in it. */
#include "fuzzing.h"

#define MEMORY (512u * 1024)

static _Alignas(4096) uint8_t memory[MEMORY + 4096];

typedef struct {
    uintptr_t from;
    uint64_t bytes;
} region;

/* Each begins where the one before it has ended, or later, and the last ends in time. In numbers: the larger ones fit in no
 * memory of this process. */
static void check_plan(const molt_arena *a, uint64_t size) {
    uint32_t channels = a->geometry.channels, slots = a->geometry.slots;
    uint64_t ring = a->geometry.ring_bytes;
    CHECK(channels && channels <= MOLT_MAX_CHANNELS && slots && slots <= MOLT_MAX_SLOTS);
    CHECK(ring >= MOLT_PAGE && ring <= 1u << 30 && (ring & (ring - 1)) == 0);
    CHECK(a->geometry.size == size && a->geometry.magic == MOLT_MAGIC && a->geometry.abi == molt_abi());
    uint32_t last = channels - 1;
    /* Not by molt_channel_at: what it does to a base that isn't there is undefined. */
    uintptr_t at = (uintptr_t)a->channels, end_of_last = at + last * a->stride;
    region parts[] = {
        {(uintptr_t)a->header, sizeof(molt_header)},
        {(uintptr_t)a->words, channels * sizeof(molt_word)},
        {(uintptr_t)a->ticket_of, channels * sizeof(molt_word)},
        {(uintptr_t)a->failure, channels * sizeof(molt_word)},
        {(uintptr_t)a->client_awake, channels},
        {(uintptr_t)a->executor_awake, slots},
        {(uintptr_t)a->marks, (channels + 63) / 64 * sizeof(molt_word)},
        {(uintptr_t)a->slots, slots * sizeof(molt_slot)},
        {end_of_last, sizeof(molt_channel) + 2 * ring},
    };
    uintptr_t from = (uintptr_t)a->base;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        CHECK(parts[i].from >= from);
        from = parts[i].from + parts[i].bytes;
        CHECK(from >= parts[i].from);
    }
    CHECK(from <= (uintptr_t)a->base + size);
    CHECK(a->stride >= sizeof(molt_channel) + 2 * ring && a->stride % MOLT_CACHE_LINE == 0);
    CHECK((uintptr_t)a->words % MOLT_CACHE_LINE == 0 && (uintptr_t)a->slots % MOLT_CACHE_LINE == 0);
    CHECK(at % MOLT_CACHE_LINE == 0);
}

/* Touch the first and last byte of every part, so that the sanitizer sees one that lies outside. */
static void touch(const molt_arena *a) {
    volatile uint64_t sum = molt_in_use(a) + molt_count_awake(a->client_awake, a->geometry.channels) +
                            molt_count_awake(a->executor_awake, a->geometry.slots) + molt_idle_executors(a) +
                            molt_ahead_of(a, 1) + molt_clients_awake(a);
    for (uint32_t i = 0; i < a->geometry.channels; i++) {
        sum += molt_look(a, i) + (uint64_t)molt_is_marked(a, i) + atomic_load(&a->ticket_of[i]) + atomic_load(&a->failure[i]);
        sum += atomic_load(&molt_channel_at(a, i)->doorbell.count) + atomic_load(&molt_channel_at(a, i)->reply.tail);
        sum += molt_request_data(a, i)[0] + molt_reply_data(a, i)[a->geometry.ring_bytes - 1];
        CHECK(molt_request_data(a, i) + a->geometry.ring_bytes == molt_reply_data(a, i));
    }
    for (uint32_t i = 0; i < a->geometry.slots; i++)
        sum += atomic_load(&a->slots[i].doorbell.count) + atomic_load(&a->slots[i].exec_us[MOLT_BUCKETS - 1]);
    (void)sum;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    molt_input in = {data, data + bytes};
    molt_geometry g = {.magic = MOLT_MAGIC, .version = MOLT_ARENA_VERSION, .abi = molt_abi()};
    uint8_t which = (uint8_t)number(&in, 1);
    g.channels = which & 1 ? (uint32_t)odd_number(&in) : 1 + (uint32_t)number(&in, 1) % 24;
    g.slots = which & 2 ? (uint32_t)odd_number(&in) : 1 + (uint32_t)number(&in, 1) % 24;
    g.ring_bytes = which & 4 ? odd_number(&in) : (uint64_t)MOLT_PAGE << number(&in, 1) % 3;

    molt_arena plan = {.base = NULL};
    uint64_t size = molt_arena_plan(&plan, g.channels, g.slots, g.ring_bytes);
    if (size)
        check_plan(&plan, size);

    /* The header says the size that is right for it, unless the input has another. */
    g.size = which & 8 ? odd_number(&in) : size;
    uint64_t mapped = which & 16 ? odd_number(&in) : g.size;
    molt_header *header = (molt_header *)memory;
    header->geometry = g;
    for (unsigned at; which & 32 && more(&in);) /* and any byte of it is damaged */
        at = (unsigned)number(&in, 1) % sizeof g, memory[at] ^= (uint8_t)number(&in, 1);
    molt_geometry found = header->geometry;
    atomic_store(&header->in_use, which & 64 ? odd_number(&in) : 0);
    uint64_t there = molt_earlier(mapped, MEMORY);
    FORBID(memory + there, 4096);
    molt_arena a = {.base = memory};
    const char *wrong = molt_arena_attach(&a, mapped);
    int is_right = found.magic == MOLT_MAGIC && found.version == MOLT_ARENA_VERSION && found.abi == molt_abi() &&
                   mapped && found.size == mapped &&
                   planned(found.channels, found.slots, found.ring_bytes) == mapped;
    CHECK((wrong == NULL) == is_right);
    if (!wrong) {
        check_plan(&a, mapped);
        if (mapped <= MEMORY)
            touch(&a);
    }
    ALLOW(memory, sizeof memory);

    uint64_t value = odd_number(&in);
    CHECK(molt_bucket(value) < MOLT_BUCKETS && molt_bucket(value) >= molt_bucket(value >> 1));
    return 0;
}
