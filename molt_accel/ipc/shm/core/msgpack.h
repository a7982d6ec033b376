/* A look at msgpack's bytes, not at a peer's memory. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define MOLT_BLOCK 4096u /* bytes between two decisions: without any within, the compiler looks at many bytes at a time */

/* Whether a timestamp may begin somewhere in these bytes: an extension of 4, 8 or 12 bytes and of the type -1. Other bytes may
 * look like one. */
static inline int molt_has_timestamp(const uint8_t *data, size_t size) {
    uint8_t any = size > 1 && data[1] == 0xff && (data[0] | 1) == 0xd7;
    for (size_t from = 2; from < size && !any; from += MOLT_BLOCK) {
        size_t to = from + MOLT_BLOCK < size ? from + MOLT_BLOCK : size;
        for (size_t at = from; at < to; at++) {
            uint8_t is_short = (data[at - 1] | 1) == 0xd7, is_long = (data[at - 1] == 0x0c) & (data[at - 2] == 0xc7);
            any |= (data[at] == 0xff) & (is_short | is_long);
        }
    }
    return any;
}
