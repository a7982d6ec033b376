"""What the words in shared memory mean: the states of a channel, who may take which step, and the gauges.

CHANNEL_TRANSITIONS is the one table of the hand-over. The native core takes the frequent steps, the supervisor the
others; tests compare both with the table.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from molt_accel.errors import MoltError, MoltProtocolError
from molt_accel.ipc import outcomes


class ChannelState(enum.IntEnum):
    """The low byte of a channel's state word."""

    IDLE = 0  #: without a request
    READY = 1  #: a request is queued
    CLAIMED = 2  #: an executor has it
    DONE = 3  #: the reply is there
    FAILED = 4  #: there is no reply, and the failure word says why
    ABANDONED = 5  #: the client gave up while an executor had it
    KILLING = 6  #: its executor is being killed; whatever it still does decides nothing


class Actor(enum.Enum):
    CLIENT = enum.auto()
    EXECUTOR = enum.auto()
    SUPERVISOR = enum.auto()


#: Every step, and who may take it. Each is one compare-and-swap; any other step is a bug.
CHANNEL_TRANSITIONS: Final[dict[tuple[ChannelState, ChannelState], frozenset[Actor]]] = {
    (ChannelState.IDLE, ChannelState.READY): frozenset({Actor.CLIENT}),
    (ChannelState.READY, ChannelState.CLAIMED): frozenset({Actor.EXECUTOR}),
    # The request is given up in the queue; the supervisor does so for a dead client.
    (ChannelState.READY, ChannelState.IDLE): frozenset({Actor.CLIENT, Actor.SUPERVISOR}),
    (ChannelState.CLAIMED, ChannelState.DONE): frozenset({Actor.EXECUTOR}),
    # The executor fails it if the client doesn't move its bytes; the supervisor after it has reaped the executor.
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
    """The `ChannelState` in a state word; another number if a process has scribbled over it."""
    return _STATES.get(word & 0xFF, word & 0xFF)


def slot_of(word: int) -> int:
    return word >> 8 & 0xFFFF


def epoch_of(word: int) -> int:
    """The number, modulo 256, of the executor among those that have had this slot."""
    return word >> 24 & 0xFF


def generation_of(word: int) -> int:
    return word >> 32


def with_state(word: int, state: ChannelState) -> int:
    """The state word after a step; executor and generation stay."""
    return word & ~0xFF | state


def idle_word(word: int) -> int:
    """The state word of the channel without a request; the generation stays, so that none is used twice."""
    return word >> 32 << 32


def serial_of(channel: int, generation: int) -> int:
    """The number by which a stop word names a request; unique among those that an executor can have."""
    return channel << 32 | generation


class Serving(enum.IntEnum):
    """What a pool does; the value of `Gauge.SERVING`."""

    STARTING = 0  #: the exports are being imported
    SERVING = 1  #: an executor is or was ready
    DRAINING = 2


class Gauge(enum.IntEnum):
    """Words of the arena's header. The supervisor writes them; clients too count outcomes."""

    SERVING = 0  #: a `Serving`
    PID = 1  #: of the supervisor
    STARTED_NS = 2  #: CLOCK_MONOTONIC
    CAPACITY = 3  #: of the queue
    CLIENT_LIMIT = 4  #: requests that one client may have in flight
    SPIN_NS = 5  #: longest spin: as configured, else as measured on this machine
    CLIENT_SPINNERS = 6
    EXECUTOR_SPINNERS = 7
    WAKE_NS = 8  #: when the supervisor looks at deadlines next; NEVER: there are none
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
    SHED = 20  #: refused requests, in the order of `errors.BusyReason`: 20 to 27
    OUTCOMES = 32  #: outcomes that no executor decided, by `Outcome`: 32 to 47


class SlotGauge(enum.IntEnum):
    PID = 0
    NUMBER = 1
    EPOCH = 2
    READY_NS = 3  #: since when it serves; 0: not yet
    #: What runs: its serial, its deadline (0: none), its start. `Slot.begin` writes all three.
    SERIAL = 4
    DEADLINE_NS = 5
    BEGAN_NS = 6
    SERVED_BEFORE = 7  #: requests that earlier executors had ended in this slot
    ENTRY = 8  #: the entry of what runs if its ring no longer shows it, see `shown_entry`: 8 to 15
    OUTCOMES = 16  #: requests ended in this slot, by `Outcome`: 16 to 31


class Entry(NamedTuple):
    """What the pool knows of an entrypoint."""

    name: str  #: at most its first 56 bytes
    id: int  #: as `_native.entry_id` makes it of the whole name
    delay_ns: int  #: its class, as `overload.priority` has it
    limit: int  #: how many of its requests may run at once; 0: any number
    mean_ns: int  #: what its requests take, as `overload.estimate` has it
    deviation_ns: int
    learnt_ns: int  #: when one of its requests ended last
    standing: int  #: the word of `overload.admission`
    refused: int  #: requests


MAX_WORD: Final = 2**64 - 1
NEVER: Final = MAX_WORD  #: a time later than all others

#: The number of words that `SlotGauge.ENTRY` has.
ENTRY_WORDS: Final = 8
_ENTRY_WORDS: Final = struct.Struct(f"<{ENTRY_WORDS}Q")


def entry_words(entry: str) -> tuple[int, ...]:
    """The words of a slot's `ENTRY`: the name, cut to what fits; zeros for none."""
    return _ENTRY_WORDS.unpack(entry.encode()[: _ENTRY_WORDS.size].ljust(_ENTRY_WORDS.size, b"\0"))


def shown_entry(words: Sequence[int]) -> str:
    """The name in the words of `ENTRY`; empty for none."""
    return _ENTRY_WORDS.pack(*words).rstrip(b"\0").decode(errors="ignore")


class Outcome(enum.IntEnum):
    """What is counted of the ends of calls. The names are those of `errors.status_label`."""

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
    """Why a request FAILED: the low byte of the failure word. Above it: exit code (32 bits), executor's number (24)."""

    CRASHED = 1
    TIMED_OUT = 2
    STALLED = 3
    CORRUPT = 4
    FORKSERVER_DIED = 5


def failure_word(reason: Failure, executor: int, exit_code: int = 0) -> int:
    """Make a failure word; `exit_code` is negative for a signal."""
    return reason | (exit_code & 0xFFFF_FFFF) << 8 | (executor & 0xFF_FFFF) << 40


def failed_executor(word: int) -> int:
    """The number of the executor that had the request."""
    return word >> 40


def failure_error(word: int, entry: str) -> MoltError:
    """The error for a failure word of a call of `entry`."""
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
    """The value below which `share` of a histogram's values lie, interpolated in its bucket; 0 if it is empty."""
    left = share * sum(counts)
    for bucket, count in enumerate(counts):
        if count and left <= count:
            low, high = bucket_bounds(bucket)
            return low + (high - low) * left / count
        left -= count
    return 0.0
