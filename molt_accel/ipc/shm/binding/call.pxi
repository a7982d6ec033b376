# The usual course of a call: it has a channel, is waited for, and has a response. transports/shm adds all that is unusual.

cdef class FreeChannels:
    """Which channels of a client are free. A call takes no lock here, only one step on a list.

    It gets the channel that was used last, whose memory is warm.
    """

    cdef Arena arena
    cdef public list free, lingering
    cdef public int64_t usable  # granted, and not set aside
    cdef public bint is_shut

    def __cinit__(self, Arena arena not None, max_frame_bytes):
        self.arena = arena
        self.free, self.lingering = [], []

    def lease(self):
        """Return a free channel; None if there is none, or this client has as many in use as it may."""
        if self.lingering:
            (<object>self).look_again()
        if self.usable - len(self.free) >= <int64_t>atomic_load(self.arena.word_of(_client_limit)):
            return None
        return self.free.pop() if self.free else None

    cpdef object give_back(self, Channel channel):
        """Take back the channel of a call that has ended. It is free now or later."""
        cdef bint clear = channel.clear()
        if self.is_shut:  # from now on the worker may grant the channel to another client
            (<object>self).count_out()
        elif clear:
            self.free.append(channel)
        else:
            self.lingering.append(channel)


cdef class ChannelCall:
    """A call that holds a channel.

    Args:
        connection: What the channel belongs to.
        channel: Its request was published.
        request: The request.
        place_ns: Until when it may wait for a place in the queue.
    """

    cdef readonly Channel channel
    cdef readonly object connection, request_id, entry
    cdef public object result, callback
    cdef public bint lost
    #: A thread or an event loop waits for the call, and will give the channel back.
    cdef public bint waited_for
    #: If an event loop waits: its `LoopCalls`, and what is done at the end or at `until_ns`.
    cdef public object loop_calls, ended
    cdef public uint64_t until_ns
    #: Which of the channel's requests this is. The channel gets another one once this call has given it back.
    cdef readonly uint32_t published
    cdef readonly uint64_t deadline_ns
    #: When a queued call must be looked at: at its deadline, or at the end of its wait for a place.
    cdef public uint64_t look_ns
    cdef bint holds

    def __cinit__(self, connection, Channel channel not None, request, uint64_t place_ns):
        self.connection, self.channel = connection, channel
        self.request_id, self.entry = request.request_id, request.entry
        self.published = MOLT_GENERATION(channel.c.word)
        self.deadline_ns = channel.out.header.deadline_ns or MOLT_NEVER
        self.look_ns = min(self.deadline_ns, place_ns)
        self.until_ns = MOLT_NEVER
        self.holds = True

    @property
    def done(self):
        """See `PendingCall`."""
        return self.result is not None or self.lost

    def wait(self, timeout_s):
        """See `PendingCall`."""
        cdef uint64_t until_ns = MOLT_NEVER
        self.waited_for = True  # before it looks: `abandon` gives the channel back if nobody waits
        try:
            if self.result is None and not self.lost:
                if timeout_s is not None:
                    until_ns = molt_now_ns() + <uint64_t>(min(max(<double>timeout_s, 0.0), 1e9) * 1e9)
                self.advance(until_ns)
        finally:
            self.waited_for = False
        if self.result is None and not self.lost:
            return False
        self.release()
        return True

    cpdef object advance(self, uint64_t until_ns):
        """Wait until the call ends, at most until `until_ns` (0: don't wait)."""
        cdef int code
        try:
            code = self.channel.wait(min(until_ns, self.look_ns))
            if code == MOLT_AWAIT_OUTCOME:
                got = self.channel.take()
                if type(got) is _Response and got.request_id == self.request_id:
                    self.result = got
                else:
                    (<object>self).take_other(got)
                return
        except Corrupt as exc:
            (<object>self).distrust(exc)
            return
        (<object>self).go_on(code, until_ns)

    cpdef object release(self):
        """Give the channel back, once."""
        cdef bint holds = self.holds
        self.holds = False
        if holds:
            self.connection.channels.give_back(self.channel)
            if not self.connection.open:
                self.connection.call_ended()

    cpdef bint glance(self) except -1:
        """Look for an outcome that is usually there within microseconds, and take it. Returns whether the call has ended."""
        cdef Channel channel = self.channel
        if molt_glance(&channel.arena.a, &channel.c, channel.arena.spin_ns):
            self.advance(0)
        return self.result is not None or self.lost

    cdef bint is_due(self, uint64_t now_ns):
        cdef Channel channel = self.channel
        cdef molt_arena *a = &channel.arena.a
        cdef uint64_t word = molt_look(a, channel.index)
        return (
            not molt_is_of(&channel.c, word) or molt_is_over(word) or now_ns >= self.look_ns or now_ns >= self.until_ns
            or self.result is not None or self.lost or molt_flows(a, &channel.c, word)
        )


def due_calls(calls not None, Arena arena not None, uint64_t now_ns):
    """Which of these calls are to be looked at: they seem to have ended, have bytes to move, or their time has come.

    All of them, if the connection has ended.
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
