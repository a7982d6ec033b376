/* What the fuzz targets share: reading an input, and memory that may not be touched. */
#ifndef MOLT_FUZZING_H
#define MOLT_FUZZING_H

#include "testing.h"

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define MOLT_HAS_ASAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(MOLT_HAS_ASAN)
#include <sanitizer/asan_interface.h>
#define FORBID(at, n) ASAN_POISON_MEMORY_REGION(at, n)
#define ALLOW(at, n) ASAN_UNPOISON_MEMORY_REGION(at, n)
#else
#define FORBID(at, n) ((void)(at), (void)(n))
#define ALLOW(at, n) ((void)(at), (void)(n))
#endif

/* Called by libFuzzer, or by replay.c, for each input. It aborts where something is not as it should be. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    const uint8_t *at, *end;
} molt_input;

static inline int more(const molt_input *in) { return in->at < in->end; }

/* The next bytes as a number; 0s behind the end. */
static inline uint64_t number(molt_input *in, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes && more(in); i++)
        value |= (uint64_t)*in->at++ << 8 * i;
    return value;
}

/* A number that is near a power of two, or anything: what bounds are missed by. */
static inline uint64_t odd_number(molt_input *in) {
    uint8_t how = (uint8_t)number(in, 1);
    if (how < 64)
        return ((uint64_t)1 << how) + (uint64_t)(int64_t)(int8_t)number(in, 1);
    if (how < 128)
        return (uint64_t)(int64_t)(int8_t)number(in, 1);
    return number(in, how < 192 ? 4 : 8);
}

#endif
