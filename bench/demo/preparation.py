"""What is made before any server is loaded: the compiled handler cores and the table of the data path."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from bench.core import BenchError
from bench.core.environment import ROOT
from bench.core.processes import wait_gone

DEMO_EXPORTS = "demo/molt_worker_app/molt_exports.json"
GONE_S = 5.0


class Build:
    """Compiles the demo's handler cores into a folder, in a process beside this one; `wait` in any case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [
            sys.executable,
            "-m",
            "molt_worker",
            "build",
            DEMO_EXPORTS,
            "--json",
            "--build-dir",
            str(folder),
        ]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that `cancel` reaches its compilers, too
        )

    def wait(self) -> tuple[Path | None, dict[str, Any]]:
        """The folder, or None if it can't be done here; and what the report says of it."""
        output, errors = self._process.communicate()
        if self._process.returncode:
            return None, {"failed": errors.strip()[-1000:]}
        record = json.loads(output)
        return self._folder, {name: record[name] for name in ("compiler", "seconds", "modules")}

    def cancel(self) -> None:
        """Ends it, if it still runs, and its compilers with it."""
        if self._process.poll() is None:
            compilers = psutil.Process(self._process.pid).children(recursive=True)
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            wait_gone(compilers, GONE_S)


def make_table(path: Path, rows: int) -> Path:
    """Writes the table that requests to the data path send. Raises BenchError if that fails."""
    with path.open("wb") as file:
        done = subprocess.run(
            [sys.executable, "-m", "demo.molt_worker_app.make_table", "--rows", str(rows)],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    if done.returncode != 0:
        raise BenchError(
            f"the table of the data path couldn't be made: {done.stderr.decode(errors='replace')}"
        )
    return path
