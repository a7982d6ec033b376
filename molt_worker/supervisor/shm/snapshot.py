"""What a pool is doing, read from its arena. This costs the pool nothing, because no process of it is asked.

Words may change while they are read, and a client may have written anything. What doesn't fit together is left out.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import psutil

from molt_accel.errors import BusyReason
from molt_accel.ipc.frame import PEEK_BYTES, peek
from molt_accel.ipc.shm import layout
from molt_accel.ipc.shm.layout import HELD, ChannelState, Gauge, Outcome, Serving, SlotGauge
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_accel.version import __version__
from molt_worker.supervisor.shm.ledger import request_serial

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import ArenaView

_SERVING: Final[dict[int, str]] = {each.value: each.name.lower() for each in Serving}
#: Gauges that the supervisor copies from its counters of the same names.
RESTARTS: Final = (Gauge.EXECUTOR_STARTS, Gauge.EXECUTOR_DEATHS, Gauge.RECYCLED, Gauge.RELOADS)
_PRIORITIES: Final = {delay_ns: each for each, delay_ns in DELAY_NS.items()}
_SHARES: Final = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
_MAX_PID: Final = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Running:
    """The request that an executor has. Times are in milliseconds."""

    entry: str | None  #: None: it can't be seen, as while a request larger than its ring is being read
    stopping: bool  #: it was given up, or its executor is being killed
    for_ms: float | None  #: how long it has run; None: it is just being read
    deadline_ms: float | None  #: how long it may still run; negative: it is late; None: it has no deadline


@dataclass(frozen=True, slots=True)
class ExecutorStatus:
    """One executor."""

    number: int
    pid: int
    state: str  #: ``starting``, ``idle``, ``busy``, or ``stopping``: see `Running.stopping`
    running: Running | None
    calls: int  #: how many requests it has ended
    rss_bytes: int | None  #: its resident memory; None: not known


@dataclass(frozen=True, slots=True)
class EntryStatus:
    """An entrypoint."""

    usual_ms: float  #: what its requests take
    running: int
    queued: int
    limit: int | None  #: how many of its requests may run at once; None: any number
    priority: str
    refused: int  #: requests that would have had to wait for too long


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A pool at a moment. Counts are since its start."""

    taken_ns: int  #: the moment, in ns of CLOCK_MONOTONIC
    version: str = __version__  #: the pool's too, or it would not have let this process attach
    state: str
    pid: int
    uptime_s: float
    log: str | None  #: where its standard error goes, with its log; None: not known
    clients: int
    exports: dict[str, int]
    queue: dict[str, int]
    in_flight: int
    calls: int  #: how many have ended, with any outcome
    outcomes: dict[str, int]
    shed: dict[str, int]  #: refused requests, by reason
    entries: dict[str, EntryStatus]  #: of which there is something to tell
    queue_counts: list[int]  #: a histogram of microseconds, as `layout.quantile` takes it
    exec_counts: list[int]  #: the same
    pool_size: int
    executors: list[ExecutorStatus]
    restarts: dict[str, int]
    bad_frames: int
    spin: dict[str, int]
    memory: dict[str, int | None]

    def as_dict(self) -> dict[str, Any]:
        """Return what is shown to programs: a document of plain values with stable names."""
        document: dict[str, Any] = {"schema_version": 1}
        for name, value in dataclasses.asdict(self).items():
            if name.endswith("_counts"):
                document[name.replace("counts", "us")] = quantiles(value)
            elif name != "taken_ns":
                document[name] = value
        return document


def _log_of(pid: int) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return os.readlink(f"/proc/{pid}/fd/2")
    return None


def quantiles(counts: Sequence[int]) -> dict[str, float]:
    """p50, p95 and p99 of a histogram, by name."""
    return {name: round(layout.quantile(counts, share), 1) for name, share in _SHARES.items()}


def take(arena: ArenaView, *, processes: bool = True) -> Snapshot:
    """Read everything once; no memory of processes if the pool's process ids mean other processes here."""
    from molt_accel.ipc.shm._native import BUCKETS, arena_size

    now_ns = time.monotonic_ns()
    gauge = arena.gauge
    claims = dict(_claims(arena))
    executors = sorted(_executors(arena, claims, now_ns, processes), key=lambda executor: executor.number)
    pid = gauge(Gauge.PID)
    used = [slot for slot in range(arena.slots) if any(_outcomes(arena, slot))]
    outcomes = {
        outcome.name: gauge(Gauge.OUTCOMES + outcome)
        + sum(arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for slot in used)
        for outcome in Outcome
    }
    histograms = [arena.histograms(slot) for slot in used] or [([0] * BUCKETS, [0] * BUCKETS)]
    waits, runs = zip(*histograms, strict=True)
    return Snapshot(
        taken_ns=now_ns,
        state=_SERVING.get(gauge(Gauge.SERVING), "unknown"),
        pid=pid,
        uptime_s=round(max(0, now_ns - gauge(Gauge.STARTED_NS)) / 1e9, 3),
        log=_log_of(pid) if processes else None,
        clients=gauge(Gauge.CLIENTS),
        exports={"count": gauge(Gauge.EXPORTS), "compiled": gauge(Gauge.COMPILED)},
        queue={"depth": arena.ready(), "capacity": gauge(Gauge.CAPACITY)},
        in_flight=len(claims),
        calls=sum(outcomes.values()),
        outcomes=outcomes,
        shed=shed(arena),
        entries=entries(arena),
        queue_counts=[sum(column) for column in zip(*waits, strict=True)],
        exec_counts=[sum(column) for column in zip(*runs, strict=True)],
        pool_size=gauge(Gauge.POOL_SIZE),
        executors=executors,
        restarts={each.name.lower(): gauge(each) for each in RESTARTS},
        bad_frames=gauge(Gauge.BAD_FRAMES),
        spin={
            "limit_us": gauge(Gauge.SPIN_NS) // 1000,
            "clients": gauge(Gauge.CLIENT_SPINNERS),
            "executors": gauge(Gauge.EXECUTOR_SPINNERS),
        },
        memory={
            "arena_bytes": arena_size(arena.channels, arena.slots, arena.ring_bytes),
            "supervisor_rss_bytes": _rss(pid) if processes else None,
            "forkserver_rss_bytes": _rss(gauge(Gauge.FORKSERVER_PID)) if processes else None,
            "executors_rss_bytes": sum(each.rss_bytes or 0 for each in executors) if processes else None,
        },
    )


def shed(arena: ArenaView) -> dict[str, int]:
    """How many requests were refused, by reason."""
    return {each.value: arena.gauge(Gauge.SHED + index) for index, each in enumerate(BusyReason)}


def entries(arena: ArenaView) -> dict[str, EntryStatus]:
    """Entrypoints of which there is something to tell, by name."""
    running = Counter(entry for entry, _, _ in arena.running())
    queued = Counter(arena.queued())
    found = {}
    for row in sorted(arena.entries()):
        status = EntryStatus(
            round(row.mean_ns / 1e6, 3),
            running[row.id],
            queued[row.id],
            row.limit or None,
            _PRIORITIES.get(row.delay_ns, Priority.NORMAL).value,
            row.refused,
        )
        if status.usual_ms or status.running or status.queued or status.refused or status.limit:
            found[row.name] = status
    return found


def _outcomes(arena: ArenaView, slot: int) -> list[int]:
    return [arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for outcome in Outcome]


def _claims(arena: ArenaView) -> Iterator[tuple[int, tuple[int, int]]]:
    """By slot: channel and state word of what its executor has."""
    for channel, word in arena.with_requests(arena.in_use):
        if layout.state_of(word) in HELD:
            yield layout.slot_of(word), (channel, word)


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
    """What an executor has; None if that has changed meanwhile."""
    if layout.epoch_of(word) != arena.slot_gauge(slot, SlotGauge.EPOCH):
        return None
    begun = arena.slot_gauge(slot, SlotGauge.SERIAL) == request_serial(channel, word)
    deadline_ns = arena.slot_gauge(slot, SlotGauge.DEADLINE_NS)
    began_ns = arena.slot_gauge(slot, SlotGauge.BEGAN_NS)
    entry_words = range(SlotGauge.ENTRY, SlotGauge.ENTRY + layout.ENTRY_WORDS)
    shown = layout.shown_entry([arena.slot_gauge(slot, at) for at in entry_words])
    request = peek(arena.request_bytes(channel, PEEK_BYTES))
    # As long as the claim stands, all that was read is of this request: nothing is published on its channel, and its
    # executor begins nothing else. Except for the ring, where the rest of a large request overwrites its start.
    after = arena.word(channel)
    if after >> 8 != word >> 8 or layout.state_of(after) not in HELD:
        return None
    if begun and shown:
        entry: str | None = shown
    elif request is None or (begun and request.deadline_ns != deadline_ns):
        entry = None
    else:
        entry = request.entry
    return Running(
        entry,
        layout.state_of(after) is not ChannelState.CLAIMED,
        round(max(0, now_ns - began_ns) / 1e6, 3) if begun else None,
        round((deadline_ns - now_ns) / 1e6, 3) if begun and deadline_ns else None,
    )


def _rss(pid: int) -> int | None:
    if not 0 < pid <= _MAX_PID:
        return None
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return None
