# The client's side of a call: publish it, wait for its outcome, take its reply, give it up.

# The parts of a reply, in the order in which they are read.
cdef enum:
    STAGE_NONE, STAGE_HEADER, STAGE_ENTRY, STAGE_PAYLOAD


cdef class Channel:
    """A channel as its client holds it. Used by one thread at a time, but for `give_up`."""

    cdef Arena arena
    cdef molt_call c
    cdef molt_head out, head
    cdef bytes payload, reply
    cdef int stage  # which part of the reply is being read
    cdef uint64_t max_bytes
    cdef readonly uint32_t index

    def __cinit__(self, Arena arena not None, uint32_t index, uint64_t max_bytes):
        arena.channel(index)
        self.arena = arena
        self.index = index
        self.max_bytes = max_bytes
        memset(&self.c, 0, sizeof(molt_call))
        self.c.channel = index

    @property
    def generation(self):
        """The generation of the request published last."""
        return MOLT_GENERATION(self.c.word)

    cpdef int publish(self, request, uint32_t capacity, uint32_t waiting) except -1:
        """Offer a request to the executors: IDLE -> READY.

        Args:
            request: Its payload is bytes. `wait` sends on what of it doesn't fit the ring.
            capacity: Places in the queue.
            waiting: How many requests may wait for a place behind it.

        Returns:
            ADMITTED; WAITING: it is over the queue's capacity, and is claimed or given up like any other. UNDECIDED: it
            may have to wait; the caller decides, and then calls `announce` or `give_up`. Not published are BUSY, NOT_IDLE (the channel has a request), and BAD_FRAME (`frame.encode_head` says why).

        Raises TypeError or OverflowError if a field of the request has a wrong value.
        """
        cdef Arena arena = self.arena
        cdef molt_arena *a = &arena.a
        cdef molt_around around
        cdef const molt_entry *own
        cdef uint32_t over = 0
        cdef uint64_t now_ns, deadline_ns, left_ns = MAX_TURN
        if request is None:
            raise TypeError("a request, and not None")
        cdef bytes payload = read(request, places_of_request(request).payload, "payload")
        if not _fill_request(&self.out, request, payload, self.max_bytes):
            return BAD_FRAME
        self.payload, self.reply, self.stage = payload, None, STAGE_NONE
        self.c.part[0] = <const uint8_t *>&self.out
        self.c.left[0] = molt_head_bytes(&self.out)
        self.c.part[1] = <const uint8_t *>PyBytes_AS_STRING(self.payload)
        self.c.left[1] = PyBytes_GET_SIZE(self.payload)
        now_ns = molt_now_ns()
        deadline_ns = self.out.header.deadline_ns
        if deadline_ns:
            left_ns = deadline_ns - now_ns if deadline_ns > now_ns else 0
        self.c.entry = molt_entry_id(self.out.entry, self.out.header.entry_bytes)
        own = molt_find_entry(a, self.c.entry, 0)
        self.c.usual_ns = molt_usual_ns(own)
        self.c.turn = arena.fair_turn(now_ns)
        if not molt_publish(a, &self.c):
            return NOT_IDLE
        arena.generations[self.index] = MOLT_GENERATION(self.c.word)
        around = molt_look_around(a, &self.c)
        if around.ahead >= capacity:
            over = molt_excess(a, &self.c, capacity)
        if over > waiting and molt_give_up(a, &self.c, 1) == MOLT_READY:
            return BUSY
        if over == 0 and not molt_is_light(a, &around, own, left_ns, arena.target_ns):
            return UNDECIDED
        self.tell()
        return WAITING if over else ADMITTED

    cdef void tell(self):
        self.arena.last_turn = self.c.turn
        molt_announce(&self.arena.a, &self.c)

    def announce(self):
        """Tell the executors of the request that was published. If all sleep, one is woken once somebody waits for it."""
        self.tell()

    @property
    def turn(self):
        """When it is the turn of the request published last, but for the delay of its class."""
        return self.c.turn

    def excess(self, uint32_t capacity):
        """How many places the request stands behind the end of the queue; 0: it has a place, or was claimed."""
        if MOLT_STATE(molt_look(&self.arena.a, self.index)) != MOLT_READY:
            return 0
        return molt_excess(&self.arena.a, &self.c, capacity)

    cdef int next_buffer(self) except -1:
        """A part of the reply has been read: say where the next one goes. Returns 0 if there is no more."""
        cdef molt_head *head = &self.head
        if self.stage == STAGE_NONE:
            self.c.into = <uint8_t *>head
            self.c.wanted = sizeof(head.size) + sizeof(molt_frame)
        elif self.stage == STAGE_HEADER:
            if head.size > self.max_bytes or not _consistent(head):
                raise Corrupt("a reply of another size than it says")
            self.c.into = head.entry
            self.c.wanted = head.header.entry_bytes
        elif self.stage == STAGE_ENTRY:
            self.reply = PyBytes_FromStringAndSize(NULL, head.header.payload_bytes)
            self.c.into = <uint8_t *>PyBytes_AS_STRING(self.reply)
            self.c.wanted = head.header.payload_bytes
        else:
            return 0
        self.stage += 1
        return 1

    cpdef int wait(self, uint64_t until_ns) except -1:
        """Wait until the request has an outcome. Returns OUTCOME, or TIME or CLOSED if that comes first.

        Args:
            until_ns: Nanoseconds of CLOCK_MONOTONIC; 0: don't wait.

        Raises Corrupt if the arena can't be trusted, and what a signal handler raises.
        """
        cdef Arena arena = self.arena
        cdef int code
        cdef uint32_t quick = molt_is_quick(self.c.usual_ns, arena.spin_ns)
        cdef uint64_t word
        self.c.company = min(arena.waiting, _COMPANY)
        if until_ns:
            if molt_glance(&arena.a, &self.c, arena.spin_ns, MOLT_GLANCE_NS):
                return MOLT_AWAIT_OUTCOME
        else:
            word = molt_look(&arena.a, self.index)
            if molt_is_of(&self.c, word) and molt_is_over(word):  # a look doesn't let go of the GIL
                return MOLT_AWAIT_OUTCOME
        while True:
            arena.waiting += quick
            with nogil:
                code = molt_await(&arena.a, &self.c, until_ns, arena.spin_ns, arena.client_spinners, &arena.closed)
            arena.waiting -= quick
            if code == MOLT_AWAIT_SIGNAL:
                PyErr_CheckSignals()
            elif code == MOLT_AWAIT_BUFFER:
                if not self.next_buffer():
                    raise Corrupt("a longer reply than it says")
            elif code == MOLT_AWAIT_CORRUPT:
                raise Corrupt(f"channel {self.index} is in a state that can't be")
            else:
                if code == MOLT_AWAIT_TIME and until_ns:
                    PyErr_CheckSignals()
                return code

    def take(self):
        """Take the outcome and free the channel. Returns the response, or the failure word (an int).

        Returns None if there is no outcome, because the request was given up.

        Raises Corrupt if there is something else than a response.
        """
        got = self.take_payload()
        return _response_of(&self.head, got) if type(got) is bytes else got

    cdef object take_payload(self):
        """`take`, but of a response only the payload. Its head is `head`, until something else is taken."""
        cdef molt_arena *a = &self.arena.a
        cdef uint64_t word, reason
        cdef int outcome = molt_outcome(a, &self.c, &word)
        if outcome == MOLT_FAILED:
            reason = atomic_load(&a.failure[self.index])
            molt_free(a, self.index, word)
            return reason
        if outcome != MOLT_DONE:
            if outcome:
                raise Corrupt(f"channel {self.index} has another's generation")
            return None
        while True:
            if self.c.wanted and (molt_take_more(a, &self.c) < 0 or self.c.wanted):
                raise Corrupt("a shorter reply than it says")
            if not self.next_buffer():
                break
        payload, self.reply = self.reply, None
        if not _is_response(&self.head) or molt_reply_there(a, &self.c):
            raise Corrupt("a reply that is no response")
        if not molt_free(a, self.index, word):
            raise Corrupt(f"channel {self.index} was taken away")
        return payload

    def give_up(self, bint only_queued=False, uint32_t generation=0):
        """End the request from this side, on any thread.

        Args:
            only_queued: End it only if it is still queued.
            generation: Which request; 0: the one published last. A caller that doesn't hold the channel must say,
                since another request may have been published in the meantime.

        Returns the state it was in. READY: nobody will run it, and the channel is free. CLAIMED, KILLING: it is being
        stopped (CLAIMED not with `only_queued`), and the channel is free when `clear` says so. Any other: it has
        ended already.
        """
        if generation and generation != MOLT_GENERATION(self.c.word):
            return MOLT_IDLE
        return molt_give_up(&self.arena.a, &self.c, only_queued)

    cpdef bint clear(self) except -1:
        """After a call: let go of its bytes, and free the channel if possible. Returns True if it is IDLE now."""
        cdef uint64_t word = molt_look(&self.arena.a, self.index)
        self.c.left[0] = self.c.left[1] = self.c.wanted = 0
        self.payload, self.reply = None, None
        if MOLT_STATE(word) == MOLT_DONE or MOLT_STATE(word) == MOLT_FAILED:
            molt_free(&self.arena.a, self.index, word)
        return MOLT_STATE(molt_look(&self.arena.a, self.index)) == MOLT_IDLE

    def redirect(self, Channel doorbell not None):
        """Have another channel's doorbell rung for this one. The caller looks at this channel afterwards."""
        molt_redirect(&self.arena.a, &self.c, doorbell.index)

    def aim(self, uint32_t bell):
        """Have an event loop's bell rung for this channel. The caller looks at it afterwards; see `late` too."""
        molt_aim(&self.arena.a, &self.c, bell)

    @property
    def late(self):
        """Whether no sleeping executor was woken for the request, because one is awake that should see it by itself."""
        return self.c.deferred != 0

    def catch_up(self):
        """Wake an executor if the request is still queued."""
        molt_catch_up(&self.arena.a, &self.c)

    @property
    def flows(self):
        """Whether bytes have still to be moved on while the request is queued or runs."""
        return molt_flows(&self.arena.a, &self.c, molt_look(&self.arena.a, self.index))

    def ring(self):
        """Wake the thread that listens to this channel's doorbell."""
        molt_doorbell_ring(&molt_channel_at(&self.arena.a, self.index).doorbell)

    def listen(self, uint64_t seen, uint64_t until_ns):
        """Sleep until this channel's doorbell has rung more often than `seen`. Returns how often it has rung.

        Raises what a signal handler raises.
        """
        cdef molt_doorbell *doorbell = &molt_channel_at(&self.arena.a, self.index).doorbell
        with nogil:
            if atomic_load(&doorbell.count) == seen:
                molt_park(doorbell, &doorbell.count, seen, until_ns)
        PyErr_CheckSignals()
        return atomic_load(&doorbell.count)
