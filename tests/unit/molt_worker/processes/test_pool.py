"""The pool without requests: what it tells a subclass, when, and what it does by itself."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from molt_accel.errors import MoltWorkerCrashed, Status
from molt_accel.ipc.frame import FrameError, Item, encode
from molt_accel.ipc.messages import Hello, Request, Response
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Interrupt, Kill, Spawn, Wake
from molt_worker.processes.handles import ExecutorHandle, ExecutorState
from molt_worker.processes.pool import Pool
from tests.support.scripted_forkserver import FakeForkserver, Stage


class Recorder(Pool):
    """Writes down what it is told; executors served as many requests as `served` says."""

    def __init__(self, stage: Stage, slots: int = 16) -> None:
        super().__init__(
            stage.config, stage.loop, stage.sink, stage.counters, lambda *_: pytest.fail("forked"), slots
        )
        self.stage = stage
        self.told: list[tuple[Any, ...]] = []
        self.served: dict[int, int] = {}
        self.accepts = True
        self.crashes: list[MoltWorkerCrashed] = []

    def seen(self) -> list[tuple[Any, ...]]:
        """What it was told since it was asked last."""
        told, self.told = self.told, []
        return told

    def numbers(self) -> list[int]:
        """The numbers of the living executors."""
        return [executor.number for executor in self._living()]

    def executor(self, number: int) -> ExecutorHandle:
        """One of the executors."""
        return self._executors[number]

    def _on_ready(self, executor: ExecutorHandle) -> None:
        assert executor.state is ExecutorState.READY
        self.told.append(("ready", executor.number))

    def _on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        self.told.append(("message", executor.number, message))
        return self.accepts

    def _on_closed(self, executor: ExecutorHandle) -> None:
        self.stage.forkservers[-1].obey()
        killed = any(Kill(executor.number) in forkserver.told for forkserver in self.stage.forkservers)
        self.told.append(("closed", executor.number, executor.state, killed))

    def _on_reaped(self, executor: ExecutorHandle, crash: MoltWorkerCrashed) -> None:
        self.told.append(("reaped", executor.number))
        self.crashes.append(crash)

    def _on_replaced(self, executor: ExecutorHandle) -> None:
        self.told.append(("replaced", executor.number))

    def _on_exports(self, exports: ExportTable) -> None:
        self.told.append(("exports", len(exports)))

    def _on_start_failed(self, why: str) -> None:
        self.told.append(("start failed", why))

    def _served(self, executor: ExecutorHandle) -> int:
        return self.served.get(executor.number, 0)


MakeStage = Callable[..., Stage]


def started(stage: Stage) -> FakeForkserver:
    forkserver = stage.start()
    stage.pool.seen()
    return forkserver


def test_a_full_pool_starts_and_the_exports_are_told_once(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = stage.load()
    assert forkserver.told == [Spawn(1, 0), Spawn(2, 1)]
    assert [child.slot for child in forkserver.children.values()] == [0, 1]
    assert stage.pool.seen() == [("exports", 1)]
    forkserver.children[2].greet()
    forkserver.children[1].greet()
    stage.turn()
    assert sorted(stage.pool.seen()) == [("ready", 1), ("ready", 2)]
    assert [stage.pool.executor(number).pid for number in (1, 2)] == [os.getpid()] * 2


def test_messages_come_from_ready_executors_only(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = stage.load()
    stage.pool.seen()
    forkserver.children[1].send(Hello())  # this is its greeting
    forkserver.children[1].send(Wake())
    forkserver.children[2].send(Response(8, Status.OK))
    stage.turn()
    assert stage.pool.seen() == [
        ("ready", 1),
        ("message", 1, Wake()),
        ("closed", 2, ExecutorState.GONE, True),
    ]
    assert "executor_broke_protocol executor=2" in stage.log()


@pytest.mark.parametrize("how", ["refused", "malformed", "end"])
def test_one_that_breaks_the_protocol_or_hangs_up_is_closed_once_killed_and_replaced(
    how: str, make_stage: MakeStage
) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    child = forkserver.children[1]
    stage.pool.accepts = False
    if how == "refused":
        child.send(Response(5, Status.OK))
        child.send(Response(6, Status.OK))
    elif how == "malformed":
        child.sock.sendall(encode(Hello()).replace(b"\x01", b"\x09", 1))
    else:
        child.sock.close()
    stage.turn()
    closed = ("closed", 1, ExecutorState.GONE, True)
    assert stage.pool.seen() == (
        [("message", 1, Response(5, Status.OK)), closed] if how == "refused" else [closed]
    )
    assert ("executor_broke_protocol" in stage.log()) == (how != "end")
    assert stage.counters.executor_deaths == 1
    assert stage.pool.numbers() == [2, 3]
    forkserver.exited(1, -9)
    stage.turn()
    assert stage.pool.seen() == [("reaped", 1)]
    (crash,) = stage.pool.crashes
    assert crash.detail == "the executor died while it ran this request: signal 9 (SIGKILL)"
    assert crash.facts == {"signal": 9}


def test_what_it_still_said_is_heard_before_its_death(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.loop.watch(stage.pool.executor(1).sock.fileno(), 0)  # the report of its exit is seen first
    forkserver.children[1].send(Response(5, Status.OK))
    forkserver.exited(1, 3)
    stage.turn()
    assert stage.pool.seen() == [
        ("message", 1, Response(5, Status.OK)),
        ("closed", 1, ExecutorState.GONE, True),
        ("reaped", 1),
    ]


def test_a_killed_executor_is_replaced_and_reaped_without_being_closed(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.pool.kill(stage.pool.executor(2))
    stage.turn()
    assert Kill(2) in forkserver.told
    assert stage.pool.numbers() == [1, 3]
    stage.reap(forkserver, 2, -9)
    assert stage.pool.seen() == [("reaped", 2)]


def test_a_message_to_one_that_has_just_died_closes_it(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    forkserver.children[1].sock.close()
    stage.pool._send(stage.pool.executor(1), Request(1, "echo"))
    assert stage.pool.seen() == [("closed", 1, ExecutorState.GONE, True)]


def test_a_large_message_goes_out_as_the_executor_takes_it(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    payload = b"x" * 3_000_000
    stage.pool._send(stage.pool.executor(1), Request(1, "echo", payload))
    frames: list[Item | FrameError] = []
    while not frames:
        stage.turn()
        frames = forkserver.children[1].received()
    assert frames == [Request(1, "echo", payload)]


def test_an_interrupt_names_the_request_and_tells_the_forkserver(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    executor = stage.pool.executor(2)
    stage.pool._interrupt(executor, 41, StopReason.TIMED_OUT)
    stage.turn()
    assert forkserver.told[-1] == Interrupt(2)
    assert (executor.word.reason(41), executor.word.reason(42)) == (StopReason.TIMED_OUT, 0)


def test_a_worn_out_executor_is_replaced_when_its_successor_is_ready(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    old = stage.pool.executor(1)
    stage.pool.served = {1: 12}
    stage.pool._recycle(old, "max_requests")
    stage.pool._recycle(old, "max_requests")
    stage.turn()
    assert stage.pool.seen() == []
    assert stage.pool.numbers() == [1, 2, 3]
    forkserver.children[3].greet()
    stage.turn()
    assert stage.pool.seen() == [("ready", 3), ("replaced", 1)]
    assert stage.pool.numbers() == [1, 2, 3]  # when it leaves is for the subclass to say
    stage.pool._dismiss(old)
    stage.turn()
    assert forkserver.children[1].dismissed()
    stage.reap(forkserver, 1, 0)
    assert stage.pool.seen() == [("reaped", 1)]
    assert (stage.counters.recycled, stage.counters.executor_deaths) == (1, 0)
    assert "executor_recycled executor=1 why=max_requests served=12" in stage.log()
    assert stage.pool.numbers() == [2, 3]


def test_one_that_was_dismissed_and_stays_is_killed(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.pool._dismiss(stage.pool.executor(1))
    stage.pass_time(1.0)
    assert Kill(1) not in forkserver.told
    stage.pass_time(2.5)
    assert Kill(1) in forkserver.told


def test_when_the_successor_dies_the_worn_one_stays_until_another_is_ready(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.pool._recycle(stage.pool.executor(1), "max_requests")
    stage.turn()
    stage.reap(forkserver, 3, 1)
    assert ("replaced", 1) not in stage.pool.seen()
    assert stage.pool.numbers() == [1, 2]
    stage.pool._spawn_not_before_ns = 0  # the time after a start that failed is over
    stage.pass_time(0)
    forkserver.children[4].greet()
    stage.turn()
    assert stage.pool.seen() == [("ready", 4), ("replaced", 1)]


def test_without_a_descriptor_an_executor_is_started_later_and_that_is_said_once(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)

    def none_left() -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    with monkeypatch.context() as patch:
        patch.setattr("molt_worker.processes.handles.socket.socketpair", none_left)
        stage.reap(forkserver, 1, 1)
        for _ in range(3):
            stage.pass_time(0.2)
        assert stage.pool.numbers() == [2]
    assert stage.log().count("executor_not_started") == 1
    assert "Too many open files" in stage.log()
    stage.pass_time(0.2)
    assert stage.pool.numbers() == [2, 3]


def test_when_the_worn_one_dies_its_successor_takes_the_place(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.pool._recycle(stage.pool.executor(1), "max_requests")
    stage.turn()
    stage.reap(forkserver, 1, -11)
    assert stage.pool.numbers() == [2, 3]
    forkserver.children[3].greet()
    stage.turn()
    assert ("ready", 3) in stage.pool.seen()
    assert stage.pool.numbers() == [2, 3]


def test_a_reload_replaces_everyone_and_tells_the_exports_at_the_last(
    make_stage: MakeStage,
) -> None:
    stage = make_stage(Recorder)
    started(stage)
    newer = stage.load()
    assert stage.pool.seen() == []
    assert list(newer.children) == [3, 4]
    newer.children[3].greet()
    stage.turn()
    first = stage.pool.seen()
    newer.children[4].greet()
    stage.turn()
    last = stage.pool.seen()
    assert [row[0] for row in first] == ["ready", "replaced"]
    assert [row[0] for row in last] == ["ready", "replaced", "exports"]
    assert {first[1][1], last[1][1]} == {1, 2}


def test_executors_that_still_start_with_the_old_exports_are_not_waited_for(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    older = stage.load()
    stage.pool.seen()
    stage.load()
    assert all(Kill(number) in older.told for number in (1, 2))
    assert stage.pool.numbers() == [3, 4]
    assert stage.pool.seen() == [("exports", 1)]


def test_memory_is_looked_at_only_of_those_that_have_served(
    make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = make_stage(Recorder, max_rss_mb=1)
    started(stage)
    stage.pool.served = {2: 1}
    assert psutil.Process().memory_info().rss > 1024 * 1024  # the fake executors have this process's pid
    stage.pass_time(2)
    assert stage.counters.recycled == 1
    assert "executor_recycled executor=2 why=max_rss_mb served=1" in stage.log()


def test_one_that_dies_while_it_starts_makes_the_next_wait(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = stage.load()
    stage.pool.seen()
    stage.reap(forkserver, 1, 1)
    assert stage.pool.seen() == [("closed", 1, ExecutorState.GONE, True), ("reaped", 1)]
    assert stage.pool.numbers() == [2]
    stage.pool._spawn_not_before_ns = 0
    stage.pass_time(0)
    assert stage.pool.numbers() == [2, 3]
    assert forkserver.children[3].slot == 0  # the lowest that is free


def test_no_more_are_started_than_there_are_slots(make_stage: MakeStage) -> None:
    stage = make_stage(lambda stage: Recorder(stage, slots=3))
    forkserver = started(stage)
    for number in (1, 2):
        stage.pool.kill(stage.pool.executor(number))
    stage.turn()
    assert stage.pool.numbers() == [3]
    stage.reap(forkserver, 2, -9)
    stage.pass_time(0.2)
    assert stage.pool.numbers() == [3, 4]
    assert forkserver.children[4].slot == 1


def test_when_the_forkserver_dies_its_executors_do_and_another_is_started(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    started(stage).kill()
    stage.turn()
    assert [row for row in stage.pool.seen() if row[0] == "reaped"] == [("reaped", 1), ("reaped", 2)]
    assert {crash.detail for crash in stage.pool.crashes} == {
        "the executor died while it ran this request: with its fork server"
    }
    assert [crash.facts for crash in stage.pool.crashes] == [{}, {}]
    stage.pass_time(0)
    assert len(stage.forkservers) == 2
    stage.forkservers[-1].loaded()
    stage.turn()
    assert stage.pool.numbers() == [3, 4]


def test_exports_that_cant_be_imported_are_told_when_there_are_no_others(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    stage.pool.start_forkserver()
    stage.forkservers[0].kill()
    stage.turn()
    assert stage.pool.seen() == [("start failed", "the fork server died: signal 9 (SIGKILL)")]
    stage = make_stage(Recorder)
    started(stage)
    stage.pool.start_forkserver()
    stage.forkservers[-1].kill()
    stage.turn()
    assert stage.pool.seen() == []
    assert "reload_failed" in stage.log()


def test_a_stopped_pool_starts_nothing(make_stage: MakeStage) -> None:
    stage = make_stage(Recorder)
    forkserver = started(stage)
    stage.pool.stop()
    stage.reap(forkserver, 1, -9)
    stage.pass_time(10)
    assert stage.pool.numbers() == [2]
