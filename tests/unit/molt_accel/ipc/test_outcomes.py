"""The errors of the pool: kind, words and facts, as users and their programs see them."""

import pytest

from molt_accel.errors import (
    MoltBusy,
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
        (outcomes.queue_full(), MoltBusy, "the queue is full", {"retry_after_s": 1}),
        (outcomes.draining(), MoltBusy, "the worker is stopping", {"retry_after_s": 1}),
        (
            outcomes.all_in_flight(),
            MoltBusy,
            "this client has as many calls in flight as it may",
            {"retry_after_s": 1},
        ),
        (
            outcomes.no_channel(),
            MoltBusy,
            "the worker has no channel left for this client",
            {"retry_after_s": 1},
        ),
        (
            outcomes.unread(),
            MoltBusy,
            "the worker doesn't take requests as fast as they come",
            {"retry_after_s": 1},
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
