"""molt_accel.testing.outcomes: what can be forced, on which calls, and how often."""

import asyncio
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from molt_accel import CallOptions, Client, errors, testing
from molt_accel.call import make_call
from molt_accel.errors import BusyReason, MoltBusy, MoltError
from molt_accel.ipc import outcomes
from molt_accel.waits import drive
from tests.support import EXPORTS
from tests.support.entrypoints import echo
from tests.support.errors import raised
from tests.support.scripted_transport import ScriptedTransport, lose


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


@pytest.mark.parametrize(
    ("forced", "made"),
    [
        (testing.timeout(), outcomes.timed_out_running()),
        (testing.timeout("queue"), outcomes.expired_in_queue()),
        (testing.timeout("transport"), outcomes.no_answer()),
        (testing.crashed(), outcomes.crashed("echo", -9)),
        (testing.crashed(exit_code=0), outcomes.crashed("echo", 0)),
        (testing.unavailable(), outcomes.worker_gone()),
        (testing.cancelled(), outcomes.http_client_gone()),
    ],
)
def test_faults_are_those_of_a_pool(client: Client, forced: testing.Outcome, made: MoltError) -> None:
    with testing.forced("echo", forced):
        error = raised(MoltError, client.call, "echo", 1)
    assert (type(error), error.detail, error.facts) == (type(made), made.detail, made.facts)
    assert len(error.request_id) == 16
    assert client.call("echo", 1) == 1


@pytest.mark.parametrize("reason", BusyReason)
def test_a_refusal_is_a_pools(client: Client, reason: BusyReason) -> None:
    with testing.forced("echo", testing.busy(reason.value)):
        error = raised(MoltBusy, client.call, "echo", 1)
    assert (error.reason, error.detail) == (reason.value, outcomes.busy(reason).detail)
    assert error.retry_after_s in (1, 2)


def test_a_refusal_may_say_when_to_come_back(client: Client) -> None:
    with testing.forced("echo", testing.busy("queue_delay", retry_after_s=7)):
        assert raised(MoltBusy, client.call, "echo", 1).retry_after_s == 7


def test_a_loss_that_was_certainly_not_run_is_that_of_workers_who_are_gone_at_once(client: Client) -> None:
    options = CallOptions(entry="echo")
    gone = raised(MoltError, drive, make_call(ScriptedTransport(lose), options, 1))
    with testing.forced("echo", testing.unavailable()):
        error = raised(MoltError, client.call, "echo", 1)
    assert isinstance(error, errors.MoltWorkerUnavailable)
    assert not error.may_have_run
    assert (type(error), str(error), error.facts) == (type(gone), str(gone), gone.facts)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            lambda: testing.busy("full"),
            "reason: 'full' is not allowed; it must be one of queue_full, queue_delay, deadline, entry_limit, "
            "in_flight, no_channel, unread, stopping",
        ),
        (
            lambda: testing.timeout("late"),
            "phase: 'late' is not allowed; it must be one of queue, running, transport",
        ),
        (lambda: testing.crashed(signal=9, exit_code=1), "give either a signal or an exit code, not both"),
    ],
)
def test_what_is_not_allowed_is_said(make: Callable[[], object], text: str) -> None:
    assert str(raised(ValueError, make)) == text


def test_an_outcome_may_be_for_some_calls_only(client: Client) -> None:
    with testing.forced(echo, testing.returns("first"), times=1):
        assert [client.call("echo", 0), client.call("echo", 0)] == ["first", 0]
    with testing.forced("echo", testing.busy(), pool="reports"):
        assert client.call(echo, 0) == 0
    with (
        testing.forced("echo", testing.returns("outer")),
        testing.forced("echo", testing.returns("inner"), times=1),
    ):
        assert [client.call("echo", 0), client.call("echo", 0), client.call("pid") > 0] == [
            "inner",
            "outer",
            True,
        ]
        assert client.ping()["transport"] == "inline"


def test_retries_meet_what_is_forced(client: Client) -> None:
    with testing.forced("echo", testing.crashed(), times=1):
        assert client.call("echo", 1, idempotent=True, retry_backoff_ms=0) == 1
    with testing.forced("echo", testing.crashed(), times=2):
        raised(errors.MoltWorkerCrashed, client.call, "echo", 1, idempotent=True, retry_backoff_ms=0)


def test_a_given_result_goes_through_the_codecs(client: Client) -> None:
    with testing.forced("echo", testing.returns({"number": Decimal(3), "count": (1, 2)})):
        assert client.call("echo") == {"number": Decimal(3), "count": [1, 2]}
    with testing.forced("order", testing.returns(None)):
        error = raised(errors.MoltInvalidInput, client.call, "order", {"numbers": 1})
    assert "numbers" in error.detail
    with testing.forced("no_such", testing.returns(1)):
        raised(errors.MoltEntryError, client.call, "no_such")


def test_an_exception_may_be_raised_again_and_again(client: Client) -> None:
    with testing.forced("echo", testing.raises(KeyError("x"))):
        traces = [raised(errors.MoltInternalError, client.call, "echo").remote_traceback for _ in range(2)]
    assert traces[0] == traces[1]
    assert traces[0].endswith("KeyError: 'x'\n")


def test_exports_that_can_not_be_imported_are_a_failure_to_start() -> None:
    with (
        Client(transport="stdio", exports="no_such_module") as client,
        testing.forced("e", testing.returns(1)),
    ):
        error = raised(errors.MoltStartFailed, client.call, "e")
    assert error.detail.startswith("the worker can't start: no_such_module: ")


async def _both_ways(client: Client, *args: Any, **options: Any) -> list[Any]:
    here = await asyncio.to_thread(client.call, *args, **options)
    return [here, await client.acall(*args, **options)]


def test_a_slow_call_takes_its_time_and_then_runs(client: Client) -> None:
    with testing.forced("echo", testing.slow(timedelta(milliseconds=30))):
        begun_s = time.monotonic()
        assert asyncio.run(_both_ways(client, "echo", 1)) == [1, 1]
        assert time.monotonic() - begun_s >= 0.06


def test_a_slow_call_ends_at_its_deadline_or_when_its_caller_goes(client: Client) -> None:
    async def acall(**options: Any) -> MoltError:
        with pytest.raises(MoltError) as caught:
            await client.acall("echo", 1, **options)
        return caught.value

    with testing.forced("echo", testing.slow(1e6)):
        for error in (
            raised(MoltError, client.call, "echo", 1, timeout_ms=30),
            asyncio.run(acall(timeout_ms=30)),
        ):
            assert (type(error), error.detail) == (
                errors.MoltTimeout,
                outcomes.timed_out_running().detail,
            )
        for error in (
            raised(MoltError, client.call, "echo", 1, cancel_check=lambda: True),
            asyncio.run(acall(cancel_check=lambda: True)),
        ):
            assert (type(error), error.detail) == (
                errors.MoltCancelled,
                outcomes.http_client_gone().detail,
            )
