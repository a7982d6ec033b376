"""The seam between a call and how its bytes travel: what a transport is, and a call in flight on one.

A transport takes a request frame (`submit`) and hands back a `PendingCall`, which ends exactly once: with the
response frame, with the error that stands for it, or lost, when certainly nobody ever took the request up.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Final, Protocol

from molt_accel.errors import MoltError
from molt_accel.ipc.messages import Request, Response

Result = Response | MoltError


class PendingCall(Protocol):
    """A call in flight, as the one thread or task that waits for it sees it."""

    @property
    def request_id(self) -> int:
        """The request's."""

    @property
    def connection_number(self) -> int:
        """Which of the transport's connections the request was sent on."""

    @property
    def done(self) -> bool:
        """Whether it has ended: with a `result`, or `lost`."""

    @property
    def result(self) -> Result | None:
        """The outcome; None until it is there, and for good if the call was lost."""

    @property
    def lost(self) -> bool:
        """Whether it ended because nobody took the request up, and nobody will: it may be sent again."""

    def wait(self, timeout_s: float | None) -> bool:
        """Block until it has ended (True) or the time is over (False)."""

    def on_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when it ends, at once if it has; on any thread, and maybe twice."""


class Pending:
    """The `PendingCall` of transports in which another thread brings the outcome: it resolves it once."""

    __slots__ = ("_callback", "_gate", "connection_number", "request_id", "result")

    #: Who resolves a call has an outcome for it.
    lost: Final = False

    def __init__(self, request_id: int, connection_number: int = 0) -> None:
        self.request_id = request_id
        self.connection_number = connection_number
        self.result: Result | None = None
        # A bare lock is the cheapest thing a thread can wait for with a timeout and still see signals.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._callback: Callable[[], object] | None = None

    @property
    def done(self) -> bool:
        """Whether the outcome is there."""
        return self.result is not None

    def resolve(self, result: Result) -> None:
        """Set the outcome. Only who took this call out of the transport's table may do so."""
        self.result = result
        self._gate.release()
        if self._callback is not None:
            self._callback()

    def wait(self, timeout_s: float | None) -> bool:
        """Block until the outcome is there (True) or the time is over (False)."""
        if self.result is not None:
            return True
        timeout = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if self._gate.acquire(timeout=timeout):
            self._gate.release()
        return self.result is not None

    def on_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called at the outcome, at once if it is there; it may be called twice."""
        self._callback = callback
        if self.result is not None:
            callback()


class Transport(Protocol):
    """What a call needs of its transport. All methods are thread-safe."""

    @property
    def ready(self) -> bool:
        """Whether `submit` can go ahead without `start`."""

    @property
    def patience_s(self) -> float:
        """How long after its deadline a call's answer may still come, by the worker's own promises."""

    def start(self) -> None:
        """Start or attach to a worker; where one is just ending, wait for that first.

        May block; raises MoltWorkerUnavailable.
        """

    def submit(self, request: Request) -> PendingCall | None:
        """Send a request, without blocking.

        Returns:
            The call in flight; None if it could not be sent, so that no worker has got it: it takes a `start`.

        Raises:
            MoltWorkerUnavailable, MoltBusy, FrameError: nothing was sent, and trying again won't help.
        """

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        """End a call from this side and tell the worker to stop it. False if it has ended by itself, or is
        about to; then its end is the outcome.
        """

    def wait_ready(self, timeout_s: float) -> None:
        """Block until the worker has imported its exports. Raises MoltWorkerUnavailable."""

    def close(self) -> None:
        """Stop what was started; calls in flight end as cancelled."""
