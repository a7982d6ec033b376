"""The life of a request in the supervisor: all states and transitions, in one table.

A request ends exactly once, because `END` leads out of every state but ENDED. Who takes that step sends the response.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from molt_accel.errors import MoltError
from molt_accel.ipc import messages
from molt_worker.processes.handles import ExecutorHandle


class RequestState(enum.IntEnum):  # hashed faster than an Enum
    """Where a request is."""

    ARRIVED = enum.auto()
    WAITING = enum.auto()  #: for a place in the full queue
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()  #: soft interrupt sent, grace time running
    LOST = enum.auto()  #: its executor's socket closed; the exit code is on its way
    ENDED = enum.auto()


class RequestEvent(enum.IntEnum):
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
    # A queue without places has requests that wait only.
    (RequestState.WAITING, RequestEvent.HAND_OUT): RequestState.RUNNING,
    (RequestState.QUEUED, RequestEvent.HAND_OUT): RequestState.RUNNING,
    (RequestState.RUNNING, RequestEvent.HAND_BACK): RequestState.QUEUED,
    (RequestState.RUNNING, RequestEvent.STOP): RequestState.STOPPING,
    (RequestState.RUNNING, RequestEvent.LOSE): RequestState.LOST,
    (RequestState.STOPPING, RequestEvent.LOSE): RequestState.LOST,
}
REQUEST_TRANSITIONS.update(
    {(state, RequestEvent.END): RequestState.ENDED for state in set(RequestState) - {RequestState.ENDED}}
)

#: States in which an executor has the request.
HELD: Final = frozenset({RequestState.RUNNING, RequestState.STOPPING, RequestState.LOST})


@dataclass(slots=True, eq=False)
class Request:
    """A request from its arrival to its end."""

    frame: messages.Request
    state: RequestState = RequestState.ARRIVED
    executor: ExecutorHandle | None = None  #: in the HELD states
    handed_back: int = 0  #: how many executors have died before they had read this request
    stop_error: MoltError | None = None  #: the outcome if the executor doesn't answer any more
    wake_ns: int = 0  #: when its state has to be looked at; 0: never
    arrived_ns: int = 0

    def advance(self, step: RequestEvent) -> None:
        """Take a step of the table. Raises ValueError for a step that is not in it: a bug."""
        state = REQUEST_TRANSITIONS.get((self.state, step))
        if state is None:
            raise ValueError(f"{step.name} is not possible in state {self.state.name}")
        self.state = state
