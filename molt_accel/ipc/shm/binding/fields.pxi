# Made by generate.py from molt_accel/ipc/fields.py: change the table, not this.

cdef extern from "frame_fields.h" nogil:
    ctypedef struct molt_frame:
        uint8_t version, kind, codec, status
        uint16_t entry_bytes, flags
        uint64_t request_id
        uint32_t generation, payload_bytes
        uint64_t deadline_ns, sent_ns
        uint32_t max_wait_ms, metadata_bytes, queue_depth, in_flight, queue_us, decode_us
        uint32_t handler_us, encode_us, exec_us, executor


# Where requests keep their fields; `request_nowhere` is for objects of other classes.
cdef struct request_places:
    Py_ssize_t entry, payload, codec, request_id, generation, deadline_ns, sent_ns
    Py_ssize_t max_wait_ms, metadata_bytes, queue_depth, in_flight


cdef request_places request_at, request_nowhere
request_at.entry = place_of(_Request, "entry")
request_at.payload = place_of(_Request, "payload")
request_at.codec = place_of(_Request, "codec")
request_at.request_id = place_of(_Request, "request_id")
request_at.generation = place_of(_Request, "generation")
request_at.deadline_ns = place_of(_Request, "deadline_ns")
request_at.sent_ns = place_of(_Request, "sent_ns")
request_at.max_wait_ms = place_of(_Request, "max_wait_ms")
request_at.metadata_bytes = place_of(_Request, "metadata_bytes")
request_at.queue_depth = place_of(_Request, "queue_depth")
request_at.in_flight = place_of(_Request, "in_flight")


cdef inline const request_places *places_of_request(object message):
    return &request_at if type(message) is _Request else &request_nowhere


cdef int fill_request(molt_frame *h, object message, const request_places *at) except -1:
    h.codec = read(message, at.codec, "codec")
    h.request_id = read(message, at.request_id, "request_id")
    h.generation = read(message, at.generation, "generation")
    h.deadline_ns = read(message, at.deadline_ns, "deadline_ns")
    h.sent_ns = read(message, at.sent_ns, "sent_ns")
    h.max_wait_ms = read(message, at.max_wait_ms, "max_wait_ms")
    h.metadata_bytes = read(message, at.metadata_bytes, "metadata_bytes")
    h.queue_depth = read(message, at.queue_depth, "queue_depth")
    h.in_flight = read(message, at.in_flight, "in_flight")


cdef object request_of(const molt_frame *h, entry, payload, codec):
    return _Request(
        h.request_id, entry, payload, codec, h.generation, h.deadline_ns, h.sent_ns, h.max_wait_ms,
        h.metadata_bytes, h.queue_depth, h.in_flight
    )


# Where responses keep their fields; `response_nowhere` is for objects of other classes.
cdef struct response_places:
    Py_ssize_t payload, codec, status, flags, request_id, generation, queue_depth, in_flight
    Py_ssize_t queue_us, decode_us, handler_us, encode_us, exec_us, executor


cdef response_places response_at, response_nowhere
response_at.payload = place_of(_Response, "payload")
response_at.codec = place_of(_Response, "codec")
response_at.status = place_of(_Response, "status")
response_at.flags = place_of(_Response, "flags")
response_at.request_id = place_of(_Response, "request_id")
response_at.generation = place_of(_Response, "generation")
response_at.queue_depth = place_of(_Response, "queue_depth")
response_at.in_flight = place_of(_Response, "in_flight")
response_at.queue_us = place_of(_Response, "queue_us")
response_at.decode_us = place_of(_Response, "decode_us")
response_at.handler_us = place_of(_Response, "handler_us")
response_at.encode_us = place_of(_Response, "encode_us")
response_at.exec_us = place_of(_Response, "exec_us")
response_at.executor = place_of(_Response, "executor")


cdef inline const response_places *places_of_response(object message):
    return &response_at if type(message) is _Response else &response_nowhere


cdef int fill_response(molt_frame *h, object message, const response_places *at) except -1:
    h.codec = read(message, at.codec, "codec")
    h.status = read(message, at.status, "status")
    h.flags = read(message, at.flags, "flags")
    h.request_id = read(message, at.request_id, "request_id")
    h.generation = read(message, at.generation, "generation")
    h.queue_depth = read(message, at.queue_depth, "queue_depth")
    h.in_flight = read(message, at.in_flight, "in_flight")
    h.queue_us = read(message, at.queue_us, "queue_us")
    h.decode_us = read(message, at.decode_us, "decode_us")
    h.handler_us = read(message, at.handler_us, "handler_us")
    h.encode_us = read(message, at.encode_us, "encode_us")
    h.exec_us = read(message, at.exec_us, "exec_us")
    h.executor = read(message, at.executor, "executor")


cdef object response_of(const molt_frame *h, status, payload, codec):
    return _Response(
        h.request_id, status, payload, codec, h.flags, h.generation, h.queue_depth, h.in_flight, h.queue_us,
        h.decode_us, h.handler_us, h.encode_us, h.exec_us, h.executor
    )
