"""Requests over stdio: who gets which, and what the owner is told when an executor answers, dies or lies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from molt_accel.errors import MoltError, Status
from molt_accel.ipc import messages
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Interrupt, Kill
from molt_worker.processes.handles import ExecutorHandle
from molt_worker.supervisor.stdio.dispatch import DispatchPool
from molt_worker.supervisor.stdio.lifecycle import Request
from tests.support.scripted_forkserver import FakeExecutor, FakeForkserver, Stage

MakeStage = Callable[..., Stage]
#: The generation that the client gave all of its requests.
CLIENT_GENERATION = 500


class Owner:
    """Writes down what it is told, and ends crashed requests, as an owner must."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []
        self.pool: DispatchPool

    def seen(self) -> list[tuple[Any, ...]]:
        """What it was told since it was asked last."""
        told, self.told = self.told, []
        return told

    def on_exports(self, exports: ExportTable) -> None:
        self.told.append(("exports", len(exports)))

    def on_executor_ready(self) -> None:
        self.told.append(("ready",))

    def on_response(self, request: Request, response: Response) -> None:
        self.told.append(("response", request.frame.request_id, response.payload))

    def on_not_started(self, request: Request) -> None:
        assert request.executor is None
        self.told.append(("not started", request.frame.request_id))

    def on_silent(self, request: Request) -> None:
        assert request.executor is not None
        self.told.append(("silent", request.frame.request_id))

    def on_crash(self, request: Request, crash: MoltError) -> None:
        self.told.append(("crash", request.frame.request_id, crash.detail))
        assert request.executor is not None
        self.pool.release(request.executor)

    def on_start_failed(self, why: str) -> None:
        self.told.append(("start failed", why))


class Scene:
    """A pool of one or more executors that are ready, and its owner."""

    def __init__(self, make_stage: MakeStage, **options: Any) -> None:
        self.owner = Owner()

        def make_pool(stage: Stage) -> DispatchPool:
            return DispatchPool(stage.config, stage.loop, stage.sink, stage.counters, self.owner)

        self.stage = make_stage(make_pool, **options)
        self.pool: DispatchPool = self.stage.pool
        self.owner.pool = self.pool
        self.forkserver: FakeForkserver = self.stage.start()
        self.owner.seen()

    def hand_out(self, request_id: int, **fields: Any) -> Request:
        """Give a request to an idle executor."""
        frame = Request(request_id, "echo", generation=CLIENT_GENERATION, **fields)
        request = Request(frame)
        self.pool.hand_out(request, 3)
        return request

    def child(self, request: Request) -> FakeExecutor:
        """The executor that has the request."""
        return self.forkserver.children[self.executor(request).number]

    @staticmethod
    def executor(request: Request) -> ExecutorHandle:
        """The pool's handle of it."""
        assert request.executor is not None
        return request.executor

    def take(self, child: FakeExecutor) -> messages.Request:
        """What an executor was given."""
        (asked,) = child.received()
        assert isinstance(asked, messages.Request)
        return asked

    def answer(self, child: FakeExecutor, asked: messages.Request, payload: bytes = b"") -> None:
        """Let an executor answer."""
        child.send(Response(asked.request_id, Status.OK, payload, generation=asked.generation))
        self.stage.turn()

    def serve(self, request_id: int) -> int:
        """One whole request. Returns the number of the executor that served it."""
        request = self.hand_out(request_id)
        number = self.executor(request).number
        child = self.child(request)
        self.answer(child, self.take(child))
        return number


def test_a_request_goes_out_under_a_serial_and_its_answer_comes_back(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    request = scene.hand_out(7)
    child = scene.child(request)
    asked = scene.take(child)
    assert (asked.request_id, asked.generation, asked.queue_depth, asked.in_flight) == (7, 1, 3, 1)
    assert request.frame.generation == CLIENT_GENERATION
    assert (scene.pool.busy, scene.pool.idle) == (1, True)
    scene.answer(child, asked, b"done")
    assert scene.owner.seen() == [("response", 7, b"done")]
    assert request.executor is None
    assert (scene.pool.busy, scene.pool.describe()["idle"]) == (0, 2)


def test_the_executor_used_last_is_used_next_and_each_request_has_another_serial(
    make_stage: MakeStage,
) -> None:
    scene = Scene(make_stage)
    first = scene.hand_out(1)
    child = scene.child(first)
    asked = scene.take(child)
    scene.answer(child, asked)
    again = scene.hand_out(2)
    assert scene.child(again) is child
    assert scene.take(child).generation == asked.generation + 1


def test_nothing_is_handed_out_when_nobody_is_idle(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    scene.hand_out(1)
    scene.hand_out(2)
    assert not scene.pool.idle
    with pytest.raises(IndexError):
        scene.hand_out(3)


def test_the_report_counts_executors_by_what_they_do(make_stage: MakeStage) -> None:
    scene = Scene(make_stage, executors=3)
    request = scene.hand_out(1)
    scene.pool.kill(scene.executor(scene.hand_out(2)))
    scene.stage.turn()
    report = scene.pool.describe()
    pids = report.pop("pids")
    assert report == {"size": 3, "idle": 1, "busy": 1, "starting": 1}
    assert isinstance(pids, list)
    assert len(pids) == 3
    assert request.executor is not None


def test_an_interrupt_is_for_the_request_that_runs(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    request = scene.hand_out(1)
    executor = scene.executor(request)
    asked = scene.take(scene.child(request))
    scene.pool.interrupt(executor, StopReason.CANCELLED)
    scene.stage.turn()
    assert scene.forkserver.told[-1] == Interrupt(executor.number)
    assert executor.word.reason(asked.generation) == StopReason.CANCELLED


@pytest.mark.parametrize("what", ["another serial", "twice", "unasked"])
def test_an_answer_to_nothing_it_was_given_ends_the_executor(what: str, make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    request = scene.hand_out(1)
    child = scene.child(request)
    asked = scene.take(child)
    number = scene.executor(request).number
    if what == "another serial":
        asked.generation += 1
        scene.answer(child, asked)
        assert scene.owner.seen() == [("silent", 1)]
    else:
        scene.answer(child, asked)
        scene.answer(child, asked)
        assert scene.owner.seen() == [("response", 1, b"")]
    scene.stage.turn()
    assert Kill(number) in scene.forkserver.told
    assert "executor_broke_protocol" in scene.stage.log()
    assert number not in [executor.number for executor in scene.pool._living()]


def test_a_second_greeting_changes_nothing(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    scene.forkserver.children[1].greet()
    scene.stage.turn()
    assert scene.owner.seen() == []
    assert scene.pool.describe()["idle"] == 2


def test_a_silent_executor_has_the_request_until_it_was_reaped(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    request = scene.hand_out(1)
    child, number = scene.child(request), scene.executor(request).number
    scene.take(child)
    child.sock.close()
    scene.stage.turn()
    assert scene.owner.seen() == [("silent", 1)]
    assert scene.pool.busy == 1
    scene.forkserver.exited(number, -11)
    scene.stage.turn()
    words = "the executor died while it ran 'echo': signal 11 (SIGSEGV)"
    assert scene.owner.seen() == [("crash", 1, words)]
    assert scene.pool.busy == 0
    assert f"executor_crashed executor={number}" in scene.stage.log()


def test_an_idle_executor_s_death_is_nobody_s_request(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    scene.stage.reap(scene.forkserver, 2, -9)
    assert scene.owner.seen() == []
    assert scene.pool.describe()["idle"] == 1
    assert "executor_crashed" not in scene.stage.log()
    assert scene.serve(1) == 1


def test_a_request_for_one_that_has_just_died_comes_back(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    for child in scene.forkserver.children.values():
        child.sock.close()
    request = scene.hand_out(1)
    assert scene.owner.seen() == [("not started", 1)]
    assert request.frame.generation == CLIENT_GENERATION
    assert scene.pool.busy == 0


def test_a_request_that_was_not_read_comes_back_but_not_for_ever(make_stage: MakeStage) -> None:
    scene = Scene(make_stage)
    request = scene.hand_out(1)
    scene.child(request).sock.close()  # with the request unread, so the supervisor's end is reset
    scene.stage.turn()
    assert scene.owner.seen() == [("not started", 1)]
    request.handed_back = scene.pool.size
    scene.pool.hand_out(request, 0)
    scene.child(request).sock.close()
    scene.stage.turn()
    assert scene.owner.seen() == [("silent", 1)]


def test_after_so_many_requests_an_executor_is_recycled(make_stage: MakeStage) -> None:
    scene = Scene(make_stage, executors=1, max_requests=2)
    assert [scene.serve(request_id) for request_id in (1, 2, 3)] == [1, 1, 1]
    assert scene.stage.counters.recycled == 1
    assert "executor_recycled executor=1 why=max_requests served=2" in scene.stage.log()
    scene.forkserver.children[2].greet()
    scene.stage.turn()
    assert scene.forkserver.children[1].dismissed()
    assert scene.serve(4) == 2


def test_a_replaced_executor_that_has_a_request_leaves_after_its_answer(make_stage: MakeStage) -> None:
    scene = Scene(make_stage, executors=1)
    request = scene.hand_out(1)
    child = scene.child(request)
    newer = scene.stage.load()
    newer.children[2].greet()
    scene.stage.turn()
    assert child.sock.fileno() >= 0
    scene.owner.seen()
    scene.answer(child, scene.take(child), b"last")
    assert scene.owner.seen() == [("response", 1, b"last")]
    assert child.dismissed()
    assert scene.pool.describe()["idle"] == 1
    after = scene.hand_out(2)
    assert scene.executor(after).number == 2


def test_exports_and_a_failed_start_are_passed_on(make_stage: MakeStage) -> None:
    scene = Scene(make_stage, executors=1)
    newer = scene.stage.load()
    newer.children[2].greet()
    scene.stage.turn()
    assert scene.owner.seen() == [("ready",), ("exports", 1)]
    assert newer.children[2].slot == 1
    scene.pool._on_start_failed("why not")
    assert scene.owner.seen() == [("start failed", "why not")]
