"""Looking at a pool from outside: which pools are served, and an attachment that only reads."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass

from molt_accel.config import Config
from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc import control
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import SHM_FROM_WORKER
from molt_accel.ipc.shm.attach import connect, observe
from molt_accel.ipc.shm.layout import Gauge
from molt_worker.supervisor.shm.snapshot import Snapshot, take


@dataclass(frozen=True, slots=True)
class PoolPlace:
    """A pool's name, and where its socket is if somebody serves it."""

    name: str
    directory: str
    path: str

    @classmethod
    def of(cls, config: Config) -> PoolPlace:
        """The configured one. Where none is named and this project's own is not served: the only one that is.

        A project's own name follows from its settings, and a shell may not have all that its server has.
        """
        directory, name = config.pool_directory, config.pool_name
        if not config.worker_name:
            served = list(pools_in(directory))
            if len(served) == 1:
                name = served[0]
        return cls(name, directory, control.socket_path(directory, name))

    def missing(self) -> str:
        """The error text for a pool that nobody serves. It says which pools are served."""
        served = list(pools_in(self.directory))
        if served:
            others = f"served there are: {', '.join(served)}; choose one with --name"
        else:
            others = "no pool is served there; one is by a client's first call, or by molt-worker --shm NAME"
        return f"nobody serves the pool {self.name!r} in {self.directory}; {others}"


def pools_in(directory: str) -> Iterator[str]:
    """The names of the pools that are served in a directory, by this user."""
    with contextlib.suppress(OSError):
        for file in sorted(os.listdir(directory)):
            name, suffix = os.path.splitext(file)
            if suffix == ".sock":
                # A file may be left of a worker that was killed, or be another user's.
                with contextlib.suppress(MoltWorkerUnavailable):
                    sock = connect(os.path.join(directory, file))
                    if sock is not None:
                        sock.close()
                        yield name


class Observer:
    """An attachment to a pool that only looks."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        try:
            self._arena = observe(sock)
            # Of another pid namespace (a container's), its process ids are other processes' here.
            self._processes = control.peer(sock)[0] == self._arena.gauge(Gauge.PID)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def of(cls, pool: PoolPlace) -> Observer:
        """Attach to a pool. Raises MoltWorkerUnavailable: nobody serves it, or this process can't attach."""
        sock = connect(pool.path)
        if sock is None:
            raise MoltWorkerUnavailable(pool.missing())
        return cls(sock)

    def look(self) -> Snapshot:
        return take(self._arena, processes=self._processes)

    def sleep(self, seconds: float) -> bool:
        """Wait. False as soon as the pool has ended."""
        until = time.monotonic() + seconds
        while select.select([self._sock], [], [], max(0.0, until - time.monotonic()))[0]:
            try:
                message, _ = control.receive(self._sock, SHM_FROM_WORKER)
            except (OSError, FrameError):
                return False
            if message is None:
                return False
        return True

    def close(self) -> None:
        self._sock.close()
