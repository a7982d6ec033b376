"""What an entrypoint may know of the request it serves: `current_request()` and how a request is stopped.

A request is stopped by its stop word, a 64-bit word shared with the supervisor that names the request by
its serial number; so a stop that comes too late finds another serial and touches nothing.
"""

from __future__ import annotations

import enum
import time
from contextvars import ContextVar, Token
from typing import Final

import msgspec

from molt_accel.ipc.frame import format_id


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


class CurrentRequest(msgspec.Struct, frozen=True, eq=False):
    """The request being served. Outside a worker it stands for no request: no deadline, never cancelled."""

    # One is made for every request, and few entrypoints ask for it: it holds what the request's frame says.
    _raw_id: int | None = None
    _deadline_ns: int = 0
    _word: StopWord | None = None
    _serial: int = 0
    _own_clock: bool = False  # nobody else watches the deadline, so `check` must

    @property
    def request_id(self) -> str:
        """16 hexadecimal digits, the same as in logs and metrics; empty outside a worker."""
        return "" if self._raw_id is None else format_id(self._raw_id)

    @property
    def deadline(self) -> float | None:
        """Seconds of `time.monotonic()`, or None."""
        return self._deadline_ns / 1e9 if self._deadline_ns else None

    def remaining_ms(self) -> float | None:
        """Milliseconds until the deadline, 0 when it has passed; None without a deadline."""
        if not self._deadline_ns:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e6)

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


Serving = Token[CurrentRequest | None] | None


def begin_serving(request: CurrentRequest, *, this_context_only: bool) -> Serving:
    """For the runner: `request` is the current one, until `end_serving` is given what this returns."""
    global _in_process
    if this_context_only:
        return _in_context.set(request)
    _in_process = request
    return None


def end_serving(serving: Serving) -> None:
    """For the runner: the request before is the current one again; in an executor that is none."""
    global _in_process
    if serving is not None:
        _in_context.reset(serving)
    else:
        _in_process = _NO_REQUEST
