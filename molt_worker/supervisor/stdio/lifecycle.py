"""The life of a request in the supervisor: all states and transitions, in one table.

A request ends exactly once, because `END` leads out of every state but ENDED; whoever takes that step
sends the response.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from molt_accel.errors import MoltError
from molt_accel.ipc.frame import Frame

if TYPE_CHECKING:
    from molt_worker.processes.handles import Executor


class State(enum.Enum):
    """Where a request is."""

    ARRIVED = enum.auto()
    WAITING = enum.auto()  #: for a place in the full queue
    QUEUED = enum.auto()
    RUNNING = enum.auto()
    STOPPING = enum.auto()  #: soft interrupt sent, grace time running
    LOST = enum.auto()  #: its executor's socket closed; the exit code is on its way
    ENDED = enum.auto()


class Step(enum.Enum):
    """What can happen to a request."""

    WAIT = enum.auto()
    ENQUEUE = enum.auto()
    HAND_OUT = enum.auto()
    HAND_BACK = enum.auto()  #: the executor was dead before it could be given the request
    STOP = enum.auto()
    LOSE = enum.auto()
    END = enum.auto()


TRANSITIONS: Final[dict[tuple[State, Step], State]] = {
    (State.ARRIVED, Step.WAIT): State.WAITING,
    (State.ARRIVED, Step.ENQUEUE): State.QUEUED,
    (State.ARRIVED, Step.HAND_OUT): State.RUNNING,
    (State.WAITING, Step.ENQUEUE): State.QUEUED,
    (State.WAITING, Step.HAND_OUT): State.RUNNING,  # where the queue has no places at all
    (State.QUEUED, Step.HAND_OUT): State.RUNNING,
    (State.RUNNING, Step.HAND_BACK): State.QUEUED,
    (State.RUNNING, Step.STOP): State.STOPPING,
    (State.RUNNING, Step.LOSE): State.LOST,
    (State.STOPPING, Step.LOSE): State.LOST,
    **{(state, Step.END): State.ENDED for state in State if state is not State.ENDED},
}

#: States in which an executor has the request.
HELD: Final = frozenset({State.RUNNING, State.STOPPING, State.LOST})


def advance(state: State, step: Step) -> State:
    """The state after a step. Raises ValueError for a step that is not in the table: a bug."""
    try:
        return TRANSITIONS[state, step]
    except KeyError:
        raise ValueError(f"{step.name} is not possible in state {state.name}") from None


class Request:
    """A request from its arrival to its end."""

    __slots__ = ("executor", "frame", "handed_back", "state", "stop_error", "wake_ns")

    def __init__(self, frame: Frame) -> None:
        self.frame = frame
        self.state = State.ARRIVED
        self.executor: Executor | None = None  #: while it is in one of the HELD states
        self.handed_back = 0  #: how many executors have died before they had read this request
        self.stop_error: MoltError | None = None  #: the outcome if the executor doesn't answer any more
        self.wake_ns = 0  #: when its state has to be looked at; 0: never

    def advance(self, step: Step) -> None:
        """Take a step of the table."""
        self.state = advance(self.state, step)
