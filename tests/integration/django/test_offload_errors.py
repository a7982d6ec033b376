"""`molt_offload`: every way a call fails, as the status and the body the browser gets for it."""

import contextlib
import os
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from molt_accel import Client
from molt_accel.call import CANCEL_AFTER_S
from molt_accel.errors import ERROR_TABLE
from tests.support import EXPORTS
from tests.support.processes import in_thread, wait_for_file, wait_until
from tests.support.views import MakeView, body_of

pytestmark = pytest.mark.sample(2)


#: Answers with something that is no frame, and waits for its stdin to close.
GARBAGE_WORKER = shlex.join(
    ["sh", "-c", r"head -c 1 >/dev/null; printf '\001\000\000\000X'; exec cat >/dev/null"]
)
SAFE = {row.exception: row.public for row in ERROR_TABLE}


def stdio_client(**config: Any) -> Client:
    defaults = {"transport": "stdio", "exports": EXPORTS, "executors": 1, "log_level": "error"}
    return Client(**{**defaults, **config})


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


def test_a_payload_over_the_frame_limit_is_400(offloaded: MakeView) -> None:
    with stdio_client(max_frame_bytes=8192) as client:
        view = offloaded(entry="echo_raw", codec="raw", client=client)
        response = view(RequestFactory().post("/", data=b"x" * 8192, content_type="text/x"))
    assert response.status_code == 400
    assert body_of(response) == {
        "error": "MoltInvalidInput",
        "detail": "over the frame limit: 8280 bytes, 8192 at most",
    }


@pytest.mark.parametrize("status", [429, 503])
def test_busy_is_429_or_as_configured_with_retry_after(
    offloaded: MakeView, get: HttpRequest, tmp_path: Path, status: int
) -> None:
    with stdio_client(max_queue=0, busy_http_status=status) as client:
        client.start()
        wait_until(lambda: client.ping()["executors"]["idle"])
        view = offloaded(entry="echo", client=client)
        with occupied(client, tmp_path / "go"):
            response = view(get)
    after_s = int(response["Retry-After"])
    assert (response.status_code, after_s in (1, 2)) == (status, True)
    facts = {"reason": "queue_full", "retry_after_s": after_s}
    assert body_of(response) == {"error": "MoltBusy", "detail": "the queue is full", **facts}


def test_a_deadline_passed_as_it_runs_is_504(offloaded: MakeView, get: HttpRequest, tmp_path: Path) -> None:
    path = str(tmp_path / "cleaned")
    with stdio_client() as client:
        client.start()
        view = offloaded(entry="clean_up", client=client, timeout_ms=300, payload_builder=lambda _: path)
        response = view(get)
        assert client.call("echo", 1) == 1
    assert response.status_code == 504
    assert body_of(response) == {
        "error": "MoltTimeout",
        "detail": "the deadline passed while the request ran",
    }
    assert not Path(path).exists()


def test_a_deadline_passed_in_the_queue_is_504(offloaded: MakeView, get: HttpRequest, tmp_path: Path) -> None:
    with stdio_client() as client, occupied(client, tmp_path / "go"):
        response = offloaded(entry="echo", client=client, timeout_ms=50)(get)
    assert response.status_code == 504
    assert body_of(response) == {"error": "MoltTimeout", "detail": "the deadline passed in the queue"}


def test_a_cancelled_call_is_499(offloaded: MakeView, get: HttpRequest, tmp_path: Path) -> None:
    path = tmp_path / "running"
    with stdio_client() as client:
        view = offloaded(
            entry="clean_up",
            client=client,
            payload_builder=lambda _: str(path),
            cancel_check=lambda request: request is get and path.exists(),
        )
        response = view(get)
        assert client.call("echo", 1) == 1
        wait_until(lambda: not path.exists())
    assert response.status_code == 499
    assert body_of(response) == {"error": "MoltCancelled", "detail": "the client went away"}


@pytest.mark.parametrize("how", [{"signal": 9}, {"exit": 3}])
def test_a_crashed_executor_is_500(offloaded: MakeView, get: HttpRequest, how: dict[str, int]) -> None:
    with stdio_client() as client:
        response = offloaded(entry="crash", client=client, payload_builder=lambda _: how)(get)
    assert response.status_code == 500
    assert body_of(response) == {"error": "MoltWorkerCrashed", "detail": "the request failed"}


@pytest.mark.parametrize(
    ("config", "name"),
    [
        ({"worker_cmd": "/nonexistent/secret-worker --flag"}, "MoltStartFailed"),
        ({"worker_cmd": "false"}, "MoltStartFailed"),
        ({"exports": "no.such.module"}, "MoltStartFailed"),
        ({"exports": "/nonexistent/secret.json"}, "MoltStartFailed"),
    ],
)
def test_a_worker_that_cant_start_is_503_without_a_word_of_why(
    offloaded: MakeView, get: HttpRequest, config: dict[str, str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    with stdio_client(**config) as client:
        response = offloaded(entry="echo", client=client)(get)
    assert response.status_code == 503
    assert "Retry-After" not in response
    assert body_of(response) == {"error": name, "detail": "the service is not available"}
    assert [record.levelname for record in caplog.records if record.name == "django.request"] == ["ERROR"]


def test_a_worker_that_breaks_the_protocol_is_502(offloaded: MakeView, get: HttpRequest) -> None:
    with stdio_client(worker_cmd=GARBAGE_WORKER) as client:
        response = offloaded(entry="echo", client=client)(get)
    assert response.status_code == 502
    assert body_of(response) == {"error": "MoltProtocolError", "detail": "the service gave no valid answer"}


# -- fallback -----------------------------------------------------------------------------------------------
def test_with_allow_fallback_the_view_runs_where_no_worker_can_be_reached(
    offloaded: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    with stdio_client(worker_cmd="/nonexistent/worker") as client:
        response = offloaded(entry="echo", client=client, allow_fallback=True)(get, 1, a=2)
    assert (response.status_code, response.content) == (200, b"here")
    assert [record.levelname for record in caplog.records] == ["WARNING"]


@pytest.mark.parametrize("idempotent", [False, True])
def test_a_request_that_may_have_run_falls_back_only_if_running_it_twice_does_no_harm(
    offloaded: MakeView, get: HttpRequest, tmp_path: Path, idempotent: bool
) -> None:
    path = tmp_path / "runs"
    with stdio_client() as client:
        client.start()
        view = offloaded(
            entry="announce_and_sleep",
            client=client,
            payload_builder=lambda _: str(path),
            allow_fallback=True,
            idempotent=idempotent,
            retries=0,
        )

        def kill_worker() -> None:
            wait_for_file(path)
            os.kill(client.ping()["pid"], signal.SIGKILL)

        killer = in_thread(kill_worker)
        response = view(get)
        killer.join()
    if idempotent:
        assert (response.status_code, response.content) == (200, b"here")
    else:
        assert response.status_code == 503
        assert body_of(response) == {
            "error": "MoltWorkerUnavailable",
            "detail": "the service is not available",
        }


# -- cancel checks ------------------------------------------------------------------------------------------
def test_a_cancel_check_is_polled_to_the_end(offloaded: MakeView, get: HttpRequest, tmp_path: Path) -> None:
    path = tmp_path / "go"
    asked: list[HttpRequest] = []

    def check(request: HttpRequest) -> bool:
        asked.append(request)
        if len(asked) == 3:
            path.touch()
        return False

    with stdio_client() as client:
        client.start()
        view = offloaded(
            entry="wait_for_file", client=client, payload_builder=lambda _: str(path), cancel_check=check
        )
        assert view(get).content == b'"released"'
    assert len(asked) >= 3
    assert all(request is get for request in asked)


def test_a_call_answered_soon_never_asks_its_cancel_check(offloaded: MakeView, get: HttpRequest) -> None:
    asked: list[float] = []
    took: list[float] = []
    with stdio_client() as client:
        client.start()
        wait_until(lambda: client.ping()["executors"]["idle"])
        view = offloaded(
            entry="echo",
            client=client,
            payload_builder=lambda _: 1,
            cancel_check=lambda request: asked.append(time.monotonic()),
            metrics_hook=lambda metrics: took.append(metrics.client_us / 1e6),
        )

        def one_soon() -> bool:
            before = len(asked)
            assert view(get).content == b"1"
            # A loaded machine may make a call slow, and then it has to ask; one that wasn't must not have.
            assert took[-1] > CANCEL_AFTER_S or len(asked) == before
            return took[-1] <= CANCEL_AFTER_S

        wait_until(one_soon)


def test_a_raising_cancel_check_ends_the_call(offloaded: MakeView, get: HttpRequest, tmp_path: Path) -> None:
    path = tmp_path / "running"

    def check(request: HttpRequest) -> bool:
        if path.exists():
            raise LookupError("the check failed")
        return False

    with stdio_client() as client:
        view = offloaded(
            entry="clean_up", client=client, payload_builder=lambda _: str(path), cancel_check=check
        )
        with pytest.raises(LookupError, match="the check failed"):
            view(get)
        wait_until(lambda: not path.exists())
        assert client.call("echo", 1) == 1
