"""The stop word and `current_request()`, inside and outside of a worker."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.ipc.messages import Request
from molt_worker import RequestCancelled, RequestStopped, RequestTimedOut, current_request
from molt_worker.entrypoints.request import (
    STOP_EXCEPTIONS,
    CurrentRequest,
    InvalidInput,
    StopReason,
    StopWord,
    in_context,
    in_process,
)

serials = st.integers(1, 2**32 - 1)


def make_word(index: int = 0) -> StopWord:
    return StopWord(memoryview(bytearray(64)).cast("Q"), index)


@given(serials, serials, st.sampled_from(StopReason))
def test_a_stop_is_seen_by_the_request_it_names_and_by_no_other(a: int, b: int, reason: StopReason) -> None:
    word = make_word()
    assert not word.cell
    word.stop(a, reason)
    assert word.cell
    assert word.reason(a) == reason
    assert word.reason(b) == (reason if a == b else 0)
    word.clear()
    assert not word.cell
    assert word.reason(a) == 0


def test_words_of_different_executors_don_t_touch_each_other() -> None:
    memory = memoryview(bytearray(64)).cast("Q")
    words = [StopWord(memory, index) for index in range(8)]
    words[3].stop(7, StopReason.CANCELLED)
    assert [word.reason(7) for word in words] == [0, 0, 0, StopReason.CANCELLED, 0, 0, 0, 0]


def test_outside_of_a_worker_there_is_no_deadline_and_no_stop() -> None:
    request = current_request()
    assert request.request_id == ""
    assert request.deadline is None
    assert request.remaining_ms() is None
    assert request.cancelled is False
    request.check()


def test_the_current_request_is_made_once_of_what_the_executor_serves() -> None:
    seen: list[CurrentRequest] = []
    thread = threading.Thread(target=lambda: seen.append(current_request()))
    in_process.facts = (Request(0xAB, "echo"), make_word(), 5, b"")
    request = current_request()
    assert current_request() is request
    thread.start()
    thread.join()
    in_process.facts = (Request(0xAB, "echo"), make_word(), 6, b"")
    assert current_request() is not request, "another one"
    in_process.facts = None
    assert current_request().request_id == ""
    assert seen == [request]
    assert seen[0].request_id == "00000000000000ab"


def test_in_one_context_only_it_is_another_thread_s_not_and_the_outer_one_comes_back() -> None:
    outer, inner = CurrentRequest(0xAB), CurrentRequest(0xCD)
    seen: list[CurrentRequest] = []
    thread = threading.Thread(target=lambda: seen.append(current_request()))
    outer_begun = in_context.set(outer)
    inner_begun = in_context.set(inner)
    assert current_request() is inner
    thread.start()
    thread.join()
    in_context.reset(inner_begun)
    assert current_request() is outer
    in_context.reset(outer_begun)
    assert current_request().request_id == ""
    assert [request.request_id for request in seen] == [""]


@pytest.mark.parametrize("reason", StopReason)
def test_check_raises_what_the_stop_says(reason: StopReason) -> None:
    word = make_word()
    request = CurrentRequest(1, 0, word, 5)
    request.check()
    word.stop(4, reason)
    request.check()
    word.stop(5, reason)
    assert request.cancelled is True
    with pytest.raises(STOP_EXCEPTIONS[reason]):
        request.check()


def test_remaining_time_counts_down_to_zero_and_not_below() -> None:
    remaining = CurrentRequest(1, time.monotonic_ns() + 60 * 10**9).remaining_ms()
    assert remaining is not None
    assert 0 < remaining <= 60_000
    past = CurrentRequest(1, 1)
    assert past.deadline == 1e-9
    assert past.remaining_ms() == 0.0


def test_what_the_current_request_says_cannot_be_changed() -> None:
    request = CurrentRequest(1, 10**9)
    for name in ("request_id", "deadline", "_serial"):
        with pytest.raises(AttributeError):
            setattr(request, name, 2)


@pytest.mark.parametrize(("own_clock", "cancelled"), [(True, True), (False, False)])
def test_only_a_request_with_a_clock_stops_itself_at_its_deadline(own_clock: bool, cancelled: bool) -> None:
    request = CurrentRequest(1, 1, make_word(), 5, own_clock)
    assert request.cancelled is cancelled
    if own_clock:
        with pytest.raises(RequestTimedOut):
            request.check()


def test_a_stop_passes_except_exception_and_a_refusal_is_a_value_error() -> None:
    assert issubclass(RequestCancelled, RequestStopped)
    assert issubclass(RequestTimedOut, RequestStopped)
    assert not issubclass(RequestStopped, Exception)
    assert issubclass(InvalidInput, ValueError)
