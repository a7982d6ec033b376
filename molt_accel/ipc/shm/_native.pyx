# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The binding of core/: it copies and waits without the GIL, and does nothing that Python could do itself.

The objects here hold raw memory of the arena. They check indexes; their callers decide what a word means.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.errno cimport errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_PRIVATE, PROT_READ, PROT_WRITE, mmap

# C variables, which cost less than names of the module. The tables have the member for each of 256 byte values, or None.
cdef object _Request, _Response
cdef tuple _codecs, _statuses
from molt_accel.ipc.frame import CODECS as _codecs, STATUSES as _statuses
from molt_accel.ipc.messages import Request as _Request, Response as _Response

include "_fields.pxi"

cdef extern from "molt_core.h" nogil:
    # Atomic in C; here only their addresses are used.
    ctypedef struct molt_word:
        pass
    ctypedef struct molt_flag:
        pass
    ctypedef struct molt_doorbell:
        molt_word count
    ctypedef struct molt_geometry:
        uint32_t channels, slots
        uint64_t ring_bytes, size
    ctypedef struct molt_header:
        molt_geometry geometry
        molt_word published, cpus, in_use
        molt_word *gauges
    ctypedef struct molt_slot:
        molt_doorbell doorbell
        molt_word state, retire
        molt_word *gauges
        molt_word *queue_us
        molt_word *exec_us
    ctypedef struct molt_channel:
        molt_doorbell doorbell
        molt_word doorbell_of
    ctypedef struct molt_arena:
        molt_geometry geometry
        uint8_t *base
        molt_header *header
        molt_word *failure
        molt_flag *client_spins
        molt_flag *executor_spins
        molt_slot *slots
    ctypedef struct molt_call:
        uint32_t channel
        uint64_t word, wanted
        uint64_t left[2]
        const uint8_t *part[2]
        uint8_t *into
    ctypedef struct molt_executor:
        uint32_t slot, epoch, channel, queued, running
        uint64_t word
        molt_word *claim
    ctypedef struct molt_head:
        uint32_t size
        molt_frame header
        uint8_t *entry
    const int MOLT_FRAME_VERSION, MOLT_REQUEST, MOLT_RESPONSE, MOLT_ENTRY_BYTES, MOLT_FLAG_COMPILED
    uint64_t molt_head_bytes(const molt_head *)
    const int MOLT_GAUGES, MOLT_SLOT_GAUGES, MOLT_BUCKETS, MOLT_MAX_CHANNELS
    const int MOLT_IDLE, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING
    const int MOLT_SLOT_FREE, MOLT_SLOT_BUSY, MOLT_SLOT_IDLE
    const int MOLT_AWAIT_OUTCOME, MOLT_AWAIT_TIME, MOLT_AWAIT_SIGNAL, MOLT_AWAIT_CLOSED, MOLT_AWAIT_BUFFER, MOLT_AWAIT_CORRUPT
    const int MOLT_NEXT_REQUEST, MOLT_NEXT_SIGNAL, MOLT_NEXT_RETIRE, MOLT_TRANSFERRED
    const int MOLT_TRANSFER_SIGNAL, MOLT_TRANSFER_LOST, MOLT_TRANSFER_STALLED, MOLT_TRANSFER_CORRUPT
    uint64_t atomic_load(const molt_word *)
    void atomic_store(molt_word *, uint64_t)
    uint64_t atomic_fetch_add(molt_word *, uint64_t)
    void store_flag "atomic_store"(molt_flag *, int)
    uint64_t molt_now_ns()
    int molt_doorbell_init(molt_doorbell *)
    void molt_doorbell_ring(molt_doorbell *)
    int molt_park(molt_doorbell *, const molt_word *, uint64_t, uint64_t)
    uint64_t molt_arena_plan(molt_arena *, uint32_t, uint32_t, uint64_t)
    int molt_arena_create(molt_arena *)
    const char *molt_arena_attach(molt_arena *, uint64_t)
    molt_channel *molt_channel_at(const molt_arena *, uint32_t)
    const uint8_t *molt_request_data(const molt_arena *, uint32_t)
    uint64_t molt_look(const molt_arena *, uint32_t)
    int molt_step(molt_arena *, uint32_t, uint64_t, uint64_t)
    uint64_t molt_serial(uint32_t, uint64_t)
    void molt_ring_client(molt_arena *, uint32_t)
    uint32_t MOLT_STATE(uint64_t)
    uint32_t MOLT_GENERATION(uint64_t)
    int molt_wake_executor(molt_arena *)
    uint32_t molt_in_use(const molt_arena *)
    uint32_t molt_excess(const molt_arena *, const molt_call *, uint32_t)
    int molt_publish(molt_arena *, molt_call *)
    void molt_announce(molt_arena *, molt_call *)
    void molt_redirect(molt_arena *, molt_call *, uint32_t)
    uint32_t molt_give_up(molt_arena *, molt_call *, int)
    int molt_outcome(const molt_arena *, const molt_call *, uint64_t *)
    int molt_free(molt_arena *, uint32_t, uint64_t)
    int molt_await(molt_arena *, molt_call *, uint64_t, uint64_t, uint32_t, const molt_flag *)
    int molt_glance(molt_arena *, molt_call *, uint64_t)
    int molt_take_more(molt_arena *, molt_call *)
    uint64_t molt_reply_there(const molt_arena *, const molt_call *)
    int molt_next_request(molt_arena *, molt_executor *, uint64_t, uint32_t)
    void molt_begin(molt_executor *, molt_word *, uint64_t)
    int molt_fits(const molt_arena *, const molt_executor *, int, uint64_t)
    int molt_transfer(molt_arena *, molt_executor *, uint8_t *, const uint8_t *, uint64_t, uint64_t *, uint64_t)
    int molt_holds(const molt_executor *, uint64_t)
    int molt_finish(molt_arena *, molt_executor *, uint32_t, uint64_t)
    uint32_t molt_bucket(uint64_t)

MAX_CHANNELS, GAUGES, SLOT_GAUGES, BUCKETS = MOLT_MAX_CHANNELS, MOLT_GAUGES, MOLT_SLOT_GAUGES, MOLT_BUCKETS
#: The states of a channel, as layout.py names them.
STATES = (MOLT_IDLE, MOLT_READY, MOLT_CLAIMED, MOLT_DONE, MOLT_FAILED, MOLT_ABANDONED, MOLT_KILLING)
SLOT_FREE, SLOT_BUSY, SLOT_IDLE = MOLT_SLOT_FREE, MOLT_SLOT_BUSY, MOLT_SLOT_IDLE
OUTCOME, TIME, CLOSED = MOLT_AWAIT_OUTCOME, MOLT_AWAIT_TIME, MOLT_AWAIT_CLOSED
REQUEST, RETIRE = MOLT_NEXT_REQUEST, MOLT_NEXT_RETIRE
TRANSFERRED, LOST, STALLED = MOLT_TRANSFERRED, MOLT_TRANSFER_LOST, MOLT_TRANSFER_STALLED
#: Verdicts of `Channel.publish`.
ADMITTED, WAITING, BUSY, NOT_IDLE, BAD_FRAME = 0, 1, 2, 3, 4


cdef enum:
    _SMALL = 16384

# The parts of a reply, in the order in which they are read.
cdef enum:
    STAGE_NONE, STAGE_HEADER, STAGE_ENTRY, STAGE_PAYLOAD


cdef uint64_t _begin_head(molt_head *head, object item, int kind, Py_ssize_t entry_bytes) except 0:
    """Write the fields that the frame itself sets, and zeros. Returns the size of the frame in bytes."""
    cdef molt_frame *h = &head.header
    cdef bytes payload = item.payload
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


cdef int _fill_request(molt_head *head, object request, uint64_t max_bytes) except -1:
    """Write the head of a valid request. Returns 0 if it is not valid; frame.py then says what is wrong with it."""
    cdef Py_ssize_t entry_bytes
    cdef str entry = request.entry
    cdef const char *text
    try:
        text = PyUnicode_AsUTF8AndSize(entry, &entry_bytes)
    except UnicodeEncodeError:
        return 0
    if not 0 < entry_bytes <= MOLT_ENTRY_BYTES:
        return 0
    if _begin_head(head, request, MOLT_REQUEST, entry_bytes) > max_bytes:
        return 0
    fill_request(&head.header, request)
    memcpy(head.entry, text, entry_bytes)
    return 1


cdef object _request_of(const molt_head *head, bytes payload):
    """Make a request of a head and its payload. Returns None if it is not valid; frame.py says what is wrong with it."""
    cdef const molt_frame *h = &head.header
    codec = _codecs[h.codec]
    if h.version != MOLT_FRAME_VERSION or h.kind != MOLT_REQUEST or codec is None:
        return None
    if h.status or h.entry_bytes == 0 or h.flags or h.reserved:
        return None
    try:
        entry = PyUnicode_DecodeUTF8(<const char *>head.entry, h.entry_bytes, NULL)
    except UnicodeDecodeError:
        return None
    return request_of(h, entry, payload, codec)


cdef object _response_of(const molt_head *head, bytes payload):
    """Make a response of a head and its payload. Returns None if it is not valid."""
    cdef const molt_frame *h = &head.header
    codec, status = _codecs[h.codec], _statuses[h.status]
    if h.version != MOLT_FRAME_VERSION or h.kind != MOLT_RESPONSE or codec is None or status is None:
        return None
    if h.entry_bytes or h.flags & ~MOLT_FLAG_COMPILED or h.reserved:
        return None
    return response_of(h, status, payload, codec)


cdef bint _consistent(const molt_head *head):
    """Whether the sizes in a head agree, so that its payload can be read apart from it."""
    cdef const molt_frame *h = &head.header
    cdef uint64_t total = sizeof(molt_frame) + h.entry_bytes + <uint64_t>h.payload_bytes
    return h.entry_bytes <= MOLT_ENTRY_BYTES and head.size == total


class Corrupt(RuntimeError):
    """Shared memory says something that no honest process writes."""


def arena_size(uint32_t channels, uint32_t slots, uint64_t ring_bytes):
    """Bytes of an arena of this geometry. Raises ValueError for an impossible one."""
    cdef molt_arena plan
    plan.base = NULL
    cdef uint64_t size = molt_arena_plan(&plan, channels, slots, ring_bytes)
    if size == 0:
        raise ValueError(f"impossible geometry: {channels} channels, {slots} slots, rings of {ring_bytes} bytes")
    return size


cdef molt_word *slot_word(molt_slot *slot, uint32_t gauge, uint32_t count=1) except NULL:
    """The first of `count` gauges of a slot. Raises IndexError if the slot has fewer."""
    if gauge + <uint64_t>count > MOLT_SLOT_GAUGES:
        raise IndexError(f"no gauge {gauge} of a slot")
    return &slot.gauges[gauge]


cdef class ArenaView:
    """A mapped arena to look at. It never stores anything, so the memory may be mapped read-only.

    Raises:
        ValueError: it is not an arena of this version, or doesn't fit its memory.
    """

    cdef molt_arena a
    cdef Py_buffer view
    cdef readonly uint32_t channels, slots
    cdef readonly uint64_t ring_bytes

    def __cinit__(self, buffer, uint32_t channels=0, uint32_t slots=0, uint64_t ring_bytes=0):
        cdef const char *wrong
        cdef bint writes = isinstance(self, Arena)
        PyObject_GetBuffer(buffer, &self.view, PyBUF_SIMPLE | PyBUF_WRITABLE if writes else PyBUF_SIMPLE)
        self.a.base = <uint8_t *>self.view.buf
        if channels and writes:
            if molt_arena_plan(&self.a, channels, slots, ring_bytes) != <uint64_t>self.view.len:
                raise ValueError("the memory has not the size of this geometry")
            if molt_arena_create(&self.a):
                raise ValueError("its semaphores can't be made")
        else:
            wrong = molt_arena_attach(&self.a, <uint64_t>self.view.len)
            if wrong != NULL:
                raise ValueError("not an arena to attach to: " + wrong.decode())
        self.channels, self.slots = self.a.geometry.channels, self.a.geometry.slots
        self.ring_bytes = self.a.geometry.ring_bytes

    def __dealloc__(self):
        PyBuffer_Release(&self.view)  # does nothing if there is none

    cdef int64_t channel(self, uint32_t index) except -1:
        """Check the index of a channel, and return it."""
        if index >= self.channels:
            raise IndexError(f"no channel {index}")
        return index

    cdef molt_slot *slot(self, uint32_t index) except NULL:
        if index >= self.slots:
            raise IndexError(f"no slot {index}")
        return &self.a.slots[index]

    cdef molt_word *word_of(self, uint32_t gauge) except NULL:
        if gauge >= MOLT_GAUGES:
            raise IndexError(f"no gauge {gauge}")
        return &self.a.header.gauges[gauge]

    def gauge(self, uint32_t index):
        return atomic_load(self.word_of(index))

    def slot_gauge(self, uint32_t slot, uint32_t index):
        return atomic_load(slot_word(self.slot(slot), index))

    def slot_state(self, uint32_t slot):
        return atomic_load(&self.slot(slot).state)

    def histograms(self, uint32_t slot):
        """How many requests of an executor fell into each bucket of queue times, and of exec times (us)."""
        cdef molt_slot *s = self.slot(slot)
        return (
            [atomic_load(&s.queue_us[i]) for i in range(MOLT_BUCKETS)],
            [atomic_load(&s.exec_us[i]) for i in range(MOLT_BUCKETS)],
        )

    @property
    def in_use(self):
        """Channels from this index on were never granted, so nobody looks at them."""
        return atomic_load(&self.a.header.in_use)

    def word(self, uint32_t index):
        return molt_look(&self.a, <uint32_t>self.channel(index))

    def request_bytes(self, uint32_t index, uint32_t count):
        """The first bytes in a request ring: a copy of what may be changing, for display."""
        self.channel(index)
        return (<const char *>molt_request_data(&self.a, index))[:min(count, self.ring_bytes)]

    def ready(self):
        """How many requests are queued."""
        cdef uint32_t index, count = 0
        for index in range(molt_in_use(&self.a)):
            count += MOLT_STATE(molt_look(&self.a, index)) == MOLT_READY
        return count


cdef class Arena(ArenaView):
    """A mapped arena to work with: made in zeroed memory if a geometry is given, else attached to.

    Raises ValueError as `ArenaView` does.
    """

    cdef molt_flag closed
    #: Longest spin in nanoseconds, and how many clients and executors may spin at once.
    cdef public uint64_t spin_ns
    cdef public uint32_t client_spinners, executor_spinners

    def close(self):
        """Have this process's calls on this arena end with CLOSED. The caller rings their doorbells afterwards."""
        store_flag(&self.closed, 1)

    def let_go(self):
        """In a forked child: put private memory, all 0, in the place of the shared memory. Raises OSError."""
        cdef void *base = mmap(
            self.view.buf, self.view.len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0
        )
        if base == MAP_FAILED:
            raise OSError(errno, "the shared memory can't be let go of")

    def repair(self):
        """Restore the geometry and the flags of who spins, over which a process may have scribbled."""
        cdef uint32_t index
        if memcmp(&self.a.header.geometry, &self.a.geometry, sizeof(molt_geometry)):
            memcpy(&self.a.header.geometry, &self.a.geometry, sizeof(molt_geometry))
        for index in range(self.channels):
            store_flag(&self.a.client_spins[index], 0)
        for index in range(self.slots):
            store_flag(&self.a.executor_spins[index], 0)

    def set_cpus(self, uint32_t cpus):
        """Say how many processors there are for this pool; 0: not known."""
        atomic_store(&self.a.header.cpus, cpus)

    def set_gauge(self, uint32_t index, uint64_t value):
        atomic_store(self.word_of(index), value)

    def add_counter(self, uint32_t index, uint64_t n=1):
        atomic_fetch_add(self.word_of(index), n)

    def set_slot_gauge(self, uint32_t slot, uint32_t index, uint64_t value):
        atomic_store(slot_word(self.slot(slot), index), value)

    def set_in_use(self, uint64_t count):
        atomic_store(&self.a.header.in_use, count)

    def step(self, uint32_t index, uint64_t before, uint64_t after):
        """Compare and swap a state word. True if it was `before`."""
        return bool(molt_step(&self.a, <uint32_t>self.channel(index), before, after))

    def set_failure(self, uint32_t index, uint64_t reason):
        atomic_store(&self.a.failure[self.channel(index)], reason)

    def wake_executor(self):
        """Wake an executor that sleeps, if there is one."""
        return bool(molt_wake_executor(&self.a))

    def ring_client(self, uint32_t index):
        """Wake whoever waits for this channel, to look again."""
        molt_ring_client(&self.a, <uint32_t>self.channel(index))

    def reset_channel(self, uint32_t index):
        """Make a channel ready for another client. Only while nobody can be using it."""
        cdef molt_channel *channel = molt_channel_at(&self.a, <uint32_t>self.channel(index))
        molt_doorbell_init(&channel.doorbell)
        atomic_store(&channel.doorbell_of, index)
        store_flag(&self.a.client_spins[index], 0)

    def reset_slot(self, uint32_t index, uint32_t gauges):
        """Make a slot ready for another executor: set its first `gauges` gauges to 0, and keep its counts.

        Only after its last executor was reaped.
        """
        cdef molt_slot *slot = self.slot(index)
        cdef uint32_t i
        atomic_store(&slot.state, MOLT_SLOT_FREE)
        for i in range(min(gauges, <uint32_t>MOLT_SLOT_GAUGES)):
            atomic_store(&slot.gauges[i], 0)
        atomic_store(&slot.retire, 0)
        molt_doorbell_init(&slot.doorbell)
        store_flag(&self.a.executor_spins[index], 0)

    def retires(self, uint32_t index):
        """Whether an executor was told to exit."""
        return atomic_load(&self.slot(index).retire) != 0

    def retire(self, uint32_t index):
        """Tell an executor to exit as soon as it has no request."""
        cdef molt_slot *slot = self.slot(index)
        atomic_store(&slot.retire, 1)
        atomic_fetch_add(&self.a.header.published, 1)
        molt_doorbell_ring(&slot.doorbell)


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

    def publish(self, request not None, uint32_t capacity, uint32_t waiting):
        """Offer a request to the executors: IDLE -> READY.

        Args:
            request: Its payload is bytes. `wait` sends on what of it doesn't fit the ring.
            capacity: Places in the queue.
            waiting: How many requests may wait for a place behind it.

        Returns:
            ADMITTED; WAITING: it is over the queue's capacity, and is claimed or given up like any other. Not published
            are BUSY, NOT_IDLE (the channel has a request), and BAD_FRAME (`frame.encode_head` says why).

        Raises:
            TypeError, OverflowError: a field of the request is not what it should be.
        """
        cdef molt_arena *a = &self.arena.a
        cdef uint32_t over
        if not _fill_request(&self.out, request, self.max_bytes):
            return BAD_FRAME
        self.payload, self.reply, self.stage = request.payload, None, STAGE_NONE
        self.c.part[0] = <const uint8_t *>&self.out
        self.c.left[0] = molt_head_bytes(&self.out)
        self.c.part[1] = <const uint8_t *>PyBytes_AS_STRING(self.payload)
        self.c.left[1] = PyBytes_GET_SIZE(self.payload)
        if not molt_publish(a, &self.c):
            return NOT_IDLE
        over = molt_excess(a, &self.c, capacity)
        if over > waiting and molt_give_up(a, &self.c, 1) == MOLT_READY:
            return BUSY
        molt_announce(a, &self.c)
        return WAITING if over else ADMITTED

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

    def wait(self, uint64_t until_ns):
        """Wait until the request has an outcome. Returns OUTCOME, or TIME or CLOSED if that comes first.

        Args:
            until_ns: Nanoseconds of CLOCK_MONOTONIC; 0: don't wait.

        Raises:
            Corrupt: the arena can't be trusted.
            Exception: what a signal handler raises.
        """
        cdef Arena arena = self.arena
        cdef int code
        if until_ns and molt_glance(&arena.a, &self.c, arena.spin_ns):
            return MOLT_AWAIT_OUTCOME
        while True:
            with nogil:
                code = molt_await(&arena.a, &self.c, until_ns, arena.spin_ns, arena.client_spinners, &arena.closed)
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

        Raises:
            Corrupt: what is there is not a response.
        """
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
        response = _response_of(&self.head, self.reply)
        self.reply = None
        if response is None or molt_reply_there(a, &self.c):
            raise Corrupt("a reply that is no response")
        if not molt_free(a, self.index, word):
            raise Corrupt(f"channel {self.index} was taken away")
        return response

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

    def clear(self):
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


cdef class Slot:
    """An executor's place in the arena: it claims requests, reads them and answers them.

    Args:
        claim: Eight bytes that no client can map, in which the supervisor sees what the executor has claimed.
    """

    cdef Arena arena
    cdef molt_executor e
    cdef molt_head head
    cdef Py_buffer claim

    def __cinit__(self, Arena arena not None, uint32_t slot, uint32_t epoch, claim=None):
        arena.slot(slot)
        self.arena = arena
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
    def word(self):
        """The state word of the claim."""
        return self.e.word

    def next(self):
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

    def receive(self, uint64_t max_bytes):
        """Read the claimed request.

        Returns:
            The `Request`. The bytes behind the length prefix if they are not valid; `frame.decode` says what is wrong
            with them. LOST or STALLED if they don't come.

        Raises:
            Corrupt: the client wrote what can't be.
            Exception: what a signal handler raises.
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
                request = _request_of(head, payload)
                if request is None:
                    return (<const char *>h)[:sizeof(molt_frame) + h.entry_bytes] + payload
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
            TRANSFERRED; LOST or STALLED if it isn't taken; BAD_FRAME: nothing was done, and `frame.encode_head`
            says why.

        Raises as `receive` does.
        """
        cdef molt_slot *slot = &self.arena.a.slots[self.e.slot]
        cdef molt_word *counter = slot_word(slot, gauge)
        cdef bytes payload = response.payload
        cdef int code
        if _begin_head(&self.head, response, MOLT_RESPONSE, 0) > max_bytes:
            return BAD_FRAME
        fill_response(&self.head.header, response)
        if not molt_holds(&self.e, molt_look(&self.arena.a, self.e.channel)):
            return MOLT_TRANSFER_LOST  # it was taken away against the rules: the ring may be another request's
        atomic_fetch_add(counter, 1)
        atomic_fetch_add(&slot.queue_us[molt_bucket(self.head.header.queue_us)], 1)
        atomic_fetch_add(&slot.exec_us[molt_bucket(self.head.header.exec_us)], 1)
        code = self.transfer(NULL, <const uint8_t *>&self.head, molt_head_bytes(&self.head))
        if code == MOLT_TRANSFERRED:
            code = self.transfer(NULL, <const uint8_t *>PyBytes_AS_STRING(payload), PyBytes_GET_SIZE(payload))
        if code == MOLT_TRANSFER_CORRUPT:
            raise Corrupt(f"the reply ring of channel {self.e.channel}")
        if code == MOLT_TRANSFERRED and not molt_finish(&self.arena.a, &self.e, MOLT_DONE, 0):
            return MOLT_TRANSFER_LOST
        return code

    def fail(self, uint64_t reason):
        """End the request without a reply. Returns False if this executor no longer holds it."""
        return bool(molt_finish(&self.arena.a, &self.e, MOLT_FAILED, reason))

    def begin(self, uint32_t gauge, uint64_t deadline_ns, uint32_t wake_gauge):
        """Store what runs from now on in three gauges of this slot: serial, deadline (0: none), start.

        Returns True if the deadline comes before the time in the arena's gauge `wake_gauge`, at which the supervisor
        looks at deadlines next: then it has to be told. If it stores that time later, it finds these gauges by itself.
        """
        cdef molt_word *wake = self.arena.word_of(wake_gauge)
        molt_begin(&self.e, slot_word(&self.arena.a.slots[self.e.slot], gauge, 3), deadline_ns)
        return deadline_ns != 0 and deadline_ns < atomic_load(wake)


cdef class ParkMeter:
    """Measures what it costs to put a thread to sleep and wake it: two threads ring each other."""

    cdef molt_doorbell doorbells[2]

    def __cinit__(self):
        for i in range(2):
            molt_doorbell_init(&self.doorbells[i])

    def run(self, int side, int rounds):
        """Ring and wait in turns, on two threads at once with sides 0 and 1. Returns nanoseconds for one way."""
        cdef molt_doorbell *mine = &self.doorbells[side & 1]
        cdef molt_doorbell *other = &self.doorbells[1 - (side & 1)]
        cdef uint64_t start_ns = molt_now_ns(), seen
        cdef int i
        with nogil:
            for i in range(rounds):
                if side == 0:
                    molt_doorbell_ring(other)
                seen = i
                while atomic_load(&mine.count) <= seen:
                    molt_park(mine, &mine.count, seen, molt_now_ns() + 10000000)
                if side == 1:
                    molt_doorbell_ring(other)
        return (molt_now_ns() - start_ns) // (2 * rounds if rounds > 0 else 1)
