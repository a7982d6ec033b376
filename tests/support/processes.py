"""What pytest's tests and the long-running programs beside them need of processes."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from pathlib import Path

import psutil


def logged_worker(log: Path, module: str = "molt_worker") -> str:
    """A command, for MOLT_WORKER_CMD, that starts a worker with this Python and appends what it says to a file."""
    script = f'exec {shlex.quote(sys.executable)} -m {module} "$@" 2>>{shlex.quote(str(log))}'
    return shlex.join(["sh", "-c", script, "molt-worker"])


def marked(variable: str, value: str) -> list[psutil.Process]:
    """All processes, but for this one, that inherited an environment variable, whoever their parents are by now."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid != os.getpid() and process.environ().get(variable) == value:
                found.append(process)
    return found
