/* Each native path of an exchange, with a death after every instruction of it.
 *
 *     single_step [PATH...]        all paths where none is named
 *
 * A victim, a real process, is single-stepped through a path of the core by ptrace(2), and after k instructions it is
 * killed, or held there while others go on, for every k until the path ends. Client, executors and whoever comes after
 * the victim are processes too, and run freely; this one does what the supervisor does about it. Whatever k was, each
 * request must have one outcome with the right bytes, all words must be IDLE, and the channel and the slot must serve
 * the next request.
 *
 * Time plays no part. Parks last a minute here, longer than any run; where all that are left sleep and one of them is
 * not done, the end of a park is given to them as a signal, and counted: nobody may need a second one, and nobody any
 * if no process died. Everything runs on one processor: who steps another process wakes it for every instruction.
 *
 * Exits with 77 where processes can't be single-stepped.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <semaphore.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>

static int sleep_on(sem_t *sem, clockid_t clock, const struct timespec *until);
#define sem_clockwait sleep_on /* as it is called in doorbell.h: who sleeps says so */
#define MOLT_PARK_NS 60000000000u
#define MOLT_REST_NS MOLT_PARK_NS
#include "testing.h"
#undef sem_clockwait

#include <signal.h>
#include <stdarg.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>

enum { CANNOT = 77 };

#ifndef __x86_64__
/* Not aarch64: an instruction that is stepped clears the monitor that ldxr has set, and stxr fails for ever. */
int main(void) {
    puts("processes are single-stepped on x86-64 only");
    return CANNOT;
}
#else

enum { ENTRY = 7 }; /* of all requests; so many may run as there are executors, so each enters and leaves */
enum { CHANNELS = 2, SLOTS = 2, RING = 256, SMALL = 40, LARGE = 700, NUMBERS = 16, LAST = 7, STUCK_S = 60 };

/* -- the paths ------------------------------------------------------------------------------------------------- */

enum role { CLIENT, EXECUTOR, CANCELLER }; /* the last: another thread of the client that ends its call */

/* Where a path begins and ends. */
enum mark { PUBLISH, ANNOUNCE, AWAIT, TAKE, CALLED, GIVE_UP, GIVEN_UP, SLOTTED, CLAIMED, RECEIVED, REPLIES, FINISHED };

/* What happens when the victim has made k instructions. */
enum fate {
    KILL = 1,     /* SIGKILL */
    HOLD = 2,     /* it is stopped until the others have got as far as they can */
    RIVAL = 4,    /* it is stopped; another executor serves one request, if there is one */
    ABANDON = 8,  /* it is stopped; its client gives up */
    KILLING = 16, /* it is stopped; the supervisor decides to kill it, and is slow about it */
};
enum { FATES = 5 };
static const char *const fate_names[FATES] = {"kill", "hold", "rival", "abandon", "killing"};

typedef struct {
    const char *name;
    enum role victim;
    enum mark from, to;
    uint64_t request, reply; /* bytes */
    int fates;
    int peer_later; /* the other side is started when the victim sleeps, or is dead; otherwise before the victim */
    int gives_up;   /* the client does, when the path begins or instead of waiting */
    int fails;      /* the executor doesn't answer */
    uint64_t spin_ns;
} path;

static const path paths[] = {
    {"publish", CLIENT, PUBLISH, ANNOUNCE, SMALL, SMALL, .fates = KILL | HOLD},
    {"announce", CLIENT, ANNOUNCE, AWAIT, SMALL, SMALL, .fates = KILL | HOLD},
    {"await", CLIENT, AWAIT, TAKE, SMALL, SMALL, .fates = KILL | HOLD, .peer_later = 1},
    {"await-spinning", CLIENT, AWAIT, TAKE, SMALL, SMALL, .fates = KILL | HOLD, .peer_later = 1, .spin_ns = 300000},
    {"take", CLIENT, TAKE, CALLED, SMALL, SMALL, .fates = KILL | HOLD},
    {"take-failure", CLIENT, TAKE, CALLED, SMALL, SMALL, .fates = KILL | HOLD, .fails = 1},
    {"send-large", CLIENT, PUBLISH, TAKE, LARGE, SMALL, .fates = KILL | HOLD},
    {"take-large", CLIENT, AWAIT, CALLED, SMALL, LARGE, .fates = KILL | HOLD},
    {"give-up-queued", CLIENT, GIVE_UP, GIVEN_UP, SMALL, SMALL, .fates = KILL | HOLD, .peer_later = 1, .gives_up = 1},
    {"give-up-claimed", CLIENT, GIVE_UP, GIVEN_UP, LARGE, SMALL, .fates = KILL | HOLD, .gives_up = 1},
    {"cancel", CANCELLER, GIVE_UP, GIVEN_UP, SMALL, SMALL, .fates = KILL | RIVAL},
    {"claim", EXECUTOR, SLOTTED, CLAIMED, SMALL, SMALL, .fates = KILL | RIVAL | ABANDON | KILLING},
    {"park", EXECUTOR, SLOTTED, CLAIMED, SMALL, SMALL, .fates = KILL | RIVAL, .peer_later = 1},
    {"spin", EXECUTOR, SLOTTED, CLAIMED, SMALL, SMALL, .fates = KILL | RIVAL, .peer_later = 1, .spin_ns = 300000},
    {"receive", EXECUTOR, CLAIMED, RECEIVED, SMALL, SMALL, .fates = KILL | ABANDON | KILLING},
    {"receive-large", EXECUTOR, CLAIMED, RECEIVED, LARGE, SMALL, .fates = KILL | ABANDON | KILLING},
    {"reply", EXECUTOR, REPLIES, FINISHED, SMALL, SMALL, .fates = KILL | ABANDON | KILLING},
    {"reply-large", EXECUTOR, REPLIES, FINISHED, SMALL, LARGE, .fates = KILL | ABANDON | KILLING},
    {"fail", EXECUTOR, REPLIES, FINISHED, SMALL, SMALL, .fates = KILL | ABANDON | KILLING, .fails = 1},
    {"finish-abandoned", EXECUTOR, REPLIES, FINISHED, SMALL, SMALL, .fates = KILL | KILLING, .gives_up = 1},
};
enum { PATHS = sizeof paths / sizeof *paths };

/* -- what all processes share ---------------------------------------------------------------------------------- */

enum outcome { NONE, ANSWERED, FAILED, ABANDONED, TAKEN_BACK, OUTCOMES };

/* By request; its number is its generation on channel 0, and above that on channel 1. */
typedef struct {
    molt_word runs;     /* an executor had all of it */
    molt_word finishes; /* an executor was told that it has ended it */
    molt_word repairs;  /* the supervisor has ended it */
    molt_word outcome;  /* that its client was told */
} request;

typedef struct {
    request requests[NUMBERS];
    molt_word sleeps;        /* how often somebody went to sleep */
    molt_word claims[SLOTS]; /* what executors say that they have */
} board;

static molt_arena arena;
static board *told;
static const molt_flag open_flag = 0;
static const path *now;  /* the path under way */
static enum { NOT_TRACED, BEFORE, WITHIN } traced; /* where the victim is, seen from its path */
static volatile sig_atomic_t asked_to_give_up;
static uint32_t epoch[SLOTS];

enum { BY_EXECUTOR = 2, BY_SUPERVISOR = 1 };

static int sleep_on(sem_t *sem, clockid_t clock, const struct timespec *until) {
    atomic_fetch_add(&told->sleeps, 1);
    return sem_clockwait(sem, clock, until);
}

static void mark(enum mark here) {
    int last = here == now->to || here == FINISHED || here == CALLED; /* also if the request was taken away */
    if (traced == BEFORE ? here != now->from : !traced || !last)
        return;
    traced = traced == BEFORE ? WITHIN : NOT_TRACED;
    syscall(SYS_kill, getpid(), SIGSTOP);
}

static request *request_of(uint64_t number) {
    CHECK(number < NUMBERS);
    return &told->requests[number];
}

/* -- the parties ----------------------------------------------------------------------------------------------- */

/* What travels before the bytes: of a request, and of the reply to it. */
typedef struct {
    uint64_t number, size, reply_size;
} label;

static uint8_t byte_of(label about, uint64_t at) { return (uint8_t)(about.number * 251 + about.size * 13 + at * 7); }

static void fill(uint8_t *bytes, label about) {
    for (uint64_t i = 0; i < about.size; i++)
        bytes[i] = byte_of(about, i);
}

static void check_bytes(const uint8_t *bytes, label about) {
    for (uint64_t i = 0; i < about.size; i++)
        CHECK(bytes[i] == byte_of(about, i));
}

/* Say where the next part of a reply goes, as the binding does. 0: there is no more. */
static int next_buffer(molt_call *c, int *stage, label *reply, uint8_t *bytes) {
    if (*stage == 2)
        return 0;
    CHECK(*stage == 0 || reply->size <= LARGE);
    c->into = *stage ? bytes : (uint8_t *)reply;
    c->wanted = *stage ? reply->size : sizeof *reply;
    ++*stage;
    return 1;
}

static enum outcome take(molt_call *c, uint64_t number, int stage, label *reply, uint8_t *bytes) {
    uint64_t word = molt_look(&arena, c->channel), idle = MOLT_IDLE_WORD(MOLT_GENERATION(word));
    CHECK(MOLT_GENERATION(word) == MOLT_GENERATION(c->word));
    switch (MOLT_STATE(word)) {
    case MOLT_FAILED: {
        uint64_t reason = atomic_load(&arena.failure[c->channel]);
        CHECK(reason == (now->fails && !atomic_load(&request_of(number)->repairs) ? BY_EXECUTOR : BY_SUPERVISOR));
        CHECK(molt_step(&arena, c->channel, word, idle));
        return FAILED;
    }
    case MOLT_DONE:
        for (;;) {
            if (c->wanted)
                CHECK(molt_take_more(&arena, c) == 1 && !c->wanted);
            if (!next_buffer(c, &stage, reply, bytes))
                break;
        }
        CHECK(molt_reply_there(&arena, c) == 0);
        CHECK(molt_step(&arena, c->channel, word, idle));
        return ANSWERED;
    case MOLT_IDLE: return TAKEN_BACK; /* by another thread */
    default: return ABANDONED;
    }
}

static enum outcome outcome_of_giving_up(uint32_t found) {
    CHECK(found != MOLT_IDLE);
    return found == MOLT_READY ? TAKEN_BACK : found == MOLT_CLAIMED || found == MOLT_KILLING ? ABANDONED : NONE;
}

static enum outcome give_up(molt_call *c) {
    mark(GIVE_UP);
    uint32_t found = molt_give_up(&arena, c, 0);
    mark(GIVEN_UP);
    return outcome_of_giving_up(found);
}

static enum outcome call(molt_call *c, label about, int gives_up) {
    uint8_t sent[LARGE], bytes[LARGE];
    label reply = {0};
    int stage = 0, code;
    enum outcome outcome = NONE;
    fill(sent, about);
    c->part[0] = (const uint8_t *)&about, c->left[0] = sizeof about;
    c->entry = ENTRY;
    c->part[1] = sent, c->left[1] = about.size;
    mark(PUBLISH);
    CHECK(molt_publish(&arena, c));
    mark(ANNOUNCE);
    molt_announce(&arena, c);
    molt_rouse(&arena, c);
    if (gives_up && (outcome = give_up(c)) != NONE)
        return outcome;
    mark(AWAIT);
    for (;;) {
        code = molt_await(&arena, c, MOLT_NEVER, now->spin_ns, CHANNELS, &open_flag);
        if (code == MOLT_AWAIT_BUFFER)
            CHECK(next_buffer(c, &stage, &reply, bytes));
        else if (code != MOLT_AWAIT_SIGNAL)
            break;
        else if (asked_to_give_up && about.number == 1 && (outcome = outcome_of_giving_up(molt_give_up(&arena, c, 0))) != NONE)
            return outcome;
    }
    CHECK(code == MOLT_AWAIT_OUTCOME);
    mark(TAKE);
    outcome = take(c, about.number, stage, &reply, bytes);
    mark(CALLED);
    if (outcome == ANSWERED) {
        CHECK(reply.number == about.number && reply.size == about.reply_size);
        check_bytes(bytes, reply);
    }
    return outcome;
}

/* Make a call, and then, to see that the channel is as good as before, another; on another channel if that is still in use. */
static void be_client(uint64_t number, int calls) {
    molt_call c[CHANNELS] = {{.channel = 0}, {.channel = 1}};
    uint32_t channel = 0;
    for (int i = 0; i < calls; i++) {
        label about = {number + (uint64_t)i, i ? SMALL : now->request, i ? SMALL : now->reply};
        if (MOLT_STATE(molt_look(&arena, channel)) != MOLT_IDLE)
            channel = 1, about.number = NUMBERS / 2 + (uint64_t)i;
        enum outcome outcome = call(&c[channel], about, i == 0 && now->gives_up && traced);
        mark(CALLED);
        atomic_store(&request_of(about.number)->outcome, outcome);
        CHECK(i == 0 || outcome == ANSWERED);
    }
}

static void be_canceller(void) {
    molt_call c = {.channel = 0, .word = molt_look(&arena, 0)};
    mark(GIVE_UP);
    molt_give_up(&arena, &c, 0);
    mark(GIVEN_UP);
}

/* Move bytes; 0 if the request was taken away. */
static int move(molt_executor *e, void *to, const void *from, uint64_t n) {
    uint64_t done = 0;
    int code;
    do
        code = molt_transfer(&arena, e, to, from, n, &done, now->spin_ns);
    while (code == MOLT_TRANSFER_SIGNAL);
    CHECK(code == MOLT_TRANSFERRED || code == MOLT_TRANSFER_LOST);
    return code == MOLT_TRANSFERRED;
}

/* Whether it was ended by this executor. */
static int serve(molt_executor *e) {
    uint8_t bytes[LARGE];
    label about;
    if (!move(e, &about, NULL, sizeof about))
        return 0;
    CHECK(about.size <= LARGE && about.reply_size <= LARGE);
    if (!move(e, bytes, NULL, about.size))
        return 0;
    mark(RECEIVED);
    check_bytes(bytes, about);
    CHECK(atomic_fetch_add(&request_of(about.number)->runs, 1) == 0);
    label reply = {.number = about.number, .size = about.reply_size};
    fill(bytes, reply);
    int fails = now->fails && about.number == 1;
    mark(REPLIES);
    if (!fails && (!move(e, NULL, &reply, sizeof reply) || !move(e, NULL, bytes, reply.size)))
        return 0;
    if (!molt_finish(&arena, e, fails ? MOLT_FAILED : MOLT_DONE, BY_EXECUTOR))
        return 0;
    atomic_fetch_add(&request_of(about.number)->finishes, 1);
    return 1;
}

static void be_executor(uint32_t slot, int requests) {
    molt_executor e = {.slot = slot, .epoch = epoch[slot], .claim = &told->claims[slot]};
    atomic_store(&arena.slots[slot].state, MOLT_SLOT_IDLE);
    while (requests--) {
        int next;
        mark(SLOTTED);
        do
            next = molt_next_request(&arena, &e, now->spin_ns, SLOTS);
        while (next == MOLT_NEXT_SIGNAL);
        if (next == MOLT_NEXT_RETIRE)
            return;
        mark(CLAIMED);
        if (!serve(&e)) {
            molt_finish(&arena, &e, MOLT_FAILED, BY_EXECUTOR); /* ends it where its client gave up, if it still is its */
            for (uint64_t word; (word = molt_look(&arena, e.channel)) >> 8 == e.word >> 8 && MOLT_STATE(word) == MOLT_KILLING;) {
                atomic_fetch_add(&told->sleeps, 1);
                pause();
            }
        }
        mark(FINISHED);
    }
    molt_tell_awake(&arena, &e, 0); /* as the supervisor does when it reaps one that has left */
}

/* -- processes ------------------------------------------------------------------------------------------------- */

typedef struct {
    pid_t pid; /* 0: it has ended */
    enum role role;
    uint32_t slot;
} process;

enum { CROWD = 6 };
static process crowd[CROWD]; /* all that run, but for a victim that is stopped or stepped */
static size_t crowd_size;
static uint64_t parks;                /* ends of parks that were needed */
static enum fate fate;
static uint64_t instructions;         /* that the victim has made */
static unsigned long long at_address; /* and where that has brought it */

extern const char __executable_start[];

static _Noreturn void fail(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int bit = __builtin_ctz((unsigned)fate);
    fprintf(stderr, "%s, %s after %llu instructions (at %#llx): ", now->name, fate_names[bit],
            (unsigned long long)instructions, at_address - (uintptr_t)__executable_start);
    vfprintf(stderr, format, list);
    fprintf(stderr, "; words %#llx %#llx, tickets %llu, published %llu\n", (unsigned long long)molt_look(&arena, 0),
            (unsigned long long)molt_look(&arena, 1), (unsigned long long)atomic_load(&arena.header->tickets),
            (unsigned long long)atomic_load(&arena.header->published));
    for (int i = 1; i < NUMBERS; i++) {
        request *r = &told->requests[i];
        if (r->runs || r->outcome || r->repairs || r->finishes)
            fprintf(stderr, "  request %d: runs %llu, finishes %llu, repairs %llu, outcome %llu\n", i,
                    (unsigned long long)r->runs, (unsigned long long)r->finishes, (unsigned long long)r->repairs,
                    (unsigned long long)r->outcome);
    }
    exit(1); /* its children die with it */
}

#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition))                                                                          \
            fail("%s:%d: not so: %s", __FILE__, __LINE__, #condition);                             \
    } while (0)

static void on_alarm(int number) {
    (void)number;
    fail("nothing moves");
}

static void on_nudge(int number) { (void)number; }

static void on_ask(int number) { (void)number, asked_to_give_up = 1; }

/* Start a process. Returns 0 in it. */
static pid_t start(void) {
    pid_t parent = getpid(), pid = fork();
    CHECK(pid >= 0);
    if (!pid) {
        CHECK(prctl(PR_SET_PDEATHSIG, SIGKILL) == 0);
        if (getppid() != parent)
            _exit(1);
    }
    return pid;
}

static process *join(pid_t pid, enum role role, uint32_t slot) {
    CHECK(crowd_size < CROWD);
    crowd[crowd_size] = (process){pid, role, slot};
    return &crowd[crowd_size++];
}

static process *start_client(uint64_t number, int calls) {
    pid_t pid = start();
    if (!pid) {
        be_client(number, calls);
        _exit(0);
    }
    return join(pid, CLIENT, 0);
}

static process *start_executor(uint32_t slot, int requests) {
    pid_t pid = start();
    if (!pid) {
        be_executor(slot, requests);
        _exit(0);
    }
    return join(pid, EXECUTOR, slot);
}

/* Whether a process sleeps; not, if it is stopped, or about to run. */
static int asleep(pid_t pid) {
    char name[64], text[128];
    snprintf(name, sizeof name, "/proc/%d/stat", pid);
    int fd = open(name, O_RDONLY | O_CLOEXEC);
    CHECK(fd >= 0);
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    CHECK(n > 0);
    text[n] = 0;
    const char *after = strrchr(text, ')');
    CHECK(after);
    return after[2] == 'S';
}

/* Until nobody of the crowd runs: each has ended or sleeps, and nobody was woken while that was found out. */
static void settle(void) {
    for (int busy = 1; busy;) {
        uint64_t sleeps = atomic_load(&told->sleeps);
        busy = 0;
        for (size_t i = 0; i < crowd_size; i++) {
            int status;
            if (crowd[i].pid && waitpid(crowd[i].pid, &status, WNOHANG) == crowd[i].pid) {
                if (status)
                    fail("a %s ended with %#x", crowd[i].role == CLIENT ? "client" : "executor", status);
                crowd[i].pid = 0;
            }
            busy |= crowd[i].pid && !asleep(crowd[i].pid);
        }
        busy |= sleeps != atomic_load(&told->sleeps);
        if (busy)
            sched_yield();
    }
}

/* Until a process has ended; if that takes the end of a park, it is given to all and counted. */
static void finish(const process *one) {
    for (settle(); one->pid; settle()) {
        EXPECT(++parks <= 1);
        for (size_t i = 0; i < crowd_size; i++)
            if (crowd[i].pid)
                kill(crowd[i].pid, SIGUSR1);
    }
}

static process *living(enum role role) {
    for (size_t i = 0; i < crowd_size; i++)
        if (crowd[i].pid && crowd[i].role == role)
            return &crowd[i];
    return NULL;
}

/* -- the supervisor: the steps of molt_worker/supervisor/shm -------------------------------------------------- */

static int held(uint64_t word) {
    uint32_t state = MOLT_STATE(word);
    return state == MOLT_CLAIMED || state == MOLT_ABANDONED || state == MOLT_KILLING;
}

/* A slot's executor was reaped. */
static void repair(uint32_t slot) {
    for (uint32_t i = 0; i < CHANNELS; i++)
        for (;;) {
            uint64_t word = molt_look(&arena, i), after = MOLT_IDLE_WORD(MOLT_GENERATION(word));
            if (!held(word) || MOLT_SLOT(word) != slot ||
                atomic_load(&told->claims[slot]) != molt_serial(i, word))
                break;
            EXPECT((word >> 24 & 0xff) == epoch[slot]);
            if (MOLT_STATE(word) != MOLT_ABANDONED) {
                atomic_store(&arena.failure[i], BY_SUPERVISOR);
                after = MOLT_WITH_STATE(word, MOLT_FAILED);
                atomic_fetch_add(&request_of(MOLT_GENERATION(word) + i * NUMBERS / 2)->repairs, 1);
            }
            if (molt_step(&arena, i, word, after)) {
                molt_ring_client(&arena, i);
                break;
            }
            if (MOLT_STATE(word) != MOLT_ABANDONED)
                atomic_fetch_sub(&request_of(MOLT_GENERATION(word) + i * NUMBERS / 2)->repairs, 1);
        }
    molt_slot *s = &arena.slots[slot];
    atomic_store(&told->claims[slot], 0);
    atomic_store(&s->state, MOLT_SLOT_FREE);
    atomic_store(&s->retire, 0);
    atomic_store(&s->holds, 0);
    CHECK(molt_doorbell_init(&s->doorbell) == 0);
    atomic_store(&arena.executor_awake[slot], 0);
    epoch[slot] = (epoch[slot] + 1) & 0xff;
    if (molt_ahead_of(&arena, 1ull << 62))
        molt_look_again(&arena);
}

/* A client is dead: its channels are to be IDLE, and another's. Executors that have a request of it are told by a signal. */
static void reclaim(void) {
    for (int round = 0;; round++) {
        int free = 0;
        for (uint32_t i = 0; i < CHANNELS; i++) {
            uint64_t word = molt_look(&arena, i);
            uint32_t state = MOLT_STATE(word);
            if (state == MOLT_CLAIMED)
                molt_step(&arena, i, word, MOLT_WITH_STATE(word, MOLT_ABANDONED));
            else if (state == MOLT_READY || state == MOLT_DONE || state == MOLT_FAILED)
                molt_step(&arena, i, word, MOLT_IDLE_WORD(MOLT_GENERATION(word)));
            free += MOLT_STATE(molt_look(&arena, i)) == MOLT_IDLE;
        }
        if (free == CHANNELS)
            break;
        EXPECT(round < 3);
        for (size_t i = 0; i < crowd_size; i++)
            if (crowd[i].pid && crowd[i].role == EXECUTOR)
                kill(crowd[i].pid, SIGUSR1);
        settle();
    }
    for (uint32_t i = 0; i < CHANNELS; i++) {
        molt_channel *ch = molt_channel_at(&arena, i);
        CHECK(molt_doorbell_init(&ch->doorbell) == 0);
        atomic_store(&ch->doorbell_of, i);
        atomic_store(&arena.client_awake[i], 0);
    }
}

static void retire(uint32_t slot) {
    atomic_store(&arena.slots[slot].retire, 1);
    atomic_fetch_add(&arena.header->published, 1);
    molt_doorbell_ring(&arena.slots[slot].doorbell);
}

/* -- the victim ------------------------------------------------------------------------------------------------ */

static pid_t victim;
enum stepped { STEPPED, ASLEEP, ENDED };

static void gone(int status) { fail("the victim ended with %#x", status); }

/* Read the stop that the victim is in. */
static enum stepped stop_of(int status) {
    if (!WIFSTOPPED(status))
        gone(status);
    EXPECT(WSTOPSIG(status) == SIGTRAP || WSTOPSIG(status) == SIGSTOP);
    return WSTOPSIG(status) == SIGSTOP ? ENDED : STEPPED;
}

/* Let it run to the next mark. ASLEEP: it sleeps, and nobody is awake to wake it. */
static enum stepped run_on(void) {
    int status;
    while (!waitpid(victim, &status, WNOHANG)) {
        settle();
        if (asleep(victim)) {
            settle(); /* somebody might have been about to wake it */
            if (asleep(victim))
                return ASLEEP;
        }
        sched_yield();
    }
    return stop_of(status);
}

/* One instruction. ASLEEP: it is a system call that sleeps. */
static enum stepped step(void) {
    static const uint8_t syscall_instruction[] = {0x0f, 0x05};
    int status;
    at_address = (unsigned long long)ptrace(PTRACE_PEEKUSER, victim, offsetof(struct user_regs_struct, rip), NULL);
    CHECK(ptrace(PTRACE_SINGLESTEP, victim, NULL, NULL) == 0);
    /* It is a fork: the same code is at the same place here. */
    if (memcmp((const void *)(uintptr_t)at_address, syscall_instruction, 2) == 0) {
        enum stepped at = run_on();
        settle(); /* whom it has woken */
        return at;
    }
    CHECK(waitpid(victim, &status, 0) == victim);
    return stop_of(status);
}

static void start_peer(void) {
    if (now->victim == CLIENT)
        start_executor(0, -1);
    else
        start_client(1, 2);
}

static void start_victim(void) {
    victim = start();
    if (!victim) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) != 0)
            _exit(CANNOT);
        traced = BEFORE;
        if (now->victim == CLIENT)
            be_client(1, now->gives_up ? 1 : 2);
        else if (now->victim == EXECUTOR)
            be_executor(0, -1);
        else
            be_canceller();
        _exit(0);
    }
    int status;
    CHECK(waitpid(victim, &status, 0) == victim);
    if (WIFEXITED(status) && WEXITSTATUS(status) == CANNOT) {
        puts("processes can't be traced here");
        exit(CANNOT);
    }
    EXPECT(stop_of(status) == ENDED);
}

static void ask_to_give_up(void) {
    const process *client = living(CLIENT);
    if (client)
        kill(client->pid, SIGUSR2);
    settle();
}

/* -- one run --------------------------------------------------------------------------------------------------- */

typedef struct {
    uint64_t runs, asleep, parks, longest, outcomes[OUTCOMES];
} tally;

static void reset(const path *p, enum fate what) {
    now = p, fate = what;
    crowd_size = 0, parks = 0, instructions = 0;
    memset(told, 0, sizeof *told);
    memset(epoch, 0, sizeof epoch);
    arena.geometry.ring_bytes = MOLT_PAGE;
    memset(arena.base, 0, arena.geometry.size);
    CHECK(molt_arena_create(&arena) == 0);
    atomic_store(&arena.header->in_use, CHANNELS);
    molt_entry *row = molt_find_entry(&arena, ENTRY, 1);
    atomic_store(&row->limit, SLOTS);
    atomic_store(&row->id, ENTRY);
    arena.geometry.ring_bytes = RING; /* smaller than it is made, so that few instructions fill one */
    alarm(STUCK_S);
}

/* The victim goes on as one of the crowd. */
static void release(void) {
    CHECK(ptrace(PTRACE_DETACH, victim, NULL, NULL) == 0);
    join(victim, now->victim, 0);
}

static void kill_victim(void) {
    int status;
    kill(victim, SIGKILL);
    do
        CHECK(waitpid(victim, &status, 0) == victim);
    while (!WIFSIGNALED(status));
}

/* Let a victim that was stopped go on to the end of its path. 0: it sleeps for good, which only one may that is to be killed. */
static int resume(enum stepped at) {
    if (at == STEPPED) {
        CHECK(ptrace(PTRACE_CONT, victim, NULL, NULL) == 0);
        at = run_on();
    } else if (at == ASLEEP) {
        at = run_on();
        if (at == STEPPED) /* the instruction that slept is over */
            return resume(at);
    }
    return at == ENDED;
}

/* What becomes of the victim. Returns whether it lives. */
static int meet_fate(enum stepped at) {
    switch (fate) {
    case HOLD: break; /* the others have got as far as they can */
    case RIVAL: start_executor(1, 1); break;
    case ABANDON: ask_to_give_up(); break;
    case KILLING: {
        uint64_t word = molt_look(&arena, 0), killing = MOLT_WITH_STATE(word, MOLT_KILLING);
        if (held(word) && molt_step(&arena, 0, word, killing)) {
            resume(at);
            EXPECT(molt_look(&arena, 0) == killing);
            kill_victim();
            return 0;
        }
        break;
    }
    case KILL: kill_victim(); return 0;
    }
    settle();
    if (!resume(at))
        fail("the victim is never woken");
    release();
    return 1;
}

static void check_requests(tally *t, int lives) {
    for (uint64_t n = 1; n < NUMBERS; n++) {
        const request *r = request_of(n);
        uint64_t runs = r->runs, ends = r->finishes + r->repairs, outcome = r->outcome;
        EXPECT(runs <= 1 && ends <= 1);
        EXPECT(outcome != ANSWERED || (runs == 1 && !r->repairs));
        EXPECT(outcome != TAKEN_BACK || (!runs && !ends));
        EXPECT(outcome != ABANDONED || !r->finishes);
        EXPECT(outcome != FAILED || now->fails || (!lives && now->victim == EXECUTOR));
        EXPECT((outcome != ABANDONED && outcome != TAKEN_BACK) || now->gives_up || fate == ABANDON || now->victim == CANCELLER);
        if (n == 1)
            t->outcomes[outcome]++;
    }
}

/* Returns whether the path ended before the victim had made k instructions. */
static int run(const path *p, enum fate what, uint64_t k, tally *t) {
    reset(p, what);
    int peer_started = !p->peer_later;
    if (peer_started)
        start_peer();
    settle();
    start_victim();
    settle();
    if (p->gives_up && p->victim == EXECUTOR)
        ask_to_give_up();
    enum stepped at = STEPPED;
    CHECK(p->victim != CANCELLER || MOLT_STATE(molt_look(&arena, 0)) == MOLT_READY);
    while (instructions < k && at != ENDED) {
        if (at == ASLEEP) { /* in the instruction before; it is another's turn */
            if (!peer_started) {
                start_peer();
                peer_started = 1;
            }
            at = run_on();
            if (at == ASLEEP)
                fail("the victim is never woken");
            continue;
        }
        at = step();
        instructions++;
    }
    t->runs++;
    t->asleep += at == ASLEEP;
    if (instructions > t->longest)
        t->longest = instructions;
    if (!peer_started && fate != KILL)
        start_peer(), peer_started = 1;
    settle();
    int lives = meet_fate(at);
    if (!peer_started)
        start_peer();
    settle();

    if (now->victim == EXECUTOR && !lives)
        repair(0);
    if (!living(EXECUTOR) || (now->victim == EXECUTOR && !lives))
        start_executor(0, -1);
    for (const process *client; (client = living(CLIENT));)
        finish(client);
    reclaim();
    finish(start_client(LAST, 1)); /* of another process, to which the channel was granted */
    EXPECT(atomic_load(&request_of(LAST)->outcome) == ANSWERED);
    EXPECT(!parks || !lives);
    EXPECT(!parks || at != ENDED);
    for (size_t i = 0; i < crowd_size; i++)
        if (crowd[i].pid && crowd[i].role == EXECUTOR)
            retire(crowd[i].slot);
    for (size_t i = 0; i < crowd_size; i++)
        finish(&crowd[i]);
    for (uint32_t i = 0; i < CHANNELS; i++)
        EXPECT(MOLT_STATE(molt_look(&arena, i)) == MOLT_IDLE && !arena.client_awake[i]);
    for (uint32_t i = 0; i < SLOTS; i++)
        EXPECT(!atomic_load(&arena.slots[i].holds) && !atomic_load(&arena.slots[i].doorbell.parked) && !arena.executor_awake[i] && !told->claims[i]);
    check_requests(t, lives);
    t->parks += parks;
    return at == ENDED;
}

static int wanted(const path *p, int argc, char **argv) {
    for (int i = 1; i < argc; i++)
        if (strcmp(argv[i], p->name) == 0)
            return 1;
    return argc == 1;
}

int main(int argc, char **argv) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    signal(SIGALRM, on_alarm);
    sigaction(SIGUSR1, &(struct sigaction){.sa_handler = on_nudge}, NULL);
    sigaction(SIGUSR2, &(struct sigaction){.sa_handler = on_ask}, NULL);
    told = (board *)new_memory(sizeof *told);
    arena = new_arena(CHANNELS, SLOTS, MOLT_PAGE);
    printf("%-18s %-8s %12s %6s %7s %9s %7s %10s %11s %6s\n", "path", "fate", "instructions", "runs", "asleep", "answered",
           "failed", "abandoned", "taken back", "parks");
    for (size_t i = 0; i < PATHS; i++)
        for (int bit = 0; bit < FATES && wanted(&paths[i], argc, argv); bit++) {
            tally t = {0};
            if (!(paths[i].fates & 1 << bit))
                continue;
            for (uint64_t k = 0; !run(&paths[i], (enum fate)(1 << bit), k, &t); k++) {
            }
            printf("%-18s %-8s %12llu %6llu %7llu %9llu %7llu %10llu %11llu %6llu\n", paths[i].name, fate_names[bit],
                   (unsigned long long)t.longest, (unsigned long long)t.runs, (unsigned long long)t.asleep,
                   (unsigned long long)t.outcomes[ANSWERED], (unsigned long long)t.outcomes[FAILED],
                   (unsigned long long)t.outcomes[ABANDONED], (unsigned long long)t.outcomes[TAKEN_BACK],
                   (unsigned long long)t.parks);
            fflush(stdout);
        }
    return 0;
}

#endif
