"""This project's client beside requests that wait, as for I/O: all executors of a pool but one have such a request."""

from __future__ import annotations

import fcntl
import time
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from bench.micro.peers.base import Setup
from bench.micro.peers.molt import MoltPeer, SameSession, Shm

TAKEN_UP_S = 30.0
LOOK_S = 0.005
#: How long the first request waits. From then on the pool knows that such requests take long, as it does in a server.
FIRST_S = 0.1


def _locked(path: Path) -> IO[bytes]:
    """Lock a file, which is free. Closing it lets go of the lock."""
    file = path.open("wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    return file


class _Waiting(MoltPeer):
    """From `start` to `stop` the requests wait for a lock on a file, which this process has."""

    executors = 6

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._lock: IO[bytes] | None = None
        self._threads: ThreadPoolExecutor | None = None
        self._waiting: list[Future[Any]] = []

    def start(self) -> None:
        super().start()
        path = self.setup.scratch / "lock"
        count = self.executors - 1
        self._threads = ThreadPoolExecutor(count)
        with _locked(path):
            first = self._threads.submit(self._wait, path)
            time.sleep(FIRST_S)
        first.result()
        self._lock = _locked(path)
        self._waiting = [self._threads.submit(self._wait, path) for _ in range(count)]
        until = time.monotonic() + TAKEN_UP_S
        while self._running_beside() < count:
            if time.monotonic() > until:
                raise RuntimeError("the requests that shall wait are not taken up")
            time.sleep(LOOK_S)

    def _wait(self, path: Path) -> object:
        return self.client.call("wait", str(path), timeout_ms=None)

    def _running_beside(self) -> int:
        """How many requests ran while one more did."""
        seen: list[int] = []
        self.client.call("echo", None, metrics_hook=lambda metrics: seen.append(metrics.in_flight - 1))
        self._check()
        return seen[0]

    def _check(self) -> None:
        """Raises what a request has raised that shall wait, or RuntimeError if one has ended otherwise."""
        for each in self._waiting:
            if each.done():
                each.result()
                raise RuntimeError("a request that shall wait has ended")

    def latency(
        self, payload: object, *, calls: int, limit_s: float, pause_s: float, raw: bool = False
    ) -> list[int]:
        samples = super().latency(payload, calls=calls, limit_s=limit_s, pause_s=pause_s, raw=raw)
        self._check()
        return samples

    def stop(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        super().stop()


class Waiting(_Waiting, Shm):
    """The worker is in a session of its own."""


class SameSessionWaiting(_Waiting, SameSession):
    """The worker is in the client's session."""
