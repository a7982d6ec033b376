"""What the pool asks of a transport, and what it tells its owner."""

from __future__ import annotations

import socket
from typing import Protocol

from molt_accel.errors import MoltError
from molt_accel.ipc.frame import Item
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.processes.endpoint import Endpoint
from molt_worker.processes.handles import ExecutorHandle


class PoolOwner(Protocol):
    """Is told what happens in the pool, and decides what becomes of requests."""

    def on_exports(self, exports: ExportTable) -> None:
        """Exports were imported, at start or at a reload, and no executor with others gets new requests."""

    def on_start_failed(self, why: MoltError) -> None:
        """The exports can't be imported, so there will never be an executor."""

    def on_reload_failed(self, why: MoltError) -> None:
        """The exports can't be imported anew. The executors that there are serve on."""

    def on_executor_ready(self, executor: ExecutorHandle) -> None:
        """An executor has started and may be given requests."""

    def on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        """A frame came from a ready executor. False if it broke the protocol: then the pool kills it."""

    def on_closed(self, executor: ExecutorHandle) -> None:
        """An executor closed its socket or broke the protocol. It is being killed; `on_reaped` will follow."""

    def on_reaped(self, executor: ExecutorHandle, exit_code: int | None) -> None:
        """An executor is dead, whatever led to that; None: because its fork server is."""


class Delivery(Protocol):
    """How requests reach executors: what the pool has to know of it."""

    #: What executors inherit of the supervisor's descriptors. A fork server keeps them, under the same numbers.
    @property
    def descriptors(self) -> tuple[int, ...]: ...

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> Endpoint:
        """An executor's way to its requests; called in the executor."""

    def withdraw(self, executor: ExecutorHandle) -> bool:
        """Give an executor, whose successor is ready, no more requests. True if it has none, and can retire now."""

    def served(self, executor: ExecutorHandle) -> int:
        """How many requests it has served."""
