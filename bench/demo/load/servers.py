"""Starts gunicorn for a scenario, waits until it answers, and stops it with everything it started."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import psutil

from bench.core import BenchError
from bench.core.environment import ROOT
from bench.core.processes import MARK_VARIABLE, Family, gunicorn_flags, wait_gone

READY_S = 30.0
# A server that isn't ready yet answers 503. With 500 the application fails, and waiting won't help.
BROKEN = 500
STOP_S = 10.0


def has_dirty_apps() -> bool:
    """Whether the gunicorn that is installed has dirty apps; older ones don't."""
    return importlib.util.find_spec("gunicorn.dirty") is not None


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """How to start one server.

    Attributes:
        asgi: It is served by uvicorn, in an event loop, instead of gunicorn's threads.
    """

    name: str
    app: str
    processes: int
    threads: int
    ready_path: str
    env: Mapping[str, str] = field(default_factory=dict)
    asgi: bool = False
    dirty_app: str = ""
    dirty_workers: int = 0


@dataclass(slots=True)
class StopReport:
    """How a server stopped: which processes had to be terminated or killed after it, and which are still there."""

    terminated: list[str] = field(default_factory=list)
    killed: list[str] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)


class Server:
    """A gunicorn with its processes; `start`, then `wait_ready`, and `stop` in any case.

    The listening socket is made here and handed over: no other process can take the port in between and be measured
    instead.
    """

    def __init__(self, spec: ServerSpec, directory: Path, root: Path = ROOT) -> None:
        self.spec = spec
        self.port = 0
        # How long processes that outlive the server may take to leave by themselves, and then to heed SIGTERM.
        self.grace_s = 3.0
        self.mark = f"{spec.name}-{secrets.token_hex(6)}"
        self._root = root
        self._log = directory / f"server-{spec.name}.log"
        self._log_file: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._family: Family | None = None
        self._last_members: list[psutil.Process] = []

    @property
    def family(self) -> Family:
        """The processes of this server, for sampling; raises BenchError before `start`."""
        if self._family is None:
            raise BenchError(f"server of {self.spec.name} is not started")
        return self._family

    def command(self, bind: str) -> list[str]:
        """The server's command line; the caller's interpreter runs it."""
        if self.spec.asgi:
            return [
                sys.executable, "-m", "uvicorn",
                "--fd", bind.removeprefix("fd://"),
                "--log-level", "warning",
                "--no-access-log",
                "--timeout-keep-alive", "75",
                # Not what is compared, and not there everywhere.
                "--loop", "asyncio", "--http", "h11",
                self.spec.app,
            ]  # fmt: skip
        dirty = ("--dirty-app", self.spec.dirty_app, "--dirty-workers", str(self.spec.dirty_workers))
        return [
            sys.executable, "-m", "gunicorn",
            "--workers", str(self.spec.processes),
            "--threads", str(self.spec.threads),
            "--worker-class", "gthread",
            # Longer than any pause between two requests of a run: a connection closed just when the next
            # request is sent would count as an error of the application.
            "--keep-alive", "75",
            "--log-level", "warning",
            "--bind", bind,
            *(dirty if self.spec.dirty_app else ()),
            *gunicorn_flags(),
            self.spec.app,
        ]  # fmt: skip

    def start(self) -> None:
        """Starts the server; raises OSError when that isn't possible."""
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listener:
            # Accepted connections inherit it. gunicorn would set it, and uvicorn takes an inherited socket for a Unix
            # one: then the second packet of an answer waits for an acknowledgement that a client delays by 40 ms.
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(("127.0.0.1", 0))
            listener.listen(2048)
            self.port = listener.getsockname()[1]
            self._log_file = self._log.open("wb")
            self._process = subprocess.Popen(
                self.command(f"fd://{listener.fileno()}"),
                cwd=self._root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=subprocess.STDOUT,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
        self._family = Family(self._process.pid, self.mark)

    def _environment(self) -> dict[str, str]:
        environment = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
        # The interpreter's own commands first, so that molt-worker is found without an activated environment.
        environment["PATH"] = os.pathsep.join((str(Path(sys.executable).parent), environment.get("PATH", "")))
        paths = (str(self._root), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        environment[MARK_VARIABLE] = self.mark
        # gunicorn's dirty arbiter puts its socket there.
        environment["TMPDIR"] = str(self._log.parent)
        return environment | dict(self.spec.env)

    def wait_ready(self, deadline_s: float = READY_S) -> bytes:
        """Waits for a good answer at the path that tells readiness, and returns its body.

        Raises BenchError with the end of the server's log if the server ends first or doesn't answer in time.
        """
        process = self._process
        if process is None:
            raise BenchError(f"server of {self.spec.name} is not started")
        deadline = time.monotonic() + deadline_s
        problem = "no answer"
        while (left := deadline - time.monotonic()) > 0:
            if process.poll() is not None:
                raise BenchError(
                    f"server of {self.spec.name} ended with code {process.returncode}. {self.log_tail()}"
                )
            # The socket listens from the start, so this request waits in its queue and isn't refused.
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=min(left, 5.0))
            try:
                connection.request("GET", self.spec.ready_path)
                response = connection.getresponse()
                body = response.read()
                if response.status == 200:
                    return body
                problem = f"status {response.status}"
                if response.status == BROKEN:
                    break
            except (OSError, http.client.HTTPException) as error:
                problem = f"{type(error).__name__}: {error}"
            finally:
                connection.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.1)
        raise BenchError(
            f"server of {self.spec.name} didn't answer {self.spec.ready_path} well "
            f"({problem}, waited up to {deadline_s:g} s). "
            f"{self.log_tail()}"
        )

    def log_tail(self, size: int = 3000) -> str:
        """The end of the server's log, introduced."""
        if not self._log.exists():
            return "It left no log."
        text = self._log.read_text(encoding="utf-8", errors="replace").strip()
        return f"End of its log:\n{text[-size:]}" if text else "Its log is empty."

    def ask_to_stop(self) -> None:
        """Tells the server to stop without waiting, so that several stop side by side."""
        if self._process is not None and self._process.poll() is None:
            # Now: once its parent is gone, a process may be found by nothing any more.
            self._last_members = self._members()
            self._process.terminate()

    def stop(self) -> StopReport:
        """Stops the server, its worker and whatever else it started, and says what it took."""
        report = StopReport()
        if self._process is None or self._family is None:
            return report
        self.ask_to_stop()
        if self._process.poll() is None:
            try:
                # A process that gunicorn forks just now may miss the signal, so it is sent more than once.
                for _ in range(int(STOP_S)):
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self._process.wait(1)
                        break
                    self.ask_to_stop()
                self._process.wait(0)
            except subprocess.TimeoutExpired:
                report.killed.append(f"{self._process.pid} gunicorn master")
                self._process.kill()
                self._process.wait()
        # A worker leaves by itself when its last client is gone.
        left = wait_gone({*self._last_members, *self._members()}, self.grace_s)
        for act, names in (("terminate", report.terminated), ("kill", report.killed)):
            if not left:
                break
            for process in left:
                with contextlib.suppress(psutil.Error):
                    names.append(f"{process.pid} {process.name()}")
                    getattr(process, act)()
            left = wait_gone({*left, *self._members()}, self.grace_s)
        report.remaining = [f"{process.pid}" for process in left]
        if self._log_file is not None:
            self._log_file.close()
        self._process = None
        return report

    def _members(self) -> list[psutil.Process]:
        return [member.process for member in self._family.members()] if self._family is not None else []
