/* Frames as they travel through a ring. Only plainly good ones are made and read here; molt_accel/ipc/frame.py says what the
 * fields mean, and what is wrong with a bad frame. */
#pragma once

#include "frame_fields.h"

enum { MOLT_FRAME_VERSION = 3, MOLT_REQUEST = 1, MOLT_RESPONSE = 2, MOLT_ENTRY_BYTES = 255, MOLT_FLAG_COMPILED = 1 };

/* Of errors.Status: the request was ended before its time. */
enum { MOLT_STATUS_OK = 1, MOLT_STATUS_TIMEOUT = 4, MOLT_STATUS_CANCELLED = 5 };

/* A frame before its payload. */
typedef struct __attribute__((packed)) {
    uint32_t size; /* of header, entry and payload */
    molt_frame header;
    uint8_t entry[MOLT_ENTRY_BYTES];
} molt_head;

_Static_assert(sizeof(molt_frame) == MOLT_HEADER_BYTES, "the header of frame.py");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "frames are little-endian, and so must this machine be");

static inline uint64_t molt_head_bytes(const molt_head *head) {
    return sizeof head->size + sizeof head->header + head->header.entry_bytes;
}
