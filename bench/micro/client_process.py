"""The runner's hold on one client process (`bench.micro.caller`, or what is served as that is)."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.environment import ROOT
from bench.core.processes import MARK_VARIABLE
from bench.micro.peers.base import Unavailable

PROGRAM = (sys.executable, "-m", "bench.micro.caller")
STOP_S = 15.0
HEAD_START_NS = 20_000_000
"""Time for client processes to stand ready before a window begins."""
LOG_TAIL = 1500


class PeerFailed(Exception):
    """A peer could be started but didn't work; the text says what happened."""


class ClientProcess:
    """Starts at once; `ask` it, or `send` and later `receive`; `close` in any case."""

    def __init__(
        self,
        log: Path,
        mark: str,
        command: Sequence[str] = PROGRAM,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._log = log
        environment = os.environ | {MARK_VARIABLE: mark} | dict(settings or {})
        paths = (str(ROOT), environment.get("PYTHONPATH", ""))
        environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                # An interrupt from the terminal is the runner's to handle.
                start_new_session=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin = self._process.stdin
        self._stdout = self._process.stdout
        self._pending = b""

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def send(self, do: str, **details: Any) -> None:
        """Sends a request without waiting. Raises PeerFailed where the process is gone."""
        try:
            self._stdin.write(json.dumps({"do": do, **details}).encode() + b"\n")
            self._stdin.flush()
        except OSError as error:
            raise PeerFailed(f"its client process is gone. {self.log_tail()}") from error

    def receive(self, timeout_s: float) -> dict[str, Any]:
        """The answer to the last request.

        Raises:
            Unavailable: the peer can't run here.
            PeerFailed: it failed, the process ended, or the time is over.
        """
        until = time.monotonic() + timeout_s
        while b"\n" not in self._pending:
            left = until - time.monotonic()
            if left <= 0 or not select.select([self._stdout], [], [], left)[0]:
                raise PeerFailed(f"no answer within {timeout_s:g} s. {self.log_tail()}")
            data = os.read(self._stdout.fileno(), 1 << 20)
            if not data:
                raise PeerFailed(f"its client process ended. {self.log_tail()}")
            self._pending += data
        line, _, self._pending = self._pending.partition(b"\n")
        answer: dict[str, Any] = json.loads(line)
        if "unavailable" in answer:
            raise Unavailable(answer["unavailable"])
        if "error" in answer:
            raise PeerFailed(answer["error"])
        return answer

    def ask(self, do: str, *, timeout_s: float, **details: Any) -> dict[str, Any]:
        """`send` and `receive`."""
        self.send(do, **details)
        return self.receive(timeout_s)

    def log_tail(self) -> str:
        """The end of what it wrote to stderr, introduced."""
        text = self._log.read_text(encoding="utf-8", errors="replace").strip() if self._log.exists() else ""
        return f"End of its log: {text[-LOG_TAIL:]}" if text else "Its log is empty."

    def ask_to_stop(self) -> None:
        """Closes its stdin, at whose end it ends, and does not wait: several can end side by side."""
        if not self._stdin.closed:
            try:
                self._stdin.close()
            except OSError:
                # It is gone already; there is nobody to flush the rest to.
                return

    def close(self) -> bool:
        """Waits for its end, and kills it if that takes too long. Returns whether it ended by itself."""
        self.ask_to_stop()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return False
        finally:
            self._stdout.close()
        return True


def begin_window(
    clients: Iterable[ClientProcess],
    *,
    size: int,
    callers: int,
    window_s: float,
    head_start_ns: int = HEAD_START_NS,
) -> int:
    """Has all of them call as fast as they can, from the same moment on. Each answers with its `calls` afterwards.

    Args:
        size: Of the payload, in bytes.
        callers: How many threads or tasks of each call at once.
        window_s: For how long.
        head_start_ns: How soon the window begins.

    Returns when it begins, in nanoseconds of CLOCK_MONOTONIC. Raises PeerFailed where a process is gone.
    """
    start_at_ns = time.monotonic_ns() + head_start_ns
    for client in clients:
        client.send("throughput", size=size, callers=callers, start_at_ns=start_at_ns, window_s=window_s)
    return start_at_ns
