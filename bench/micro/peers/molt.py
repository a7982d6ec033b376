"""This project's own client, on each transport, with the benchmark's own exports."""

from __future__ import annotations

import hashlib
import sys
from typing import ClassVar

from bench.micro.peers.base import Peer, Setup
from molt_accel import Client, MoltWorkerUnavailable


class _Molt(Peer):
    transport: ClassVar[str]

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client: Client | None = None

    def available(self) -> str | None:
        """Makes the client: the transport itself knows what it needs."""
        try:
            self._client = Client(
                transport=self.transport,
                worker_cmd=[sys.executable, "-m", "molt_worker"],
                # One pool for all client processes of this run, and never one that the user runs.
                worker_name=f"bench-{hashlib.sha256(str(self.setup.scratch).encode()).hexdigest()[:12]}",
                exports="bench.micro.entrypoints",
                executors=self.setup.workers,
                # The default writes a line for each request, which no peer does.
                log_level="warning",
            )
        except MoltWorkerUnavailable as error:
            return str(error)
        return None

    def start(self) -> None:
        assert self._client is not None
        self._client.start()

    def call(self, payload: object) -> object:
        assert self._client is not None
        return self._client.call("echo", payload)

    def call_raw(self, data: bytes) -> object:
        assert self._client is not None
        return self._client.call("echo_raw", data, codec="raw")

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Shm(_Molt):
    """Shared memory: one pool of executors for all client processes."""

    transport = "shm"


class Stdio(_Molt):
    """Pipes: each client process has a worker of its own."""

    transport = "stdio"
