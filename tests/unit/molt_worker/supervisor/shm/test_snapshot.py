"""molt_worker.supervisor.shm.snapshot: what is read from an arena, also from one that lies."""

import dataclasses
import os
import struct
import threading
import time
from typing import Any

import pytest

from molt_accel import __version__
from molt_accel.errors import BusyReason, Status
from molt_accel.ipc.frame import HEADER_BYTES, PREFIX_BYTES, VERSION, Kind, encode, peek
from molt_accel.ipc.messages import Request
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import ChannelState, Gauge, Outcome, SlotGauge, with_state
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.supervisor.shm import snapshot
from molt_worker.supervisor.shm.snapshot import EntryStatus, Running
from tests.support.observed_arena import RING, Stage

_S = 1_000_000_000


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_pool_in_which_nothing_has_happened(stage: Stage) -> None:
    looked = stage.take()
    assert 5 <= looked.uptime_s < 300
    document = looked.as_dict()
    del document["uptime_s"]
    memory = document.pop("memory")
    assert memory.pop("supervisor_rss_bytes") > 0
    assert memory == {
        "arena_bytes": arenas.native().arena_size(8, 4, RING),
        "forkserver_rss_bytes": None,
        "executors_rss_bytes": 0,
    }
    assert document == {
        "schema_version": 1,
        "version": __version__,
        "state": "starting",
        "pid": os.getpid(),
        "log": os.readlink("/proc/self/fd/2"),
        "clients": 0,
        "exports": {"count": 0, "compiled": 0},
        "queue": {"depth": 0, "capacity": 16},
        "in_flight": 0,
        "calls": 0,
        "outcomes": {outcome.name: 0 for outcome in Outcome},
        "shed": {reason.value: 0 for reason in BusyReason},
        "entries": {},
        "queue_us": {"p50": 0.0, "p95": 0.0, "p99": 0.0},
        "exec_us": {"p50": 0.0, "p95": 0.0, "p99": 0.0},
        "pool_size": 2,
        "executors": [],
        "restarts": {"executor_starts": 0, "executor_deaths": 0, "recycled": 0, "reloads": 0},
        "bad_frames": 0,
        "spin": {"limit_us": 0, "clients": 0, "executors": 0},
    }


@pytest.mark.parametrize(
    ("gauge", "path"),
    [
        (Gauge.CLIENTS, ("clients",)),
        (Gauge.EXPORTS, ("exports", "count")),
        (Gauge.COMPILED, ("exports", "compiled")),
        (Gauge.POOL_SIZE, ("pool_size",)),
        (Gauge.CAPACITY, ("queue", "capacity")),
        (Gauge.EXECUTOR_STARTS, ("restarts", "executor_starts")),
        (Gauge.EXECUTOR_DEATHS, ("restarts", "executor_deaths")),
        (Gauge.RECYCLED, ("restarts", "recycled")),
        (Gauge.RELOADS, ("restarts", "reloads")),
        (Gauge.BAD_FRAMES, ("bad_frames",)),
        (Gauge.CLIENT_SPINNERS, ("spin", "clients")),
        (Gauge.EXECUTOR_SPINNERS, ("spin", "executors")),
    ],
)
def test_a_gauge_of_the_header_is_shown_as_it_is(stage: Stage, gauge: Gauge, path: tuple[str, ...]) -> None:
    stage.arena.set_gauge(gauge, 41)
    value: Any = stage.take().as_dict()
    for name in path:
        value = value[name]
    assert value == 41


@pytest.mark.parametrize(
    ("serving", "state"), [(0, "starting"), (1, "serving"), (2, "draining"), (3, "unknown")]
)
def test_the_state_of_the_pool(stage: Stage, serving: int, state: str) -> None:
    stage.arena.set_gauge(Gauge.SERVING, serving)
    assert stage.take().state == state


def test_executors_stand_by_their_number_with_what_they_have(stage: Stage) -> None:
    deadline_ns = time.monotonic_ns() + 60 * _S
    busy = stage.executor(2, 7, epoch=3)
    stage.executor(0, 9)
    stage.arena.set_slot_gauge(1, SlotGauge.NUMBER, 8)  # just forked
    stage.request(4, "report", deadline_ns=deadline_ns)
    stage.request(5)
    before_ns = time.monotonic_ns()
    stage.run(busy)
    stage.arena.set_slot_gauge(2, SlotGauge.BEGAN_NS, before_ns - 2 * _S)
    looked = stage.take()
    assert [(item.number, item.state, item.pid) for item in looked.executors] == [
        (7, "busy", os.getpid()),
        (8, "starting", 0),
        (9, "idle", os.getpid()),
    ]
    running = looked.executors[0].running
    assert running is not None
    assert running.entry == "report"
    assert not running.stopping
    since_s = (looked.taken_ns - before_ns) / 1e9
    assert running.for_ms == pytest.approx(2000 + since_s * 1e3, abs=0.002)
    assert running.deadline_ms == pytest.approx((deadline_ns - looked.taken_ns) / 1e6, abs=0.002)
    assert [item.running for item in looked.executors[1:]] == [None, None]
    assert (looked.queue["depth"], looked.in_flight) == (1, 1)
    assert looked.executors[0].rss_bytes is not None
    assert looked.executors[1].rss_bytes is None


def test_a_deadline_that_has_passed_is_negative_and_none_is_none(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    stage.request(0, deadline_ns=time.monotonic_ns() - _S)
    stage.run(executor)
    running = stage.running()
    assert running is not None
    assert running.deadline_ms is not None
    assert running.deadline_ms <= -1000
    stage.answer(executor)
    stage.request(1)
    stage.run(executor)
    running = stage.running()
    assert running is not None
    assert running.deadline_ms is None


@pytest.mark.parametrize("state", [ChannelState.ABANDONED, ChannelState.KILLING])
def test_a_request_given_up_or_being_killed_shows_as_stopping(stage: Stage, state: ChannelState) -> None:
    executor = stage.executor(0, 1)
    stage.request(3)
    stage.run(executor)
    assert stage.arena.step(3, executor.word, with_state(executor.word, state))
    (shown,) = stage.take().executors
    assert shown.state == "stopping"
    assert shown.running is not None
    assert (shown.running.entry, shown.running.stopping) == ("work", True)


def test_a_request_that_was_claimed_and_is_being_read_has_no_times_yet(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    stage.request(0, deadline_ns=time.monotonic_ns() + _S)
    assert executor.next() == stage.core.REQUEST
    assert stage.running() == Running("work", stopping=False, for_ms=None, deadline_ms=None)


def test_calls_are_counted_for_each_executor_and_its_predecessors_in_the_pool_s(stage: Stage) -> None:
    executor = stage.executor(0, 5)
    for channel, ended in enumerate([Status.OK, Status.OK, Status.INVALID_INPUT]):
        stage.request(channel)
        stage.run(executor)
        stage.answer(executor, ended)
    stage.arena.set_slot_gauge(0, SlotGauge.SERVED_BEFORE, 2)
    stage.arena.add_counter(Gauge.OUTCOMES + Outcome.Busy, 4)
    looked = stage.take()
    assert [item.calls for item in looked.executors] == [1]
    assert {name: count for name, count in looked.outcomes.items() if count} == {
        "Ok": 2,
        "InvalidInput": 1,
        "Busy": 4,
    }
    assert looked.calls == 7


def test_an_executor_that_was_reaped_is_not_shown_and_its_calls_still_are(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    stage.request(0)
    stage.run(executor)
    stage.answer(executor)
    stage.arena.reset_slot(0, SlotGauge.OUTCOMES)
    looked = stage.take()
    assert (looked.executors, looked.calls) == ([], 1)


def test_quantiles_are_of_all_slots_together(stage: Stage) -> None:
    for slot, us in enumerate([100, 100, 5000]):
        executor = stage.executor(slot, slot + 1)
        stage.request(slot)
        stage.run(executor)
        stage.answer(executor, queue_us=us, exec_us=10 * us)
    document = stage.take().as_dict()
    assert 96 <= document["queue_us"]["p50"] < 112
    assert 4096 <= document["queue_us"]["p99"] < 5120
    assert 896 <= document["exec_us"]["p50"] < 1024
    assert 49_152 <= document["exec_us"]["p99"] < 57_344


# -- memory that changes, or lies ---------------------------------------------------------------------------
def test_the_entry_of_a_request_larger_than_its_ring_is_not_to_be_seen_any_more(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    channel = stage.core.Channel(stage.arena, 0, 2**20)
    payload = b"\0" * (2 * RING)
    frame = Request(1, "large", payload, deadline_ns=time.monotonic_ns() + 60 * _S)
    assert channel.publish(frame, 16, 0) == stage.core.ADMITTED
    sender = threading.Thread(target=channel.wait, args=(time.monotonic_ns() + 30 * _S,))
    sender.start()  # the rest follows as the executor reads
    request = stage.run(executor)
    running = stage.running()
    stage.answer(executor)
    sender.join()
    assert (request.entry, len(request.payload)) == ("large", len(payload))
    assert running is not None
    assert running.entry is None
    assert running.for_ms is not None
    assert running.deadline_ms is not None


@pytest.mark.parametrize(
    ("at", "data"),
    [
        pytest.param(0, struct.pack("<I", 2**32 - 1), id="length"),
        pytest.param(PREFIX_BYTES, bytes([VERSION + 1]), id="version"),
        pytest.param(PREFIX_BYTES + 1, bytes([Kind.CONTROL]), id="kind"),
        pytest.param(PREFIX_BYTES + 1, b"\0", id="no kind"),
        pytest.param(PREFIX_BYTES + 4, struct.pack("<H", 65_535), id="entry bytes"),
        pytest.param(PREFIX_BYTES + 20, struct.pack("<I", 2), id="payload bytes"),
        pytest.param(PREFIX_BYTES + 24, struct.pack("<Q", 1), id="deadline"),
        pytest.param(PREFIX_BYTES + HEADER_BYTES, b"\xff", id="entry"),
    ],
)
def test_a_request_that_was_scribbled_over_has_no_entry(stage: Stage, at: int, data: bytes) -> None:
    executor = stage.executor(0, 1)
    stage.request(0, deadline_ns=time.monotonic_ns() + 60 * _S)
    stage.run(executor)
    running = stage.running()
    assert running is not None
    assert running.entry == "work"
    stage.scribble(0, at, data)
    assert stage.running() == dataclasses.replace(
        running,
        entry=None,
        for_ms=pytest.approx(running.for_ms, abs=60_000),
        deadline_ms=pytest.approx(running.deadline_ms, abs=60_000),
    )


def test_what_was_claimed_by_an_earlier_executor_of_a_slot_is_not_its_successor_s(stage: Stage) -> None:
    stage.executor(1, 4, epoch=6)
    stage.request(0)
    stage.run(stage.core.Slot(stage.arena, 1, 5))
    assert stage.running() is None
    assert stage.take().in_flight == 1


@pytest.mark.parametrize("state", [7, 255])
def test_a_state_that_there_is_not_is_nobody_s(stage: Stage, state: int) -> None:
    stage.executor(0, 1)
    assert stage.arena.step(0, 0, 1 << 32 | state)
    looked = stage.take()
    assert looked.in_flight == 0
    assert [item.state for item in looked.executors] == ["idle"]


def test_a_claim_of_a_slot_that_there_is_not_is_in_flight_and_nobody_s(stage: Stage) -> None:
    stage.executor(0, 1)
    assert stage.arena.step(0, 0, 1 << 32 | 60_000 << 8 | ChannelState.CLAIMED)
    looked = stage.take()
    assert looked.in_flight == 1
    assert [item.state for item in looked.executors] == ["idle"]


class Changing:
    """A view in which a channel's word changes between two looks at it."""

    def __init__(self, view: Any, *words: int) -> None:
        self._view = view
        self._words = list(words)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def word(self, channel: int) -> int:
        return self._words.pop(0) if channel == 0 and self._words else int(self._view.word(channel))


def test_a_request_that_ends_while_it_is_looked_at_is_not_shown(stage: Stage) -> None:
    executor = stage.executor(0, 1)
    stage.request(0)
    stage.run(executor)
    claim = executor.word
    stage.answer(executor)
    for after in (with_state(claim, ChannelState.DONE), (claim >> 32) + 1 << 32 | claim & 0xFFFF_FFFF):
        (shown,) = snapshot.take(Changing(stage.view, claim, after)).executors  # type: ignore[arg-type]
        assert (shown.state, shown.running) == ("idle", None)


@pytest.mark.parametrize("pid", [0, 2**31, 2**64 - 1])
def test_a_process_id_that_can_t_be_has_no_memory(stage: Stage, pid: int) -> None:
    stage.executor(0, 1)
    stage.arena.set_slot_gauge(0, SlotGauge.PID, pid)
    stage.arena.set_gauge(Gauge.FORKSERVER_PID, pid)
    looked = stage.take()
    assert looked.executors[0].rss_bytes is None
    assert looked.memory["forkserver_rss_bytes"] is None


def test_a_start_in_the_future_is_no_uptime(stage: Stage) -> None:
    stage.arena.set_gauge(Gauge.STARTED_NS, 2**64 - 1)
    assert stage.take().uptime_s == 0


def test_processes_of_another_namespace_are_not_looked_up(stage: Stage) -> None:
    stage.executor(0, 1)
    looked = snapshot.take(stage.view, processes=False)
    assert looked.executors[0].rss_bytes is None
    assert set(looked.memory.values()) == {arenas.native().arena_size(8, 4, RING), None}


def test_entrypoints_of_which_there_is_something_to_tell(stage: Stage) -> None:
    arena, core = stage.arena, stage.core
    for name, priority, limit in (("work", "normal", 0), ("slow", "low", 2), ("idle", "high", 0)):
        arena.set_entry(name, DELAY_NS[Priority(priority)], limit)
    arena.learn(core.entry_id("work"), 12_345_678, False)
    for channel, name in enumerate(("work", "work", "slow", "slow")):
        stage.request(channel, name)
    stage.run(stage.executor(0, 1))
    arena.set_standing(core.entry_id("work"), 1, True)
    assert stage.take().entries == {
        "slow": EntryStatus(0.0, 0, 2, 2, "low", 0),
        "work": EntryStatus(12.346, 1, 1, None, "normal", 1),
    }


def test_refusals_are_counted_by_reason(stage: Stage) -> None:
    for index, _ in enumerate(BusyReason):
        stage.arena.set_gauge(Gauge.SHED + index, index + 1)
    assert stage.take().shed == {reason.value: index + 1 for index, reason in enumerate(BusyReason)}


def test_a_view_stores_nothing() -> None:
    view = arenas.native().ArenaView
    reading = {"channels", "slots", "ring_bytes", "in_use", "gauge", "slot_gauge", "slot_state", "histograms"}
    assert {name for name in dir(view) if not name.startswith("_")} == reading | {
        "word",
        "request_bytes",
        "ready",
        "entry",
        "holds",
        "entries",
        "open_slots",
        "queued",
        "running",
        "is_marked",
        "with_requests",
    }


@pytest.mark.parametrize(
    "cut", [0, 3, PREFIX_BYTES, PREFIX_BYTES + HEADER_BYTES - 1, PREFIX_BYTES + HEADER_BYTES + 3]
)
def test_a_beginning_that_is_too_short_is_no_frame(cut: int) -> None:
    assert peek(encode(Request(1, "work", b"payload"))[:cut]) is None


@pytest.mark.parametrize("there", [0, 1, 7, 100])
def test_a_frame_is_known_by_its_beginning_whatever_of_the_payload_is_there(there: int) -> None:
    frame = Request(2**64 - 1, "w\u00f6rk", b"payload", deadline_ns=3, sent_ns=4, max_wait_ms=5)
    data = encode(frame)
    begun = data[: len(data) - len(frame.payload)] + (frame.payload + b"x" * 100)[:there]
    frame.payload = b""
    assert peek(begun) == frame
