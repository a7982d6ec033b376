"""gunicorn's dirty apps: a pool beside the HTTP workers, which they reach through an arbiter process.

The client is the one that gunicorn gives to its HTTP workers, used from here: what an HTTP worker would add is left
out, as it is for all peers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

# Resolved at import, so that a gunicorn without dirty apps is a reason that is told.
from gunicorn.dirty import (  # type: ignore[import-untyped]
    DirtyError,
    get_dirty_client,
    set_dirty_socket_path,
)

from bench.core.environment import ROOT
from bench.core.processes import gunicorn_flags
from bench.micro.peers.base import Peer, Setup

APP = "bench.micro.peers.dirty.app:Echo"
START_S = 30.0


class Dirty(Peer):
    """`get_dirty_client().execute(...)`, a client for each thread as gunicorn gives it."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        """The gunicorn that has the dirty app; its one HTTP worker has nothing to do."""
        return [
            sys.executable, "-m", "gunicorn",
            "--workers", "1",
            "--bind", f"unix:{self.setup.scratch}/http.sock",
            "--dirty-app", APP,
            "--dirty-workers", str(self.setup.workers),
            "--log-level", "warning",
            *gunicorn_flags(),
            "bench.micro.peers.dirty.app:application",
        ]  # fmt: skip

    def start(self) -> None:
        if self.setup.first:
            environment = {name: value for name, value in os.environ.items() if name != "GUNICORN_CMD_ARGS"}
            # Its sockets and pid files go to the directory for temporary files, and by name: one of its own.
            environment["TMPDIR"] = str(self.setup.scratch)
            self._process = subprocess.Popen(
                self.command(), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=sys.stderr
            )
        self._wait_for_answers()

    def _wait_for_answers(self) -> None:
        until = time.monotonic() + START_S
        problem = "no arbiter socket"
        while time.monotonic() < until:
            if self._process is not None and self._process.poll() is not None:
                raise RuntimeError(f"gunicorn ended with code {self._process.returncode}")
            for path in self.setup.scratch.glob("gunicorn-dirty-*/arbiter.sock"):
                set_dirty_socket_path(str(path))
                try:
                    self.call(None)
                except DirtyError as error:
                    problem = str(error)
                else:
                    return
            time.sleep(0.05)
        raise RuntimeError(f"gunicorn's dirty app didn't answer within {START_S:g} s: {problem}")

    def call(self, payload: object) -> object:
        answer: object = get_dirty_client().execute(APP, "echo", payload)
        return answer

    def stop(self) -> None:
        get_dirty_client().close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
