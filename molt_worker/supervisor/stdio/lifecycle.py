"""The life of a request in the supervisor: all states and transitions, in one table.

A request ends exactly once, because `END` leads out of every state but ENDED; whoever takes that step
sends the response.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from molt_accel.errors import MoltError
from molt_accel.ipc import messages

if TYPE_CHECKING:
    from molt_worker.processes.handles import ExecutorHandle


class RequestState(enum.Enum):
    """Where a request is."""

    ARRIVED = enum.auto()
    WAITING = enum.auto()  #: for a place in the full queue
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()  #: soft interrupt sent, grace time running
    LOST = enum.auto()  #: its executor's socket closed; the exit code is on its way
    ENDED = enum.auto()


class RequestEvent(enum.Enum):
    """What can happen to a request."""

    WAIT = enum.auto()
    ENQUEUE = enum.auto()
    HAND_OUT = enum.auto()
    HAND_BACK = enum.auto()  #: the executor was dead before it could be given the request
    STOP = enum.auto()
    LOSE = enum.auto()
    END = enum.auto()


REQUEST_TRANSITIONS: Final[dict[tuple[RequestState, RequestEvent], RequestState]] = {
    (RequestState.ARRIVED, RequestEvent.WAIT): RequestState.WAITING,
    (RequestState.ARRIVED, RequestEvent.ENQUEUE): RequestState.QUEUED,
    (RequestState.ARRIVED, RequestEvent.HAND_OUT): RequestState.RUNNING,
    (RequestState.WAITING, RequestEvent.ENQUEUE): RequestState.QUEUED,
    (
        RequestState.WAITING,
        RequestEvent.HAND_OUT,
    ): RequestState.RUNNING,  # where the queue has no places at all
    (RequestState.QUEUED, RequestEvent.HAND_OUT): RequestState.RUNNING,
    (RequestState.RUNNING, RequestEvent.HAND_BACK): RequestState.QUEUED,
    (RequestState.RUNNING, RequestEvent.STOP): RequestState.STOPPING,
    (RequestState.RUNNING, RequestEvent.LOSE): RequestState.LOST,
    (RequestState.STOPPING, RequestEvent.LOSE): RequestState.LOST,
    **{
        (state, RequestEvent.END): RequestState.ENDED
        for state in RequestState
        if state is not RequestState.ENDED
    },
}

#: States in which an executor has the request.
HELD: Final = frozenset({RequestState.RUNNING, RequestState.STOPPING, RequestState.LOST})


def advance(state: RequestState, step: RequestEvent) -> RequestState:
    """The state after a step. Raises ValueError for a step that is not in the table: a bug."""
    try:
        return REQUEST_TRANSITIONS[state, step]
    except KeyError:
        raise ValueError(f"{step.name} is not possible in state {state.name}") from None


class Request:
    """A request from its arrival to its end."""

    __slots__ = ("executor", "frame", "handed_back", "state", "stop_error", "wake_ns")

    def __init__(self, frame: messages.Request) -> None:
        self.frame = frame
        self.state = RequestState.ARRIVED
        self.executor: ExecutorHandle | None = None  #: while it is in one of the HELD states
        self.handed_back = 0  #: how many executors have died before they had read this request
        self.stop_error: MoltError | None = None  #: the outcome if the executor doesn't answer any more
        self.wake_ns = 0  #: when its state has to be looked at; 0: never

    def advance(self, step: RequestEvent) -> None:
        """Take a step of the table."""
        self.state = advance(self.state, step)
