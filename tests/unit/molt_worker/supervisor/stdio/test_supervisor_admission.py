"""What the supervisor of stdio takes on, in which order it serves, and what it says of that."""

import time
from collections.abc import Callable
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.errors import BusyReason, Status
from molt_accel.ipc.messages import PING, Codec, Response
from molt_accel.overload.admission import INTERVAL_NS
from molt_accel.overload.priority import Priority
from molt_worker.processes.commands import ExportRow
from molt_worker.supervisor.stdio import supervisor as stdio_supervisor
from tests.support.scripted_forkserver import FakeForkserver
from tests.support.stdio_testbed import GRACE_MS, MakeScene, Scene

MS = 1_000_000
TOO_LONG = "requests have to wait for too long"
TOO_LATE = "the request could not end before its deadline"


def export_row(name: str, limit: int | None = None, priority: Priority = Priority.NORMAL) -> ExportRow:
    return ExportRow(name, Codec.MSGPACK, Codec.MSGPACK, f"m:{name}", False, limit, priority)


class Clock:
    """The supervisor's clock, which stands still unless the test moves it."""

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns() + 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stdio_supervisor, "time", clock)
    return clock


@pytest.fixture
def make_pool(make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scene]:
    """A scene whose fork server has imported these."""

    def make(*rows: ExportRow, **options: Any) -> Scene:
        monkeypatch.setattr(FakeForkserver, "rows", list(rows))
        return make_scene(**{"executors": 1, "max_queue": 64, **options})

    return make


def reply(scene: Scene, number: int, serial: int, took_ms: float, status: Status = Status.OK) -> None:
    """An executor answers, and says how long that took."""
    payload: object = "done" if status is Status.OK else {"error": "MoltTimeout", "detail": "it gave in"}
    answer = Response(0, status, codec.encode(Codec.MSGPACK, payload), generation=serial)
    answer.exec_us = int(took_ms * 1000)
    scene.child(number).send(answer)
    scene.turn()


def teach(scene: Scene, entry: str, took_ms: float) -> None:
    for _ in range(30):
        scene.supervisor._admission.learn(entry, time.monotonic_ns(), int(took_ms * MS))


def report(scene: Scene) -> Any:
    scene.ask(99, PING)
    ((_, _, told),) = scene.outcomes()
    return told


# -- limits and classes -----------------------------------------------------------------------------------
def test_others_pass_those_of_whom_enough_run(make_pool: Callable[..., Scene]) -> None:
    scene = make_pool(export_row("slow", 1), export_row("quick"), executors=2)
    for request_id, entry in ((1, "slow"), (2, "slow"), (3, "quick"), (4, "quick")):
        scene.ask(request_id, entry)
    assert [row[0] for row in scene.given(2)] == [1]
    assert [row[0] for row in scene.given(1)] == [3]
    scene.answer(1, 1)
    assert [row[0] for row in scene.given(1)] == [4]
    scene.answer(1, 2)
    assert scene.given(1) == []  # only one of the slow ones is left, and one runs
    entry = report_of(scene, "slow")
    assert (entry["running"], entry["queued"], entry["limit"], entry["priority"]) == (1, 1, 1, "normal")
    scene.answer(2, 1)
    assert [row[0] for row in scene.given(2)] == [2]


def report_of(scene: Scene, entry: str) -> Any:
    scene.ask(99, PING)
    return next(told for request_id, _, told in scene.outcomes() if request_id == 99)["entries"][entry]


def test_an_idle_executor_is_not_refused_for_a_queue_of_those_it_may_not_run(
    make_pool: Callable[..., Scene],
) -> None:
    scene = make_pool(export_row("slow", 1), export_row("quick"), executors=2, max_queue=1)
    for request_id, entry in ((1, "slow"), (2, "slow"), (3, "quick")):
        scene.ask(request_id, entry)
    assert scene.outcomes() == []
    assert [row[0] for row in scene.given(1)] == [3]


def test_classes_are_served_in_their_order_and_old_ones_rise(
    make_pool: Callable[..., Scene], clock: Clock
) -> None:
    rows = (export_row("high", None, Priority.HIGH), export_row("plain"), export_row("low", 1, Priority.LOW))
    scene = make_pool(*rows)
    scene.ask(1, "plain")
    order = (
        (2, "low", 0),
        (3, "plain", 500),
        (4, "low", 0),
        (5, "plain", 0),
        (6, "high", 0),
        (7, "high", 1600),
    )
    for request_id, entry, after_ms in order:
        clock.now_ns += after_ms * MS
        scene.ask(request_id, entry)
    for serial in range(1, 8):
        scene.answer(1, serial)
    assert [row[0] for row in scene.given(1)] == [1, 6, 3, 5, 2, 7, 4]


def test_what_came_before_the_exports_is_sorted_when_they_are_known(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        FakeForkserver, "rows", [export_row("plain"), export_row("high", None, Priority.HIGH)]
    )
    scene = make_scene(start=False, executors=1, queue_target_ms=1)
    for request_id, entry in ((1, "plain"), (2, "high")):
        scene.ask(request_id, entry, deadline_ns=time.monotonic_ns() + 10**12)
    assert scene.outcomes() == []  # nobody can tell how long they will wait
    scene.forkserver = scene.stage.start()
    assert [row[0] for row in scene.given(1)] == [2]


# -- the rule ---------------------------------------------------------------------------------------------
def test_a_queue_that_stands_is_refused_and_a_burst_is_not(
    make_pool: Callable[..., Scene], clock: Clock
) -> None:
    scene = make_pool(export_row("echo"))
    teach(scene, "echo", 60)
    for request_id in range(1, 20):
        scene.ask(request_id)
    assert scene.outcomes() == []
    clock.now_ns += INTERVAL_NS
    for request_id in range(20, 25):
        scene.ask(request_id)
    assert scene.outcomes() == [(each, "MoltBusy", TOO_LONG) for each in range(20, 25)]
    told = report(scene)
    assert {reason: count for reason, count in told["shed"].items() if count} == {"queue_delay": 5}
    assert set(told["shed"]) == {reason.value for reason in BusyReason}
    assert told["entries"]["echo"] == {
        "usual_ms": 60.0,
        "running": 1,
        "queued": 18,
        "limit": None,
        "priority": "normal",
        "refused": 5,
    }
    log = scene.stage.log()
    assert log.count("warning shedding entry=echo reason=queue_delay") == 1
    assert log.count("warning") == 1


def test_one_that_can_not_end_in_time_is_refused_and_the_others_wait(
    make_pool: Callable[..., Scene], clock: Clock
) -> None:
    scene = make_pool(export_row("echo"))
    teach(scene, "echo", 60)
    for request_id, ms in ((1, 30), (2, 119), (3, 120), (4, 179)):
        scene.ask(request_id, deadline_ns=clock.now_ns + ms * MS)
    assert scene.outcomes() == [(2, "MoltBusy", TOO_LATE), (4, "MoltBusy", TOO_LATE)]
    assert [row[0] for row in scene.given(1)] == [1]  # an idle executor tries


def test_a_limited_entry_has_a_reason_of_its_own(make_pool: Callable[..., Scene], clock: Clock) -> None:
    scene = make_pool(export_row("echo", 1), executors=2)
    teach(scene, "echo", 200)
    for request_id in (1, 2, 3):
        scene.ask(request_id)
    clock.now_ns += INTERVAL_NS
    scene.ask(4)
    assert scene.outcomes() == [(4, "MoltBusy", "requests of this entry have to wait for too long")]
    assert report_of(scene, "echo")["refused"] == 1


def test_without_a_target_only_the_places_count(make_pool: Callable[..., Scene], clock: Clock) -> None:
    scene = make_pool(export_row("echo"), queue_target_ms=0, max_queue=4)
    teach(scene, "echo", 10_000)
    for request_id in range(1, 7):
        scene.ask(request_id)
        clock.now_ns += 1000 * MS
    assert scene.outcomes() == [(6, "MoltBusy", "the queue is full")]


def test_shedding_is_over_when_an_executor_has_been_idle_for_long(
    make_pool: Callable[..., Scene], clock: Clock
) -> None:
    scene = make_pool(export_row("echo"))
    teach(scene, "echo", 60)
    for request_id in range(1, 5):
        scene.ask(request_id)
    clock.now_ns += INTERVAL_NS
    scene.ask(5)
    for serial in range(1, 5):
        reply(scene, 1, serial, 60)
    assert scene.outcomes()[0] == (5, "MoltBusy", TOO_LONG)
    clock.now_ns += 1000 * MS
    for request_id in range(6, 16):  # a new burst
        scene.ask(request_id)
    assert scene.outcomes() == []


def test_what_can_not_end_any_more_is_not_begun_while_others_wait(
    make_pool: Callable[..., Scene], clock: Clock
) -> None:
    scene = make_pool(export_row("echo"))
    teach(scene, "echo", 60)
    deadline_ns = clock.now_ns + 150 * MS
    scene.ask(1)
    scene.ask(2, deadline_ns=deadline_ns)
    scene.ask(3, deadline_ns=deadline_ns + 30 * MS)
    clock.now_ns += 149 * MS
    reply(scene, 1, 1, 60)
    assert scene.outcomes() == [(1, "Ok", "done"), (2, "MoltTimeout", "too little time was left to run it")]
    assert [row[0] for row in scene.given(1)] == [1, 3]  # nobody else is queued


@pytest.mark.parametrize("cancelled", [True, False])
def test_who_leaves_the_queue_frees_its_place_at_once(
    cancelled: bool, make_pool: Callable[..., Scene], clock: Clock
) -> None:
    scene = make_pool(export_row("echo"), max_queue=1)
    scene.ask(1)
    scene.ask(2, deadline_ns=clock.now_ns + 1000 * MS)
    if cancelled:
        scene.cancel(2)
    else:
        clock.now_ns += 1000 * MS
        scene.supervisor.on_timers(clock.now_ns)
        scene.turn()
    scene.ask(3)
    assert [row[0] for row in scene.outcomes()] == [2]
    scene.answer(1, 1)
    assert [row[0] for row in scene.given(1)] == [1, 3]


# -- what is learnt ---------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("status", "learnt"),
    [
        (Status.OK, 70.0),
        (Status.INVALID_INPUT, 70.0),
        (Status.INTERNAL_ERROR, 70.0),
        (Status.TIMEOUT, 100.0),
        (Status.CANCELLED, 100.0),
    ],
)
def test_answers_tell_what_requests_take(
    status: Status, learnt: float, make_pool: Callable[..., Scene]
) -> None:
    """One that was stopped would have taken longer, so it says nothing if it was quick."""
    scene = make_pool(export_row("echo"))
    for serial, took in ((1, 100), (2, 100)):
        scene.ask(serial)
        reply(scene, 1, serial, took)
    scene.ask(3)
    reply(scene, 1, 3, 40, status)
    assert len(scene.outcomes()) == 3
    assert report_of(scene, "echo")["usual_ms"] == learnt


def test_what_had_to_be_killed_took_at_least_so_long(make_pool: Callable[..., Scene], clock: Clock) -> None:
    scene = make_pool(export_row("echo"))
    scene.ask(1, deadline_ns=clock.now_ns + 500 * MS)
    for after_ms in (500, GRACE_MS):
        clock.now_ns += after_ms * MS
        scene.supervisor.on_timers(clock.now_ns)
    assert len(scene.outcomes()) == 1
    assert report_of(scene, "echo")["usual_ms"] == 500.0 + GRACE_MS


def test_a_pool_that_stops_is_not_shedding(make_pool: Callable[..., Scene]) -> None:
    scene = make_pool(export_row("echo"))
    scene.supervisor._worker.draining = True
    scene.ask(1)
    scene.ask(2, "no such entry")
    assert [row[1] for row in scene.outcomes()] == ["MoltBusy", "MoltBusy"]
    told = report(scene)
    assert (set(told["shed"].values()), told["entries"]) == ({0}, {})
    assert "shedding" not in scene.stage.log()
