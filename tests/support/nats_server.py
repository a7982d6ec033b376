"""A NATS server of a test's own, as a real process."""

import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.support.processes import wait_until

PATIENCE_S = 60


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def program() -> str:
    """The server's program, which a Python package brings."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        pytest.skip("no nats-server")
    return found


class NatsServer:
    """Starts it when it is entered.

    Args:
        folder: For its log.
        flags: Of its command line.
        port: Where it listens; by default a free one.
        scheme: Of its URL.
    """

    def __init__(
        self, folder: Path, flags: Sequence[str] = (), port: int | None = None, scheme: str = "nats"
    ) -> None:
        self.port = port or free_port()
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self._log = folder / f"nats-{self.port}.log"
        self.started = False
        self._command = (program(), "-a", "127.0.0.1", "-p", str(self.port), *flags)

    def start(self) -> None:
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        wait_until(lambda: b"Server is ready" in self._log.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, self._log.read_text()
        self.started = True

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
