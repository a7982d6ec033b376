"""What a pool is doing, read from its arena. Nobody is asked for it, and nothing is stored: it costs the pool nothing.

What is read may be changing, so nothing here is taken at its word: what doesn't fit together is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import psutil

from molt_accel.ipc.frame import PEEK_BYTES, peek
from molt_accel.ipc.shm.layout import (
    ENTRY_WORDS,
    HELD,
    ChannelState,
    Gauge,
    Outcome,
    SlotGauge,
    epoch_of,
    generation_of,
    quantile,
    serial_of,
    shown_entry,
    slot_of,
    state_of,
)
from molt_accel.version import __version__

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import ArenaView

#: What a pool's fact `SERVING` says.
SERVING: Final = ("starting", "serving", "draining")
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MAX_PID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Running:
    """The request that an executor has.

    Attributes:
        entry: Its entrypoint; None where that is not to be seen, as of one larger than its ring that is being read.
        stopping: It was given up or is being killed.
        for_ms: Since when it runs; None: it is only just being read.
        deadline_ms: When it has to end, from now on; negative: it should have. None: it has no deadline.
    """

    entry: str | None
    stopping: bool
    for_ms: float | None
    deadline_ms: float | None


@dataclass(frozen=True, slots=True)
class ExecutorStatus:
    """One executor.

    Attributes:
        state: ``starting``, ``idle``, ``busy`` or ``stopping``: its request was given up, or it is being killed.
        calls: Requests that it has ended.
        rss_bytes: Its resident memory; None where it can't be told.
    """

    number: int
    pid: int
    state: str
    running: Running | None
    calls: int
    rss_bytes: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A pool at a moment. Counts are since its start; `as_dict` is what is shown to programs."""

    taken_ns: int
    state: str
    pid: int
    uptime_s: float
    clients: int
    exports: dict[str, int]
    size: int
    executors: list[ExecutorStatus]
    queued: int
    capacity: int
    in_flight: int
    outcomes: dict[str, int]
    queue_counts: list[int]
    exec_counts: list[int]
    restarts: dict[str, int]
    bad_frames: int
    spin: dict[str, int]
    memory: dict[str, int | None]
    version: str = field(default=__version__)  # of the pool too, or it would not have let this process attach

    @property
    def calls(self) -> int:
        """How many calls have ended, however they did."""
        return sum(self.outcomes.values())

    def as_dict(self) -> dict[str, Any]:
        """A document of plain values with stable names."""
        return {
            "schema_version": 1,
            "version": self.version,
            "state": self.state,
            "pid": self.pid,
            "uptime_s": round(self.uptime_s, 3),
            "clients": self.clients,
            "exports": self.exports,
            "queue": {"depth": self.queued, "capacity": self.capacity},
            "in_flight": self.in_flight,
            "calls": self.calls,
            "outcomes": self.outcomes,
            "queue_us": quantiles(self.queue_counts),
            "exec_us": quantiles(self.exec_counts),
            "pool_size": self.size,
            "executors": [dataclasses.asdict(executor) for executor in self.executors],
            "restarts": self.restarts,
            "bad_frames": self.bad_frames,
            "spin": self.spin,
            "memory": self.memory,
        }


def quantiles(counts: Sequence[int]) -> dict[str, float]:
    """p50, p95 and p99 of a histogram, by name."""
    return {name: round(quantile(counts, share), 1) for name, share in _SHARES.items()}


def take(arena: ArenaView, *, processes: bool = True) -> Snapshot:
    """Read everything once.

    Args:
        arena: The pool's.
        processes: Whether its process ids mean the same processes here, so that their memory can be looked up.
    """
    from molt_accel.ipc.shm._native import BUCKETS, arena_size

    now_ns = time.monotonic_ns()
    gauge = arena.gauge
    claims = dict(_claims(arena))
    executors = sorted(_executors(arena, claims, now_ns, processes), key=lambda executor: executor.number)
    serving = gauge(Gauge.SERVING)
    pid = gauge(Gauge.PID)
    used = [slot for slot in range(arena.slots) if any(_outcomes(arena, slot))]
    histograms = [arena.histograms(slot) for slot in used]
    nothing = [0] * BUCKETS
    memory: dict[str, int | None] = {
        "arena_bytes": arena_size(arena.channels, arena.slots, arena.ring_bytes),
        "supervisor_rss_bytes": _rss(pid) if processes else None,
        "forkserver_rss_bytes": _rss(gauge(Gauge.FORKSERVER_PID)) if processes else None,
        "executors_rss_bytes": sum(e.rss_bytes or 0 for e in executors) if processes else None,
    }
    return Snapshot(
        taken_ns=now_ns,
        state=SERVING[serving] if serving < len(SERVING) else "unknown",
        pid=pid,
        uptime_s=max(0, now_ns - gauge(Gauge.STARTED_NS)) / 1e9,
        clients=gauge(Gauge.CLIENTS),
        exports={"count": gauge(Gauge.EXPORTS), "compiled": gauge(Gauge.COMPILED)},
        size=gauge(Gauge.POOL_SIZE),
        executors=executors,
        queued=arena.ready(),
        capacity=gauge(Gauge.CAPACITY),
        in_flight=len(claims),
        outcomes={
            outcome.name: gauge(Gauge.OUTCOMES + outcome)
            + sum(arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for slot in used)
            for outcome in Outcome
        },
        queue_counts=_sums(nothing, (waits for waits, _ in histograms)),
        exec_counts=_sums(nothing, (runs for _, runs in histograms)),
        restarts={
            "executor_starts": gauge(Gauge.EXECUTOR_STARTS),
            "executor_deaths": gauge(Gauge.EXECUTOR_DEATHS),
            "recycled": gauge(Gauge.RECYCLED),
            "reloads": gauge(Gauge.RELOADS),
        },
        bad_frames=gauge(Gauge.BAD_FRAMES),
        spin={
            "limit_us": gauge(Gauge.SPIN_NS) // 1000,
            "clients": gauge(Gauge.CLIENT_SPINNERS),
            "executors": gauge(Gauge.EXECUTOR_SPINNERS),
        },
        memory=memory,
    )


def _sums(first: list[int], others: Iterable[Sequence[int]]) -> list[int]:
    for other in others:
        first = [a + b for a, b in zip(first, other, strict=True)]
    return first


def _outcomes(arena: ArenaView, slot: int) -> list[int]:
    return [arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for outcome in Outcome]


def _claims(arena: ArenaView) -> Iterator[tuple[int, tuple[int, int]]]:
    """By slot: channel and state word of what its executor has."""
    for channel in range(min(arena.in_use, arena.channels)):
        word = arena.word(channel)
        if state_of(word) in HELD:
            yield slot_of(word), (channel, word)


def _executors(
    arena: ArenaView, claims: dict[int, tuple[int, int]], now_ns: int, processes: bool
) -> Iterator[ExecutorStatus]:
    from molt_accel.ipc.shm import _native as core

    for slot in range(arena.slots):
        number, pid = arena.slot_gauge(slot, SlotGauge.NUMBER), arena.slot_gauge(slot, SlotGauge.PID)
        if not number:
            continue
        running = _running(arena, slot, *claims[slot], now_ns) if slot in claims else None
        if running is not None:
            state = "stopping" if running.stopping else "busy"
        else:
            state = {core.SLOT_FREE: "starting", core.SLOT_IDLE: "idle"}.get(arena.slot_state(slot), "busy")
        calls = sum(_outcomes(arena, slot)) - arena.slot_gauge(slot, SlotGauge.SERVED_BEFORE)
        rss = _rss(pid) if processes else None
        yield ExecutorStatus(number, pid, state, running, max(0, calls), rss)


def _running(arena: ArenaView, slot: int, channel: int, word: int, now_ns: int) -> Running | None:
    """What an executor has; None if that has changed while it was looked at."""
    if epoch_of(word) != arena.slot_gauge(slot, SlotGauge.EPOCH):
        return None
    begun = arena.slot_gauge(slot, SlotGauge.SERIAL) == serial_of(channel, generation_of(word))
    deadline_ns, began_ns = (
        arena.slot_gauge(slot, fact) for fact in (SlotGauge.DEADLINE_NS, SlotGauge.BEGAN_NS)
    )
    shown = shown_entry([arena.slot_gauge(slot, SlotGauge.ENTRY + at) for at in range(ENTRY_WORDS)])
    request = peek(arena.request_bytes(channel, PEEK_BYTES))
    # As long as the claim stands, all this is its own: nothing is published on its channel, and its executor begins
    # nothing else. But for the ring, where the rest of a large request follows its beginning.
    after = arena.word(channel)
    if after >> 8 != word >> 8 or state_of(after) not in HELD:
        return None
    if begun and shown:
        entry: str | None = shown
    elif request is None or (begun and request.deadline_ns != deadline_ns):
        entry = None
    else:
        entry = request.entry
    return Running(
        entry,
        state_of(after) is not ChannelState.CLAIMED,
        round(max(0, now_ns - began_ns) / 1e6, 3) if begun else None,
        round((deadline_ns - now_ns) / 1e6, 3) if begun and deadline_ns else None,
    )


def _rss(pid: int) -> int | None:
    if not 0 < pid <= _MAX_PID:
        return None
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return None
