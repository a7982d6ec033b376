"""Counts events of processes with `perf stat`, and how long their threads waited for a processor, by the kernel."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Final

from bench.core import BenchError

#: What is counted, by the name in the table.
EVENTS: Final = {
    "futex": "syscalls:sys_enter_futex",
    "yield": "syscalls:sys_enter_sched_yield",
    "write": "syscalls:sys_enter_write",
    "read": "syscalls:sys_enter_read",
    "epoll": "syscalls:sys_enter_epoll_wait",
    "switches": "context-switches",
    "migrations": "cpu-migrations",
    "cpu_ms": "task-clock",
}
#: What is told beside the events: time in which threads would have run, and others had the processors.
READY: Final = "ready_ms"


class Counting:
    """Counts the events of some processes, with all their threads, from its making until `end`.

    Raises BenchError if perf isn't there or may not count here.
    """

    def __init__(self, pids: Collection[int]) -> None:
        if shutil.which("perf") is None:
            raise BenchError("perf isn't there; Debian's linux-perf has it")
        self._pids, self._ready_ms = pids, ready_ms(pids)
        chosen = ",".join(EVENTS.values())
        self._perf = subprocess.Popen(
            ["perf", "stat", "-x,", "-e", chosen, "-p", ",".join(map(str, pids))],
            stderr=subprocess.PIPE,
            text=True,
        )

    def end(self) -> dict[str, float]:
        """Stop counting. Returns how often each event was; `cpu_ms` and `ready_ms` are times. Raises BenchError."""
        # perf ends what it has started, and then says what it has counted.
        self._perf.send_signal(2)
        _, text = self._perf.communicate()
        return parsed(text) | {READY: ready_ms(self._pids) - self._ready_ms}


def ready_ms(pids: Collection[int], proc: Path = Path("/proc")) -> float:
    """How long the threads that some processes have now have waited for a processor so far, in milliseconds: the second
    figure of `schedstat`. Raises BenchError where the kernel has no such file.
    """
    try:
        waited_ns = [
            int(path.read_text().split()[1])
            for pid in pids
            for path in (proc / str(pid) / "task").glob("*/schedstat")
        ]
    except (OSError, ValueError, IndexError) as error:
        raise BenchError(f"the kernel doesn't tell how long threads wait for a processor: {error}") from None
    if not waited_ns:
        raise BenchError("the kernel doesn't tell how long threads wait for a processor: it has no schedstat")
    return sum(waited_ns) / 1e6


def parsed(text: str) -> dict[str, float]:
    """What perf has written, by the names of `EVENTS`. Raises BenchError for an event that it couldn't count."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        fields = line.split(",")
        for name, event in EVENTS.items():
            if len(fields) > 2 and fields[2] == event:
                try:
                    found[name] = float(fields[0])
                except ValueError:
                    raise BenchError(
                        f"perf can't count {event} here: {fields[0]}; it may need root"
                    ) from None
    if missing := EVENTS.keys() - found.keys():
        raise BenchError(
            f"perf counted no {', '.join(sorted(missing))}: {text.strip()[-300:]}; it may need root"
        )
    return found
