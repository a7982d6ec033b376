/* What the steps of a call cost in an arena in which many channels were granted: the core's C alone, in one process.
 *
 *     steps publish|look|call CHANNELS CLIENTS ROUNDS
 *
 * publish: a client publishes a request, looks around, tells the executors, and gives the request up.
 * look: an executor looks for a request, and there is none.
 * call: a request is published, claimed, ended and its channel freed.
 *
 * CLIENTS of the channels, at equal distances, have had a request before; the first of them is the one that calls.
 * Writes the nanoseconds of one round to stdout: the median of BATCHES batches.
 */
#include "molt_core.h"

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

#define BATCHES 9
#define SLOTS 4
#define RING_BYTES 4096

static molt_arena arena;
static molt_executor executor;
static uint32_t generations[MOLT_MAX_CHANNELS];
static uint8_t payload[64];

/* As the binding does it. */
static void publish(molt_call *c) {
    c->part[0] = payload, c->left[0] = sizeof payload, c->left[1] = 0;
    c->turn = molt_fair_turn(&arena, generations, molt_now_ns(), 0, SLOTS);
    if (!molt_publish(&arena, c))
        abort();
    generations[c->channel] = MOLT_GENERATION(c->word);
    if (molt_look_around(&arena, c).ahead)
        abort();
    molt_announce(&arena, c);
    molt_rouse(&arena, c);
}

static void publish_and_give_up(molt_call *c) {
    publish(c);
    if (molt_give_up(&arena, c, 1) != MOLT_READY)
        abort();
}

static void look(molt_call *c) {
    (void)c;
    if (molt_claim(&arena, &executor))
        abort();
}

static void call(molt_call *c) {
    uint64_t word;
    publish(c);
    if (!molt_claim(&arena, &executor) || !molt_finish(&arena, &executor, MOLT_DONE, 0))
        abort();
    if (molt_outcome(&arena, c, &word) != MOLT_DONE || !molt_free(&arena, c->channel, word))
        abort();
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv) {
    if (argc != 5)
        return 2;
    const char *what = argv[1];
    void (*step)(molt_call *) = !strcmp(what, "publish") ? publish_and_give_up : !strcmp(what, "look") ? look : call;
    uint32_t channels = (uint32_t)strtoul(argv[2], NULL, 10), clients = (uint32_t)strtoul(argv[3], NULL, 10);
    uint64_t rounds = strtoull(argv[4], NULL, 10), size = molt_arena_plan(&arena, channels, SLOTS, RING_BYTES);
    if (!size || !clients || clients > channels || rounds < BATCHES)
        return 2;
    arena.base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (arena.base == MAP_FAILED || molt_arena_plan(&arena, channels, SLOTS, RING_BYTES) != size || molt_arena_create(&arena)) {
        perror("steps");
        return 1;
    }
    atomic_store(&arena.header->in_use, channels);
    for (uint32_t client = 0; client < clients; client++) {
        molt_call before = {.channel = (uint32_t)((uint64_t)client * channels / clients)};
        call(&before);
        if (client)
            generations[before.channel] = 0; /* another process's */
    }
    molt_call mine = {.channel = 0};
    double took[BATCHES];
    for (int batch = 0; batch < BATCHES; batch++) {
        uint64_t begun_ns = molt_now_ns();
        for (uint64_t i = 0; i < rounds / BATCHES; i++)
            step(&mine);
        took[batch] = (double)(molt_now_ns() - begun_ns) / (double)(rounds / BATCHES);
    }
    qsort(took, BATCHES, sizeof *took, by_size);
    return printf("%.1f\n", took[BATCHES / 2]) > 0 ? 0 : 1;
}
