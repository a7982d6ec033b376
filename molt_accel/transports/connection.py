"""What connections to a worker have in common: their state, the thread that listens, and the error they end with."""

from __future__ import annotations

import enum
import logging
import threading
import time
from abc import ABC, abstractmethod
from typing import Final

from molt_accel.errors import (
    MoltCancelled,
    MoltError,
    MoltProtocolError,
    MoltStartFailed,
    MoltWorkerUnavailable,
)
from molt_accel.ipc.frame import FrameError

log = logging.getLogger("molt_accel")


class ConnectionState(enum.Enum):
    """Where a connection is."""

    OPEN = enum.auto()  #: takes calls
    DEAF = enum.auto()  #: the worker reads nothing any more, and its end is about to be seen
    RETIRED = (
        enum.auto()
    )  #: takes no new calls, and those under way go on: the worker drains, or can't be trusted
    CLOSING = enum.auto()  #: this process lets go of the worker; the calls under way end as cancelled
    LOST = enum.auto()  #: the worker ended
    DRAINED = enum.auto()  #: the worker ended when it had answered all that it had read
    CLOSED = enum.auto()  #: this process has let go of the worker
    FORGOTTEN = enum.auto()  #: in a forked child: the parent's


_S = ConnectionState

#: Every step that a connection may take. `Connection.move_to` refuses any other.
CONNECTION_TRANSITIONS: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    _S.OPEN: frozenset({_S.DEAF, _S.RETIRED, _S.CLOSING, _S.LOST, _S.DRAINED, _S.FORGOTTEN}),
    _S.DEAF: frozenset({_S.RETIRED, _S.CLOSING, _S.LOST, _S.DRAINED, _S.FORGOTTEN}),
    _S.RETIRED: frozenset({_S.CLOSING, _S.DRAINED, _S.FORGOTTEN}),
    _S.CLOSING: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.LOST: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.DRAINED: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.CLOSED: frozenset({_S.FORGOTTEN}),
    _S.FORGOTTEN: frozenset(),
}


def copy_error(error: MoltError) -> MoltError:
    """An error like this one. Each caller raises an object of its own: tracebacks must not pile up on a shared one."""
    cls = MoltProtocolError if isinstance(error, FrameError) else type(error)
    return cls(error.detail, facts=error.facts)


def cancelled_by_close() -> MoltCancelled:
    """How a call ends that is under way when its client is closed."""
    return MoltCancelled("the client was closed")


class BaseConnection(ABC):
    """A connection to one worker. A subclass makes the connection, starts a thread with `_attend`, and ends it."""

    def __init__(self, number: int) -> None:
        self.number = number  #: which of its transport's connections it is, from 1 on
        self.state = ConnectionState.OPEN
        self.open = True  #: `state` is OPEN. Only `move_to` sets it; every call reads it, which costs less than asking
        self.end_error: MoltError | None = None  #: what it ended with
        self.ended_s = 0.0
        self.worker_started_s = time.monotonic()
        self.was_ready = False  #: the worker may have run requests
        self.greeted = threading.Event()  #: set by the worker's greeting and by the connection's end
        #: Held for every step, and by subclasses for what ends a call from this side. Reentrant, because a signal
        #: handler or the garbage collector may close the client on a thread that holds it.
        self.lock = threading.RLock()
        self._start_failure = ""  # why the worker can't start, as it said

    @property
    def usable(self) -> bool:
        """Whether a start finds nothing to do."""
        return self.open

    @property
    def closing(self) -> bool:
        """Whether this process has closed it, or is about to have."""
        return self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)

    def move_to(self, state: ConnectionState) -> bool:
        """Take a step. False if the table has no such step from where the connection is: nothing has changed then."""
        with self.lock:
            if state not in CONNECTION_TRANSITIONS[self.state]:
                return False
            self.state = state
            self.open = state is ConnectionState.OPEN
            return True

    @abstractmethod
    def close(self) -> None:
        """Let go of the worker. Calls in flight end as cancelled."""

    @abstractmethod
    def forget(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the worker."""

    @abstractmethod
    def _listen(self) -> MoltError:
        """Take what the worker sends until it closes its end; returns what that means for the calls in flight."""

    @abstractmethod
    def _end(self, error: MoltError) -> None:
        """End the connection, and every call on it."""

    def _attend(self) -> None:
        """The thread that listens to the worker: from the connection's beginning to its end."""
        error: MoltError
        try:
            error = self._listen()
        except MoltProtocolError as exc:
            log.error("the worker broke the protocol: %s", exc)
            error = exc
        except Exception as exc:  # a bug here must end the calls in flight, not leave them waiting
            log.exception("the thread that listens to a worker failed")
            error = MoltWorkerUnavailable(f"the connection failed: {type(exc).__name__}")
        self._end(error)

    def _farewell(self, how: str) -> MoltError:
        """What the end of the connection means; `how` tells how the worker ended."""
        if self.closing:
            return cancelled_by_close()
        if self._start_failure:
            return MoltStartFailed(f"the worker can't start: {self._start_failure}")
        return MoltWorkerUnavailable(f"the worker is gone: {how}")

    def _note_end(self, error: MoltError, *, drained: bool) -> None:
        """Take the last step, with the lock held."""
        if isinstance(error, MoltWorkerUnavailable) and self.was_ready and not drained:
            error.facts["may_have_run"] = 1
        self.ended_s = time.monotonic()
        self.end_error = error
        if not self.move_to(ConnectionState.DRAINED if drained else ConnectionState.LOST):
            self.move_to(ConnectionState.CLOSED)
