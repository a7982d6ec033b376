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

    def is_marked(self, uint32_t index):
        """Whether executors and clients look at a channel; each that has a request is marked."""
        return bool(molt_is_marked(&self.a, <uint32_t>self.channel(index)))

    def holds(self, uint32_t index):
        """The id of the entrypoint with a limit that an executor says it runs; 0: none."""
        return atomic_load(&self.slot(index).holds)

    def word(self, uint32_t index):
        return molt_look(&self.a, <uint32_t>self.channel(index))

    def request_bytes(self, uint32_t index, uint32_t count):
        """The first bytes in a request ring: a copy of what may be changing, for display."""
        self.channel(index)
        return (<const char *>molt_request_data(&self.a, index))[:min(count, self.ring_bytes)]

    def with_requests(self, uint64_t count):
        """Those of the first `count` channels that are not IDLE, with their state words. Looks at all, marked or not."""
        cdef uint32_t index
        cdef uint64_t word
        found = []
        for index in range(min(count, <uint64_t>self.channels)):
            word = molt_look(&self.a, index)
            if MOLT_STATE(word) != MOLT_IDLE:
                found.append((index, word))
        return found

    def ready(self):
        """How many requests are queued. Looks at all channels, marked or not."""
        cdef uint32_t index, count = 0
        for index in range(molt_in_use(&self.a)):
            count += MOLT_STATE(molt_look(&self.a, index)) == MOLT_READY
        return count


    def entry(self, uint64_t entry):
        """What the pool knows of an entrypoint, by its `entry_id`, as `layout.Entry`; None: it has no row."""
        cdef molt_entry *row = molt_find_entry(&self.a, entry, 0)
        return None if row == NULL else _entry_of(row)

    def entries(self):
        """What the pool knows of its entrypoints."""
        cdef uint32_t index
        return [_entry_of(&self.a.entries[index]) for index in range(MOLT_ENTRIES) if atomic_load(&self.a.entries[index].id)]

    def open_slots(self):
        """The slots of the executors that serve."""
        return [index for index in range(self.slots) if atomic_load(&self.a.slots[index].state) != MOLT_SLOT_FREE]

    def running(self):
        """For each request that an executor has: the id of its entrypoint, slot, and when it was begun (ns)."""
        cdef uint32_t index = 0, state
        cdef uint64_t word
        cdef molt_walk walk = molt_walk_marked(&self.a)
        found = []
        while molt_next_marked(&walk, &index):
            word = molt_look(&self.a, index)
            state = MOLT_STATE(word)
            if state == MOLT_CLAIMED or state == MOLT_ABANDONED or state == MOLT_KILLING:
                found.append((atomic_load(&self.a.entry_of[index]), MOLT_SLOT(word), atomic_load(&self.a.began_ns[index])))
        return found

    def queued(self, uint64_t turn=MAX_TURN, uint32_t but=NO_CHANNEL):
        """The ids of the entrypoints of queued requests whose turn is before `turn`, in the order of their turns.

        Args:
            turn: As `Entry.delay_ns` and `Channel.turn` make it.
            but: A channel whose request doesn't count.
        """
        cdef uint32_t index = 0
        cdef uint64_t its
        cdef molt_walk walk = molt_walk_marked(&self.a)
        found = []
        while molt_next_marked(&walk, &index):
            if index != but and MOLT_STATE(molt_look(&self.a, index)) == MOLT_READY:
                its = molt_turn(&self.a, index, molt_entry_of(&self.a, index))
                if its < turn:
                    found.append((its, atomic_load(&self.a.entry_of[index])))
        found.sort()
        return [entry for _, entry in found]


def entry_id(str name not None):
    """The number by which the arena names an entrypoint."""
    return _id_of(name)


cdef uint64_t _id_of(str name) except 0:
    cdef Py_ssize_t size
    cdef const char *text = PyUnicode_AsUTF8AndSize(name, &size)
    return molt_entry_id(<const uint8_t *>text, <uint64_t>size)


cdef object _entry_of(const molt_entry *row):
    cdef bytes name = (<const char *>row.name)[:MOLT_ENTRY_NAME]
    return _Entry(
        name.rstrip(b"\0").decode(errors="ignore"),
        atomic_load(&row.id),
        atomic_load(&row.delay_ns),
        atomic_load(&row.limit),
        atomic_load(&row.mean_ns),
        atomic_load(&row.deviation_ns),
        atomic_load(&row.learnt_ns),
        atomic_load(&row.standing),
        atomic_load(&row.refused),
    )


cdef class Arena(ArenaView):
    """A mapped arena to work with: made in zeroed memory if a geometry is given, else attached to.

    Raises ValueError as `ArenaView` does.
    """

    cdef molt_flag closed
    #: Longest spin in nanoseconds, and how many clients and executors may spin at once.
    cdef public uint64_t spin_ns
    cdef public uint32_t client_spinners, executor_spinners
    #: How long requests may stand in the queue, and how many executors the pool has, for clients.
    cdef public uint64_t target_ns
    cdef public uint32_t executors
    cdef uint32_t waiting  # threads of this process that wait for the outcome of a quick request
    cdef uint64_t last_turn  # of this process's requests
    cdef uint32_t generations[4096]  # by channel, of this process's last request on it
    cdef molt_bell_end bell_ends[64]

    def use_bells(self, fds not None):
        """From now on this process, and those that it forks, ring the bells with these writing ends.

        Raises IndexError if there are more of them than the arena has bells, and OSError if one is not open.
        """
        cdef uint32_t bell
        if len(fds) > <Py_ssize_t>MOLT_BELLS:
            raise IndexError(f"{len(fds)} bells, {MOLT_BELLS} at most")
        self.a.bell_count = 0
        for bell, fd in enumerate(fds):
            if molt_bell_know(&self.bell_ends[bell], fd):
                raise OSError(errno, f"descriptor {fd} is not open")
        self.a.bells = self.bell_ends
        self.a.bell_count = len(fds)

    def arm(self, uint32_t bell, bint armed=True):
        """Have a bell rung for what happens from now on; or not, until it is armed again.

        Returns False if an executor could not ring it since it was armed last.
        """
        if bell >= MOLT_BELLS:
            raise IndexError(f"no bell {bell}")
        return atomic_exchange(&self.a.header.bells[bell].armed, armed) != <uint64_t>MOLT_BELL_LOST

    def armed(self, uint32_t bell):
        """Whether a bell would be rung."""
        if bell >= MOLT_BELLS:
            raise IndexError(f"no bell {bell}")
        return atomic_load(&self.a.header.bells[bell].armed) == <uint64_t>MOLT_BELL_ARMED

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
        """Restore the geometry and the flags of who is awake, over which a process may have scribbled."""
        cdef uint32_t index
        if memcmp(&self.a.header.geometry, &self.a.geometry, sizeof(molt_geometry)):
            memcpy(&self.a.header.geometry, &self.a.geometry, sizeof(molt_geometry))
        for index in range(self.channels):
            store_flag(&self.a.client_awake[index], 0)
        for index in range(self.slots):
            store_flag(&self.a.executor_awake[index], 0)

    def set_entry(self, str name not None, uint64_t delay_ns, uint64_t limit):
        """Make the row of an entrypoint, or change it. There may be `ENTRIES` at most."""
        cdef uint64_t id = _id_of(name)
        cdef molt_entry *row = molt_find_entry(&self.a, id, 1)
        if row == NULL:
            return  # somebody has scribbled over all of them
        atomic_store(&row.delay_ns, delay_ns)
        atomic_store(&row.limit, limit)
        text = name.encode()[:MOLT_ENTRY_NAME].ljust(MOLT_ENTRY_NAME, b"\0")
        memcpy(row.name, PyBytes_AS_STRING(text), MOLT_ENTRY_NAME)
        atomic_store(&row.id, id)

    def keep_entries(self, known not None):
        """Free the rows that are not of these entrypoints, and those that no search finds. Somebody has scribbled."""
        cdef uint32_t index
        cdef uint64_t id
        for index in range(MOLT_ENTRIES):
            id = atomic_load(&self.a.entries[index].id)
            if id and (id not in known or molt_find_entry(&self.a, id, 0) != &self.a.entries[index]):
                memset(&self.a.entries[index], 0, sizeof(molt_entry))

    def learn(self, uint64_t entry, uint64_t took_ns, bint stopped):
        """Count what a request of an entrypoint took; see `Estimate.learn`."""
        cdef molt_entry *row = molt_find_entry(&self.a, entry, 0)
        if row != NULL:
            molt_learn_usual(row, took_ns, stopped)

    cdef uint64_t fair_turn(self, uint64_t now_ns):
        return molt_fair_turn(&self.a, self.generations, now_ns, self.last_turn, self.executors)

    def next_turn(self, uint64_t now_ns):
        """When it would be the turn of this process's next request, but for the delay of its class."""
        return self.fair_turn(now_ns)

    def learn_of(self, uint32_t channel):
        """Count that a channel's request, which is stopped now, took at least so long."""
        self.learn(
            atomic_load(&self.a.entry_of[self.channel(channel)]),
            molt_now_ns() - atomic_load(&self.a.began_ns[channel]),
            True,
        )

    def set_standing(self, uint64_t entry, uint64_t standing, bint refused):
        """Store an entrypoint's word of `overload.admission`, and count a request that was refused."""
        cdef molt_entry *row = molt_find_entry(&self.a, entry, 0)
        if row != NULL:
            if atomic_load(&row.standing) != standing:
                atomic_store(&row.standing, standing)
            if refused:
                atomic_fetch_add(&row.refused, 1)

    def set_cpus(self, uint32_t cpus, bint narrow):
        """Say how many processors the machine has (0: not known), and whether this pool may use only some of them."""
        atomic_store(&self.a.header.crowd.cpus, cpus)
        atomic_store(&self.a.header.crowd.narrow, narrow)

    def set_gauge(self, uint32_t index, uint64_t value):
        atomic_store(self.word_of(index), value)

    def add_counter(self, uint32_t index, uint64_t n=1):
        atomic_fetch_add(self.word_of(index), n)

    def set_slot_gauge(self, uint32_t slot, uint32_t index, uint64_t value):
        atomic_store(slot_word(self.slot(slot), index), value)

    def set_in_use(self, uint64_t count):
        atomic_store(&self.a.header.in_use, count)

    def mend_marks(self):
        """Unmark channels that are IDLE, mark all others, and have an executor look again if one was not marked.

        For the supervisor. Returns how many were not marked.
        """
        return molt_mend_marks(&self.a)

    def step(self, uint32_t index, uint64_t before, uint64_t after):
        """Compare and swap a state word. True if it was `before`."""
        return bool(molt_step(&self.a, <uint32_t>self.channel(index), before, after))

    def set_failure(self, uint32_t index, uint64_t reason):
        atomic_store(&self.a.failure[self.channel(index)], reason)

    def wake_executor(self):
        """Wake an executor that sleeps, if there is one; one that is about to sleep looks once more."""
        return bool(molt_look_again(&self.a))

    def ring_client(self, uint32_t index):
        """Wake whoever waits for this channel, to look again."""
        molt_ring_client(&self.a, <uint32_t>self.channel(index))

    def let_go_of(self, uint32_t index, uint64_t entry):
        """Have an executor not count as one that runs an entrypoint, if it still says so."""
        atomic_compare_exchange_strong(&self.slot(index).holds, &entry, 0)

    def entry_of(self, uint32_t index):
        """The id of the entrypoint whose request is on a channel."""
        return atomic_load(&self.a.entry_of[self.channel(index)])

    def reset_channel(self, uint32_t index):
        """Make a channel ready for another client. Only while nobody can be using it."""
        cdef molt_channel *channel = molt_channel_at(&self.a, <uint32_t>self.channel(index))
        molt_doorbell_init(&channel.doorbell)
        atomic_store(&channel.doorbell_of, index)
        store_flag(&self.a.client_awake[index], 0)

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
        atomic_store(&slot.holds, 0)
        molt_doorbell_init(&slot.doorbell)
        store_flag(&self.a.executor_awake[index], 0)

    def retires(self, uint32_t index):
        """Whether an executor was told to exit."""
        return atomic_load(&self.slot(index).retire) != 0

    def retire(self, uint32_t index):
        """Tell an executor to exit as soon as it has no request."""
        cdef molt_slot *slot = self.slot(index)
        atomic_store(&slot.retire, 1)
        atomic_fetch_add(&self.a.header.published, 1)
        molt_doorbell_ring(&slot.doorbell)
