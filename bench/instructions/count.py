"""Counts the instructions of one round of a case, by valgrind: two runs of different length, and the difference.

Unlike times, instructions are the same on a busy machine and on a slow one. They are not all that a call costs: waking,
caches and the kernel are not in them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from bench.instructions.cases import CASES, POOL

ROOT: Final = Path(__file__).resolve().parents[2]
FEW, MANY = 1000, 3000
#: Cases with another process, and how often they are counted: how they wait depends on it, which makes some 2 %.
WAITING, TIMES = frozenset({"call", "view", "serve"}), 3
#: Of these cases what they take more than others; the others are told nowhere.
OVER: Final = {"view": "plain_view"}
_PATIENCE_S: Final = 300
_COLLECTED: Final = re.compile(r"Collected : (\d+)")
# What valgrind puts into a client's environment must not make it another pool's; the hash seed has dicts alike.
_ENVIRONMENT: Final = {
    "MOLT_IGNORED_ENV": "LD_PRELOAD,LD_LIBRARY_PATH,GLIBCXX_FORCE_NEW,GLIBCPP_FORCE_NEW,_," + POOL,
    "MOLT_SPIN_US": "0",
    "PYTHONHASHSEED": "0",
}


class CountError(Exception):
    """A case can't be counted; the text says why."""


def here() -> str:
    """What figures depend on: the interpreter and the processor's kind."""
    python = f"{sys.implementation.name}-{sys.version_info.major}.{sys.version_info.minor}"
    return f"{python}-{platform.machine()}"


@contextlib.contextmanager
def pool() -> Iterator[str]:
    """A pool of one executor that never spins, for clients below valgrind. Gives its name."""
    name = f"instructions{os.getpid()}"
    worker = subprocess.Popen(
        [sys.executable, "-m", "molt_worker", "--shm", name, "--executors", "1", "--log-level", "error"],
        env={**os.environ, **_ENVIRONMENT, POOL: name},
        cwd=ROOT,
    )
    try:
        yield name
    finally:
        worker.terminate()
        worker.wait(_PATIENCE_S)


def instructions(case: str, pool_name: str) -> int:
    """Count the instructions of one round. Raises CountError."""
    few, many = (_collected(case, times, pool_name) for times in (FEW, MANY))
    return round((many - few) / (MANY - FEW))


def all_cases(told: object = print) -> dict[str, int]:
    """Count every case, the median of several counts where it waits, and tell of each. Raises CountError."""
    found: dict[str, int] = {}
    with pool() as name:
        for case in CASES:
            counts = [instructions(case, name) for _ in range(TIMES if case in WAITING else 1)]
            found[case] = statistics.median_low(counts) - found.pop(OVER.get(case, ""), 0)
            if callable(told) and case not in OVER.values():
                told(f"{case}: {found[case]:,}")
    return found


def _collected(case: str, times: int, pool_name: str) -> int:
    program = [sys.executable, "-m", "bench.instructions.cases", case, str(times)]
    try:
        done = subprocess.run(
            ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null", *program],
            env={**os.environ, **_ENVIRONMENT, POOL: pool_name},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_PATIENCE_S,
            check=False,
        )
    except FileNotFoundError:
        raise CountError("valgrind is not installed; on Debian: apt-get install valgrind") from None
    collected = _COLLECTED.search(done.stderr)
    if done.returncode or collected is None:
        raise CountError(f"the case {case!r} failed:\n{done.stderr[-2000:]}")
    return int(collected[1])
