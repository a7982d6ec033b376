/* Made by generate.py from molt_accel/ipc/fields.py: change the table, not this. */
#pragma once

#include <stdint.h>

enum { MOLT_HEADER_BYTES = 80 };

typedef struct __attribute__((packed)) {
    uint8_t version, kind, codec, status;
    uint16_t entry_bytes, flags;
    uint64_t request_id;
    uint32_t generation, payload_bytes;
    uint64_t deadline_ns, sent_ns;
    uint32_t max_wait_ms, metadata_bytes, queue_depth, in_flight, queue_us, decode_us;
    uint32_t handler_us, encode_us, exec_us, executor;
} molt_frame;
