# Made by generate.py from molt_accel/ipc/fields.py: change the table, not this.

cdef extern from "frame_fields.h" nogil:
    ctypedef struct molt_frame:
        uint8_t version
        uint8_t kind
        uint8_t codec
        uint8_t status
        uint16_t entry_bytes
        uint16_t flags
        uint64_t request_id
        uint32_t generation
        uint32_t payload_bytes
        uint64_t deadline_ns
        uint64_t sent_ns
        uint32_t max_wait_ms
        uint32_t queue_depth
        uint32_t in_flight
        uint32_t queue_us
        uint32_t decode_us
        uint32_t handler_us
        uint32_t encode_us
        uint32_t exec_us
        uint32_t executor
        uint32_t reserved


cdef int fill_request(molt_frame *h, object message) except -1:
    h.codec = message.codec
    h.request_id = message.request_id
    h.generation = message.generation
    h.deadline_ns = message.deadline_ns
    h.sent_ns = message.sent_ns
    h.max_wait_ms = message.max_wait_ms
    h.queue_depth = message.queue_depth
    h.in_flight = message.in_flight
    return 0


cdef int fill_response(molt_frame *h, object message) except -1:
    h.codec = message.codec
    h.status = message.status
    h.flags = message.flags
    h.request_id = message.request_id
    h.generation = message.generation
    h.queue_depth = message.queue_depth
    h.in_flight = message.in_flight
    h.queue_us = message.queue_us
    h.decode_us = message.decode_us
    h.handler_us = message.handler_us
    h.encode_us = message.encode_us
    h.exec_us = message.exec_us
    h.executor = message.executor
    return 0


cdef object frame_of(const molt_frame *h, kind, entry, payload, codec, status):
    return _Frame(
        kind, h.request_id, entry, payload, codec, status, h.flags, h.generation, h.deadline_ns, h.sent_ns,
        h.max_wait_ms, h.queue_depth, h.in_flight, h.queue_us, h.decode_us, h.handler_us, h.encode_us,
        h.exec_us, h.executor
    )
