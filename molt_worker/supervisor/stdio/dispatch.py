"""The pool as stdio uses it: every request passes through the supervisor, which hands it to an idle executor.

Knows which executor has which request. What becomes of a request is its owner's decision.
"""

from __future__ import annotations

import socket
from typing import Final, Protocol

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltWorkerCrashed
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import U32_MAX, Hello, Response
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.endpoint import SocketEndpoint
from molt_worker.processes.handles import ExecutorHandle, ExecutorState
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.runtime.metrics import Counters
from molt_worker.supervisor.stdio.lifecycle import Request


class PoolOwner(Protocol):
    """What the pool tells whoever hands out requests."""

    def on_exports(self, exports: ExportTable) -> None:
        """The exports were imported, at start or at a reload."""

    def on_executor_ready(self) -> None:
        """An executor has started and is idle."""

    def on_response(self, request: Request, response: Response) -> None:
        """An executor answered."""

    def on_not_started(self, request: Request) -> None:
        """The executor died before it had read its request."""

    def on_silent(self, request: Request) -> None:
        """The executor's socket closed without an answer; `on_crash` follows when it was reaped."""

    def on_crash(self, request: Request, crash: MoltError) -> None:
        """The executor is dead and did not answer. The request must end, which releases the executor."""

    def on_start_failed(self, why: str) -> None:
        """The exports can't be imported, so there will never be an executor."""


class _Desk:
    """What an executor is given to do, from its being ready until it was reaped."""

    __slots__ = ("executor", "leaving", "request", "serial", "served")

    def __init__(self, executor: ExecutorHandle) -> None:
        self.executor: Final = executor
        self.request: Request | None = None
        self.serial = 0  #: of the request it was given last; the frame's generation on its socket
        self.served = 0
        self.leaving = False  #: gets no other request


class DispatchPool(Pool):
    """Executors that are handed one request at a time over their sockets.

    Args:
        owner: Is told what happens.
    """

    def __init__(
        self, config: Config, loop: EventLoop, log: LogSink, counters: Counters, owner: PoolOwner
    ) -> None:
        def make_endpoint(sock: socket.socket, number: int, slot: int) -> SocketEndpoint:
            del number, slot  # nothing but the stop word is shared
            return SocketEndpoint(sock, config.max_frame_bytes)

        # Slots for a whole pool being replaced while one more generation is being reaped.
        super().__init__(config, loop, log, counters, make_endpoint, slots=4 * config.pool_size + 16)
        self._owner = owner
        self._desks: dict[ExecutorHandle, _Desk] = {}
        self._idle: list[_Desk] = []  # the one used last is used next: its caches are warm
        self._busy = 0

    @property
    def idle(self) -> bool:
        """Whether an executor is free."""
        return bool(self._idle)

    @property
    def busy(self) -> int:
        """How many executors have a request."""
        return self._busy

    def hand_out(self, request: Request, queue_depth: int) -> None:
        """Give a request to an idle executor. If that one has just died, `on_not_started` gives it back.

        Raises:
            IndexError: no executor is idle.
        """
        desk = self._idle.pop()
        desk.request = request
        request.executor = desk.executor
        desk.serial = desk.serial % U32_MAX + 1
        self._busy += 1
        frame = request.frame
        client_generation = frame.generation
        frame.queue_depth = queue_depth
        frame.in_flight = self._busy
        frame.generation = desk.serial  # on this socket; the client's own comes back with the response
        try:
            self._send(desk.executor, frame)
        finally:
            frame.generation = client_generation

    def release(self, executor: ExecutorHandle) -> None:
        """Take the request off an executor; it has ended."""
        desk = self._desks[executor]
        if desk.request is not None:
            desk.request.executor = None
            desk.request = None
            self._busy -= 1

    def interrupt(self, executor: ExecutorHandle, reason: StopReason) -> None:
        """Raise in the request that the executor runs; a later one is not touched."""
        self._interrupt(executor, self._desks[executor].serial, reason)

    def describe(self) -> dict[str, object]:
        """The pool's part of a health report."""
        living = self._living()
        ready = sum(executor.state is ExecutorState.READY for executor in living)
        return {
            "size": self.size,
            "idle": len(self._idle),
            "busy": ready - len(self._idle),
            "starting": len(living) - ready,
            "pids": [executor.pid for executor in living if executor.pid],
        }

    # -- what Pool tells --------------------------------------------------------------------------------

    def _on_ready(self, executor: ExecutorHandle) -> None:
        desk = self._desks[executor] = _Desk(executor)
        self._idle.append(desk)
        self._owner.on_executor_ready()

    def _on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        if not isinstance(message, Response):
            return isinstance(message, Hello)  # it greets again, which is nothing to act on
        desk = self._desks[executor]
        request = desk.request
        if request is None or message.generation != desk.serial:
            return False  # an answer to nothing it was given
        self.release(executor)
        self._owner.on_response(request, message)
        desk.served += 1
        if desk.leaving:
            self._dismiss(executor)
            return True
        self._idle.append(desk)
        if self._config.max_requests and desk.served >= self._config.max_requests:
            self._recycle(executor, "max_requests")
        return True

    def _on_replaced(self, executor: ExecutorHandle) -> None:
        desk = self._desks[executor]
        desk.leaving = True
        if desk in self._idle:
            self._idle.remove(desk)
            self._dismiss(executor)

    def _on_closed(self, executor: ExecutorHandle) -> None:
        desk = self._desks.get(executor)
        if desk is None:
            return  # it never was ready
        if desk in self._idle:
            self._idle.remove(desk)
        request = desk.request
        if request is None:
            return
        unread = executor.stream.was_reset or executor.stream.pending_bytes
        if unread and request.handed_back < self.size:
            # It died before it had read its request, so that has not begun. That may be chance, for each
            # executor of the pool once; if it goes on, it is the request that kills them.
            self.release(executor)
            self._owner.on_not_started(request)
        else:
            self._owner.on_silent(request)

    def _on_reaped(self, executor: ExecutorHandle, crash: MoltWorkerCrashed) -> None:
        desk = self._desks.get(executor)
        if desk is not None and desk.request is not None:
            self._log.log("error", "executor_crashed", executor=executor.number, error=crash.detail)
            self._owner.on_crash(desk.request, crash)
        self._desks.pop(executor, None)

    def _on_exports(self, exports: ExportTable) -> None:
        self._owner.on_exports(exports)

    def _on_start_failed(self, why: str) -> None:
        self._owner.on_start_failed(why)

    def _served(self, executor: ExecutorHandle) -> int:
        desk = self._desks.get(executor)
        return desk.served if desk is not None else 0

    def _running(self, executor: ExecutorHandle) -> str:
        desk = self._desks.get(executor)
        if desk is None or desk.request is None:
            return super()._running(executor)
        return repr(desk.request.frame.entry)
