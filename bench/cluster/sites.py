"""What clients call: a NATS server, pools with their bridges, and what answers bare requests, each a real process."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from bench.cluster.names import EXPORTS, LINK_PORT_BEHIND
from bench.core.environment import ROOT
from bench.core.processes import MARK_VARIABLE
from bench.micro.client_process import PeerFailed
from bench.micro.peers.base import Unavailable

PATIENCE_S = 60.0
_LOOK_S = 0.02
_LOG_TAIL = 1500


def nats_server() -> str:
    """The server's program: beside Python, where a package has put it, or on the PATH. Raises Unavailable."""
    beside = Path(sys.executable).parent / "nats-server"
    found = str(beside) if beside.exists() else shutil.which("nats-server")
    if found is None:
        raise Unavailable("there is no nats-server")
    return found


def free_ports() -> int:
    """A port of 127.0.0.1 that is free just now; so are those behind it that belong to it."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            port = int(first.getsockname()[1])
            try:
                second.bind(("127.0.0.1", port + LINK_PORT_BEHIND))
            except OSError:
                continue
            return port


class Site:
    """One host as clients see it. Leaving its context ends all that was started.

    Args:
        folder: For logs and sockets; its path must be short.
        mark: What its processes are told from others by.
        address: Where the server listens.
        port: Its port.
        inside: A command that runs another one there.
    """

    def __init__(self, folder: Path, mark: str, address: str, port: int, inside: Sequence[str] = ()) -> None:
        self.folder = folder
        self.mark = mark
        self.url = f"nats://{address}:{port}"
        self._address = address
        self._port = port
        self._inside = tuple(inside)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        folder.mkdir(mode=0o700, exist_ok=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for what in reversed(list(self._running)):
            self.stop(what)

    def environment(self, pool: str) -> dict[str, str]:
        """The settings of a pool, its bridge and its clients: they find each other by them."""
        folder = self.folder / pool
        folder.mkdir(mode=0o700, exist_ok=True)
        return {"MOLT_RUNTIME_DIR": str(folder), MARK_VARIABLE: self.mark}

    def start_server(self) -> None:
        """Starts NATS. Raises Unavailable: there is none."""
        self._start(
            "server", "Server is ready", {}, nats_server(), "-a", self._address, "-p", str(self._port)
        )

    def start_responder(self, *loop: str) -> None:
        """Starts what answers bare requests; `loop` may be `uvloop`."""
        command = (sys.executable, "-m", "bench.cluster.responder", self.url, *loop)
        self._start("-".join(("responder", *loop)), "responder_ready", {}, *command)

    def start_pool(self, name: str, executors: int) -> None:
        """Starts a pool, which is then there under the name."""
        self._start(
            f"pool-{name}", "exports_loaded", self.environment(name),
            sys.executable, "-m", "molt_worker", "--shm", name, "--exports", EXPORTS,
            "--executors", str(executors), "--log-level", "info",
        )  # fmt: skip

    def start_bridge(self, name: str) -> None:
        """Starts the bridge of a pool."""
        self._start(
            f"bridge-{name}", "bridge_ready", self.environment(name),
            sys.executable, "-m", "molt_worker", "bridge", "--name", name, "--nats", self.url,
        )  # fmt: skip

    def stop(self, what: str) -> None:
        """Ends one of them, by the name of its log."""
        process = self._running.pop(what)
        process.terminate()
        if process.stdin is not None:
            process.stdin.close()
        try:
            process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def pid(self, what: str) -> int:
        """The process id of one of them."""
        return self._running[what].pid

    def _start(self, what: str, says: str, settings: dict[str, str], *command: str) -> None:
        log = self.folder / f"{what}.log"
        environment = os.environ | {MARK_VARIABLE: self.mark} | settings
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), environment.get("PYTHONPATH"))))
        with log.open("wb") as file:
            process = subprocess.Popen(
                (*self._inside, *command),
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                start_new_session=True,  # an interrupt from the terminal is the runner's to handle
            )
        self._running[what] = process
        until = time.monotonic() + PATIENCE_S
        while says not in (text := log.read_text(encoding="utf-8", errors="replace")):
            if process.poll() is not None or time.monotonic() > until:
                raise PeerFailed(f"{what} did not start. End of its log: {text.strip()[-_LOG_TAIL:]}")
            time.sleep(_LOOK_S)
