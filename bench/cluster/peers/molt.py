"""This project's client: to a pool of its own over shared memory, and to the pool of another host over NATS."""

from __future__ import annotations

import hashlib
import sys
from typing import Any

from bench.cluster.names import EXPORTS
from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.looped import Looped
from molt_accel import Client, MoltWorkerUnavailable


class _Molt(Peer):
    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Made by `start`."""
        assert self._client is not None
        return self._client

    def settings(self) -> dict[str, Any]:
        """What the client is configured by."""
        return {"transport": "nats", "nats_url": self.setup.at}

    def start(self) -> None:
        self._client = Client(**self.settings())
        self._client.start()

    def call(self, payload: object) -> object:
        return self.client.call("echo", payload)

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Call(_Molt):
    """Over NATS, blocking."""


class Shm(_Molt):
    """Over shared memory, blocking; the client starts the pool."""

    def settings(self) -> dict[str, Any]:
        return {
            "transport": "shm",
            "worker_cmd": [sys.executable, "-m", "molt_worker"],
            "worker_name": f"bench-{hashlib.sha256(str(self.setup.scratch).encode()).hexdigest()[:12]}",
            "exports": EXPORTS,
            "executors": 1,
            "log_level": "warning",  # the default writes a line for each request, which no other row does
        }

    def available(self) -> str | None:
        try:
            Client(**self.settings()).close()
        except MoltWorkerUnavailable as error:
            return str(error)
        return None


class Acall(Looped):
    """Over NATS, in an event loop."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._molt = Call(setup)

    async def astart(self) -> None:
        self._molt.start()

    async def acall(self, payload: object) -> object:
        return await self._molt.client.acall("echo", payload)

    async def astop(self) -> None:
        self._molt.stop()
