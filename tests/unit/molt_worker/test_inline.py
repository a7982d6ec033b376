"""molt_worker.inline: the transport that runs requests in this process, on the thread that submits them."""

import asyncio
import os
from typing import Any

import asgiref.sync  # noqa: F401  # as under Django
import pytest

from molt_accel import (
    Client,
    MoltClientClosed,
    MoltError,
    MoltInternalError,
    MoltStartFailed,
    MoltTimeout,
    codec,
)
from molt_accel.config import Config
from molt_accel.errors import MoltCancelled
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.waits import CallEnd
from molt_worker.inline import InlineTransport
from tests.support import EXPORTS
from tests.support.errors import raised


def client(exports: str = EXPORTS, **config: Any) -> Client:
    return Client(transport="inline", exports=exports, **config)


def failure(entry: str, payload: object = None, *, config: dict[str, Any], **options: Any) -> MoltError:
    with client(**config) as caller, pytest.raises(MoltError) as caught:
        caller.call(entry, payload, **options)
    return caught.value


def test_the_exports_are_imported_at_the_first_start_and_once() -> None:
    transport = InlineTransport(Config(transport="inline", exports=EXPORTS))
    assert not transport.ready
    transport.wait_ready(0)
    exports = transport._exports
    transport.start()
    assert transport.ready
    assert transport._exports is exports


def test_exports_that_can_t_be_imported_are_a_failed_start() -> None:
    error = failure("echo", config={"exports": "no.such.module"})
    assert type(error) is MoltStartFailed
    assert error.detail.startswith("the worker can't start: no.such.module: can't import no.such.module")


def test_a_closed_transport_takes_nothing_and_starts_nothing() -> None:
    caller = client()
    assert caller.call("echo", 1) == 1
    caller.close()
    for use in (caller.start, caller.ping, lambda: caller.call("echo", 1)):
        with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
            use()


def test_an_entrypoint_runs_at_once_in_the_caller_s_process() -> None:
    with client() as caller:
        assert caller.call("pid") == os.getpid()
        assert caller.ping()["pid"] == os.getpid()


def test_a_result_that_comes_too_late_is_a_timeout_since_nothing_can_interrupt_it() -> None:
    with client() as caller:
        caller.start()
        error = raised(MoltTimeout, caller.call, "sleep", 0.3, timeout_ms=200)
    assert error.phase == "running"


def test_a_result_over_the_frame_limit_is_an_internal_error_of_that_call() -> None:
    with client(max_frame_bytes=8192) as caller:
        assert len(caller.call("big", 7_000)) == 7_000
        with pytest.raises(MoltInternalError, match=r"^the result is over the frame limit: "):
            caller.call("big", 9_000)
        assert caller.call("echo", 1) == 1


def test_a_call_that_was_submitted_can_t_be_abandoned() -> None:
    transport = InlineTransport(Config(transport="inline", exports=EXPORTS))
    assert not transport.abandon(Pending(1), MoltCancelled("asked to"))


def test_a_traceback_goes_to_the_log_under_the_request_s_id(caplog: pytest.LogCaptureFixture) -> None:
    error = failure("fail", "value", config={})
    [record] = [record for record in caplog.records if record.name == "molt_worker"]
    assert f"entrypoint fail raised in request {error.request_id}\nTraceback" in record.getMessage()


def test_in_an_event_loop_a_request_runs_where_sync_code_does_unless_it_was_given_up_before() -> None:
    transport = InlineTransport(Config(transport="inline", exports=EXPORTS))
    transport.start()

    async def submitted(number: int) -> PendingCall:
        pending = transport.submit(Request(number, "pid", codec.encode(Codec.MSGPACK, None)))
        assert pending is not None
        assert not pending.done
        return pending

    async def run() -> None:
        awaited, given_up, blocking = [await submitted(number) for number in (1, 2, 3)]
        assert transport.abandon(given_up, MoltCancelled("gone"))
        assert isinstance(given_up.result, MoltCancelled)
        assert await CallEnd(awaited, 0).wait()
        assert isinstance(awaited.result, Response)
        assert codec.decode(Codec.MSGPACK, awaited.result.payload) == os.getpid()
        assert not transport.abandon(awaited, MoltCancelled("gone"))
        assert blocking.wait(None)

    asyncio.run(run())
