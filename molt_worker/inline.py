"""The inline transport: the same frames, codecs and error mapping, with everything in this process.

For tests, and for platforms without fork. Nothing can interrupt an entrypoint here, so it has to call
`current_request().check()` to keep its deadline. A call that has ended too late is a Timeout all the same.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import (
    MoltClientClosed,
    MoltError,
    MoltInternalError,
    MoltStartFailed,
)
from molt_accel.ipc.frame import PREFIX_BYTES, FrameError, decode, encode
from molt_accel.ipc.messages import PING, Codec, Request, Response
from molt_accel.transports.base import Pending, PendingCall, RefusesNothing, Result
from molt_accel.transports.line import Line
from molt_accel.version import __version__
from molt_worker.entrypoints.exports import ExportsError, ExportTable, resolve
from molt_worker.entrypoints.project import exports_of
from molt_worker.entrypoints.request import StopWord
from molt_worker.entrypoints.runner import Runner, too_large

log = logging.getLogger("molt_worker")
_Sent = TypeVar("_Sent", Request, Response)


def _transmitted(item: _Sent, limit: int) -> _Sent:
    """What a peer would read. Raises FrameError for what could not be sent."""
    received = decode(encode(item, limit)[PREFIX_BYTES:])
    assert type(received) is type(item)
    return received


def _sync_to_async() -> Any | None:
    """asgiref's `sync_to_async`, if this is an event loop's thread and asgiref is in use, as under Django."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return None
    return getattr(sys.modules.get("asgiref.sync"), "sync_to_async", None)


class _AwaitedCall(Pending):
    """A call from an event loop. It runs where Django runs the sync code of async views, queries for example.

    A blocking wait runs it at once instead, on the thread that waits.
    """

    __slots__ = ("_sync_to_async", "_task", "_work")

    def __init__(self, request_id: int, work: Callable[[], Result], sync_to_async: Any) -> None:
        super().__init__(request_id)
        self._work: Final = [work]  # whoever takes it out brings the outcome
        self._sync_to_async: Final = sync_to_async
        self._task: asyncio.Future[None] | None = None  # an event loop keeps only a weak reference

    def wait(self, timeout_s: float | None) -> bool:
        self._run()
        return super().wait(timeout_s)

    def on_done(self, callback: Callable[[], object]) -> None:
        super().on_done(callback)
        if self._task is None:
            self._task = asyncio.ensure_future(self._sync_to_async(self._run)())
            self._task.add_done_callback(self._check)

    def drop(self, error: MoltError) -> bool:
        """End it with `error`, unless it has begun."""
        try:
            self._work.pop()
        except IndexError:
            return False
        self.resolve(error)
        return True

    def _run(self) -> None:
        try:
            work = self._work.pop()
        except IndexError:
            return
        self.resolve(work())

    def _check(self, task: asyncio.Future[None]) -> None:
        error = None if task.cancelled() else task.exception()
        self.drop(MoltInternalError(f"the entrypoint could not be run in a thread: {error}"))


class InlineTransport(RefusesNothing):
    """Runs each request at once on the thread that submits it; see `molt_accel.transports.base.Transport`.

    In an event loop, where asgiref is there, a request runs when its caller awaits it; see `_AwaitedCall`.
    """

    max_wait_ms = 0  # nothing is queued here

    def __init__(self, config: Config) -> None:
        self.line = Line()
        self.overflow = None
        self._config = config
        self._exports: ExportTable | None = None
        self._lock = threading.Lock()
        self._closed = False

    @property
    def ready(self) -> bool:
        return self._exports is not None and not self._closed

    @property
    def patience_s(self) -> float:
        return 0.0

    def start(self) -> None:
        with self._lock:
            if self._closed:
                raise MoltClientClosed
            if self._exports is None:
                try:
                    self._exports = resolve(exports_of(self._config.exports))
                except ExportsError as exc:
                    raise MoltStartFailed(f"the worker can't start: {exc}") from exc

    def wait_ready(self, timeout_s: float) -> None:
        del timeout_s  # importing blocks; there is nobody to stop waiting for it
        self.start()

    def submit(
        self, request: Request, instead: Callable[[ExportTable], ExportTable] | None = None
    ) -> Pending | None:
        """See `Transport`. `instead` makes other exports of the configured ones, for this request."""
        if self._exports is None or self._closed:
            return None
        limit = self._config.max_frame_bytes
        request = _transmitted(request, limit)
        exports = self._exports if instead is None else instead(self._exports)
        if request.entry == PING:
            report = {"version": __version__, "pid": os.getpid(), "ready": True, "transport": "inline"}
            result = Response(request.request_id, payload=codec.encode(Codec.MSGPACK, report))
        elif sync_to_async := _sync_to_async():
            return _AwaitedCall(request.request_id, lambda: self._run(exports, request), sync_to_async)
        else:
            result = self._run(exports, request)
        pending = Pending(request.request_id)
        pending.resolve(result)
        return pending

    def _run(self, exports: ExportTable, request: Request) -> Response:
        word = StopWord(memoryview(bytearray(8)).cast("Q"), 0)
        runner = Runner(exports, word, self._log_traceback, own_clock=True)
        response = runner.run(request, serial=1)  # nobody writes the stop word
        try:
            return _transmitted(response, self._config.max_frame_bytes)
        except FrameError as exc:
            return too_large(request, response, exc)

    def _log_traceback(self, request_id: str, entry: str, text: str) -> None:
        log.error("entrypoint %s raised in request %s\n%s", entry, request_id, text)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        # Any other has ended already.
        return isinstance(pending, _AwaitedCall) and pending.drop(error)

    def close(self) -> None:
        self._closed = True
