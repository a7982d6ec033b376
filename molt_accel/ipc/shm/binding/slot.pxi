# The executor's side of a call: claim a request, read it, answer it.

cdef class Slot:
    """An executor's place in the arena: it claims requests, reads them and answers them.

    Args:
        claim: Eight bytes that no client can map, in which the supervisor sees what the executor has claimed.
    """

    cdef Arena arena
    cdef molt_executor e
    cdef molt_head head
    cdef Py_buffer claim
    #: That of the last request, as a rule also the next one's.
    cdef str entry
    #: What is unusual about the request that `take` returned last; see there.
    cdef readonly uint32_t remarks
    cdef bint told_of_bells

    def __cinit__(self, Arena arena not None, uint32_t slot, uint32_t epoch, claim=None):
        arena.slot(slot)
        self.arena = arena
        self.entry = ""
        memset(&self.e, 0, sizeof(molt_executor))
        self.e.slot = slot
        self.e.epoch = epoch
        if claim is not None:
            PyObject_GetBuffer(claim, &self.claim, PyBUF_SIMPLE | PyBUF_WRITABLE)
            if self.claim.len != sizeof(molt_word) or <size_t>self.claim.buf % sizeof(molt_word):
                raise ValueError("a claim is one aligned word")
            self.e.claim = <molt_word *>self.claim.buf

    def __dealloc__(self):
        PyBuffer_Release(&self.claim)  # does nothing if there is none

    def open(self):
        """From now on this executor counts as idle."""
        atomic_store(&self.arena.a.slots[self.e.slot].state, MOLT_SLOT_IDLE)

    @property
    def channel(self):
        """The channel claimed last."""
        return self.e.channel

    @property
    def serial(self):
        """The number by which a stop word names the claimed request; see layout.serial_of."""
        return molt_serial(self.e.channel, self.e.word)

    @property
    def queued(self):
        """How many requests were queued when this one was claimed, without it."""
        return self.e.queued

    @property
    def usual(self):
        """What requests of the claimed one's entrypoint take: mean and mean deviation, and when one ended last, in ns; zeros: not known."""
        cdef molt_entry *row = molt_find_entry(&self.arena.a, self.e.entry, 0)
        if row == NULL:
            return 0, 0, 0
        return atomic_load(&row.mean_ns), atomic_load(&row.deviation_ns), atomic_load(&row.learnt_ns)

    @property
    def word(self):
        """The state word of the claim."""
        return self.e.word

    cpdef int next(self) except -1:
        """Wait for a request and claim it. Returns REQUEST, or RETIRE if the executor is to exit.

        Raises what a signal handler raises.
        """
        cdef Arena arena = self.arena
        cdef int code
        while True:
            with nogil:
                code = molt_next_request(&arena.a, &self.e, arena.spin_ns, arena.executor_spinners)
            if code != MOLT_NEXT_SIGNAL:
                return code
            PyErr_CheckSignals()

    def take(self, uint64_t max_bytes, uint32_t gauge, uint32_t wake_gauge, bint begins):
        """Wait for a request, read it and begin it: `next`, `receive` and `begin` in one step.

        Args:
            max_bytes: See `receive`.
            gauge, wake_gauge: See `begin`.
            begins: False: the caller has something to do before, and begins it.

        Returns None if the executor is to exit; otherwise as `receive` does. `remarks` are 0 for most requests. REMARK_UNBEGUN:
        it was not begun, which is so for all that don't fit the ring. REMARK_WAKES: `begin` has returned True. REMARK_CROWDED:
        it has a deadline, and others were queued when it was claimed.

        Raises as `receive` does.
        """
        cdef molt_frame *h = &self.head.header
        self.remarks = 0
        if self.next() != MOLT_NEXT_REQUEST:
            return None
        got = self.receive(max_bytes)
        if type(got) is _Request:
            if h.deadline_ns and self.e.queued:
                self.remarks |= REMARK_CROWDED
            if not begins or sizeof(self.head.size) + sizeof(molt_frame) + h.payload_bytes > self.arena.ring_bytes:
                self.remarks |= REMARK_UNBEGUN
            elif self.begin(gauge, h.deadline_ns, wake_gauge):
                self.remarks |= REMARK_WAKES
        return got

    cdef int transfer(self, uint8_t *to, const uint8_t *source, uint64_t n) except -1:
        cdef uint64_t done = 0
        cdef int code
        cdef Arena arena = self.arena
        if n < _SMALL and molt_fits(&arena.a, &self.e, to != NULL, n):  # neither long nor waiting: keep the GIL
            return molt_transfer(&arena.a, &self.e, to, source, n, &done, arena.spin_ns)
        while True:
            with nogil:
                code = molt_transfer(&arena.a, &self.e, to, source, n, &done, arena.spin_ns)
            if code != MOLT_TRANSFER_SIGNAL:
                return code
            PyErr_CheckSignals()

    cpdef object receive(self, uint64_t max_bytes):
        """Read the claimed request.

        Returns:
            The `Request`. The bytes behind the length prefix if they are not valid; `frame.decode` says what is wrong
            with them. LOST or STALLED if they don't come.

        Raises Corrupt if the client can't have written this honestly, and what a signal handler raises.
        """
        cdef molt_head *head = &self.head
        cdef molt_frame *h = &head.header
        cdef bytes payload
        cdef int code = self.transfer(<uint8_t *>head, NULL, sizeof(head.size) + sizeof(molt_frame))
        if code == MOLT_TRANSFERRED:
            if head.size > max_bytes or not _consistent(head):
                raise Corrupt(f"a request of {head.size} bytes, {max_bytes} at most, of another size than it says")
            code = self.transfer(head.entry, NULL, h.entry_bytes)
        if code == MOLT_TRANSFERRED:
            payload = PyBytes_FromStringAndSize(NULL, h.payload_bytes)
            code = self.transfer(<uint8_t *>PyBytes_AS_STRING(payload), NULL, h.payload_bytes)
            if code == MOLT_TRANSFERRED:
                h.queue_depth, h.in_flight = self.e.queued, self.e.running
                request = _request_of(head, payload, self.entry)
                if request is None:
                    return (<const char *>h)[:sizeof(molt_frame) + h.entry_bytes] + payload
                self.entry = read(request, request_at.entry, "entry")
                return request
        if code == MOLT_TRANSFER_CORRUPT:
            raise Corrupt(f"the request ring of channel {self.e.channel}")
        return code

    def reply(self, response not None, uint64_t max_bytes, uint32_t gauge):
        """Count the request, write the response and end it.

        Args:
            response: Its payload is bytes.
            max_bytes: The largest frame, in bytes.
            gauge: The gauge of this slot that counts the request. It is raised before the reply is published: a client
                that has its answer must already see it counted.

        Returns:
            TRANSFERRED, or once BELLS_LOST: so it was, but this process has lost the descriptors by which it rings event
            loops. LOST or STALLED if it isn't taken; BAD_FRAME: nothing was done, and `frame.encode_head` says why.

        Raises as `receive` does.
        """
        cdef molt_slot *slot = &self.arena.a.slots[self.e.slot]
        cdef molt_word *counter = slot_word(slot, gauge)
        cdef const response_places *at = places_of_response(response)
        cdef bytes payload = read(response, at.payload, "payload")
        cdef molt_entry *row
        cdef int code
        if _begin_head(&self.head, payload, MOLT_RESPONSE, 0) > max_bytes:
            return BAD_FRAME
        fill_response(&self.head.header, response, at)
        if not molt_holds(&self.e, molt_look(&self.arena.a, self.e.channel)):
            return MOLT_TRANSFER_LOST  # it was taken away against the rules: the ring may be another request's
        atomic_fetch_add(counter, 1)
        atomic_fetch_add(&slot.queue_us[molt_bucket(self.head.header.queue_us)], 1)
        atomic_fetch_add(&slot.exec_us[molt_bucket(self.head.header.exec_us)], 1)
        row = molt_find_entry(&self.arena.a, self.e.entry, 0)
        if row != NULL:
            molt_learn_usual(
                row,
                <uint64_t>self.head.header.exec_us * 1000,
                self.head.header.status == MOLT_STATUS_TIMEOUT or self.head.header.status == MOLT_STATUS_CANCELLED,
            )
        code = self.transfer(NULL, <const uint8_t *>&self.head, molt_head_bytes(&self.head))
        if code == MOLT_TRANSFERRED:
            code = self.transfer(NULL, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if code == MOLT_TRANSFER_CORRUPT:
            raise Corrupt(f"the reply ring of channel {self.e.channel}")
        if code == MOLT_TRANSFERRED and not molt_finish(&self.arena.a, &self.e, MOLT_DONE, 0):
            return MOLT_TRANSFER_LOST
        if code == MOLT_TRANSFERRED and self.arena.a.bells_lost and not self.told_of_bells:
            self.told_of_bells = True
            return REPLY_BELLS_LOST
        return code

    def fail(self, uint64_t reason):
        """End the request without a reply. Returns False if this executor no longer holds it."""
        return bool(molt_finish(&self.arena.a, &self.e, MOLT_FAILED, reason))

    cpdef bint begin(self, uint32_t gauge, uint64_t deadline_ns, uint32_t wake_gauge) except -1:
        """Store what runs from now on in three gauges of this slot: serial, deadline (0: none), start.

        Returns True if the deadline comes before the time in the arena's gauge `wake_gauge`, at which the supervisor
        looks at deadlines next: then it has to be told. If it stores that time later, it finds these gauges by itself.
        """
        cdef molt_word *wake = self.arena.word_of(wake_gauge)
        molt_begin(&self.e, slot_word(&self.arena.a.slots[self.e.slot], gauge, 3), deadline_ns)
        return deadline_ns != 0 and deadline_ns < atomic_load(wake)
