"""The part of a transport that keeps a connection: makes it, makes another after its end, and closes it.

Shared memory and stdio differ in what a connection is, not in when one is made.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from molt_accel.config import Config
from molt_accel.errors import MoltClientClosed, MoltWorkerUnavailable
from molt_accel.transports import forks
from molt_accel.transports.connection import BaseConnection, ConnectionState, copy_error
from molt_accel.transports.launcher import RestartPolicy

#: How long past deadline and grace an answer may take before this side gives up on it.
SLACK_S = 0.25

C = TypeVar("C", bound=BaseConnection)


class ConnectedTransport(ABC, Generic[C]):
    """Connects at the first call, and again when the connection has ended."""

    #: Whether others may have started the worker meanwhile, so that after one that worked it is looked for at once.
    shares_worker: ClassVar[bool]

    def __init__(self, config: Config) -> None:
        self._config = config
        self._closed = False
        self._made = 0  # connections, which numbers them
        self._connection: C | None = None  # the one for new calls
        #: All that have not ended: one that was retired goes on with the calls that were made on it.
        self._connections: list[C] = []
        self._policy = RestartPolicy()
        forks.register(self)

    @abstractmethod
    def _connect(self, number: int) -> C:
        """Make a connection. Raises MoltWorkerUnavailable."""

    @property
    def ready(self) -> bool:
        connection = self._connection
        return connection is not None and connection.usable

    def _ready_connection(self) -> C:
        """The connection for new calls, which is made if there is none.

        Raises:
            MoltClientClosed: the client was closed, maybe meanwhile.
            MoltWorkerUnavailable: there is no worker, or it is too early for another start.
        """
        connection = self._connection
        if connection is not None and connection.usable:
            return connection
        with forks.start_lock():
            if self._closed:
                raise MoltClientClosed
            connection = self._connection
            if connection is not None:
                if connection.usable:
                    return connection  # another thread has made it
                self._note_end_of(connection)
                # Of both names: an error's traceback would keep the memory of what it refers to.
                connection = self._connection = None
            if self._policy.failed_starts or not self.shares_worker:
                self._policy.check(time.monotonic())
            self._made += 1
            try:
                connection = self._connect(self._made)
            except MoltWorkerUnavailable as exc:
                self._policy.died(time.monotonic(), 0.0, exc, was_ready=False)
                raise
            self._connections = [connection, *(each for each in self._connections if each.end_error is None)]
            self._connection = connection
            if self._closed:  # meanwhile, by who found no connection to close
                connection.close()
                raise MoltClientClosed
            return connection

    def _note_end_of(self, connection: C) -> None:
        """Tell the policy that the worker ended, if it has."""
        if connection.end_error is not None and not connection.closing:
            drained = connection.state is ConnectionState.DRAINED
            lived_s = math.inf if drained else connection.ended_s - connection.worker_started_s
            was_ready = drained or connection.was_ready
            self._policy.died(connection.ended_s, lived_s, connection.end_error, was_ready=was_ready)

    def wait_ready(self, timeout_s: float) -> None:
        until_s = time.monotonic() + timeout_s
        while True:
            connection = self._ready_connection()
            in_time = connection.greeted.wait(until_s - time.monotonic())
            if self._closed:
                raise MoltClientClosed
            if in_time and connection.end_error is None:
                return
            if in_time and connection.state is ConnectionState.LOST:
                raise copy_error(connection.end_error or MoltWorkerUnavailable("the worker is gone"))
            if time.monotonic() >= until_s:
                raise MoltWorkerUnavailable(f"the worker was not ready within {timeout_s:g} s")
            # It drained, and has a successor.

    def close(self) -> None:
        # Without the lock: a start may take long. Who makes a connection looks whether it is still wanted, once it
        # is listed.
        self._closed = True
        for connection in self._connections:
            connection.close()

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections; the next call makes one of this process's own."""
        self._policy = RestartPolicy()
        self._connection = None
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.forget()
