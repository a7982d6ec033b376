"""Which executor has which request: over stdio, each request passes through the supervisor to an idle executor.

Bookkeeping only. What becomes of a request is the supervisor's decision.
"""

from __future__ import annotations

import socket

from molt_accel.ipc.frame import U32_MAX
from molt_worker.processes.endpoint import SocketEndpoint
from molt_worker.processes.handles import Executor
from molt_worker.supervisor.stdio.lifecycle import Request


class _Assignment:
    """What an executor is given to do, from its being ready until it was reaped."""

    __slots__ = ("leaving", "request", "serial", "served")

    def __init__(self) -> None:
        self.request: Request | None = None
        self.serial = 0  #: of the request it was given last; the frame's generation on its socket
        self.served = 0
        self.leaving = False  #: its successor is ready, so it gets no other request


class HandOut:
    """Executors and what they have; the pool's `Delivery`.

    Args:
        max_frame_bytes: Largest frame that an executor takes or sends.
    """

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._assignments: dict[Executor, _Assignment] = {}
        self._idle: list[Executor] = []  # the one used last is used next: its caches are warm
        self.busy = 0  #: executors that have a request

    @property
    def idle(self) -> int:
        """How many executors are free."""
        return len(self._idle)

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> SocketEndpoint:
        del slot  # nothing but the stop word is shared
        return SocketEndpoint(sock, number, self._max_frame_bytes)

    def withdraw(self, executor: Executor) -> bool:
        self._assignments[executor].leaving = True
        return self._forget_idle(executor)

    def served(self, executor: Executor) -> int:
        assignment = self._assignments.get(executor)
        return assignment.served if assignment is not None else 0

    def add(self, executor: Executor) -> None:
        """An executor is ready, and idle."""
        self._assignments[executor] = _Assignment()
        self._idle.append(executor)

    def assign(self, request: Request) -> tuple[Executor, int]:
        """Give a request to an idle executor. Returns that, and the serial that its answer has to have.

        Raises:
            IndexError: no executor is idle.
        """
        executor = self._idle.pop()
        assignment = self._assignments[executor]
        assignment.request = request
        assignment.serial = assignment.serial % U32_MAX + 1
        request.executor = executor
        self.busy += 1
        return executor, assignment.serial

    def serial(self, executor: Executor) -> int:
        """What the stop word calls the request that an executor was given last."""
        return self._assignments[executor].serial

    def request_of(self, executor: Executor) -> Request | None:
        """The request that an executor has."""
        assignment = self._assignments.get(executor)
        return assignment.request if assignment is not None else None

    def release(self, executor: Executor) -> None:
        """Take the request off an executor; it has ended, or goes to another."""
        assignment = self._assignments[executor]
        if assignment.request is not None:
            assignment.request.executor = None
            assignment.request = None
            self.busy -= 1

    def answered(self, executor: Executor) -> bool:
        """An executor's answer was passed on. True if it is idle now; False if it is to be retired."""
        assignment = self._assignments[executor]
        assignment.served += 1
        if not assignment.leaving:
            self._idle.append(executor)
        return not assignment.leaving

    def closed(self, executor: Executor) -> None:
        """An executor gets no request any more. The one it has stays its own until it was reaped."""
        self._forget_idle(executor)

    def reaped(self, executor: Executor) -> None:
        """An executor is dead, and its request has ended."""
        self._assignments.pop(executor, None)

    def _forget_idle(self, executor: Executor) -> bool:
        if executor not in self._idle:
            return False
        self._idle.remove(executor)
        return True
