"""The standard library's ProcessPoolExecutor."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor

from bench.micro.peers.base import Peer, Setup


def echo(value: object) -> object:
    """What runs in the pool's processes."""
    return value


class Executor(Peer):
    """`submit(...).result()`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._pool: ProcessPoolExecutor | None = None

    def start(self) -> None:
        self._pool = ProcessPoolExecutor(max_workers=self.setup.workers)
        self.call(None)

    def call(self, payload: object) -> object:
        assert self._pool is not None
        return self._pool.submit(echo, payload).result()

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
