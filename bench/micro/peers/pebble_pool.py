"""Pebble's ProcessPool: a pool whose tasks can be given a time limit, and whose processes can be stopped."""

from __future__ import annotations

from pebble import ProcessPool

from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.executors import echo


class Pebble(Peer):
    """`schedule(...).result()`, without a time limit."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._pool: ProcessPool | None = None

    def start(self) -> None:
        self._pool = ProcessPool(max_workers=self.setup.workers)
        self.call(None)

    def call(self, payload: object) -> object:
        assert self._pool is not None
        answer: object = self._pool.schedule(echo, args=(payload,)).result()
        return answer

    def stop(self) -> None:
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            self._pool.join()
            self._pool = None
