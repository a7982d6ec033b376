/* A ring against a plain model: any writes and reads, and a peer that scribbles over its word between them.
 *
 * As long as nobody scribbles, what is read is what was written, and as much as fits. Whatever stands in the words, no more
 * than the capacity is moved, nothing outside is touched, and the own count says what was moved. */
#include "fuzzing.h"

#define MOST 256u
#define STREAM 65536u

static _Alignas(64) uint8_t memory[3 * MOST]; /* the middle is the ring's */
static uint8_t stream[STREAM];               /* what is written, byte for byte */
static uint8_t copied[STREAM];

static void check_move(int64_t moved, uint64_t wanted, uint64_t capacity, uint64_t before, uint64_t after,
                       uint64_t between) {
    if (between > capacity) {
        CHECK(moved == MOLT_CORRUPT && after == before);
        return;
    }
    CHECK(moved >= 0 && (uint64_t)moved <= wanted && (uint64_t)moved <= capacity);
    CHECK(after - before == (uint64_t)moved);
}

int LLVMFuzzerTestOneInput(const uint8_t *input_bytes, size_t size) {
    static int ready;
    if (!ready) {
        uint64_t seed = 910;
        for (unsigned i = 0; i < STREAM; i++)
            stream[i] = (uint8_t)chance(&seed, 256);
        ready = 1;
    }
    molt_input in = {input_bytes, input_bytes + size};
    uint64_t capacity = (uint64_t)8 << number(&in, 1) % 6;
    uint64_t head = odd_number(&in), tail = head; /* a request's begin at 0; they may as well overflow */
    uint8_t *data = memory + MOST;
    molt_ring ring;
    atomic_store(&ring.head, head);
    atomic_store(&ring.tail, tail);
    FORBID(memory, MOST);
    FORBID(data + capacity, 2 * MOST - capacity);
    uint64_t written = 0, read = 0;
    int honest = 1;
    while (more(&in)) {
        uint8_t what = (uint8_t)number(&in, 1);
        uint64_t n = what & 0x10 ? odd_number(&in) : number(&in, 1);
        switch (what % 4) {
        case 0: {
            n = molt_earlier(n, STREAM - written);
            uint64_t before = head, seen = atomic_load(&ring.tail), used = head - seen;
            int64_t moved = molt_ring_write(&ring, data, capacity, &head, stream + written, n);
            check_move(moved, n, capacity, before, head, used);
            if (moved > 0)
                CHECK(atomic_load(&ring.head) == head);
            for (int64_t i = 0; i < moved; i++)
                CHECK(data[(before + (uint64_t)i) % capacity] == stream[written + (uint64_t)i]);
            if (honest)
                CHECK((uint64_t)moved == molt_earlier(n, capacity - (written - read)));
            written += moved > 0 ? (uint64_t)moved : 0;
            break;
        }
        case 1: {
            n = molt_earlier(n, STREAM - 1);
            uint64_t before = tail, there = atomic_load(&ring.head) - tail;
            copied[n] = 0xa5;
            FORBID(copied + n, STREAM - n < 64 ? STREAM - n : 64);
            int64_t moved = molt_ring_read(&ring, data, capacity, &tail, copied, n);
            ALLOW(copied + n, STREAM - n < 64 ? STREAM - n : 64);
            CHECK(copied[n] == 0xa5);
            check_move(moved, n, capacity, before, tail, there);
            if (moved > 0)
                CHECK(atomic_load(&ring.tail) == tail);
            if (honest) {
                CHECK((uint64_t)moved == molt_earlier(n, written - read));
                CHECK(memcmp(copied, stream + read, (size_t)moved) == 0);
                read += (uint64_t)moved;
            }
            break;
        }
        case 2: /* the peer: anything, or near to what was right */
            honest = 0;
            atomic_store(what & 4 ? &ring.head : &ring.tail, what & 8 ? n : (what & 4 ? head : tail) + n);
            break;
        default: /* the next request */
            atomic_store(&ring.head, head = 0);
            atomic_store(&ring.tail, tail = 0);
            honest = 1;
            read = written;
            break;
        }
    }
    ALLOW(memory, sizeof memory);
    return 0;
}
