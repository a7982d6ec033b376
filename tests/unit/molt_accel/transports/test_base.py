"""molt_accel.transports.base: a call in flight."""

import sys
import threading
import time

import pytest

from molt_accel.errors import MoltTimeout, Status
from molt_accel.ipc.messages import Codec, Response
from molt_accel.transports.base import Pending, Result, Success, seconds_until, success_of
from tests.support.processes import in_thread

if sys.platform == "linux":
    pass

ANSWER = Response(7, Status.OK)


# -- a call in flight -----------------------------------------------------------------------------------
def test_a_call_in_flight_has_no_outcome_until_it_is_resolved() -> None:
    pending = Pending(7)
    assert (pending.request_id, pending.result, pending.done, pending.lost) == (7, None, False, False)
    pending.resolve(ANSWER)
    assert (pending.result, pending.done) == (ANSWER, True)


@pytest.mark.parametrize("timeout_s", [0, -1, 0.001, float("-inf")])
def test_waiting_ends_with_the_time(timeout_s: float) -> None:
    assert Pending(7).wait(timeout_s) is False


@pytest.mark.parametrize("timeout_s", [None, 0, -1, 1e9, float("inf")])
def test_waiting_for_what_is_there_returns_at_once_and_again(timeout_s: float | None) -> None:
    pending = Pending(7)
    pending.resolve(ANSWER)
    assert pending.wait(timeout_s) is True
    assert pending.wait(timeout_s) is True


@pytest.mark.parametrize("timeout_s", [None, 60, 1e12, float("inf")])
def test_a_waiting_thread_is_woken_by_the_outcome(timeout_s: float | None) -> None:
    pending = Pending(7)
    seen: list[object] = []
    thread = in_thread(lambda: seen.append((pending.wait(timeout_s), pending.result)))
    pending.resolve(ANSWER)
    thread.join(60)
    assert seen == [(True, ANSWER)]


def test_an_error_is_an_outcome_like_any_other() -> None:
    pending = Pending(7)
    error = MoltTimeout("late")
    pending.resolve(error)
    assert pending.wait(0)
    assert pending.result is error


def test_a_waiter_that_gave_up_may_wait_again() -> None:
    pending = Pending(7)
    assert not pending.wait(0.001)
    pending.resolve(ANSWER)
    assert pending.wait(0)


def test_a_callback_is_called_at_the_outcome() -> None:
    pending = Pending(7)
    seen: list[object] = []
    pending.on_done(lambda: seen.append(pending.result))
    assert seen == []
    pending.resolve(ANSWER)
    assert seen == [ANSWER]


def test_a_callback_that_comes_late_is_called_at_once() -> None:
    pending = Pending(7)
    pending.resolve(ANSWER)
    seen: list[object] = []
    pending.on_done(lambda: seen.append(pending.result))
    assert seen == [ANSWER]


def test_a_callback_replaces_the_one_before() -> None:
    pending = Pending(7)
    seen: list[str] = []
    pending.on_done(lambda: seen.append("first"))
    pending.on_done(lambda: seen.append("second"))
    pending.resolve(ANSWER)
    assert seen == ["second"]


def test_no_callback_is_missed_when_it_races_with_the_outcome() -> None:
    for _ in range(500):
        pending, called, start = Pending(7), threading.Event(), threading.Barrier(2)

        def resolve(pending: Pending = pending, start: threading.Barrier = start) -> None:
            start.wait()
            pending.resolve(ANSWER)

        thread = in_thread(resolve)
        start.wait()
        pending.on_done(called.set)
        assert called.wait(60)
        thread.join()


@pytest.mark.parametrize(("timeout_s", "waits_s"), [(None, -1), (0, 0), (-5, 0), (0.01, 0.01)])
def test_a_wait_is_as_long_as_asked_for(timeout_s: float | None, waits_s: float) -> None:
    class Gate:
        def acquire(self, timeout: float) -> bool:
            waited.append(timeout)
            return False

    waited: list[float] = []
    pending = Pending(7)
    pending._gate = Gate()  # type: ignore[assignment]
    pending.wait(timeout_s)
    assert waited == [waits_s]


# -- times and results --------------------------------------------------------------------------------------
def test_waiting_until_a_time_ends_then_or_with_the_outcome() -> None:
    pending = Pending(7)
    assert pending.wait_until(1) is False, "long past"
    assert pending.wait_until(time.monotonic_ns() + 1_000_000) is False
    thread = in_thread(lambda: pending.wait_until(0))
    pending.resolve(ANSWER)
    thread.join()
    assert pending.wait_until(1) is True


def test_seconds_until_a_time_are_never_fewer_than_none() -> None:
    assert seconds_until(0) is None
    assert seconds_until(1) == 0.0
    assert 59 < (seconds_until(time.monotonic_ns() + 60_000_000_000) or 0) <= 60


@pytest.mark.parametrize(
    ("result", "success"),
    [
        (None, None),
        (MoltTimeout("over"), None),
        (Response(7, Status.BUSY, b"why"), None),
        (Response(7, Status.OK, b"value", Codec.RAW), (Codec.RAW, b"value")),
    ],
)
def test_only_a_result_is_a_success(result: Result | None, success: Success | None) -> None:
    pending = Pending(7)
    if result is not None:
        pending.resolve(result)
    assert (pending.success, success_of(result)) == (success, success)
