"""Two C processes over the native core's doorbells: the floor below which no call on this machine gets.

The program is compiled when the benchmark starts, and runs anew for each batch. Nothing is carried.
"""

from __future__ import annotations

import shutil
import subprocess
from array import array
from pathlib import Path
from typing import ClassVar

import molt_accel.ipc
from bench.micro.peers.base import Peer, Setup

SOURCE = Path(__file__).resolve().parents[1] / "native" / "pingpong.c"
HEADER = Path(molt_accel.ipc.__file__).parent / "shm" / "core" / "molt_core.h"
COMPILE_S = 60


def why_not_compiled() -> str | None:
    """Why no C program can be compiled here; None: one can."""
    return None if shutil.which("cc") else "there is no C compiler (cc) on PATH"


def compile_program(source: Path, program: Path) -> None:
    """Compile a C program of this benchmark. Raises RuntimeError: it can't be compiled."""
    done = subprocess.run(
        ["cc", "-std=c11", "-O3", f"-I{HEADER.parent}", str(source), "-o", str(program), "-pthread"],
        capture_output=True,
        text=True,
        timeout=COMPILE_S,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"it can't be compiled: {done.stderr.strip()[-500:]}")


class _PingPong(Peer):
    mode: ClassVar[str]

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._program = setup.scratch / "pingpong"
        self._warmup = 0

    def available(self) -> str | None:
        if not HEADER.is_file():
            return "the native core's header isn't there"
        return why_not_compiled()

    def start(self) -> None:
        compile_program(SOURCE, self._program)

    def warm_up(self, payload: object, calls: int, *, raw: bool = False) -> None:
        # The processes of a batch are its own, so they warm up in it.
        self._warmup = calls

    def latency(
        self, payload: object, *, calls: int, limit_s: float, pause_s: float, raw: bool = False
    ) -> list[int]:
        words = [self._warmup, calls, round(limit_s * 1e9), round(pause_s * 1e9)]
        done = subprocess.run(
            [str(self._program), self.mode, *map(str, words)], capture_output=True, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"it ended with code {done.returncode}: {done.stderr.decode().strip()}")
        samples = array("Q")
        samples.frombytes(done.stdout)
        return samples.tolist()

    def call(self, payload: object) -> object:
        self.latency(payload, calls=1, limit_s=0, pause_s=0)
        return payload

    def stop(self) -> None:
        self._program.unlink(missing_ok=True)


class Park(_PingPong):
    """A side that waits sleeps at once."""

    mode = "park"


class Spin(_PingPong):
    """A side that waits spins, and yields."""

    mode = "spin"


class Policy(_PingPong):
    """A side that waits does as clients and executors do."""

    mode = "policy"
