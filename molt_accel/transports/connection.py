"""What connections to a worker have in common: their state, the thread that listens, and how they end."""

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
    Status,
    from_wire,
    start_failure,
)
from molt_accel.ipc.frame import Fault, FrameError, Item
from molt_accel.ipc.messages import Hello, Response, StartFailed
from molt_accel.ipc.outcomes import other_protocol, worker_gone
from molt_accel.transports.base import Pending

log = logging.getLogger("molt_accel")


class ConnectionState(enum.Enum):
    OPEN = enum.auto()  #: takes calls
    DEAF = enum.auto()  #: the worker reads nothing any more; its end is about to be seen
    #: Takes no new calls: the worker drains, or can't be trusted. Calls under way go on.
    FINISHING = enum.auto()
    CLOSING = enum.auto()  #: this process lets go of the worker; the calls under way end as cancelled
    LOST = enum.auto()  #: the worker ended
    DRAINED = enum.auto()  #: the worker ended after it had answered all that it had read
    CLOSED = enum.auto()  #: this process has let go of the worker
    FORGOTTEN = enum.auto()  #: in a forked child: the parent's connection


_S = ConnectionState

#: Every step that a connection may take. `Connection.move_to` refuses any other.
CONNECTION_TRANSITIONS: Final[dict[ConnectionState, frozenset[ConnectionState]]] = {
    _S.OPEN: frozenset({_S.DEAF, _S.FINISHING, _S.CLOSING, _S.LOST, _S.DRAINED, _S.FORGOTTEN}),
    _S.DEAF: frozenset({_S.FINISHING, _S.CLOSING, _S.LOST, _S.DRAINED, _S.FORGOTTEN}),
    _S.FINISHING: frozenset({_S.CLOSING, _S.DRAINED, _S.FORGOTTEN}),
    _S.CLOSING: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.LOST: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.DRAINED: frozenset({_S.CLOSED, _S.FORGOTTEN}),
    _S.CLOSED: frozenset({_S.FORGOTTEN}),
    _S.FORGOTTEN: frozenset(),
}


def copy_error(error: MoltError) -> MoltError:
    """Make an error like this one. Each caller raises its own: tracebacks must not pile up on a shared object."""
    cls = MoltProtocolError if isinstance(error, FrameError) else type(error)
    return cls(error.detail, facts=error.facts)


def cancelled_by_close() -> MoltCancelled:
    """The error of a call that is under way when its client is closed."""
    return MoltCancelled("the client was closed")


class BaseConnection(ABC):
    """A connection to one worker. A subclass makes the connection, and starts a thread that runs `_attend`."""

    def __init__(self, number: int) -> None:
        self.number = number  #: which of its transport's connections it is, from 1 on
        self.state = ConnectionState.OPEN
        #: `state` is OPEN. Only `move_to` sets it. Every call reads it: an attribute is fastest.
        self.open = True
        self.end_error: MoltError | None = None  #: what it ended with
        self.ended_s = 0.0
        self.worker_started_s = time.monotonic()
        self.was_ready = False  #: the worker may have run requests
        self.greeted = threading.Event()  #: set by the worker's greeting and by the connection's end
        #: Held for every step, and by subclasses for what ends a call from this side. Reentrant, because a signal
        #: handler or the garbage collector may close the client on a thread that holds it.
        self.lock = threading.RLock()
        self._pending: dict[
            int, Pending
        ] = {}  # requests that a message will answer, by id; guarded by the lock
        self._start_failure: MoltError | None = None  # what the worker says when it can't start

    @property
    def usable(self) -> bool:
        """Whether no new connection is needed yet."""
        return self.open

    @property
    def closing(self) -> bool:
        """Whether this process closes the connection, or has closed it."""
        return self.state in (ConnectionState.CLOSING, ConnectionState.CLOSED)

    def move_to(self, state: ConnectionState) -> bool:
        """Take a step. Returns False, and changes nothing, if the table has no such step from the present state."""
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
        """In a forked child: drop the parent's connection, and tell the worker nothing."""

    @abstractmethod
    def _listen(self) -> MoltError:
        """Take messages until the worker closes its end. Returns the error with which calls in flight end."""

    @abstractmethod
    def _end(self, error: MoltError) -> None:
        """End the connection, and every call on it."""

    def _take(self, item: Item) -> None:
        """Act on a message that the worker of either transport may send."""
        if isinstance(item, Response) and item.request_id:
            with self.lock:
                pending = self._pending.pop(item.request_id, None)
            if pending is not None:  # else it is late: the call has ended on this side
                pending.resolve(item)
        elif isinstance(item, Hello):
            self.was_ready = True
            self.greeted.set()
        elif isinstance(item, StartFailed):
            self._start_failure = start_failure(from_wire(Status.INTERNAL_ERROR, item.error))
        else:
            raise MoltProtocolError(f"unexpected {type(item).__name__} from the worker")

    def _resolve_all(self, error: MoltError) -> None:
        with self.lock:
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            pending.resolve(copy_error(error))

    def _attend(self) -> None:
        """Run the thread that listens to the worker, from the connection's beginning to its end."""
        error: MoltError
        try:
            error = self._listen()
        except MoltProtocolError as exc:
            log.error("the worker broke the protocol: %s", exc)
            other_version = isinstance(exc, FrameError) and exc.fault is Fault.VERSION
            error = other_protocol(exc.detail) if other_version else exc
        except Exception as exc:  # a bug must end the calls in flight, not leave them waiting
            log.exception("the thread that listens to a worker failed")
            error = MoltWorkerUnavailable(f"the connection failed: {type(exc).__name__}")
        self._end(error)

    def _farewell(self, how: str) -> MoltError:
        """The error that the connection's end means; `how` says how the worker ended."""
        if self.closing:
            return cancelled_by_close()
        if self._start_failure:
            return self._start_failure
        if not self._may_have_served() and self.state is not ConnectionState.FINISHING:
            return MoltStartFailed(f"the worker can't start: {how}")
        return worker_gone(how)

    def _may_have_served(self) -> bool:
        """Whether the worker may have run requests. A subclass may know better than the greeting does."""
        return self.was_ready

    def _note_end(self, error: MoltError, *, drained: bool) -> None:
        """Note how the connection ended, with the lock held."""
        if isinstance(error, MoltWorkerUnavailable) and self.was_ready and not drained:
            error.facts["may_have_run"] = 1
        self.ended_s = time.monotonic()
        self.end_error = error
        if not self.move_to(ConnectionState.DRAINED if drained else ConnectionState.LOST):
            self.move_to(ConnectionState.CLOSED)
