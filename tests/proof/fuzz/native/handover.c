/* The hand-over: an input is a program of steps that clients, executors and the supervisor take in any order, and so may
 * somebody who stores what he likes wherever he likes, also between two loads of one step.
 *
 * Until he does, every word is what a plain model says, what arrives is what was sent, the request whose turn it is is claimed
 * first, and nobody sleeps over one. From then on: nothing outside the arena is touched, no step goes on for ever, and what is
 * private stays as it was. */
#define _GNU_SOURCE
#define MOLT_PARK_NS 0u /* nobody else is there to wait for */
#define MOLT_REST_NS 0u
#define MOLT_STALL_NS 0u

#include <errno.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* A step may look whether it was woken, but not for ever. */
static unsigned tries;
static int try_wait(sem_t *sem) {
    if (++tries > 10000) {
        fputs("not so: a step ends\n", stderr);
        abort();
    }
    return sem_trywait(sem);
}
#define sem_trywait(sem) try_wait(sem)

/* No sleep, not even one that has ended before it begins. */
static int dont_sleep(sem_t *sem) {
    if (try_wait(sem) == 0)
        return 0;
    errno = ETIMEDOUT;
    return -1;
}
#define sem_clockwait(sem, clock, until) ((void)(until), dont_sleep(sem))

/* Every load and swap of the core first gives the hostile his turn. */
static void ambush(void);
static inline uint64_t load_word(const _Atomic uint64_t *at, memory_order order) { return atomic_load_explicit(at, order); }
static inline uint8_t load_flag(const _Atomic uint8_t *at, memory_order order) { return atomic_load_explicit(at, order); }
static inline _Bool swap_word(_Atomic uint64_t *at, uint64_t *from, uint64_t to) {
    return atomic_compare_exchange_strong(at, from, to);
}
#undef atomic_load
#undef atomic_load_explicit
#undef atomic_compare_exchange_strong
#define atomic_load_explicit(at, order) \
    (ambush(), _Generic((at), const _Atomic uint8_t *: load_flag, _Atomic uint8_t *: load_flag, default: load_word)(at, order))
#define atomic_load(at) atomic_load_explicit(at, memory_order_seq_cst)
#define atomic_compare_exchange_strong(at, from, to) (ambush(), swap_word(at, from, to))

#include "fuzzing.h"

enum { CHANNELS = 3, SLOTS = 2, CLASSES = 2, RING = MOLT_PAGE, MOST = 3 * RING, ENTRIES = 256, STEPS = 400 };
#define EVERYTHING (1ull << 62)

static const molt_flag open_flag;
static uint8_t stream[MOST + ENTRIES]; /* entries and payloads are slices of it */
/* No larger than this arena is; behind it lies what the sanitizer guards. */
static _Alignas(4096) uint8_t memory[4 * MOLT_PAGE + MOLT_ENTRIES * sizeof(molt_entry) + SLOTS * 4096 +
                                       CHANNELS * (MOLT_PAGE + 2 * RING)];

/* A frame as its sender has it, and as its receiver has it by now. */
typedef struct {
    molt_head head;
    const uint8_t *payload;
} parcel;
typedef struct {
    molt_head head;
    uint8_t payload[MOST];
} arrival;

/* A channel: what its client has, and what the model says of it. */
typedef struct {
    molt_call call;
    parcel out, reply; /* what it sends, and what it shall get */
    arrival in;
    int stage;     /* of the reply: parts of it that were asked for */
    int gone;      /* the client is dead, and the channel not yet another's */
    int announced; /* or there is nothing to announce */
    uint32_t state, generation, slot, epoch, outcomes;
    uint64_t ticket, turn, reason; /* `turn`: with the delay of its class */
} channel_model;

/* An executor: what it has, and what the model says of it. */
typedef struct {
    molt_executor e;
    arrival in;
    parcel out;
    int claims, stage;
    uint64_t done, seen;
    int noted;
    uint64_t state;
} slot_model;

static molt_arena a, untouched;
static channel_model channels[CHANNELS];
static slot_model slots[SLOTS];
static uint64_t tickets;
static int honest;
static struct {
    uint64_t offset, value;
    unsigned after, how;
} ambushes;

/* -- the hostile ------------------------------------------------------------------------------------------------- */

static void scribble(uint64_t offset, unsigned how, uint64_t value) {
    molt_word *word = (molt_word *)(memory + offset % (a.geometry.size / 8) * 8);
    uint64_t before = load_word(word, memory_order_relaxed);
    atomic_store(word, how % 3 == 0 ? value : how % 3 == 1 ? before + value : (before & ~0xffull) | (value & 7));
}

static void ambush(void) {
    if (ambushes.after && !--ambushes.after)
        scribble(ambushes.offset, ambushes.how, ambushes.value);
}

/* A word that matters, or any. */
static uint64_t some_place(molt_input *in) {
    uint64_t which = number(in, 1), index = which >> 4;
    molt_channel *ch = molt_channel_at(&a, (uint32_t)index % CHANNELS);
    molt_slot *slot = &a.slots[index % SLOTS];
    void *capacity[] = {
        &a.words[index % CHANNELS], &a.ticket_of[index % CHANNELS], &a.failure[index % CHANNELS],
        &a.header->in_use, &a.header->tickets, &a.header->published,
        &ch->request.head, &ch->request.tail, &ch->reply.head, &ch->reply.tail,
        &ch->doorbell_of, &ch->doorbell.sem, &slot->doorbell.sem, &slot->state, &slot->doorbell.parked,
        &a.marks[0],
    };
    molt_entry *row = molt_find_entry(&a, 1 + index % CLASSES, 1);
    void *of_entries[] = {
        &a.entry_of[index % CHANNELS], &a.turn_of[index % CHANNELS], &a.began_ns[index % CHANNELS], &slot->holds,
        row ? &row->id : &slot->holds, row ? &row->delay_ns : &slot->holds, row ? &row->limit : &slot->holds,
        row ? &row->mean_ns : &slot->holds,
    };
    uint64_t n = sizeof capacity / sizeof *capacity;
    if (which % 16 < n)
        return (uint64_t)((uint8_t *)capacity[which % 16] - memory) / 8;
    uint64_t place = number(in, 2);
    return place & 1 ? place >> 1 : (uint64_t)((uint8_t *)of_entries[place >> 1 & 7] - memory) / 8;
}

/* -- the model --------------------------------------------------------------------------------------------------- */

/* How far an entrypoint's requests are put off, in tickets: the model's clock. */
static uint64_t class_delay(uint64_t entry) { return entry == 2 ? 2 : 0; }

static uint64_t word_of(const channel_model *c) {
    int held = c->state != MOLT_IDLE && c->state != MOLT_READY;
    return (uint64_t)c->generation << 32 | (held ? (uint64_t)c->epoch << 24 | c->slot << 8 : 0) | c->state;
}

static int is_held(const channel_model *c) {
    return c->state == MOLT_CLAIMED || c->state == MOLT_ABANDONED || c->state == MOLT_KILLING;
}

static int holds(uint32_t slot) {
    channel_model *c = &channels[slots[slot].e.channel];
    return slots[slot].claims && is_held(c) && word_of(c) >> 8 == slots[slot].e.word >> 8;
}

static void ends(channel_model *c, uint32_t state) {
    c->state = state;
    if (state == MOLT_DONE || state == MOLT_FAILED)
        CHECK(++c->outcomes == 1); /* one a generation */
}

static uint32_t ready(uint64_t before) {
    uint32_t n = 0;
    for (int i = 0; i < CHANNELS; i++)
        n += channels[i].state == MOLT_READY && channels[i].ticket < before;
    return n;
}

static uint32_t ready_with_turn_before(uint64_t turn) {
    uint32_t n = 0;
    for (int i = 0; i < CHANNELS; i++)
        n += channels[i].state == MOLT_READY && channels[i].turn < turn;
    return n;
}

static void check_everything(void) {
    CHECK(memcmp(&a, &untouched, sizeof a) == 0); /* where things are is nobody's to change */
    if (!honest)
        return;
    int waiting = 0, awake = 0, idle = 0, told = 1;
    for (uint32_t i = 0; i < CHANNELS; i++) {
        channel_model *c = &channels[i];
        CHECK(molt_look(&a, i) == word_of(c));
        CHECK(c->state == MOLT_IDLE || molt_is_marked(&a, i));
        waiting += c->state == MOLT_READY && !c->call.deferred;
        told &= c->announced; /* else somebody is about to wake one, for his request or an older one */
        for (uint32_t j = 0; j < i; j++) /* an executor has one at most */
            CHECK(!is_held(c) || !is_held(&channels[j]) || c->slot != channels[j].slot);
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        CHECK(atomic_load(&a.slots[i].state) == slots[i].state);
        idle += slots[i].state == MOLT_SLOT_IDLE;
        awake += slots[i].state == MOLT_SLOT_IDLE && !atomic_load(&a.slots[i].doorbell.parked);
    }
    CHECK(!told || !waiting || !idle || awake); /* nobody sleeps over a request */
    CHECK(molt_ahead_of(&a, EVERYTHING) == ready(EVERYTHING));
}

static void pack(parcel *p, uint8_t kind, uint64_t size, uint64_t entry, uint32_t from) {
    p->payload = stream + from;
    p->head = (molt_head){.header = {.version = MOLT_FRAME_VERSION, .kind = kind, .codec = 1}};
    p->head.header.entry_bytes = (uint16_t)(entry % MOLT_ENTRY_BYTES);
    p->head.header.payload_bytes = (uint32_t)(size % (MOST + 1 - ENTRIES));
    p->head.size = (uint32_t)sizeof(molt_frame) + p->head.header.entry_bytes + p->head.header.payload_bytes;
    p->head.header.request_id = from;
    memcpy(p->head.entry, stream + from, p->head.header.entry_bytes);
}

/* What the binding asks of a head before it believes it. */
static int plausible(const molt_head *head) {
    return head->header.entry_bytes <= MOLT_ENTRY_BYTES && head->header.payload_bytes <= MOST &&
           head->size == sizeof(molt_frame) + head->header.entry_bytes + (uint64_t)head->header.payload_bytes;
}

static void check_arrived(const arrival *got, const parcel *sent) {
    CHECK(memcmp(&got->head, &sent->head, molt_head_bytes(&sent->head)) == 0);
    CHECK(memcmp(got->payload, sent->payload, sent->head.header.payload_bytes) == 0);
}

/* The parts of a frame, in the order in which they travel. */
static int part(arrival *p, int stage, uint8_t **at, uint64_t *n) {
    uint8_t *parts[] = {(uint8_t *)&p->head, p->head.entry, p->payload};
    uint64_t sizes[] = {sizeof p->head.size + sizeof p->head.header, p->head.header.entry_bytes, p->head.header.payload_bytes};
    if (stage > 2 || (stage > 0 && !plausible(&p->head)))
        return 0;
    *at = parts[stage], *n = sizes[stage];
    return 1;
}

/* -- clients ----------------------------------------------------------------------------------------------------- */

static void publish(uint32_t i, molt_input *in) {
    channel_model *c = &channels[i];
    uint64_t size = odd_number(in), how = number(in, 1);
    uint32_t capacity = how & 3, waiting = how >> 2 & 1;
    if (c->gone || (honest && c->state != MOLT_IDLE))
        return;
    pack(&c->out, MOLT_REQUEST, size, 1 + number(in, 1), (uint32_t)(how >> 3));
    c->call.part[0] = (uint8_t *)&c->out.head, c->call.left[0] = molt_head_bytes(&c->out.head);
    c->call.part[1] = c->out.payload, c->call.left[1] = c->out.head.header.payload_bytes;
    c->stage = 0;
    c->call.entry = (how >> 3) % (CLASSES + 1); /* one of them is known to nobody */
    c->call.turn = tickets;
    uint32_t idle = 0, ahead = ready(EVERYTHING);
    for (uint32_t slot = 0; slot < SLOTS; slot++)
        idle += slots[slot].state == MOLT_SLOT_IDLE;
    int published = molt_publish(&a, &c->call);
    uint32_t over = published ? molt_excess(&a, &c->call, capacity) : 0;
    if (honest) {
        CHECK(published);
        CHECK(over == (ahead < capacity + idle ? 0 : ahead - capacity - idle + 1));
        c->generation++, c->outcomes = 0;
        c->state = MOLT_READY, c->ticket = tickets++;
        c->turn = c->call.turn + class_delay(c->call.entry);
    }
    c->announced = 0;
    if (over > waiting && molt_give_up(&a, &c->call, 1) == MOLT_READY)
        c->state = MOLT_IDLE, c->announced = 1;
}

static void announce(uint32_t i) {
    channel_model *c = &channels[i];
    if (!c->announced && !c->gone) {
        molt_announce(&a, &c->call);
        molt_rouse(&a, &c->call);
    }
    c->announced = 1;
}

static void give_up(uint32_t i, int only_queued) {
    channel_model *c = &channels[i];
    if (c->gone)
        return;
    uint32_t found = molt_give_up(&a, &c->call, only_queued);
    if (!honest)
        return;
    CHECK(found == c->state);
    if (c->state == MOLT_READY)
        c->state = MOLT_IDLE;
    else if (c->state == MOLT_CLAIMED && !only_queued)
        c->state = MOLT_ABANDONED;
}

static int next_buffer(channel_model *c) {
    if (!part(&c->in, c->stage, &c->call.into, &c->call.wanted))
        return 0;
    c->stage++;
    return 1;
}

/* Look once, and take what there is. */
static void await(uint32_t i) {
    channel_model *c = &channels[i];
    if (c->gone)
        return;
    int code = molt_await(&a, &c->call, 0, 0, 0, &open_flag);
    while (code == MOLT_AWAIT_BUFFER && next_buffer(c))
        code = molt_await(&a, &c->call, 0, 0, 0, &open_flag);
    if (honest) {
        int over = c->state == MOLT_DONE || c->state == MOLT_FAILED || c->state == MOLT_IDLE || c->state == MOLT_ABANDONED;
        CHECK(code == (over ? MOLT_AWAIT_OUTCOME : MOLT_AWAIT_TIME));
    }
    uint64_t word = molt_look(&a, i);
    if (code != MOLT_AWAIT_OUTCOME || MOLT_GENERATION(word) != MOLT_GENERATION(c->call.word))
        return;
    if (MOLT_STATE(word) == MOLT_FAILED) {
        if (honest)
            CHECK(atomic_load(&a.failure[i]) == c->reason);
    } else if (MOLT_STATE(word) == MOLT_DONE) {
        int complete = 1;
        do
            complete = !c->call.wanted || (molt_take_more(&a, &c->call) >= 0 && !c->call.wanted);
        while (complete && next_buffer(c));
        if (honest) {
            CHECK(complete && !molt_reply_there(&a, &c->call));
            check_arrived(&c->in, &c->reply);
        }
    } else {
        return;
    }
    c->call.left[0] = c->call.left[1] = c->call.wanted = 0;
    int freed = molt_step(&a, i, word, MOLT_IDLE_WORD(MOLT_GENERATION(word)));
    CHECK(!honest || freed);
    c->state = MOLT_IDLE;
}

/* -- executors --------------------------------------------------------------------------------------------------- */

static void claim(uint32_t i) {
    slot_model *s = &slots[i];
    if (holds(i) || (honest && s->state != MOLT_SLOT_IDLE) || !molt_ahead_of(&a, EVERYTHING))
        return; /* it would wait */
    atomic_store(&a.slots[i].doorbell.parked, 0);
    if (honest)
        CHECK(molt_next_request(&a, &s->e, 0, 0) == MOLT_NEXT_REQUEST);
    else if (!molt_claim(&a, &s->e))
        return; /* molt_next_request would wait for another */
    CHECK(s->e.channel < CHANNELS);
    s->claims = 1, s->stage = 0, s->done = 0, s->noted = 0;
    atomic_store(&a.executor_awake[i], 0);
    if (!honest)
        return;
    channel_model *c = &channels[s->e.channel];
    CHECK(c->state == MOLT_READY && ready_with_turn_before(c->turn) == 0);
    CHECK(s->e.entry == c->call.entry);
    c->state = MOLT_CLAIMED, c->slot = i, c->epoch = s->e.epoch & 0xff;
    s->state = MOLT_SLOT_BUSY;
    CHECK(s->e.queued == ready(EVERYTHING) && s->e.word == word_of(c));
}

static void end_request(uint32_t i, uint32_t state, uint64_t reason) {
    slot_model *s = &slots[i];
    channel_model *c = &channels[s->e.channel];
    if (!s->claims)
        return;
    int was_held = holds(i), answered = molt_finish(&a, &s->e, state, reason);
    s->claims = !answered && honest && c->state == MOLT_KILLING; /* which it waits for */
    if (!honest)
        return;
    CHECK(answered == (was_held && c->state == MOLT_CLAIMED));
    if (!was_held)
        return;
    if (answered) {
        c->reason = reason, c->reply = s->out;
        ends(c, state);
    } else if (c->state == MOLT_ABANDONED) {
        c->state = MOLT_IDLE;
    }
    s->state = c->state == MOLT_KILLING ? MOLT_SLOT_BUSY : MOLT_SLOT_IDLE;
}

/* Move the next part of the request or the reply on. */
static void work(uint32_t i, molt_input *in) {
    slot_model *s = &slots[i];
    channel_model *c = &channels[s->e.channel];
    if (!s->claims || (honest && c->state == MOLT_KILLING))
        return;
    int code, answers = s->stage > 2;
    uint64_t n;
    if (!answers) {
        uint8_t *to;
        if (!part(&s->in, s->stage, &to, &n)) {
            CHECK(!honest);
            end_request(i, MOLT_FAILED, 4);
            return;
        }
        code = molt_transfer(&a, &s->e, to, NULL, n, &s->done, 0);
    } else {
        if (s->stage == 3 && !s->done) {
            uint64_t size = odd_number(in);
            pack(&s->out, MOLT_RESPONSE, size, 0, (uint32_t)number(in, 1) % ENTRIES);
        }
        n = s->stage == 3 ? molt_head_bytes(&s->out.head) : s->out.head.header.payload_bytes;
        code = molt_transfer(&a, &s->e, NULL, s->stage == 3 ? (uint8_t *)&s->out.head : s->out.payload, n, &s->done, 0);
    }
    CHECK(s->done <= n);
    if (honest) {
        CHECK(code == MOLT_TRANSFERRED || code == (c->state == MOLT_CLAIMED ? MOLT_TRANSFER_STALLED : MOLT_TRANSFER_LOST));
        CHECK((code == MOLT_TRANSFERRED) >= (s->done == n && c->state == MOLT_CLAIMED));
    }
    if (code == MOLT_TRANSFER_STALLED)
        return; /* the next time, or never */
    if (code != MOLT_TRANSFERRED) {
        end_request(i, MOLT_FAILED, 3);
        return;
    }
    s->done = 0, s->stage++;
    if (s->stage == 3 && honest && holds(i))
        check_arrived(&s->in, &c->out);
    if (s->stage == 5)
        end_request(i, MOLT_DONE, 0);
}

/* The two halves of going to sleep: the core's molt_park does no more, but for the sleep itself. */
static void doze(uint32_t i) {
    slot_model *s = &slots[i];
    molt_doorbell *doorbell = &a.slots[i].doorbell;
    if (s->state != MOLT_SLOT_IDLE || s->claims)
        return;
    if (!s->noted) {
        atomic_store(&doorbell->parked, 0); /* it was woken, or has slept long enough */
        s->seen = atomic_load(&a.header->published);
        s->noted = !molt_claim(&a, &s->e);
        CHECK(!honest || s->noted == !ready(EVERYTHING));
        if (!s->noted) { /* it has found one */
            s->claims = 1, s->stage = 0, s->done = 0;
            atomic_store(&a.slots[i].state, MOLT_SLOT_BUSY);
            if (honest) {
                channel_model *c = &channels[s->e.channel];
                c->state = MOLT_CLAIMED, c->slot = i, c->epoch = s->e.epoch & 0xff;
                s->state = MOLT_SLOT_BUSY;
            }
        }
    } else {
        s->noted = 0;
        atomic_store(&a.executor_awake[i], 0);
        atomic_store(&doorbell->parked, 1);
        if (atomic_load(&a.header->published) != s->seen)
            atomic_store(&doorbell->parked, 0);
    }
}

/* -- the supervisor ---------------------------------------------------------------------------------------------- */

static void kill_request(uint32_t i) {
    channel_model *c = &channels[i];
    uint64_t word = molt_look(&a, i);
    if (MOLT_STATE(word) != MOLT_CLAIMED && MOLT_STATE(word) != MOLT_ABANDONED)
        return;
    int stepped = molt_step(&a, i, word, MOLT_WITH_STATE(word, MOLT_KILLING));
    CHECK(!honest || stepped);
    c->state = MOLT_KILLING;
}

/* An executor is dead, wherever it was; it is reaped, and another takes its slot. */
static void reap(uint32_t i) {
    slot_model *s = &slots[i];
    for (uint32_t at = 0; at < CHANNELS; at++) {
        channel_model *c = &channels[at];
        uint64_t word = molt_look(&a, at);
        uint32_t state = MOLT_STATE(word);
        if (state != MOLT_CLAIMED && state != MOLT_ABANDONED && state != MOLT_KILLING)
            continue;
        if (MOLT_SLOT(word) != i || (word >> 24 & 0xff) != (s->e.epoch & 0xff))
            continue;
        int abandoned = state == MOLT_ABANDONED;
        atomic_store(&a.failure[at], 77);
        uint64_t after = abandoned ? MOLT_IDLE_WORD(MOLT_GENERATION(word)) : MOLT_WITH_STATE(word, MOLT_FAILED);
        if (molt_step(&a, at, word, after) && honest) {
            c->reason = 77;
            ends(c, abandoned ? MOLT_IDLE : MOLT_FAILED);
        }
    }
    uint32_t epoch = s->e.epoch + 1;
    s->e = (molt_executor){.slot = i, .epoch = epoch};
    s->claims = s->noted = 0;
    s->state = MOLT_SLOT_IDLE;
    CHECK(molt_doorbell_init(&a.slots[i].doorbell) == 0);
    atomic_store(&a.slots[i].holds, 0);
    atomic_store(&a.executor_awake[i], 0);
    atomic_store(&a.slots[i].state, MOLT_SLOT_IDLE);
    if (molt_ahead_of(&a, EVERYTHING))
        molt_wake_executor(&a);
}

/* A client is dead: its channel is taken back, in as many looks as that takes. */
static void reclaim(uint32_t i) {
    channel_model *c = &channels[i];
    uint64_t word = molt_look(&a, i);
    uint32_t state = MOLT_STATE(word), after = MOLT_IDLE;
    c->gone = 1;
    if (!c->announced || c->call.deferred) /* whom it would have woken wakes by himself, soon */
        for (uint32_t slot = 0; slot < SLOTS; slot++)
            atomic_store(&a.slots[slot].doorbell.parked, 0);
    c->announced = 1, c->call.deferred = 0;
    if (state == MOLT_CLAIMED)
        after = MOLT_ABANDONED;
    else if (state == MOLT_ABANDONED || state == MOLT_KILLING)
        return;
    if (state != MOLT_IDLE) {
        uint64_t to = after ? MOLT_WITH_STATE(word, after) : MOLT_IDLE_WORD(MOLT_GENERATION(word));
        int stepped = molt_step(&a, i, word, to);
        CHECK(!honest || stepped);
        c->state = after;
    }
    if (MOLT_STATE(molt_look(&a, i)) == MOLT_IDLE) { /* another client's */
        CHECK(molt_doorbell_init(&molt_channel_at(&a, i)->doorbell) == 0);
        atomic_store(&molt_channel_at(&a, i)->doorbell_of, i);
        atomic_store(&a.client_awake[i], 0);
        c->call = (molt_call){.channel = i};
        c->call.word = MOLT_IDLE_WORD(c->generation);
        c->gone = 0, c->announced = 1, c->state = MOLT_IDLE;
    }
}

/* -- all together ------------------------------------------------------------------------------------------------ */

static void start(void) {
    ambushes.after = 0; /* it may not have come to pass */
    memset(memory, 0, a.geometry.size);
    CHECK(molt_arena_create(&a) == 0);
    atomic_store(&a.header->in_use, CHANNELS);
    for (uint64_t id = 1; id <= CLASSES; id++) {
        molt_entry *row = molt_find_entry(&a, id, 1);
        CHECK(row);
        atomic_store(&row->delay_ns, class_delay(id));
        atomic_store(&row->id, id);
    }
    for (uint32_t i = 0; i < CHANNELS; i++) {
        channel_model *c = &channels[i];
        c->call = (molt_call){.channel = i};
        c->stage = c->gone = 0, c->announced = 1;
        c->state = MOLT_IDLE, c->generation = c->slot = c->epoch = c->outcomes = 0;
    }
    for (uint32_t i = 0; i < SLOTS; i++) {
        slots[i].e = (molt_executor){.slot = i, .epoch = 254}; /* soon to overflow */
        slots[i].claims = slots[i].stage = slots[i].noted = 0;
        slots[i].state = MOLT_SLOT_IDLE;
        atomic_store(&a.slots[i].state, MOLT_SLOT_IDLE);
    }
    tickets = 0;
    honest = 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (!a.base) {
        uint64_t seed = 910;
        for (size_t i = 0; i < sizeof stream; i++)
            stream[i] = (uint8_t)chance(&seed, 256);
        a.base = memory;
        CHECK(molt_arena_plan(&a, CHANNELS, SLOTS, RING));
        CHECK(a.geometry.size <= sizeof memory);
        FORBID(memory + a.geometry.size, sizeof memory - a.geometry.size);
        untouched = a;
    }
    start();
    molt_input in = {data, data + size};
    for (int steps = 0; steps < STEPS && more(&in); steps++) {
        tries = 0;
        uint8_t what = (uint8_t)number(&in, 1);
        uint32_t channel = (what >> 4) % CHANNELS, slot = (what >> 4) % SLOTS;
        switch (what & 15) {
        case 0: publish(channel, &in); break;
        case 1: publish(channel, &in), announce(channel); break;
        case 2: announce(channel); break;
        case 3: await(channel); break;
        case 4: give_up(channel, what >> 7); break;
        case 5: claim(slot); break;
        case 6: work(slot, &in); break;
        case 7:
            for (int turn = 0; turn < 12 && slots[slot].claims; turn++)
                work(slot, &in), await(slots[slot].e.channel);
            break;
        case 8: end_request(slot, MOLT_FAILED, what); break;
        case 9: doze(slot); break;
        case 10: kill_request(channel); break;
        case 11: reap(slot); break;
        case 12: reclaim(channel); break;
        case 13: /* the supervisor's look at marks; or spin between looking and going to sleep, or let go of that */
            if (what & 0x80) {
                uint32_t missed = molt_mend_marks(&a);
                CHECK(!honest || !missed);
            } else {
                atomic_store(&a.executor_awake[slot], slots[slot].noted);
            }
            break;
        case 14:
            if (channels[channel].call.deferred && !channels[channel].gone)
                molt_catch_up(&a, &channels[channel].call);
            else if (!channels[channel].gone) /* to the doorbell of another channel of the same client */
                molt_redirect(&a, &channels[channel].call, (channel + 1) % CHANNELS);
            break;
        default: {
            uint64_t offset = some_place(&in);
            unsigned how = (unsigned)number(&in, 1);
            uint64_t value = odd_number(&in);
            honest = 0;
            if (what & 0x80) {
                ambushes.offset = offset, ambushes.how = how, ambushes.value = value;
                ambushes.after = 1 + (unsigned)number(&in, 1) % 64;
            } else {
                scribble(offset, how, value);
            }
        }
        }
        check_everything();
    }
    return 0;
}
