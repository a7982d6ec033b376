"""A NATS server, pools and bridges, each a real process of the test's own."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from molt_accel import Client
from tests.support import EXPORTS
from tests.support.nats_server import PATIENCE_S, NatsServer
from tests.support.processes import closing_all, wait_until


@dataclass
class Started:
    """A process, and what it has said."""

    process: subprocess.Popen[bytes]
    log: Path

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said so."""
        wait_until(
            lambda: (
                self.log.read_text(errors="replace").count(text) >= times or self.process.poll() is not None
            ),
            PATIENCE_S,
        )
        assert self.log.read_text(errors="replace").count(text) >= times, self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE_S)


class Cluster:
    """What one test has of it.

    Args:
        folder: For logs and files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nats = NatsServer(folder)
        self.started: list[Started] = []

    @property
    def url(self) -> str:
        return self.nats.url

    def _start(self, name: str, *command: str, cwd: str | None = None, **environ: str) -> Started:
        log = self.folder / f"{name}-{len(self.started)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                env={**os.environ, **environ},
                cwd=cwd,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
            )
        started = Started(process, log)
        self.started.append(started)
        return started

    def pool(self, name: str = "pool", *flags: str) -> Started:
        command = (
            sys.executable,
            "-m",
            "molt_worker",
            "--shm",
            name,
            "--exports",
            EXPORTS,
            "--executors",
            "2",
        )
        started = self._start(name, *command, *flags)
        started.says("exports_loaded")
        return started

    def bridge(
        self, name: str = "pool", *flags: str, ready: bool = True, cwd: str | None = None, **environ: str
    ) -> Started:
        command = (sys.executable, "-m", "molt_worker", "bridge", "--name", name, "--nats", self.url)
        started = self._start(f"bridge-{name}", *command, *flags, cwd=cwd, **environ)
        if ready:
            started.says("bridge_ready")
        return started

    def end(self) -> None:
        for each in reversed(self.started):
            each.process.kill()
            each.process.wait()
        if self.nats.started:
            self.nats.kill()


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    yield made
    made.end()


@pytest.fixture
def remote(cluster: Cluster) -> Iterator[Callable[..., Client]]:
    """Makes clients of the cluster, and closes them in the end."""

    def make(**config: object) -> Client:
        return Client(**{"transport": "nats", "nats_url": cluster.url, **config})

    with closing_all(make) as make_one:
        yield make_one


@pytest.fixture
def whole(cluster: Cluster) -> Cluster:
    """A server, a pool and its bridge."""
    cluster.nats.start()
    cluster.pool()
    cluster.bridge()
    return cluster
