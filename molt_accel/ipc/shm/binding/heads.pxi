# The head of a frame: made of a message, and made into one.

cdef uint64_t _begin_head(molt_head *head, bytes payload, int kind, Py_ssize_t entry_bytes) except 0:
    """Write the fields that the frame itself sets, and zeros. Returns the size of the frame in bytes."""
    cdef molt_frame *h = &head.header
    if payload is None:
        raise TypeError("a payload is bytes, and not None")
    cdef Py_ssize_t payload_bytes = PyBytes_GET_SIZE(payload)
    cdef uint64_t total = sizeof(molt_frame) + entry_bytes + payload_bytes
    memset(h, 0, sizeof(molt_frame))
    h.version = MOLT_FRAME_VERSION
    h.kind = kind
    h.entry_bytes = <uint16_t>entry_bytes
    h.payload_bytes = <uint32_t>payload_bytes
    head.size = <uint32_t>total
    return total


cdef int _fill_request(molt_head *head, object request, bytes payload, uint64_t max_bytes) except -1:
    """Write the head of a valid request. Returns 0 if it is not valid; frame.py then says what is wrong with it."""
    cdef const request_places *at = places_of_request(request)
    cdef Py_ssize_t entry_bytes
    cdef str entry = read(request, at.entry, "entry")
    cdef const char *text
    try:
        text = PyUnicode_AsUTF8AndSize(entry, &entry_bytes)
    except UnicodeEncodeError:
        return 0
    if not 0 < entry_bytes <= MOLT_ENTRY_BYTES:
        return 0
    if _begin_head(head, payload, MOLT_REQUEST, entry_bytes) > max_bytes:
        return 0
    fill_request(&head.header, request, at)
    memcpy(head.entry, text, entry_bytes)
    return 1


cdef str _entry_named(const molt_head *head, str last):
    """Return the entry that a head names: `last`, if it is that one. Raises UnicodeDecodeError."""
    cdef Py_ssize_t size = 0
    cdef const char *text = PyUnicode_AsUTF8AndSize(last, &size)
    if size == head.header.entry_bytes and not memcmp(text, head.entry, size):
        return last
    return PyUnicode_DecodeUTF8(<const char *>head.entry, head.header.entry_bytes, NULL)


cdef object _request_of(const molt_head *head, bytes payload, str last_entry):
    """Make a request of a head and its payload. Returns None if it is not valid; frame.py says what is wrong with it.

    `last_entry` is taken again if it fits: it has its hash, which is needed next.
    """
    cdef const molt_frame *h = &head.header
    codec = _codecs[h.codec]
    if h.version != MOLT_FRAME_VERSION or h.kind != MOLT_REQUEST or codec is None:
        return None
    if h.status or h.entry_bytes == 0 or h.flags:
        return None
    try:
        entry = _entry_named(head, last_entry)
    except UnicodeDecodeError:
        return None
    return request_of(h, entry, payload, codec)


cdef bint _is_response(const molt_head *head):
    """Whether a head is that of a valid response."""
    cdef const molt_frame *h = &head.header
    if h.version != MOLT_FRAME_VERSION or h.kind != MOLT_RESPONSE or h.entry_bytes or h.flags & ~MOLT_FLAG_COMPILED:
        return False
    return _codecs[h.codec] is not None and _statuses[h.status] is not None


cdef object _response_of(const molt_head *head, bytes payload):
    """Make a response of a valid head and its payload."""
    cdef const molt_frame *h = &head.header
    return response_of(h, _statuses[h.status], payload, _codecs[h.codec])


cdef bint _consistent(const molt_head *head):
    """Whether the sizes in a head agree, so that its payload can be read apart from it."""
    cdef const molt_frame *h = &head.header
    cdef uint64_t total = sizeof(molt_frame) + h.entry_bytes + <uint64_t>h.payload_bytes
    return h.entry_bytes <= MOLT_ENTRY_BYTES and head.size == total
