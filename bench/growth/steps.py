"""What single steps of a call cost in the native core, below any interpreter: nanoseconds, and instructions.

The program (native/steps.c) is compiled when the benchmark starts.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import molt_accel.ipc
from bench.core import BenchError

STEPS: Final = {
    "publish": "a client publishes a request, looks around, and gives it up",
    "look": "an executor looks for a request, and there is none",
    "call": "a request is published, claimed, ended and its channel freed",
}
SOURCE: Final = Path(__file__).with_name("native") / "steps.c"
CORE: Final = Path(molt_accel.ipc.__file__).parent / "shm" / "core"
ROUNDS: Final = 20_000
#: Two runs of different length: the difference is that of the rounds alone.
FEW, MANY = 90, 360
_PATIENCE_S: Final = 120
_COLLECTED: Final = re.compile(r"Collected : (\d+)")


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one round of a step; `instructions` is None where valgrind isn't there."""

    ns: float
    instructions: int | None


class Program:
    """The compiled program. Raises BenchError if it can't be made."""

    def __init__(self, scratch: Path) -> None:
        if shutil.which("cc") is None:
            raise BenchError("there is no C compiler (cc) on PATH")
        self._path = scratch / "steps"
        _run(["cc", "-std=c11", "-O3", f"-I{CORE}", str(SOURCE), "-o", str(self._path), "-pthread"])
        self._valgrind = shutil.which("valgrind") is not None

    def measure(self, step: str, channels: int, clients: int) -> Cost:
        """One step, in so many granted channels, of which each client has used one. Raises BenchError."""
        ns = float(_run([str(self._path), step, str(channels), str(clients), str(ROUNDS)]).stdout)
        if not self._valgrind:
            return Cost(ns, None)
        few, many = (self._collected(step, channels, clients, rounds) for rounds in (FEW, MANY))
        return Cost(ns, round((many - few) / (MANY - FEW)))

    def _collected(self, step: str, channels: int, clients: int, rounds: int) -> int:
        program = [str(self._path), step, str(channels), str(clients), str(rounds)]
        done = _run(["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *program])
        collected = _COLLECTED.search(done.stderr)
        if collected is None:
            raise BenchError(f"valgrind counted nothing: {done.stderr[-500:]}")
        return int(collected[1])


def _run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    if done.returncode:
        raise BenchError(f"{command[0]} ended with code {done.returncode}: {done.stderr.strip()[-500:]}")
    return done
