"""The request as its entrypoint sees it: `current_request()`, and the exceptions that stop it.

The supervisor stops a request through the executor's stop word, which names the request by its serial. A stop that
comes too late names a request that no longer runs, and does nothing.
"""

from __future__ import annotations

import ctypes
import enum
import time
from contextvars import ContextVar
from typing import Final

import msgspec

from molt_accel import codec
from molt_accel.ipc.frame import format_id
from molt_accel.ipc.messages import METADATA_REQUEST_ID, Request


class InvalidInput(ValueError):
    """An entrypoint raises this to refuse its input. The client receives the text."""


class RequestStopped(BaseException):
    """The request must end now. It is no Exception, so that `except Exception` doesn't swallow it."""


class RequestCancelled(RequestStopped):
    """The client went away or cancelled the request."""


class RequestTimedOut(RequestStopped):
    """The deadline passed."""


class StopReason(enum.IntEnum):
    """Why a request is stopped: the low byte of the stop word."""

    CANCELLED = 1
    TIMED_OUT = 2


#: The exception that a stop raises inside the entrypoint, by its reason.
STOP_EXCEPTIONS: Final[dict[int, type[RequestStopped]]] = {
    StopReason.CANCELLED: RequestCancelled,
    StopReason.TIMED_OUT: RequestTimedOut,
}


class StopWord:
    """One aligned 64-bit word of memory that supervisor and executor share: serial << 8 | reason.

    Every platform that CPython supports stores and loads an aligned word by a single instruction. So a reader
    sees the old word or the new one, never half of each.
    """

    __slots__ = ("cell",)

    def __init__(self, words: memoryview, index: int) -> None:
        #: The word alone, which is false if no request was ever told to stop. A runner looks here before it asks: that
        #: costs a tenth of reading the number.
        self.cell = ctypes.c_uint64.from_buffer(words, index * words.itemsize)

    def stop(self, serial: int, reason: StopReason) -> None:
        """Tell the request `serial` to stop. No other request is affected."""
        self.cell.value = serial << 8 | reason

    def clear(self) -> None:
        """Remove an old stop, before another executor gets the word."""
        self.cell.value = 0

    def reason(self, serial: int) -> int:
        """Return the StopReason of the request `serial`; 0: it was not told to stop."""
        word = self.cell.value
        return word & 0xFF if word >> 8 == serial else 0


class CurrentRequest(msgspec.Struct, frozen=True, eq=False):
    """The request that an entrypoint serves. Outside a worker, it has no deadline and is never cancelled."""

    # Every request makes one, and few entrypoints read it. So it holds the frame's values, and formats them when read.
    _raw_id: int | None = None
    _deadline_ns: int = 0
    _word: StopWord | None = None
    _serial: int = 0
    _own_clock: bool = False  # no supervisor watches the deadline, so `check` reads the clock
    _metadata: bytes = b""

    @classmethod
    def _of(
        cls, request: Request, word: StopWord, serial: int, metadata: bytes, own_clock: bool = False
    ) -> CurrentRequest:
        """For the runner."""
        return cls(request.request_id, request.deadline_ns, word, serial, own_clock, metadata)

    @property
    def request_id(self) -> str:
        """Identifies the call in logs and metrics: 16 hexadecimal digits; empty outside a worker."""
        return "" if self._raw_id is None else format_id(self._raw_id)

    @property
    def log_id(self) -> str:
        """The id that log lines have: the one of the HTTP request, if its view tells it; else `request_id`."""
        try:
            return str(self.metadata.get(METADATA_REQUEST_ID) or self.request_id)
        except InvalidInput:
            return self.request_id

    @property
    def metadata(self) -> codec.Metadata:
        """What the caller gave as ``metadata``, a new dict; empty if it gave none.

        Raises InvalidInput: a client of another kind has sent something else.
        """
        if not self._metadata:
            return {}
        try:
            return codec.decode_metadata(self._metadata)
        except codec.DecodeError as exc:
            raise InvalidInput(f"the metadata is {exc}") from exc

    @property
    def deadline(self) -> float | None:
        """When the request times out, in seconds of `time.monotonic()`; None: never."""
        return self._deadline_ns / 1e9 if self._deadline_ns else None

    def remaining_ms(self) -> float | None:
        """Return the milliseconds until the deadline: 0 if it has passed, None if there is no deadline."""
        if not self._deadline_ns:
            return None
        return max(0.0, (self._deadline_ns - time.monotonic_ns()) / 1e6)

    @property
    def cancelled(self) -> bool:
        """Whether the request was told to stop, by its client or by its deadline."""
        return self._stop_reason() != 0

    def check(self) -> None:
        """Raise if the request must stop. This costs one memory read, so call it as often as you like.

        Raises:
            RequestCancelled: the client went away or cancelled the request.
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

#: A request, its stop word, its serial, and its metadata.
Facts = tuple[Request, StopWord, int, bytes]


class Served:
    """The request that an executor serves. Few entrypoints ask for it, so it is made when one does."""

    __slots__ = ("_made", "facts")

    def __init__(self) -> None:
        self.facts: Facts | None = None  #: None: it serves none
        self._made: tuple[Facts, CurrentRequest] | None = None  # the one made last, and of what

    def request(self) -> CurrentRequest:
        """Return the request, the same one until the next is served."""
        facts = self.facts
        if facts is None:
            return _NO_REQUEST
        made = self._made
        if made is None or made[0] is not facts:
            made = self._made = facts, CurrentRequest._of(*facts)
        return made[1]


#: This executor's. A global, so that threads which the entrypoint starts see it too.
in_process: Final = Served()
#: The inline transport runs several requests at once, so each thread or task has its own.
in_context: Final[ContextVar[CurrentRequest | None]] = ContextVar("molt_request", default=None)


def current_request() -> CurrentRequest:
    """Return the request that this process, thread or task serves; outside a worker, one that never stops."""
    return in_context.get() or in_process.request()
