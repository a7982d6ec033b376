# Made by generate.py from molt_accel/ipc/fields.py: change the table, not this.

cdef extern from "frame_fields.h" nogil:
    ctypedef struct molt_frame:
        uint8_t version, kind, codec, status
        uint16_t entry_bytes, flags
        uint64_t request_id
        uint32_t generation, payload_bytes
        uint64_t deadline_ns, sent_ns
        uint32_t max_wait_ms, queue_depth, in_flight, queue_us, decode_us, handler_us, encode_us
        uint32_t exec_us, executor, reserved


cdef int fill_request(molt_frame *h, object message) except -1:
    h.codec = message.codec
    h.request_id = message.request_id
    h.generation = message.generation
    h.deadline_ns = message.deadline_ns
    h.sent_ns = message.sent_ns
    h.max_wait_ms = message.max_wait_ms
    h.queue_depth = message.queue_depth
    h.in_flight = message.in_flight


cdef object request_of(const molt_frame *h, entry, payload, codec):
    return _Request(
        h.request_id, entry, payload, codec, h.generation, h.deadline_ns, h.sent_ns, h.max_wait_ms,
        h.queue_depth, h.in_flight
    )


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


cdef object response_of(const molt_frame *h, status, payload, codec):
    return _Response(
        h.request_id, status, payload, codec, h.flags, h.generation, h.queue_depth, h.in_flight, h.queue_us,
        h.decode_us, h.handler_us, h.encode_us, h.exec_us, h.executor
    )
