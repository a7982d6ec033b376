"""The inline transport: the same frames, codecs and error mapping, with everything in this process.

For tests, and for platforms without fork. Nothing can interrupt an entrypoint here, so it has to call
`current_request().check()` to keep its deadline. A call that has ended too late is a Timeout all the same.
"""

from __future__ import annotations

import logging
import os
import threading
from typing import TypeVar

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import MoltClientClosed, MoltError, MoltInternalError, MoltStartFailed
from molt_accel.ipc.frame import PREFIX_BYTES, FrameError, decode, encode
from molt_accel.ipc.messages import PING, Codec, Request, Response
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.line import Line
from molt_accel.version import __version__
from molt_worker.entrypoints.exports import ExportsError, ExportTable, resolve
from molt_worker.entrypoints.request import StopWord
from molt_worker.entrypoints.runner import Runner, error_response

log = logging.getLogger("molt_worker")
_Sent = TypeVar("_Sent", Request, Response)


def _transmitted(item: _Sent, limit: int) -> _Sent:
    """What a peer would read. Raises FrameError for what could not be sent."""
    received = decode(encode(item, limit)[PREFIX_BYTES:])
    assert type(received) is type(item)
    return received


class InlineTransport:
    """Runs each request at once on the thread that submits it; see `molt_accel.transports.base.Transport`."""

    max_wait_ms = 0  # nothing is queued here

    def __init__(self, config: Config) -> None:
        self.line = Line()
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
                    self._exports = resolve(self._config.exports)
                except ExportsError as exc:
                    raise MoltStartFailed(f"the worker can't start: {exc}") from exc

    def wait_ready(self, timeout_s: float) -> None:
        del timeout_s  # importing blocks; there is nobody to stop waiting for it
        self.start()

    def submit(self, request: Request) -> Pending | None:
        if self._exports is None or self._closed:
            return None
        limit = self._config.max_frame_bytes
        request = _transmitted(request, limit)
        pending = Pending(request.request_id)
        if request.entry == PING:
            report = {"version": __version__, "pid": os.getpid(), "ready": True, "transport": "inline"}
            answer = codec.encode(Codec.MSGPACK, report)
            pending.resolve(Response(request.request_id, payload=answer))
            return pending
        word = StopWord(memoryview(bytearray(8)).cast("Q"), 0)
        runner = Runner(self._exports, word, self._log_traceback, own_clock=True)
        response = runner.run(request, serial=1)  # nobody writes the stop word
        try:
            pending.resolve(_transmitted(response, limit))
        except FrameError as exc:
            pending.resolve(error_response(request, MoltInternalError(f"the result is {exc.detail}")))
        return pending

    def _log_traceback(self, request_id: str, entry: str, text: str) -> None:
        log.error("entrypoint %s raised in request %s\n%s", entry, request_id, text)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        del pending, error  # a submitted call has ended already
        return False

    def close(self) -> None:
        self._closed = True
