"""The part of a transport that makes a connection, makes another after its end, and closes it.

Shared memory and stdio differ in what a connection is, but not in when one is made.
"""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from typing import ClassVar, Generic, TypeVar

from molt_accel.config import Config
from molt_accel.errors import MoltClientClosed, MoltWorkerUnavailable
from molt_accel.ipc import outcomes
from molt_accel.process import role
from molt_accel.transports import forks
from molt_accel.transports.base import RefusesNothing
from molt_accel.transports.connection import BaseConnection, ConnectionState, copy_error
from molt_accel.transports.launcher import RestartPolicy
from molt_accel.transports.line import Line
from molt_accel.transports.overflow import overflow_of

SLACK_S = 0.25  #: how long after deadline and grace time a client still waits for the answer

C = TypeVar("C", bound=BaseConnection)


class ConnectedTransport(RefusesNothing, ABC, Generic[C]):
    """Connects at the first call, and again when the connection has ended."""

    #: Whether another process may have started a worker meanwhile, so that it pays to look for one at once.
    shares_worker: ClassVar[bool]

    def __init__(self, config: Config) -> None:
        self._config = config
        self._closed = False
        self._made = 0  # how many connections were made
        self._connection: C | None = None  # the one for new calls
        self._connections: list[C] = []  #: all that have not ended: a retired one goes on with its calls
        self._policy = RestartPolicy()
        self.line = Line()
        self.overflow = overflow_of(config)
        forks.register(self)

    @abstractmethod
    def _connect(self, number: int) -> C:
        """Make a connection. Raises MoltWorkerUnavailable."""

    @property
    def max_wait_ms(self) -> int:
        return self._config.max_wait_ms

    @property
    def ready(self) -> bool:
        connection = self._connection
        return connection is not None and connection.usable

    def _ready_connection(self) -> C:
        """Return the connection for new calls; make it if there is none.

        Raises:
            MoltClientClosed: the client was closed.
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
                # Both names: an error's traceback would keep the old connection and its memory alive.
                connection = self._connection = None
            role.check(self._config)
            if self._policy.failed_starts or not self.shares_worker:
                self._policy.check(time.monotonic())
            self._made += 1
            try:
                try:
                    connection = self._connect(self._made)
                except OSError as exc:  # no descriptor, no memory, a directory that is gone, ...
                    raise MoltWorkerUnavailable(f"can't reach or start the worker: {exc}") from exc
            except MoltWorkerUnavailable as exc:
                self._policy.died(time.monotonic(), 0.0, exc, was_ready=False)
                raise
            self._connections = [connection, *(each for each in self._connections if each.end_error is None)]
            self._connection = connection
            if self._closed:  # meanwhile, by a thread that found no connection to close
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
                raise copy_error(connection.end_error or outcomes.worker_gone())
            if time.monotonic() >= until_s:
                raise MoltWorkerUnavailable(f"the worker was not ready within {timeout_s:g} s")
            # The worker drained, and has a successor.

    def close(self) -> None:
        # Without the start lock, since a start may take long. A thread that makes a connection looks at `_closed`
        # once it has listed it.
        self._closed = True
        for connection in self._connections:
            connection.close()
        if self.overflow is not None:
            self.overflow.close()

    def after_fork_in_child(self) -> None:
        """Forget the parent's connections. The next call makes one of this process's own."""
        self._policy = RestartPolicy()
        self.line = Line()  # the parent's threads wait in the other
        self._connection = None
        connections, self._connections = self._connections, []
        for connection in connections:
            connection.forget()
