/* Made by generate.py from molt_accel/ipc/fields.py: change the table, not this. */
#ifndef MOLT_FRAME_FIELDS_H
#define MOLT_FRAME_FIELDS_H

#include <stdint.h>

typedef struct __attribute__((packed)) {
    uint8_t version;
    uint8_t kind;
    uint8_t codec;
    uint8_t status;
    uint16_t entry_bytes;
    uint16_t flags;
    uint64_t request_id;
    uint32_t generation;
    uint32_t payload_bytes;
    uint64_t deadline_ns;
    uint64_t sent_ns;
    uint32_t max_wait_ms;
    uint32_t queue_depth;
    uint32_t in_flight;
    uint32_t queue_us;
    uint32_t decode_us;
    uint32_t handler_us;
    uint32_t encode_us;
    uint32_t exec_us;
    uint32_t executor;
    uint32_t reserved;
} molt_frame;

#endif
