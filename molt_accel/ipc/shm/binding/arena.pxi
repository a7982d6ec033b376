# The arena: a view that only reads, and the one of a process that takes part.

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

    Raises ValueError if it is not an arena of this version, or doesn't fit its memory.
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
