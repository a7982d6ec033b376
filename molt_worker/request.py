"""What an entrypoint may know of the request it serves: `current_request()` and how a request is stopped.

A request is stopped by its stop word, a 64-bit word shared with the supervisor that names the request by
its serial number; so a stop that comes too late finds another serial and touches nothing.
"""

from __future__ import annotations

import contextlib
import enum
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Final


class InvalidInput(ValueError):
    """Raise it in an entrypoint to refuse its input; the text goes to the sender of the request."""


class RequestStopped(BaseException):
    """The request must end now. Not an Exception, so that `except Exception` doesn't swallow it."""


class RequestCancelled(RequestStopped):
    """The client went away or asked to stop."""


class RequestTimedOut(RequestStopped):
    """The deadline passed."""


class StopReason(enum.IntEnum):
    """Why a request is stopped; the low byte of the stop word."""

    CANCELLED = 1
    TIMED_OUT = 2


#: What a stop raises inside the entrypoint.
STOP_EXCEPTIONS: Final[dict[int, type[RequestStopped]]] = {
    StopReason.CANCELLED: RequestCancelled,
    StopReason.TIMED_OUT: RequestTimedOut,
}


class StopWord:
    """One aligned 64-bit word in memory that supervisor and executor share: serial << 8 | reason.

    Stores and loads of an aligned word are single instructions on every platform CPython supports, so a
    reader sees the old word or the new one, never half of each.
    """

    __slots__ = ("_index", "_words")

    def __init__(self, words: memoryview, index: int) -> None:
        self._words = words
        self._index = index

    def stop(self, serial: int, reason: StopReason) -> None:
        """Tell the request `serial`, and no other, to stop."""
        self._words[self._index] = serial << 8 | reason

    def clear(self) -> None:
        """Forget an old stop, before the word gets a new owner."""
        self._words[self._index] = 0

    def reason(self, serial: int) -> int:
        """Why `serial` shall stop, or 0."""
        word: int = self._words[self._index]
        return word & 0xFF if word >> 8 == serial else 0


class CurrentRequest:
    """The request being served. Outside a worker it stands for no request: no deadline, never cancelled.

    Attributes:
        request_id: 16 hexadecimal digits, the same as in logs and metrics; empty outside a worker.
        deadline: Seconds of `time.monotonic()`, or None.
    """

    __slots__ = ("_own_clock", "_serial", "_word", "deadline", "request_id")

    def __init__(
        self,
        request_id: str = "",
        deadline_ns: int = 0,
        word: StopWord | None = None,
        serial: int = 0,
        *,
        own_clock: bool = False,
    ) -> None:
        self.request_id = request_id
        self.deadline = deadline_ns / 1e9 if deadline_ns else None
        self._word = word
        self._serial = serial
        self._own_clock = own_clock  # nobody else watches the deadline, so `check` must

    def remaining_ms(self) -> float | None:
        """Milliseconds until the deadline, 0 when it has passed; None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, (self.deadline - time.monotonic()) * 1000)

    @property
    def cancelled(self) -> bool:
        """Whether the request was told to stop, by its client or by its deadline."""
        return self._stop_reason() != 0

    def check(self) -> None:
        """Raise if the request must stop. Costs a memory read; call it as often as you like.

        Raises:
            RequestCancelled: the client went away or asked to stop.
            RequestTimedOut: the deadline passed.
        """
        reason = self._stop_reason()
        if reason:
            raise STOP_EXCEPTIONS[reason]

    def _stop_reason(self) -> int:
        if self._word is None:
            return 0
        reason = self._word.reason(self._serial)
        if not reason and self._own_clock and self.remaining_ms() == 0:
            return StopReason.TIMED_OUT
        return reason


_NO_REQUEST: Final = CurrentRequest()
#: An executor's one request, which threads that its entrypoint starts see too.
_in_process: CurrentRequest = _NO_REQUEST
#: Where several run at once (the inline transport): each thread's or task's own.
_in_context: ContextVar[CurrentRequest | None] = ContextVar("molt_request", default=None)


def current_request() -> CurrentRequest:
    """The request that is being served."""
    return _in_context.get() or _in_process


@contextlib.contextmanager
def serving(request: CurrentRequest, *, this_context_only: bool) -> Iterator[None]:
    """For the runner: within this context, `request` is the current one."""
    global _in_process
    if this_context_only:
        token = _in_context.set(request)
        try:
            yield
        finally:
            _in_context.reset(token)
    else:
        _in_process = request
        try:
            yield
        finally:
            _in_process = _NO_REQUEST
