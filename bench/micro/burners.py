"""Keeps cores busy: a process of ordinary priority pinned to each, that does nothing but compute."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

AUTOGROUP = Path("/proc/sys/kernel/sched_autogroup_enabled")
PROGRAM = """
import os, sys
core, parent = int(sys.argv[1]), int(sys.argv[2])
os.sched_setaffinity(0, {core})
print(flush=True)
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


class Burners:
    """Burns the given cores from entering the context to leaving it."""

    def __init__(self, cores: Iterable[int]) -> None:
        self._cores = tuple(cores)
        self._processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Burners:
        for core in self._cores:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", PROGRAM, str(core), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                start_new_session=True,
            )
            self._processes.append(process)
        for process in self._processes:
            assert process.stdout is not None
            if process.stdout.readline() != b"\n":
                self.__exit__()
                raise OSError("a process that keeps a core busy didn't start")
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        self._processes.clear()

    @property
    def pids(self) -> list[int]:
        """The ids of the processes that burn."""
        return [process.pid for process in self._processes]


def cores_to_burn(condition: str) -> tuple[int, ...]:
    """The cores that a condition keeps busy: `one` the last usable core, `all` all of them, other conditions none."""
    usable = tuple(sorted(os.sched_getaffinity(0)))
    return {"one": usable[-1:], "all": usable}.get(condition, ())


def by_session() -> bool:
    """Whether the scheduler divides processors among sessions first, and then among the processes of each (autogroup).

    If so, on busy cores a worker in a session of its own has a share beside its client's, while a process that the
    client forked divides the client's share with it.
    """
    try:
        return AUTOGROUP.read_text().strip() == "1"
    except OSError:
        return False
