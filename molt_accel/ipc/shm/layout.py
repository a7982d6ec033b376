"""What the words in shared memory mean: the states of a channel, who may take which step, and named facts.

The one table of the hand-over. `molt_core.h` takes the hot steps of it, the supervisor the others; a test holds the
two against each other.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final

from molt_accel.errors import MoltError, MoltProtocolError
from molt_accel.ipc import outcomes


class ChannelState(enum.IntEnum):
    """Where a channel is; the low byte of its state word."""

    IDLE = 0  #: nobody's but its client's
    READY = 1  #: a request is queued
    CLAIMED = 2  #: an executor has it
    DONE = 3  #: the reply is there
    FAILED = 4  #: there is no reply, and the failure word says why
    ABANDONED = 5  #: the client gave up while an executor had it
    KILLING = 6  #: its executor is being killed; whatever it still does decides nothing


class Actor(enum.Enum):
    """Who takes a step."""

    CLIENT = enum.auto()
    EXECUTOR = enum.auto()
    SUPERVISOR = enum.auto()


#: Every step there is. Each is one compare-and-swap; a step that is not here is a bug.
CHANNEL_TRANSITIONS: Final[dict[tuple[ChannelState, ChannelState], frozenset[Actor]]] = {
    (ChannelState.IDLE, ChannelState.READY): frozenset({Actor.CLIENT}),
    (ChannelState.READY, ChannelState.CLAIMED): frozenset({Actor.EXECUTOR}),
    # Given up in the queue; by the supervisor for a client that is dead.
    (ChannelState.READY, ChannelState.IDLE): frozenset({Actor.CLIENT, Actor.SUPERVISOR}),
    (ChannelState.CLAIMED, ChannelState.DONE): frozenset({Actor.EXECUTOR}),
    # By the executor where the client doesn't move its bytes; by the supervisor once the executor is reaped.
    (ChannelState.CLAIMED, ChannelState.FAILED): frozenset({Actor.EXECUTOR, Actor.SUPERVISOR}),
    (ChannelState.CLAIMED, ChannelState.ABANDONED): frozenset({Actor.CLIENT, Actor.SUPERVISOR}),
    (ChannelState.CLAIMED, ChannelState.KILLING): frozenset({Actor.SUPERVISOR}),
    (ChannelState.ABANDONED, ChannelState.IDLE): frozenset({Actor.EXECUTOR, Actor.SUPERVISOR}),
    (ChannelState.ABANDONED, ChannelState.KILLING): frozenset({Actor.SUPERVISOR}),
    (ChannelState.KILLING, ChannelState.FAILED): frozenset({Actor.SUPERVISOR}),
    (ChannelState.DONE, ChannelState.IDLE): frozenset({Actor.CLIENT, Actor.SUPERVISOR}),
    (ChannelState.FAILED, ChannelState.IDLE): frozenset({Actor.CLIENT, Actor.SUPERVISOR}),
}

#: States in which an executor has the request.
HELD: Final = frozenset({ChannelState.CLAIMED, ChannelState.ABANDONED, ChannelState.KILLING})


_STATES: Final[dict[int, int]] = {int(state): state for state in ChannelState}


def state_of(word: int) -> int:
    """The `ChannelState` in a state word; a number that is none where somebody has scribbled over it."""
    return _STATES.get(word & 0xFF, word & 0xFF)


def slot_of(word: int) -> int:
    """The executor's slot in a state word."""
    return word >> 8 & 0xFFFF


def epoch_of(word: int) -> int:
    """Which of the executors that had this slot one after the other."""
    return word >> 24 & 0xFF


def generation_of(word: int) -> int:
    """The channel's request number."""
    return word >> 32


def with_state(word: int, state: ChannelState) -> int:
    """The word after a step, executor and generation as they were."""
    return word & ~0xFF | state


def idle_word(word: int) -> int:
    """The word of the channel with nobody on it; the generation stays, so that no old one comes back."""
    return word >> 32 << 32


def serial_of(channel: int, generation: int) -> int:
    """What a stop word names a request by: unique among all that an executor can have."""
    return channel << 32 | generation


class Gauge(enum.IntEnum):
    """Words of the arena's header, for anybody to read. The supervisor's, but for the counts of outcomes."""

    SERVING = 0  #: 0 while the exports are being imported, 1 when an executor is ready, 2 while draining
    PID = 1  #: the supervisor's
    STARTED_NS = 2  #: CLOCK_MONOTONIC
    CAPACITY = 3  #: of the queue
    CLIENT_LIMIT = 4  #: requests that one client may have in flight
    SPIN_NS = 5  #: longest spin: as it pays here, if nothing else is configured
    CLIENT_SPINNERS = 6
    EXECUTOR_SPINNERS = 7
    WAKE_NS = 8  #: when the supervisor looks at deadlines next; NEVER: it has none to look at
    CLIENTS = 9
    POOL_SIZE = 10
    EXECUTOR_STARTS = 11
    EXECUTOR_DEATHS = 12
    RECYCLED = 13
    RELOADS = 14
    BAD_FRAMES = 15
    FORKSERVER_PID = 16  #: of the newest fork server that executors are forked from
    GRACE_MS = 17
    EXPORTS = 18  #: entrypoints
    COMPILED = 19  #: entrypoints that are native code
    #: Outcomes that no executor decided, by `Outcome`: 32 to 47.
    OUTCOMES = 32


class SlotGauge(enum.IntEnum):
    """Words of an executor's slot."""

    PID = 0
    NUMBER = 1
    EPOCH = 2
    READY_NS = 3  #: since when it serves; 0: not yet
    #: What runs: its serial, its deadline (0: none), its start. `Slot.begin` writes all three.
    SERIAL = 4
    DEADLINE_NS = 5
    BEGAN_NS = 6
    SERVED_BEFORE = 7  #: requests that earlier executors had ended in this slot
    #: The entry of what runs where its ring doesn't show it any more, `shown_entry`: 8 to 15.
    ENTRY = 8
    #: Requests ended in this slot, by `Outcome`: 16 to 31.
    OUTCOMES = 16


MAX_WORD: Final = 2**64 - 1
#: No time: later than all others.
NEVER: Final = MAX_WORD

#: How many words `SlotGauge.ENTRY` has.
ENTRY_WORDS: Final = 8
_ENTRY_WORDS: Final = struct.Struct(f"<{ENTRY_WORDS}Q")


def entry_words(entry: str) -> tuple[int, ...]:
    """The words of a slot's `ENTRY`: the name, cut to what fits; zeros for none."""
    words: tuple[int, ...] = _ENTRY_WORDS.unpack(
        entry.encode()[: _ENTRY_WORDS.size].ljust(_ENTRY_WORDS.size, b"\0")
    )
    return words


def shown_entry(words: Sequence[int]) -> str:
    """The name that words of `ENTRY` say; empty for none."""
    return _ENTRY_WORDS.pack(*words).rstrip(b"\0").decode(errors="ignore")


class Outcome(enum.IntEnum):
    """How calls end, as they are counted. The names are the statuses' and errors' labels."""

    Ok = 0
    InvalidInput = 1
    Busy = 2
    Timeout = 3
    Cancelled = 4
    InternalError = 5
    WorkerCrashed = 6
    WorkerUnavailable = 7
    ProtocolError = 8


class Failure(enum.IntEnum):
    """Why a request FAILED; the low byte of the failure word.

    Above it stand the exit code, as 32 bits, and the executor's number, as 24.
    """

    CRASHED = 1
    TIMED_OUT = 2
    STALLED = 3
    CORRUPT = 4
    FORKSERVER_DIED = 5


def failure_word(reason: Failure, executor: int, exit_code: int = 0) -> int:
    """What a failure word says; `exit_code` is negative for a signal."""
    return reason | (exit_code & 0xFFFF_FFFF) << 8 | (executor & 0xFF_FFFF) << 40


def failed_executor(word: int) -> int:
    """The number of the executor that had the request."""
    return word >> 40


def failure_error(word: int, entry: str) -> MoltError:
    """The error that a failure word of a call of `entry` stands for."""
    code = word >> 8 & 0xFFFF_FFFF
    code = code - 2**32 if code >> 31 else code
    reason = word & 0xFF
    if reason in (Failure.CRASHED, Failure.FORKSERVER_DIED):
        return outcomes.crashed(entry, code if reason == Failure.CRASHED else None)
    if reason == Failure.TIMED_OUT:
        return outcomes.timed_out_running()
    if reason == Failure.STALLED:
        return outcomes.stalled()
    return MoltProtocolError("the worker couldn't read the request from shared memory")


_SUB: Final = 4  # buckets to each power of two, as molt_bucket has them


def bucket_bounds(bucket: int) -> tuple[float, float]:
    """The values that a histogram's bucket counts: from (included) to (excluded)."""
    if bucket < _SUB:
        return bucket, bucket + 1
    power, sub = bucket // _SUB + 1, bucket % _SUB
    width = 2.0 ** (power - 2)
    return 2.0**power + sub * width, 2.0**power + (sub + 1) * width


def quantile(counts: Sequence[int], share: float) -> float:
    """The value below which `share` of a histogram's values lie, interpolated in its bucket; 0 for none."""
    left = share * sum(counts)
    for bucket, count in enumerate(counts):
        if count and left <= count:
            low, high = bucket_bounds(bucket)
            return low + (high - low) * left / count
        left -= count
    return 0.0
