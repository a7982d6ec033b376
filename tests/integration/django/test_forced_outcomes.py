"""Outcomes that tests force are those of a real worker: each is provoked on one, and then forced on the same client."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from django.core.signals import got_request_exception
from django.http import Http404
from django.test import RequestFactory

from molt_accel import CallInfo, Client, MoltError, molt_offload, testing
from molt_accel.transports.launcher import how_it_exited
from molt_worker import InvalidInput
from tests.support import TRANSPORTS
from tests.support.errors import raised
from tests.support.pools import MakeClient, Share, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

Provoke = Callable[[], contextlib.AbstractContextManager[object]]


@dataclasses.dataclass
class Seen:
    """All that a view's browser, its hooks and Django see of an outcome."""

    answer: list[object]
    signals: list[str]
    label: str
    error: dict[str, object]


def seen(client: Client, entry: str, payload: object, **options: Any) -> Seen:
    infos: list[CallInfo] = []
    signals: list[str] = []

    def receive(**_: object) -> None:
        signals.append(type(sys.exc_info()[1]).__name__)

    @molt_offload(
        entry=entry, client=client, payload_builder=lambda _: payload, after_recv=infos.append, **options
    )
    def view(request: object) -> None:
        raise AssertionError("there is a worker")

    got_request_exception.connect(receive)
    try:
        response = view(RequestFactory().get("/", headers={"X-Request-ID": "from-the-proxy"}))
        answer = [response.status_code, response.reason_phrase, dict(response.items()), response.content]
    except Http404 as exc:
        answer = [type(exc), exc.args]
    finally:
        got_request_exception.disconnect(receive)
    (info,) = infos
    assert info.metrics is not None
    if info.error is None:
        return Seen(answer, signals, info.metrics.status, {})
    return Seen(answer, signals, info.metrics.status, described(info.error))


def described(error: BaseException) -> dict[str, object]:
    assert isinstance(error, MoltError)
    names = {name for name in dir(type(error)) if isinstance(getattr(type(error), name), property)}
    assert len(error.request_id) == 16
    return {
        "type": type(error),
        "text": [str(error), repr(error), error.args, error.detail],
        "facts": error.facts,
        "raised": error.raised,
        "cause": type(error.__cause__),
        # The frames are those of the kit and not of the entrypoint.
        "traceback": error.remote_traceback.splitlines()[-1:],
        **{name: getattr(error, name) for name in names},
    }


def refusal_like(real: Seen, reason: str) -> testing.Outcome:
    """A refusal that says the same time to come back, which is at random."""
    after_s = real.error["retry_after_s"]
    assert isinstance(after_s, int)
    return testing.busy(reason, retry_after_s=after_s)


@contextlib.contextmanager
def occupied(client: Client, path: Path) -> Iterator[None]:
    """The client's one executor is busy."""
    thread = in_thread(client.call, "wait_for_file", str(path))
    try:
        wait_for_file(f"{path}.running")
        yield
    finally:
        path.touch()
        thread.join()


def test_each_forced_outcome_is_what_a_worker_brings_about(make_client: MakeClient, tmp_path: Path) -> None:
    client = with_worker(make_client(executors=1, max_queue=1, grace_ms=20_000))

    def is_queued() -> bool:
        return client.ping()["queue_depth"] == 1

    @contextlib.contextmanager
    def full() -> Iterator[None]:
        with occupied(client, tmp_path / "full"):
            waiting = in_thread(client.call, "echo", 1)
            wait_until(is_queued)
            yield
        waiting.join()

    def as_it_is() -> contextlib.AbstractContextManager[object]:
        return contextlib.nullcontext()

    def busy_executor() -> contextlib.AbstractContextManager[object]:
        return occupied(client, tmp_path / "busy")

    cases: list[tuple[testing.Outcome, Provoke, str, object, dict[str, Any]]] = [
        (testing.timeout("queue"), busy_executor, "echo", 1, {"timeout_ms": 50}),
        (testing.timeout("running"), as_it_is, "sleep", 1e6, {"timeout_ms": 200}),
        (testing.slow(1e6), as_it_is, "sleep", 1e6, {"timeout_ms": 200}),
        (testing.cancelled(), as_it_is, "sleep", 1e6, {"cancel_check": lambda _: True}),
        (testing.crashed(), as_it_is, "crash", {"signal": 9}, {}),
        (testing.crashed(signal=11), as_it_is, "crash", {"signal": 11}, {}),
        (testing.crashed(exit_code=3), as_it_is, "crash", {"exit": 3}, {}),
        (testing.raises(ValueError("the secret is 42")), as_it_is, "fail", "value", {}),
        (testing.raises(MemoryError), as_it_is, "fail", "memory", {}),
        (testing.raises(InvalidInput("name: 'x' is not allowed")), as_it_is, "fail", "invalid", {}),
        (testing.raises(Http404("not here")), as_it_is, "not_found", "not here", {}),
        (testing.unknown_entry(), as_it_is, "nothing", 1, {}),
        (testing.returns({"a": [1, 2]}), as_it_is, "echo", {"a": (1, 2)}, {}),
        (testing.returns({"a": [1, 2]}), as_it_is, "to_json", {"a": (1, 2)}, {}),
        (testing.returns(object()), as_it_is, "unencodable", 1, {}),
    ]
    with full():
        refused = seen(client, "echo", 1)
    with testing.forced("echo", refusal_like(refused, "queue_full")):
        assert seen(client, "echo", 1) == refused
    for outcome, provoke, entry, payload, options in cases:
        with provoke():
            real = seen(client, entry, payload, **options)
        with testing.forced(entry, outcome):
            forced = seen(client, entry, payload, **options)
        assert forced == real, entry


def test_a_forced_loss_is_the_loss_of_a_worker(
    make_client: MakeClient, transport: str, tmp_path: Path
) -> None:
    client = with_worker(make_client(executors=1))
    supervisor = psutil.Process(client.ping()["pid"])
    found: list[Seen] = []
    path = tmp_path / "running"
    thread = in_thread(lambda: found.append(seen(client, "announce_and_sleep", str(path))))
    wait_for_file(path)
    supervisor.kill()
    thread.join()
    how = how_it_exited(-9) if transport == "stdio" else "its control socket was closed"
    with testing.forced("echo", testing.unavailable(may_have_run=True, how=how)):
        assert [seen(client, "echo", 1)] == found


@pytest.mark.sample(1)
def test_a_forced_silence_is_the_silence_of_a_worker(make_client: MakeClient, tmp_path: Path) -> None:
    client = with_worker(make_client(executors=1, grace_ms=0))
    stopped = [client.ping()["pid"], client.call("pid")]
    path = tmp_path / "running"
    found: list[Seen] = []
    options = {"timeout_ms": 1000}
    thread = in_thread(lambda: found.append(seen(client, "announce_and_sleep", str(path), **options)))
    wait_for_file(path)
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    try:
        thread.join()
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    with testing.forced("echo", testing.timeout("transport")):
        assert [seen(client, "echo", 1, **options)] == found


@pytest.mark.skipif("shm" not in TRANSPORTS, reason="shared memory is served on Linux only")
def test_a_forced_refusal_is_that_of_a_pool_which_others_share(share: Share, tmp_path: Path) -> None:
    client, other = share(executors=1, max_queue=4), share(executors=1, max_queue=4)
    client.start()
    other.start()
    with occupied(client, tmp_path / "go"):
        waiting = [in_thread(client.call, "echo", number) for number in range(3)]
        wait_until(lambda: client.ping()["queue_depth"] == 3)
        real = seen(client, "echo", 1)
    for thread in waiting:
        thread.join()
    assert "as many calls are in flight as may be" in str(real.error["text"])
    with testing.forced("echo", refusal_like(real, "in_flight")):
        assert seen(client, "echo", 1) == real


@pytest.mark.parametrize("transport", ["stdio"])  # shared memory has no pipe
def test_a_forced_full_pipe_is_that_of_a_worker_which_reads_nothing(make_client: MakeClient) -> None:
    client = with_worker(make_client(executors=1, max_frame_bytes=1_000_000))
    pid = client.ping()["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        waiting = [in_thread(client.call, "to_json", "x" * 900_000) for _ in range(3)]
        found: list[Seen] = []

        def is_full() -> bool:
            found.append(seen(client, "echo", 1, timeout_ms=1))
            return "MoltBusy" in str(found[-1].error["text"])

        wait_until(is_full)
    finally:
        os.kill(pid, signal.SIGCONT)
    for thread in waiting:
        thread.join()
    with testing.forced("echo", refusal_like(found[-1], "unread")):
        assert seen(client, "echo", 1, timeout_ms=1) == found[-1]


@pytest.mark.parametrize("retries", [0, 1])
def test_a_forced_failure_to_start_is_a_worker_s(make_client: MakeClient, retries: int) -> None:
    client = make_client(exports="no_such_module")
    options = {"idempotent": bool(retries), "retries": retries, "retry_backoff_ms": 0}
    real = seen(client, "echo", 1, **options)
    error = raised(MoltError, client.call, "echo", 1)
    reason = str(real.error["text"][0]).removeprefix("the worker can't start: ")  # type: ignore[index]
    assert error.detail.startswith("the worker can't start: no_such_module: ")
    with testing.forced("echo", testing.start_failed(reason)):
        assert seen(client, "echo", 1, **options) == real
