"""The pool when processes fail again and again: how long it waits, what it gives back, and whom it replaces.

Time passes as the test says, and the test sees when the pool wants to be woken.
"""

from __future__ import annotations

import errno
import math
import os
import time
from collections.abc import Callable
from typing import Any

import pytest

from molt_accel.errors import MoltStartFailed
from molt_worker.processes import handles
from molt_worker.processes import pool as pool_module
from molt_worker.processes.commands import Kill, Spawn
from tests.support.scripted_forkserver import MakeStage, Stage, record

Clocked = Callable[..., "Clock"]


class Clock:
    """A pool and its time, which stands still unless the test moves it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.now_ns = time.monotonic_ns()
        self._told: set[int] = set()
        at = stage.loop.at
        stage.loop.at = lambda when_ns: self._told.add(when_ns) or at(when_ns)  # type: ignore[method-assign]

    def monotonic_ns(self) -> int:
        return self.now_ns

    def due_s(self) -> float:
        """In how many seconds the pool wants to be woken, once it has looked; infinite: never."""
        self.stage.turn()
        self.stage.loop._timer_ns = 0
        self.stage.pool.on_timers(self.now_ns)
        due_ns = self.stage.loop._timer_ns
        self.stage.turn()
        return max(0, due_ns - self.now_ns) / 1e9 if due_ns else math.inf

    def told_s(self) -> set[float]:
        """In how many seconds the pool wants to be woken, by all that it has told since this was asked last."""
        told = {(when_ns - self.now_ns) / 1e9 for when_ns in self._told if when_ns > self.now_ns}
        self._told.clear()
        return told

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)
        self.stage.pool.on_timers(self.now_ns)
        self.stage.turn()


@pytest.fixture
def clocked(make_stage: MakeStage, monkeypatch: pytest.MonkeyPatch) -> Clocked:
    def make(slots: int = 16, **options: Any) -> Clock:
        clock = Clock(make_stage(lambda stage: record(stage, slots), **{"executors": 1, **options}))
        monkeypatch.setattr(pool_module, "time", clock)
        return clock

    return make


def lost(*args: Any) -> Any:
    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def test_the_more_often_an_executor_dies_as_it_starts_the_longer_the_next_one_waits(clocked: Clocked) -> None:
    clock = clocked()
    stage = clock.stage
    stage.load()
    waits: list[float] = []
    for number in range(1, 9):
        stage.reap(number, 1)
        assert stage.numbers() == []
        waits.append(clock.due_s())
        clock.pass_s(waits[-1] - 0.001)
        assert stage.numbers() == []
        clock.pass_s(0.001)
        assert stage.numbers() == [number + 1]
    assert waits == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    stage.greet(9)
    stage.reap(9, 1)  # one that was ready has its successor at once, and the count begins anew
    assert stage.numbers() == [10]
    stage.reap(10, 1)
    assert clock.due_s() == 0.1


def test_after_one_death_a_fork_server_is_started_at_once_and_after_more_with_its_executors_ever_later(
    clocked: Clocked,
) -> None:
    clock = clocked()
    stage = clock.stage
    stage.start()
    stage.forkserver.kill()
    stage.turn()
    clock.pass_s(0)
    waits: list[float] = []
    for count in range(2, 6):
        assert len(stage.forkservers) == count
        stage.forkserver.loaded()
        stage.turn()
        clock.pass_s(5)  # its executor is started, and never gets ready
        assert len(stage.numbers()) == 1
        stage.forkserver.kill()
        waits.append(clock.due_s())
        clock.pass_s(waits[-1] - 0.001)
        assert len(stage.forkservers) == count
        clock.pass_s(0.001)
    assert waits == [0.4, 1.6, 5.0, 5.0]


def test_a_fork_server_that_can_not_be_forked_is_tried_again_ever_later(
    clocked: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = clocked()
    stage = clock.stage
    with monkeypatch.context() as patch:
        patch.setattr(pool_module.ForkserverHandle, "start", lost)
        stage.pool.start_forkserver()
        assert clock.due_s() == 0.1
        clock.pass_s(0.1)
        assert clock.due_s() == 0.2
    assert stage.log().count("forkserver_not_started") == 2
    clock.pass_s(0.199)
    assert stage.forkservers == []
    clock.pass_s(0.001)
    assert len(stage.forkservers) == 1
    stage.pool.stop()
    stage.pool._forkserver_at_ns = clock.now_ns
    clock.pass_s(1)
    assert len(stage.forkservers) == 1  # a worker that stops starts none


def test_forks_that_fail_give_their_slots_back(clocked: Clocked) -> None:
    clock = clocked(slots=3)
    stage = clock.stage
    stage.pool.start_forkserver()
    stage.forkserver.forks = False
    stage.forkserver.loaded()
    stage.turn()
    for _ in range(7):
        clock.pass_s(5)
    assert stage.forkserver.told.count(Spawn(8, 0)) == 1
    assert (stage.numbers(), stage.pool.words.left) == ([], 3)
    stage.forkserver.forks = True
    clock.pass_s(5)
    assert stage.numbers() == [9]
    assert stage.forkserver.children[9].slot == 0


def test_executors_that_can_not_be_asked_for_give_their_slots_back_and_nobody_spins(
    clocked: Clocked, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither without descriptors, nor while the fork server takes no more."""
    for name in ("socketpair", "send_fds"):
        clock = clocked(slots=3)
        stage = clock.stage
        looks: list[tuple[Any, ...]] = []
        stage.pool.start_forkserver()
        with monkeypatch.context() as patch:
            patch.setattr(handles.socket, name, lambda *args, looks=looks: looks.append(args) or lost())
            stage.forkserver.loaded()
            stage.turn()
            for count in range(2, 9):
                assert clock.due_s() == 0.1
                assert len(looks) == count + (count - 2)  # it looks when it is woken, and not in between
                clock.pass_s(0.1)
            assert (stage.numbers(), stage.pool.words.left) == ([], 3)
            assert stage.log().count("executor_not_started") == (name == "socketpair")
        clock.pass_s(0.1)
        assert stage.numbers() == [1]


def test_a_fork_server_that_is_stopped_and_asked_for_an_executor_is_replaced(clocked: Clocked) -> None:
    clock = clocked()
    stage = clock.stage
    stopped = stage.start()
    stopped.stopped = True
    clock.pass_s(60)
    assert not stopped.killed  # nobody asks it for anything
    stage.forkserver.children[1].sock.close()
    stage.turn()
    assert clock.due_s() == 5
    clock.pass_s(4.999)
    assert not stopped.killed
    clock.pass_s(0.001)
    assert stopped.killed
    stage.turn()
    assert 'forkserver_died error="the fork server does not answer"' in stage.log()
    clock.pass_s(0)
    clock.pass_s(1)
    stage.forkserver.loaded()
    stage.turn()
    clock.pass_s(1)
    assert (len(stage.forkservers), stage.numbers()) == (2, [3])


def test_a_fork_server_that_still_reports_is_not_taken_for_stopped(clocked: Clocked) -> None:
    clock = clocked(executors=2)
    stage = clock.stage
    forkserver = stage.start()
    forkserver.forks = False  # and says nothing of it, either
    forkserver.exited = lambda number, code: None  # type: ignore[method-assign]
    stage.pool.kill(stage.executor(1))
    stage.turn()
    clock.pass_s(4)
    stage.pool.kill(stage.executor(2))
    type(forkserver).exited(forkserver, 2, -9)  # so it lives
    stage.turn()
    clock.pass_s(4.999)
    assert not forkserver.killed
    clock.pass_s(0.001)
    assert forkserver.killed


def test_one_that_does_not_start_in_time_is_killed_again_and_again(clocked: Clocked) -> None:
    clock = clocked(start_timeout_ms=10_000)
    stage = clock.stage
    stage.load()
    clock.pass_s(9.999)
    assert Kill(1) not in stage.forkserver.told
    for count in (1, 2, 3):
        clock.pass_s(2)
        assert stage.forkserver.told.count(Kill(1)) == count


def test_an_import_that_takes_too_long_is_given_up(clocked: Clocked) -> None:
    clock = clocked(start_timeout_ms=10_000)
    stage = clock.stage
    stage.pool.start_forkserver()
    assert clock.due_s() == 10
    clock.pass_s(9.999)
    assert not stage.forkserver.killed
    clock.pass_s(0.001)
    assert stage.forkserver.killed
    stage.turn()
    assert stage.owner.seen() == [
        ("start failed", MoltStartFailed, "importing the exports took longer than 10000 ms")
    ]


def test_each_time_at_which_something_is_due_is_told(clocked: Clocked) -> None:
    clock = clocked(start_timeout_ms=10_000)
    stage = clock.stage
    stage.pool.start_forkserver()
    assert clock.told_s() == {10}
    clock.pass_s(1)
    assert clock.told_s() == {9}
    stage.forkserver.loaded()
    stage.turn()
    assert clock.told_s() == {10, 5}  # for its start, and for the fork server to have forked it
    clock.pass_s(3)
    assert clock.told_s() == {7}
    stage.greet(1)
    stage.pool.retire(stage.executor(1))
    assert clock.told_s() == {2}
    clock.pass_s(1.5)
    assert 0.5 in clock.told_s()
