"""Which executor has which request: over stdio, the supervisor passes each request to an idle executor.

This is bookkeeping only. The supervisor decides what becomes of a request.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Final

from molt_accel.ipc.messages import U32_MAX
from molt_worker.processes.endpoint import SocketEndpoint
from molt_worker.processes.handles import ExecutorHandle
from molt_worker.supervisor.stdio.admission import Running
from molt_worker.supervisor.stdio.lifecycle import Request


@dataclass(slots=True)
class _Assignment:
    """What an executor is given to do, from its being ready until it was reaped."""

    request: Request | None = None
    serial: int = 0  #: of the request it was given last; the frame's generation on its socket
    served: int = 0
    leaving: bool = False  #: its successor is ready, so it gets no other request


class HandOut:
    """Executors and what they have; the pool's `Delivery`."""

    descriptors: Final[tuple[int, ...]] = ()

    def __init__(self, max_frame_bytes: int) -> None:
        self._max_frame_bytes = max_frame_bytes
        self._assignments: dict[ExecutorHandle, _Assignment] = {}
        self._idle: list[ExecutorHandle] = []  # the one used last is used next: its caches are warm
        self.running: dict[ExecutorHandle, Running] = {}  #: what each executor has that has a request

    @property
    def busy(self) -> int:
        """How many executors have a request."""
        return len(self.running)

    @property
    def idle(self) -> int:
        """How many executors have no request."""
        return len(self._idle)

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> SocketEndpoint:
        del number, slot  # nothing but the stop word is shared
        return SocketEndpoint(sock, self._max_frame_bytes)

    def withdraw(self, executor: ExecutorHandle) -> bool:
        self._assignments[executor].leaving = True
        return self.closed(executor)

    def served(self, executor: ExecutorHandle) -> int:
        assignment = self._assignments.get(executor)
        return assignment.served if assignment is not None else 0

    def add(self, executor: ExecutorHandle) -> None:
        """Let an executor, which is ready, have requests."""
        self._assignments[executor] = _Assignment()
        self._idle.append(executor)

    def assign(self, request: Request, now_ns: int) -> tuple[ExecutorHandle, int]:
        """Give a request to an idle executor; there must be one. Returns it and its answer's serial."""
        executor = self._idle.pop()
        assignment = self._assignments[executor]
        assignment.request = request
        assignment.serial = assignment.serial % U32_MAX + 1
        request.executor = executor
        self.running[executor] = Running(request.frame.entry, now_ns)
        return executor, assignment.serial

    def serial(self, executor: ExecutorHandle) -> int:
        """The serial of the request that an executor was given last. The stop word names the request by it."""
        return self._assignments[executor].serial

    def request_of(self, executor: ExecutorHandle) -> Request | None:
        """The request that an executor has."""
        assignment = self._assignments.get(executor)
        return assignment.request if assignment is not None else None

    def release(self, executor: ExecutorHandle) -> None:
        """Take its request off an executor, because the request has ended or goes to another."""
        assignment = self._assignments[executor]
        if assignment.request is not None:
            assignment.request.executor = None
            assignment.request = None
            del self.running[executor]

    def answered(self, executor: ExecutorHandle) -> bool:
        """Count an executor's answer. True if the executor is idle now; False if it is to be retired."""
        assignment = self._assignments[executor]
        assignment.served += 1
        if not assignment.leaving:
            self._idle.append(executor)
        return not assignment.leaving

    def closed(self, executor: ExecutorHandle) -> bool:
        """Give an executor no other request. It has the one that it has until it is reaped. True if it was idle."""
        was_idle = executor in self._idle
        if was_idle:
            self._idle.remove(executor)
        return was_idle

    def reaped(self, executor: ExecutorHandle) -> None:
        """Forget an executor that is dead, and whose request has ended."""
        self._assignments.pop(executor, None)
