"""Where calls of one client wait that may wait for a place, and for which the worker has no room to wait.

They stand in a line: first come, first served. Only the first one tries to get a place, so the others cost nothing.
"""

from __future__ import annotations

import threading
from typing import Final

from molt_accel.errors import MoltError
from molt_accel.ipc.messages import Request, Response
from molt_accel.transports.base import Pending, PendingCall, Sender

_FIRST: Final = Response(0)  #: the outcome of a `Pending` in the line, once it is the first


class Line:
    """The calls that wait, by request id. Thread-safe."""

    def __init__(self) -> None:
        # Reentrant, because a signal handler on a thread that holds it may call.
        self._lock = threading.RLock()
        self._waiting: dict[int, Pending] = {}

    def join(self, request_id: int) -> Pending:
        """Stand at the end of the line. Returns what ends when the call has become the first."""
        place = Pending(request_id)
        with self._lock:
            self._waiting[request_id] = place
            self._call_first()
        return place

    def leave(self, request_id: int) -> None:
        """Leave the line, if the call is in it."""
        with self._lock:
            self._waiting.pop(request_id, None)
            self._call_first()

    def holds_back(self, request_id: int) -> bool:
        """Whether others have to get a place before this call."""
        with self._lock:
            return bool(self._waiting) and next(iter(self._waiting)) != request_id

    def _call_first(self) -> None:
        for first in self._waiting.values():
            if not first.done:
                first.resolve(_FIRST)
            return


class LeavingLine:
    """Sends the request that is the first in the line, which leaves it then, so that the next one may try."""

    def __init__(self, sender: Sender, line: Line) -> None:
        self._sender = sender
        self._line = line
        self.sent = False

    @property
    def patience_s(self) -> float:
        return self._sender.patience_s

    def start(self) -> None:
        self._sender.start()

    def submit(self, request: Request) -> PendingCall | None:
        pending = self._sender.submit(request)
        if pending is not None:
            self.sent = True
            self._line.leave(request.request_id)
        return pending

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        return self._sender.abandon(pending, error)
