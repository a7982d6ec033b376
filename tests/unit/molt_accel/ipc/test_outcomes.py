"""The errors of the pool: kind, words and facts, as users and their programs see them."""

import pytest

from molt_accel.errors import (
    BusyReason,
    MoltCancelled,
    MoltError,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
)
from molt_accel.ipc import outcomes

_DIED = "the executor died while it ran "


@pytest.mark.parametrize(
    ("error", "kind", "detail", "facts"),
    [
        (outcomes.expired_in_queue(), MoltTimeout, "the deadline passed in the queue", {"phase": "queue"}),
        (
            outcomes.timed_out_running(),
            MoltTimeout,
            "the deadline passed while the request ran",
            {"phase": "running"},
        ),
        (
            outcomes.stalled(),
            MoltTimeout,
            "the payload or the result was not moved on for 5 s",
            {"phase": "transport"},
        ),
        (
            outcomes.no_answer(),
            MoltTimeout,
            "no answer within deadline and grace time",
            {"phase": "transport"},
        ),
        (outcomes.worker_gone(), MoltWorkerUnavailable, "the worker is gone", {}),
        (
            outcomes.worker_gone("it closed its stdout"),
            MoltWorkerUnavailable,
            "the worker is gone: it closed its stdout",
            {},
        ),
        (outcomes.http_client_gone(), MoltCancelled, "the client went away", {}),
        (outcomes.died_unreported(), MoltWorkerCrashed, "the executor died", {}),
        (
            outcomes.crashed("work", -11),
            MoltWorkerCrashed,
            _DIED + "'work': signal 11 (SIGSEGV)",
            {"signal": 11},
        ),
        (outcomes.crashed(None, 7), MoltWorkerCrashed, _DIED + "this request: exit code 7", {"exit_code": 7}),
        (outcomes.crashed("work", None), MoltWorkerCrashed, _DIED + "'work': with its fork server", {}),
    ],
)
def test_all_say_why(error: MoltError, kind: type[MoltError], detail: str, facts: dict[str, object]) -> None:
    assert (type(error), error.detail, error.facts) == (kind, detail, facts)


@pytest.mark.parametrize(
    ("code", "text", "facts"),
    [
        (0, "exit code 0", {"exit_code": 0}), (3, "exit code 3", {"exit_code": 3}),
        (-9, "signal 9 (SIGKILL)", {"signal": 9}), (-11, "signal 11 (SIGSEGV)", {"signal": 11}),
        (-35, "signal 35", {"signal": 35}), (-99, "signal 99", {"signal": 99}),
    ],
)  # fmt: skip
def test_an_exit_code_in_words_and_facts(code: int, text: str, facts: dict[str, int]) -> None:
    assert outcomes.exit_text(code) == text
    assert outcomes.exit_facts(code) == facts


@pytest.mark.parametrize("reason", BusyReason)
def test_a_refusal_says_why_and_when_to_come_back(reason: BusyReason) -> None:
    error = outcomes.busy(reason)
    assert error.reason == reason.value
    assert error.detail
    assert error.retry_after_s in (1, 2)


@pytest.mark.parametrize(("wait_s", "least", "most"), [(0.2, 1, 2), (1.0, 1, 2), (2.5, 3, 6)])
def test_those_who_are_refused_come_back_when_the_queue_is_worked_off_and_not_together(
    wait_s: float, least: int, most: int
) -> None:
    seen = {outcomes.busy(BusyReason.QUEUE_DELAY, int(wait_s * 1e9)).retry_after_s for _ in range(200)}
    assert seen == set(range(least, most + 1))
