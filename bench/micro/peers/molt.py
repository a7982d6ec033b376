"""This project's own client, on each transport, with the benchmark's own exports."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any, ClassVar

from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.looped import Looped
from molt_accel import Client, MoltWorkerUnavailable

WORKER = (sys.executable, "-m", "molt_worker")
EXPORTS = "bench.micro.entrypoints"
MOST_IN_FLIGHT = 256


def settings_of(setup: Setup, transport: str) -> dict[str, Any]:
    """What a client is configured by: the benchmark's exports, in a pool that is no other run's nor the user's own."""
    return {
        "transport": transport,
        "worker_cmd": [*WORKER],
        # One pool for all client processes of this run.
        "worker_name": f"bench-{hashlib.sha256(str(setup.scratch).encode()).hexdigest()[:12]}",
        "exports": EXPORTS,
        "executors": setup.workers,
        # All clients of the pool come before any of them leaves, so nothing has to be kept for later ones.
        "linger_ms": 1000,
        # The default writes a line for each request, which no peer does.
        "log_level": "warning",
    }


class MoltPeer(Peer):
    """`Client.call`."""

    transport: ClassVar[str] = "shm"
    executors: ClassVar[int] = 0
    """How many the pool has; 0: as many as the run says."""
    spin_us: ClassVar[int | None] = None
    """How long either side may stay awake in a wait; None: as long as the worker finds right."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client: Client | None = None

    @property
    def client(self) -> Client:
        """Made by `available`."""
        assert self._client is not None
        return self._client

    def settings(self) -> dict[str, Any]:
        """What the client is configured by."""
        plain = settings_of(self.setup, self.transport)
        return plain | {"executors": self.executors or self.setup.workers, "spin_us": self.spin_us}

    def available(self) -> str | None:
        """Makes the client: the transport itself knows what it needs."""
        try:
            self._client = Client(**self.settings())
        except MoltWorkerUnavailable as error:
            return str(error)
        return None

    def start(self) -> None:
        self.client.start()

    def call(self, payload: object) -> object:
        return self.client.call("echo", payload)

    def call_raw(self, data: bytes) -> object:
        return self.client.call("echo_raw", data, codec="raw")

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Shm(MoltPeer):
    """Shared memory: one pool of executors for all client processes, in a session of its own, as a client starts it."""


class FourExecutors(Shm):
    """The same with four executors."""

    executors = 4


class EightExecutors(Shm):
    """The same with eight executors."""

    executors = 8


class Parks(Shm):
    """The same, but both sides sleep whenever they wait."""

    spin_us = 0


class SameSession(MoltPeer):
    """Shared memory: each client process has a pool of its own, which is in the client's session."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._worker: subprocess.Popen[bytes] | None = None

    def settings(self) -> dict[str, Any]:
        plain = super().settings()
        return plain | {"worker_name": f"{plain['worker_name']}-{os.getpid()}", "autostart": False}

    def start(self) -> None:
        settings = self.settings()
        self._worker = subprocess.Popen(
            [
                *WORKER, "--shm", settings["worker_name"], "--exports", EXPORTS,
                "--executors", str(settings["executors"]), "--log-level", settings["log_level"],
            ],
            env=os.environ if self.spin_us is None else {**os.environ, "MOLT_SPIN_US": str(self.spin_us)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._worker.stdout is not None
        # The worker closes it when it listens. Before that it writes why it can't.
        if self._worker.stdout.read():
            raise RuntimeError("the worker can't start")
        self.client.start()

    def stop(self) -> None:
        super().stop()
        if self._worker is not None:
            self._worker.terminate()
            self._worker.wait()
            if self._worker.stdout is not None:
                self._worker.stdout.close()
            self._worker = None


class SameSessionParks(SameSession):
    """The same, but both sides sleep whenever they wait."""

    spin_us = 0


class Stdio(MoltPeer):
    """Pipes: each client process has a worker of its own."""

    transport = "stdio"


class _Many(Shm):
    """A pool with places for many calls in flight; whoever waits long for one is not refused, as in a closed loop."""

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"max_queue": MOST_IN_FLIGHT, "queue_target_ms": 0}


class Acall(Looped):
    """Shared memory, in an event loop of asyncio."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._molt = _Many(setup)

    def available(self) -> str | None:
        return self._molt.available()

    async def astart(self) -> None:
        self._molt.start()

    async def acall(self, payload: object) -> object:
        return await self._molt.client.acall("echo", payload)

    async def astop(self) -> None:
        self._molt.stop()


class UvloopAcall(Acall):
    """The same in an event loop of uvloop, whose absence makes the peer unavailable."""

    def new_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop

    def available(self) -> str | None:
        return super().available() if find_spec("uvloop") else "uvloop isn't installed"
