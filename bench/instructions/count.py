"""Counts the instructions of one round of a case, by valgrind: what it collects between two marks around many rounds.

Unlike times, instructions are the same on a busy machine and on a slow one. They are not all that a call costs: waking,
caches and the kernel are not in them.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Final

from bench.instructions.cases import CASES, MARK, POOL

ROOT: Final = Path(__file__).resolve().parents[2]
ROUNDS: Final = 2000
#: Cases with another process, and how often they are counted: how they wait depends on it, which makes some 2 %.
WAITING, TIMES = frozenset({"call", "view", "serve"}), 3
#: Cases that call a worker.
WITH_POOL: Final = frozenset({"call", "view"})
#: Of these cases what they take more than others; the others are told nowhere.
OVER: Final = {"view": "plain_view"}
_PATIENCE_S: Final = 600
_COLLECTED: Final = re.compile(r"^totals: (\d+)$", re.MULTILINE)
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
    name = f"instructions-{secrets.token_hex(8)}"
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


def instructions(case: str) -> int:
    """Count the instructions of one round. Raises CountError."""
    if case not in WITH_POOL:
        return _collected(case, "")
    with pool() as name:
        return _collected(case, name)


def all_cases(told: object = print) -> dict[str, int]:
    """Count every case, the median of several counts where it waits, and tell of each. Raises CountError."""
    found: dict[str, int] = {}
    threads = ThreadPoolExecutor(os.cpu_count())
    try:
        counts: dict[str, list[Future[int]]] = {
            case: [threads.submit(instructions, case) for _ in range(TIMES if case in WAITING else 1)]
            for case in CASES
        }
        for case, each in counts.items():
            median = statistics.median_low(one.result() for one in each)
            found[case] = median - found.pop(OVER.get(case, ""), 0)
            if callable(told) and case not in OVER.values():
                told(f"{case}: {found[case]:,}")
    finally:
        threads.shutdown(cancel_futures=True)
    return found


def _collected(case: str, pool_name: str) -> int:
    program = [sys.executable, "-m", "bench.instructions.cases", case, str(ROUNDS)]
    with tempfile.TemporaryDirectory() as folder:
        counts = Path(folder) / "counts"
        try:
            done = subprocess.run(
                [
                    "valgrind",
                    "--tool=callgrind",
                    f"--callgrind-out-file={counts}",
                    f"--dump-before={MARK}",
                    *program,
                ],
                env={**os.environ, **_ENVIRONMENT, POOL: pool_name},
                cwd=ROOT,
                capture_output=True,
                text=True,
                timeout=_PATIENCE_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CountError(f"the case {case!r} took more than {_PATIENCE_S} s") from None
        except FileNotFoundError:
            raise CountError("valgrind is not installed; on Debian: apt-get install valgrind") from None
        # The first file is of what came before the first mark, the second of what came between both.
        between = counts.with_suffix(".2")
        collected = _COLLECTED.search(between.read_text()) if between.exists() else None
    if done.returncode or collected is None:
        raise CountError(f"the case {case!r} failed:\n{done.stderr[-2000:]}")
    return round(int(collected[1]) / ROUNDS)
