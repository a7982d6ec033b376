# The usual course of a call: it has a channel, is waited for, and has a response. transports/shm adds all that is unusual.

cdef class FreeChannels:
    """Which channels of a client are free. A call takes no lock here, only one step on a list.

    It gets the channel that was used last, whose memory is warm.
    """

    cdef Arena arena
    cdef public list free, lingering
    cdef public int64_t usable  # granted, and not set aside
    cdef public bint is_shut
    #: The connection takes no more calls. It is told when one ends, because it goes after the last.
    cdef public bint tells_of_ends

    def __cinit__(self, Arena arena not None, max_frame_bytes):
        self.arena = arena
        self.free, self.lingering = [], []

    def lease(self):
        """Return a free channel; None if there is none, or this client has as many in use as it may."""
        return self.next_free()

    cdef Channel next_free(self):
        if self.lingering:
            (<object>self).look_again()
        if self.usable - len(self.free) >= <int64_t>atomic_load(self.arena.word_of(_client_limit)):
            return None
        return self.free.pop() if self.free else None

    def begin(self, type kind not None, connection, request not None, uint32_t capacity, uint32_t waiting):
        """Lease a channel, and publish a request on it.

        Args:
            kind: The class of the call, a `ChannelCall`.
            connection: What the channels belong to.
            request, capacity, waiting: See `Channel.publish`.

        Returns the call if it was admitted, with its channel. Otherwise the verdict and the call; None: no channel is free.
        """
        cdef Channel channel = self.next_free()
        cdef ChannelCall call
        cdef int verdict
        if channel is None:
            return None
        try:
            call = <ChannelCall?>kind.__new__(kind)
            verdict = channel.publish(request, capacity, waiting)
        except BaseException:
            self.take_back(channel)
            raise
        call.hold(self, connection, channel, request)
        return call if verdict == ADMITTED else (verdict, call)

    def give_back(self, Channel channel not None):
        """Take back the channel of a call that has ended. It is free now or later."""
        self.take_back(channel)

    cdef int take_back(self, Channel channel) except -1:
        cdef bint clear = channel.clear()
        if self.is_shut:  # from now on the worker may grant the channel to another client
            (<object>self).count_out()
        elif clear:
            self.free.append(channel)
        else:
            self.lingering.append(channel)
        return 0


cdef class ChannelCall:
    """A call that holds a channel. `FreeChannels.begin` makes it."""

    cdef FreeChannels channels
    cdef readonly Channel channel
    cdef readonly object connection, entry
    cdef public object callback
    cdef public bint lost
    #: A thread or an event loop waits for the call, and will give the channel back.
    cdef public bint waited_for
    #: If an event loop waits: its `LoopCalls`, and what is done at the end or at `until_ns`.
    cdef public object loop_calls, ended
    cdef public uint64_t until_ns
    cdef bint holds
    #: Which of the channel's requests this is. The channel gets another one once this call has given it back.
    cdef readonly uint32_t published
    cdef readonly uint64_t request_id, deadline_ns
    #: When a queued call must be looked at: at its deadline, or at the end of its wait for a place.
    cdef public uint64_t look_ns
    # Its outcome: another object, or, if it is `answered`, a response. That is made when somebody asks for it.
    cdef object other
    cdef bint answered
    cdef molt_frame head
    cdef bytes payload

    cdef void hold(self, FreeChannels channels, connection, Channel channel, request):
        self.channels, self.connection, self.channel = channels, connection, channel
        self.entry = read(request, places_of_request(request).entry, "entry")
        self.published = MOLT_GENERATION(channel.c.word)
        self.request_id = channel.out.header.request_id
        self.look_ns = self.deadline_ns = channel.out.header.deadline_ns or MOLT_NEVER
        self.until_ns = MOLT_NEVER
        self.holds = True

    cdef inline bint has_ended(self):
        return self.answered or self.lost or self.other is not None

    @property
    def done(self):
        """See `PendingCall`."""
        return self.has_ended()

    @property
    def result(self):
        """See `PendingCall`."""
        if self.answered and self.other is None:
            self.other = response_of(
                &self.head, _statuses[self.head.status], self.payload, _codecs[self.head.codec]
            )
        return self.other

    @result.setter
    def result(self, outcome):
        self.other, self.answered = outcome, False

    @property
    def success(self):
        """See `PendingCall`."""
        if self.answered and self.head.status == MOLT_STATUS_OK:
            return _codecs[self.head.codec], self.payload
        return None

    def wait(self, timeout_s):
        """See `PendingCall`."""
        if timeout_s is None:
            return self.wait_until(0)
        return self.wait_until(molt_now_ns() + <uint64_t>(min(max(<double>timeout_s, 0.0), 1e9) * 1e9))

    def wait_until(self, uint64_t until_ns):
        """See `PendingCall`."""
        self.waited_for = True  # before it looks: `abandon` gives the channel back if nobody waits
        try:
            if not self.has_ended():
                self.move_on(until_ns or MOLT_NEVER)
        finally:
            self.waited_for = False
        if not self.has_ended():
            return False
        self.let_go()
        return True

    def advance(self, uint64_t until_ns):
        """Wait until the call ends, at most until `until_ns` (0: don't wait)."""
        self.move_on(until_ns)

    cdef int move_on(self, uint64_t until_ns) except -1:
        cdef Channel channel = self.channel
        cdef int code
        try:
            code = channel.wait(min(until_ns, self.look_ns))
            if code == MOLT_AWAIT_OUTCOME:
                got = channel.take_payload()
                if type(got) is not bytes:
                    (<object>self).take_other(got)
                elif channel.head.header.request_id != self.request_id:
                    (<object>self).take_other(_response_of(&channel.head, got))
                else:
                    self.head, self.payload = channel.head.header, got
                    self.answered = True
                return 0
        except Corrupt as exc:
            (<object>self).distrust(exc)
            return 0
        (<object>self).go_on(code, until_ns)
        return 0

    def release(self):
        """Give the channel back, once."""
        self.let_go()

    cdef int let_go(self) except -1:
        cdef bint holds = self.holds
        self.holds = False
        if holds:
            self.channels.take_back(self.channel)
            if self.channels.tells_of_ends:
                self.connection.call_ended()
        return 0

    cpdef bint glance(self) except -1:
        """Look for an outcome that is usually there within microseconds, and take it. Returns whether the call has ended."""
        cdef Channel channel = self.channel
        if molt_glance(&channel.arena.a, &channel.c, channel.arena.spin_ns, MOLT_LOOP_GLANCE_NS):
            self.move_on(0)
        return self.has_ended()

    cdef bint is_due(self, uint64_t now_ns):
        cdef Channel channel = self.channel
        cdef molt_arena *a = &channel.arena.a
        cdef uint64_t word = molt_look(a, channel.index)
        if (
            not molt_is_of(&channel.c, word) or molt_is_over(word) or now_ns >= self.look_ns or now_ns >= self.until_ns
            or self.has_ended() or molt_flows(a, &channel.c, word)
        ):
            return True
        molt_insist(a, &channel.c, now_ns)
        return False


def due_calls(calls not None, Arena arena not None, uint64_t now_ns):
    """Which of these calls are to be looked at: they seem to have ended, have bytes to move, or their time has come.

    All of them, if the connection has ended. For others that have been queued for long, another executor is woken.
    """
    if flag_is_set(&arena.closed):
        return list(calls)
    return [call for call in calls if (<ChannelCall?>call).is_due(now_ns)]


def next_time_ns(calls not None):
    """When the first of these calls is to be looked at, whatever happens; NEVER: at no time."""
    cdef uint64_t first_ns = MOLT_NEVER
    for call in calls:
        first_ns = min(first_ns, (<ChannelCall?>call).look_ns, (<ChannelCall?>call).until_ns)
    return first_ns
