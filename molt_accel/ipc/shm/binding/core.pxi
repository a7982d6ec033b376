# What core/ declares, as far as it is called from here.

cdef extern from "molt_core.h" nogil:
    # Atomic in C; here only their addresses are used.
    ctypedef struct molt_word:
        pass
    ctypedef struct molt_flag:
        pass
    ctypedef struct molt_doorbell:
        molt_word count
    ctypedef struct molt_crowd:
        molt_word cpus, narrow
    ctypedef struct molt_bell:
        molt_word armed
    ctypedef struct molt_bell_end:
        pass
    const uint32_t MOLT_BELLS
    const int MOLT_BELL_ARMED, MOLT_BELL_LOST
    int molt_bell_know(molt_bell_end *, int)
    ctypedef struct molt_geometry:
        uint32_t channels, slots
        uint64_t ring_bytes, size
    ctypedef struct molt_header:
        molt_geometry geometry
        molt_word published, in_use
        molt_crowd crowd
        molt_word *gauges
        molt_bell *bells
    ctypedef struct molt_slot:
        molt_doorbell doorbell
        molt_word state, retire, holds
        molt_word *gauges
        molt_word *queue_us
        molt_word *exec_us
    ctypedef struct molt_entry:
        molt_word id, delay_ns, limit, mean_ns, deviation_ns, samples, learnt_ns, standing, refused
        char *name
    const int MOLT_ENTRIES, MOLT_ENTRY_NAME
    ctypedef struct molt_channel:
        molt_doorbell doorbell
        molt_word doorbell_of
    ctypedef struct molt_arena:
        molt_geometry geometry
        uint8_t *base
        molt_header *header
        molt_word *failure
        molt_word *entry_of
        molt_word *began_ns
        molt_flag *client_awake
        molt_flag *executor_awake
        molt_slot *slots
        molt_entry *entries
        const molt_bell_end *bells
        uint32_t bell_count
        int bells_lost
    ctypedef struct molt_call:
        uint32_t channel, company
        uint64_t word, entry, turn, usual_ns, wanted
        int deferred
        uint64_t left[2]
        const uint8_t *part[2]
        uint8_t *into
    ctypedef struct molt_executor:
        uint32_t slot, epoch, channel, queued, running
        uint64_t word, entry
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
    bint atomic_compare_exchange_strong(molt_word *, uint64_t *, uint64_t)
    uint64_t atomic_fetch_add(molt_word *, uint64_t)
    uint64_t atomic_exchange(molt_word *, uint64_t)
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
    uint32_t MOLT_SLOT(uint64_t)
    uint32_t MOLT_GENERATION(uint64_t)
    int molt_look_again(molt_arena *)
    uint32_t molt_in_use(const molt_arena *)
    int molt_is_marked(const molt_arena *, uint32_t)
    uint32_t molt_mend_marks(molt_arena *)
    ctypedef struct molt_walk:
        pass
    molt_walk molt_walk_marked(const molt_arena *)
    int molt_next_marked(molt_walk *, uint32_t *)
    bint molt_has_timestamp(const uint8_t *, size_t)
    uint64_t molt_entry_id(const uint8_t *, uint64_t)
    molt_entry *molt_find_entry(const molt_arena *, uint64_t, int)
    molt_entry *molt_entry_of(const molt_arena *, uint32_t)
    uint64_t molt_usual_ns(const molt_entry *)
    int molt_is_quick(uint64_t, uint64_t)
    uint64_t molt_turn(const molt_arena *, uint32_t, const molt_entry *)
    void molt_learn_usual(molt_entry *, uint64_t, int)
    const int MOLT_STATUS_OK, MOLT_STATUS_TIMEOUT, MOLT_STATUS_CANCELLED
    uint64_t molt_fair_turn(const molt_arena *, const uint32_t *, uint64_t, uint64_t, uint32_t)
    const uint64_t MAX_TURN "UINT64_MAX", MOLT_NEVER
    ctypedef struct molt_around:
        uint32_t ahead
    molt_around molt_look_around(const molt_arena *, const molt_call *)
    bint molt_is_light(const molt_arena *, const molt_around *, const molt_entry *, uint64_t, uint64_t)
    uint32_t molt_excess(const molt_arena *, const molt_call *, uint32_t)
    int molt_publish(molt_arena *, molt_call *)
    void molt_announce(molt_arena *, molt_call *)
    void molt_redirect(molt_arena *, molt_call *, uint32_t)
    void molt_aim(molt_arena *, molt_call *, uint32_t)
    void molt_catch_up(molt_arena *, molt_call *)
    void molt_insist(molt_arena *, molt_call *, uint64_t)
    bint molt_is_of(const molt_call *, uint64_t)
    bint molt_is_over(uint64_t)
    bint molt_flows(const molt_arena *, const molt_call *, uint64_t)
    bint flag_is_set "atomic_load"(const molt_flag *)
    uint32_t molt_give_up(molt_arena *, molt_call *, int)
    int molt_outcome(const molt_arena *, const molt_call *, uint64_t *)
    int molt_free(molt_arena *, uint32_t, uint64_t)
    int molt_await(molt_arena *, molt_call *, uint64_t, uint64_t, uint32_t, const molt_flag *)
    uint64_t MOLT_GLANCE_NS, MOLT_LOOP_GLANCE_NS
    int molt_glance(molt_arena *, molt_call *, uint64_t, uint64_t)
    int molt_take_more(molt_arena *, molt_call *)
    uint64_t molt_reply_there(const molt_arena *, const molt_call *)
    int molt_next_request(molt_arena *, molt_executor *, uint64_t, uint32_t)
    void molt_begin(molt_executor *, molt_word *, uint64_t)
    int molt_fits(const molt_arena *, const molt_executor *, int, uint64_t)
    int molt_transfer(molt_arena *, molt_executor *, uint8_t *, const uint8_t *, uint64_t, uint64_t *, uint64_t)
    int molt_holds(const molt_executor *, uint64_t)
    int molt_finish(molt_arena *, molt_executor *, uint32_t, uint64_t)
    uint32_t molt_bucket(uint64_t)
