"""The seam between a call and how its bytes travel: what a transport is, and a call in flight on one.

A transport takes a request (`submit`) and returns a `PendingCall`. That ends exactly once: with the response, with an
error, or lost, which means that no executor has taken the request up or ever will.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

from molt_accel.errors import BusyReason, MoltBusy, MoltError, Status
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import Codec, Request, Response

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

    from molt_accel.transports.line import Line
    from molt_accel.transports.overflow import Overflow

Result = Response | MoltError
#: Codec and payload of a result.
Success = tuple[Codec, bytes | memoryview]
_OK: Final = Status.OK  # looking it up in the enumeration costs more than the comparison that it is for


def success_of(result: Result | None) -> Success | None:
    """Return what a successful outcome consists of; None: it is none."""
    return (result.codec, result.payload) if isinstance(result, Response) and result.status is _OK else None


def seconds_until(until_ns: int) -> float | None:
    """Return how long it is until a time of CLOCK_MONOTONIC, in seconds, at least 0; for 0 None: for ever."""
    return max(0.0, (until_ns - time.monotonic_ns()) / 1e9) if until_ns else None


class PendingCall(Protocol):
    """A call in flight, as the one thread or task that waits for it sees it."""

    @property
    def request_id(self) -> int: ...

    @property
    def done(self) -> bool:
        """Whether the call has ended: with a `result`, or `lost`."""

    @property
    def result(self) -> Result | None:
        """The outcome; None until it is there, and for good if the call was lost."""

    @property
    def lost(self) -> bool:
        """Whether the call ended because no executor took the request up or will: it may be sent again."""

    @property
    def success(self) -> Success | None:
        """Codec and payload of the result, if `result` is a response that has one; else None."""

    def wait(self, timeout_s: float | None) -> bool:
        """Block until the call has ended (True) or the time is over (False). None: wait without a limit."""

    def wait_until(self, until_ns: int) -> bool:
        """`wait` until a time of CLOCK_MONOTONIC, in ns; 0: without a limit."""

    def on_done(self, callback: Callable[[], object]) -> None:
        """Have `callback` called when the call ends, or now if it has; on any thread, and maybe twice.

        Raises MoltWorkerUnavailable if that takes a thread and none can be started.
        """

    def ended_in(self, loop: AbstractEventLoop, until_ns: int) -> Future[None] | None:
        """Have the event loop that is running wait for the call, without a thread.

        Returns what is done when the call ends or at `until_ns` (0: never). None: it has ended, or `on_done` is to be
        used.
        """


class Pending:
    """The `PendingCall` of transports in which another thread brings the outcome and calls `resolve` once."""

    __slots__ = ("_callback", "_gate", "request_id", "result")

    lost: Final = False

    def __init__(self, request_id: int) -> None:
        self.request_id = request_id
        self.result: Result | None = None
        # A bare lock is the cheapest thing that a thread can wait for with a timeout and still see signals.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._callback: Callable[[], object] | None = None

    @property
    def done(self) -> bool:
        return self.result is not None

    @property
    def success(self) -> Success | None:
        return success_of(self.result)

    def resolve(self, result: Result) -> None:
        """Set the outcome. Only the thread that took this call out of the transport's table may do so."""
        self.result = result
        self._gate.release()
        if self._callback is not None:
            self._callback()

    def wait(self, timeout_s: float | None) -> bool:
        if self.result is not None:
            return True
        timeout = -1 if timeout_s is None else min(max(timeout_s, 0), threading.TIMEOUT_MAX)
        if self._gate.acquire(timeout=timeout):
            self._gate.release()
        return self.result is not None

    def wait_until(self, until_ns: int) -> bool:
        return self.wait(seconds_until(until_ns))

    def ended_in(self, loop: AbstractEventLoop, until_ns: int) -> None:
        """See `PendingCall`."""

    def on_done(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        if self.result is not None:
            callback()


class Sender(Protocol):
    """What one attempt of a call needs of its transport. All methods are thread-safe."""

    @property
    def patience_s(self) -> float:
        """How many seconds after its deadline a call's answer may still come."""

    def start(self) -> None:
        """Start or attach to a worker, and if one is just ending, wait for that first. May block.

        Raises:
            MoltWorkerUnavailable: there is no worker, and none can be started now.
            MoltClientClosed: the client was closed.
        """

    def submit(self, request: Request) -> PendingCall | None:
        """Send a request, without blocking.

        Returns:
            The call in flight; None if no worker has got the request, and `start` must come first.

        Raises:
            MoltWorkerUnavailable, MoltBusy, FrameError: nothing was sent, and trying again at once won't help.
        """

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        """End a call with `error` and tell the worker to stop it.

        Returns False if the call has ended by itself or is about to; then that is its outcome.
        """


class Transport(Sender, Protocol):
    """What a client needs of its transport. All methods are thread-safe."""

    @property
    def ready(self) -> bool:
        """Whether `submit` can go ahead without `start`."""

    @property
    def max_wait_ms(self) -> int:
        """How long a call that doesn't say so itself waits for a place, in ms."""

    @property
    def line(self) -> Line:
        """Where calls wait that may wait, and that `submit` has refused as Busy."""

    @property
    def overflow(self) -> Overflow | None:
        """Where calls may go instead that `submit` has refused as Busy; None: nowhere."""

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        """The error of a request that would come now; None: it would be taken on, or that is not known here.

        Args:
            entry: The entrypoint's name.
            left_ns: The time until its deadline; None: it has none.
        """

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        """The error of a request that this process refuses itself, counted where the pool's can be."""

    def wait_ready(self, timeout_s: float) -> None:
        """Block until the worker has imported its exports. Raises as `start` does."""

    def close(self) -> None:
        """Stop the worker, or leave it if it is shared. Calls in flight end as cancelled."""


class RefusesNothing:
    """What transports share that know of no refusal before it comes, and keep no count of this process's own."""

    __slots__ = ()

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        """See `Transport`."""
        return None

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        """See `Transport`."""
        return outcomes.busy(reason, wait_ns)
