"""When the supervisor of stdio acts: it tells its loop each time at which something is due, and acts then, not before.

Its clock stands still unless the test moves it.
"""

from __future__ import annotations

import signal

import pytest

from molt_accel.errors import Status
from molt_worker.processes.commands import Interrupt, Kill
from molt_worker.supervisor.stdio import supervisor as stdio_supervisor
from molt_worker.supervisor.stdio.supervisor import EXIT_UNSENT
from tests.support.stdio_testbed import GRACE_MS, MakeScene, Scene

_MS = 1_000_000
LATE = "the deadline passed in the queue"


class Clock:
    """The supervisor's clock; and the times that it has told to its loop, as ms from now."""

    def __init__(self) -> None:
        self.now_ns = 10**18  # later than any time of the pool, whose clock is the real one
        self._told: set[int] = set()

    def monotonic_ns(self) -> int:
        return self.now_ns

    def in_ms(self, ms: float) -> int:
        return self.now_ns + int(ms * _MS)

    def attach(self, scene: Scene) -> None:
        self.scene = scene
        at = scene.stage.loop.at
        scene.stage.loop.at = lambda when_ns: self._told.add(when_ns) or at(when_ns)  # type: ignore[method-assign]

    def told(self) -> set[float]:
        """What was told since this was asked last."""
        told = {(when_ns - self.now_ns) / _MS for when_ns in self._told if when_ns > self.now_ns // 2}
        self._told.clear()
        return told

    def pass_ms(self, ms: float) -> None:
        """Time passes, and the supervisor looks what is due; what is still to come it must tell again."""
        self.now_ns += int(ms * _MS)
        self.scene.supervisor.on_timers(self.now_ns)
        self.scene.turn()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(stdio_supervisor, "time", clock)
    return clock


@pytest.fixture
def scene(make_scene: MakeScene, clock: Clock) -> Scene:
    scene = make_scene(executors=1, max_queue=1)
    clock.attach(scene)
    return scene


def test_each_request_is_looked_at_when_something_is_due_for_it(scene: Scene, clock: Clock) -> None:
    scene.ask(1, deadline_ns=clock.in_ms(70_000))
    scene.ask(2, deadline_ns=clock.in_ms(60_000))
    scene.ask(3, max_wait_ms=90_000, deadline_ns=clock.in_ms(40_000))
    assert clock.told() == {70_000, 60_000, 40_000}
    clock.pass_ms(40_000 - 1)
    assert clock.told() == {30_001, 20_001, 1}
    assert scene.outcomes() == []
    clock.pass_ms(1)
    assert scene.outcomes() == [(3, "MoltTimeout", LATE)]
    scene.ask(4, max_wait_ms=10_000, deadline_ns=clock.in_ms(11_000))
    assert clock.told() == {30_000, 20_000, 10_000}
    clock.pass_ms(10_000 - 1)
    assert scene.outcomes() == []
    clock.pass_ms(1)
    assert scene.outcomes() == [(4, "MoltBusy", "the queue is full")]
    clock.pass_ms(10_000)
    assert scene.outcomes() == [(2, "MoltTimeout", LATE)]
    clock.pass_ms(10_000 - 1)
    assert Interrupt(1) not in scene.forkserver.told
    clock.pass_ms(1)
    assert Interrupt(1) in scene.forkserver.told
    assert GRACE_MS in clock.told()
    clock.pass_ms(GRACE_MS - 1)
    assert clock.told() == {1}
    assert Kill(1) not in scene.forkserver.told
    clock.pass_ms(1)
    assert Kill(1) in scene.forkserver.told
    assert [row[:2] for row in scene.outcomes()] == [(1, "MoltTimeout")]


def test_one_that_gets_a_place_waits_for_its_deadline_and_no_longer_for_a_place(
    scene: Scene, clock: Clock
) -> None:
    for request_id in (1, 2, 3):
        scene.ask(request_id, max_wait_ms=10_000, deadline_ns=clock.in_ms(50_000 + request_id))
    clock.told()
    scene.answer(1, 1)
    assert {50_002, 50_003} <= clock.told()
    clock.pass_ms(49_000)
    assert [row[:2] for row in scene.outcomes()] == [(1, "Ok")]
    clock.pass_ms(1003)
    assert scene.outcomes() == [(3, "MoltTimeout", LATE)]


def test_what_is_late_when_its_turn_comes_is_given_to_nobody(scene: Scene, clock: Clock) -> None:
    scene.ask(1)
    scene.ask(2, deadline_ns=clock.in_ms(1000))
    scene.ask(3, max_wait_ms=9000)
    assert scene.given(1) == [(1, 1, 0, 1)]
    clock.now_ns += 1000 * _MS  # and nobody has looked
    scene.answer(1, 1)
    assert scene.outcomes() == [(1, "Ok", "done"), (2, "MoltTimeout", LATE)]
    assert [row[0] for row in scene.given(1)] == [3]


def test_a_lost_one_is_given_up_when_its_executor_s_exit_is_not_reported(scene: Scene, clock: Clock) -> None:
    scene.ask(1)
    scene.given(1)
    clock.told()
    scene.child(1).sock.close()
    scene.turn()
    assert clock.told() == {2000}
    clock.pass_ms(1999)
    assert (scene.outcomes(), clock.told()) == ([], {1})
    clock.pass_ms(1)
    assert scene.outcomes() == [(1, "MoltWorkerCrashed", "the executor died")]
    scene.forkserver.exited(1, -signal.SIGKILL)
    scene.stage.greet(2)
    scene.ask(2)
    scene.cancel(2)
    scene.given(2)
    scene.child(2).sock.close()
    scene.turn()
    clock.pass_ms(2000)
    assert scene.outcomes() == [(2, "MoltCancelled", "the client asked to stop")]


def test_the_last_responses_have_a_second_to_leave(make_scene: MakeScene, clock: Clock) -> None:
    scene = make_scene(executors=1, max_frame_bytes=1 << 20)
    clock.attach(scene)
    scene.ask(1)
    scene.answer(1, 1, text="x" * 100_000)
    scene.supervisor._worker.draining = True
    for passed_ms in (0, 500, 499):
        clock.now_ns += passed_ms * _MS
        clock.told()
        assert not scene.supervisor.finished()
        assert len(clock.told()) == 1
    clock.now_ns += _MS
    assert scene.supervisor.finished()
    assert scene.supervisor._worker.exit_code == EXIT_UNSENT


@pytest.mark.parametrize(
    ("sent_ms", "waited_us"), [(-1500, 1_500_000), (5, 0), (-10_000_000, 2**32 - 1)], ids=str
)
def test_the_wait_of_one_that_nobody_ran_is_told(
    scene: Scene, clock: Clock, sent_ms: int, waited_us: int
) -> None:
    """In the range of its field, whatever the client's clock says."""
    scene.ask(1, deadline_ns=clock.in_ms(-1), sent_ns=clock.in_ms(sent_ms))
    (response,) = scene.heard()
    assert (response.status, response.queue_us) == (Status.TIMEOUT, waited_us)
