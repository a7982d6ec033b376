"""molt_accel.transports.shm.completion: one thread that waits for many calls, by one doorbell."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel.ipc.shm import arena as arenas
from molt_accel.transports.shm import completion as completion_threads
from molt_accel.transports.shm.completion import CompletionThread
from tests.support.processes import asleep, wait_until
from tests.support.scripted_pool import PATIENCE_S, FakePool, MakePool

MakeCompletionThread = Callable[..., CompletionThread]
NEVER = 2**63


class Call:
    """A call that ends when it is told to, and counts how often it is looked at."""

    def __init__(self, fake: FakePool, index: int) -> None:
        self.channel: Any = arenas.native().Channel(fake.arena, index, 10_000)
        self.polls = 0
        self.over = False
        self.error: Exception | None = None

    def poll(self) -> int:
        self.polls += 1
        if self.error is not None:
            raise self.error
        return 0 if self.over else NEVER

    def end(self, fake: FakePool) -> None:
        """It ends, and whoever ended it rings for its channel."""
        self.over = True
        fake.arena.ring_client(self.channel.index)


@pytest.fixture
def fake(make_pool: MakePool) -> FakePool:
    return make_pool(channels=6)


@pytest.fixture(autouse=True)
def _no_look_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """What isn't rung for is not noticed, so that a missing ring fails a test."""
    monkeypatch.setattr(completion_threads, "_LOOK_NS", 3600 * 10**9)


@pytest.fixture
def make_completion_thread(fake: FakePool) -> Iterator[MakeCompletionThread]:
    made: list[CompletionThread] = []

    def make(find_doorbell: Callable[[], Any] | None = None) -> CompletionThread:
        made.append(
            CompletionThread(find_doorbell or (lambda: arenas.native().Channel(fake.arena, 0, 10_000)))
        )
        return made[-1]

    yield make
    for completion_thread in made:
        completion_thread.stop()
        assert completion_thread.quiet(PATIENCE_S)


@pytest.fixture
def thread(make_completion_thread: MakeCompletionThread) -> CompletionThread:
    return make_completion_thread()


def listens(completion_thread: CompletionThread) -> bool:
    """Whether its thread waits, for its doorbell or anything else."""
    return completion_thread._thread is not None and asleep(completion_thread._thread)


def gone(completion_thread: CompletionThread) -> bool:
    return not completion_thread._calls


def test_a_call_is_looked_at_when_it_is_rung_for(fake: FakePool, thread: CompletionThread) -> None:
    call = Call(fake, 1)
    thread.add(call)
    wait_until(lambda: call.polls > 0 and listens(thread))
    polls = call.polls
    fake.arena.ring_client(1)
    wait_until(lambda: call.polls > polls)
    call.end(fake)
    wait_until(lambda: gone(thread))
    polls = call.polls
    thread.wake()
    other = Call(fake, 2)
    thread.add(other)
    wait_until(lambda: other.polls > 0)
    assert call.polls == polls
    other.end(fake)


def test_one_thread_waits_for_all(fake: FakePool, thread: CompletionThread) -> None:
    calls = [Call(fake, index) for index in range(1, 6)]
    for call in calls:
        thread.add(call)
    assert sum(each.name == "molt-completion" for each in threading.enumerate()) == 1
    for call in reversed(calls):
        call.end(fake)
    wait_until(lambda: gone(thread))


def test_a_call_that_had_ended_before_it_came_is_noticed(fake: FakePool, thread: CompletionThread) -> None:
    for _ in range(50):
        call = Call(fake, 1)
        call.end(fake)
        thread.add(call)
        wait_until(lambda: gone(thread))


def test_a_call_that_raises_takes_no_other_along(
    fake: FakePool, thread: CompletionThread, caplog: pytest.LogCaptureFixture
) -> None:
    good, bad = Call(fake, 1), Call(fake, 2)
    bad.error = ValueError("a bug")
    thread.add(good)
    thread.add(bad)
    wait_until(lambda: len(thread._calls) == 1)
    good.end(fake)
    wait_until(lambda: gone(thread))
    assert [record.getMessage() for record in caplog.records] == ["a call could not be moved on"]


def test_a_call_s_own_time_is_kept(fake: FakePool, thread: CompletionThread) -> None:
    class Timed(Call):
        def poll(self) -> int:
            super().poll()
            return 0 if self.polls > 3 else completion_threads.time.monotonic_ns() + 1_000_000

    thread.add(Timed(fake, 1))
    wait_until(lambda: gone(thread))


def test_without_calls_its_thread_sleeps_until_there_is_one(
    fake: FakePool, thread: CompletionThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(completion_threads, "_LOOK_NS", 1_000_000)
    monkeypatch.setattr(completion_threads, "_IDLE_NS", 0)
    first = Call(fake, 1)
    thread.add(first)
    first.end(fake)
    wait_until(lambda: gone(thread) and not thread._some.is_set() and listens(thread))
    second = Call(fake, 1)
    thread.add(second)
    second.end(fake)
    wait_until(lambda: gone(thread))


def test_it_ends_once_stopped_and_after_its_last_call(fake: FakePool, thread: CompletionThread) -> None:
    call = Call(fake, 1)
    thread.add(call)
    thread.stop()
    assert not thread.quiet(0.01)
    call.end(fake)
    assert thread.quiet(PATIENCE_S)
    assert thread._thread is None


def test_one_that_was_never_used_has_ended(thread: CompletionThread) -> None:
    assert thread.quiet(0)
    thread.stop()
    assert thread.quiet(0)


def test_a_call_that_comes_after_the_end_is_looked_at_too(fake: FakePool, thread: CompletionThread) -> None:
    for _ in range(30):
        call = Call(fake, 1)
        thread.stop()
        thread.add(call)
        call.end(fake)
        wait_until(lambda: gone(thread))
        assert thread.quiet(PATIENCE_S)


def test_its_own_last_call_ends_it(fake: FakePool, thread: CompletionThread) -> None:
    """What that call's end sets off may ask, on this very thread."""
    said: list[bool] = []

    class Asking(Call):
        def poll(self) -> int:
            thread.stop()
            said.append(thread.quiet(0))
            return 0

    thread.add(Asking(fake, 1))
    assert thread.quiet(PATIENCE_S)
    assert said == [True]


def test_no_doorbell_means_looking(fake: FakePool, make_completion_thread: MakeCompletionThread) -> None:
    doorbells: list[Any] = []
    asked = 0

    def find() -> Any:
        nonlocal asked
        asked += 1
        return doorbells[0] if doorbells else None

    completion_thread = make_completion_thread(find)
    early, waiting = Call(fake, 1), Call(fake, 2)
    completion_thread.add(early)
    completion_thread.add(waiting)
    wait_until(lambda: early.polls > 3)
    early.over = True  # nobody rings
    wait_until(lambda: len(completion_thread._calls) == 1)
    doorbells.append(arenas.native().Channel(fake.arena, 0, 10_000))
    wait_until(lambda: completion_thread._doorbell is not None and listens(completion_thread))
    before = asked
    waiting.end(fake)  # it came when there was no doorbell, and is rung for by the one that there is now
    wait_until(lambda: gone(completion_thread))
    late = Call(fake, 3)
    completion_thread.add(late)
    late.end(fake)
    wait_until(lambda: gone(completion_thread))
    assert asked == before


def test_where_no_thread_can_be_started_the_call_is_not_kept(
    fake: FakePool, thread: CompletionThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match=r"^can't start new thread$"):
            thread.add(Call(fake, 1))
    assert gone(thread)
    call = Call(fake, 1)
    thread.add(call)
    call.end(fake)
    wait_until(lambda: gone(thread))
