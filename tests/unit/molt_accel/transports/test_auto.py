"""molt_accel.transports.auto: one transport until it can't serve, then the other for good."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from molt_accel.errors import MoltCancelled, MoltWorkerUnavailable, NoSharedMemory
from molt_accel.ipc.messages import Request
from molt_accel.transports.auto import AutoTransport
from tests.support.errors import raised
from tests.support.scripted_transport import ScriptedTransport, answer, silence

REQUEST = Request(1, "echo")
WARNING = "no shared memory, so each server process starts a worker of its own: the disk is full"


class First(ScriptedTransport):
    def __init__(self) -> None:
        super().__init__(silence, ready=False)
        self.error: Exception | None = None
        self.closed = 0

    def start(self) -> None:
        if self.error is not None:
            self.starts += 1
            raise self.error
        super().start()

    def close(self) -> None:
        self.closed += 1
        super().close()


class Second(First):
    def __init__(self) -> None:
        super().__init__()
        self.script = (answer("second"),)


@pytest.fixture
def first() -> First:
    return First()


@pytest.fixture
def opened() -> list[Second]:
    return []


@pytest.fixture
def auto(first: First, opened: list[Second]) -> Iterator[AutoTransport]:
    def open_second() -> Second:
        opened.append(Second())
        return opened[-1]

    transport = AutoTransport(first, open_second)
    yield transport
    transport.close()


def full(first: First) -> None:
    first.error = NoSharedMemory("the disk is full")


START: list[Callable[[AutoTransport], None]] = [AutoTransport.start, lambda auto: auto.wait_ready(1)]
both_ways_to_start = pytest.mark.parametrize("start", START, ids=["start", "wait_ready"])


@both_ways_to_start
def test_the_first_is_used_as_long_as_it_serves(
    auto: AutoTransport,
    first: First,
    opened: list[Second],
    caplog: pytest.LogCaptureFixture,
    start: Callable[[AutoTransport], None],
) -> None:
    assert not auto.ready
    assert auto.submit(REQUEST) is None
    start(auto)
    assert auto.ready
    assert auto.submit(REQUEST) is first.calls[0]
    assert auto.patience_s == first.patience_s
    assert (opened, caplog.records) == ([], [])


@both_ways_to_start
def test_without_shared_memory_the_second_is_started_in_its_place_with_one_warning(
    auto: AutoTransport,
    first: First,
    opened: list[Second],
    caplog: pytest.LogCaptureFixture,
    start: Callable[[AutoTransport], None],
) -> None:
    full(first)
    start(auto)
    (second,) = opened
    assert auto.ready
    assert auto.submit(REQUEST) is second.calls[0]
    second.ready = False
    start(auto)
    assert (first.starts, second.starts) == (1, 2)
    assert [record.getMessage() for record in caplog.records] == [WARNING]


@pytest.mark.parametrize("error", [MoltWorkerUnavailable("no such module"), OSError("what")])
def test_any_other_error_is_the_caller_s(
    auto: AutoTransport, first: First, opened: list[Second], error: Exception
) -> None:
    first.error = error
    assert raised(type(error), auto.start) is error
    assert opened == []


def test_threads_that_find_out_at_once_open_one(
    auto: AutoTransport, first: First, opened: list[Second], caplog: pytest.LogCaptureFixture
) -> None:
    barrier = threading.Barrier(8)

    class Together(NoSharedMemory):
        """All have failed before the first goes on."""

    def start() -> None:
        barrier.wait()
        raise Together("the disk is full")

    first.start = start  # type: ignore[method-assign]
    with ThreadPoolExecutor(8) as threads:
        for job in [threads.submit(auto.start) for _ in range(8)]:
            job.result(30)
    assert len(opened) == 1
    assert len(caplog.records) == 1


def test_calls_of_the_first_can_still_be_given_up(auto: AutoTransport, first: First) -> None:
    auto.start()
    pending = auto.submit(REQUEST)
    assert pending is first.calls[0]
    full(first)
    first.ready = False
    auto.start()
    error = MoltCancelled("enough")
    assert auto.abandon(pending, error)
    assert pending.result is error
    assert not auto.abandon(pending, error)


def test_both_are_closed(auto: AutoTransport, first: First, opened: list[Second]) -> None:
    full(first)
    auto.start()
    auto.close()
    assert (first.closed, opened[0].closed) == (1, 1)


def test_who_opens_late_is_closed_at_once(auto: AutoTransport, first: First, opened: list[Second]) -> None:
    def start() -> None:
        auto.close()  # by another thread, or a signal handler
        raise NoSharedMemory("the disk is full")

    first.start = start  # type: ignore[method-assign]
    auto.start()
    assert opened[0].closed == 1
