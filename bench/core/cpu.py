"""Processor time: of processes to the nanosecond, and what other programs took meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.core.processes import Family


def cpu_ns(pids: Iterable[int]) -> dict[int, int]:
    """Processor nanoseconds of processes so far; processes that are gone are left out.

    The counters that every system has tick in hundredths of a second, which is as much as an idle worker may take in
    ten seconds. Linux's scheduler counts nanoseconds, for each thread.
    """
    times = {}
    for pid in pids:
        try:
            times[pid] = _scheduled_ns(pid)
        except (OSError, ValueError, IndexError):
            seconds = cpu_seconds(pid)
            if seconds is not None:
                times[pid] = round(seconds * 1e9)
    return times


def _scheduled_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((tasks / task / "schedstat").read_text().split()[0]) for task in os.listdir(tasks))


def cpu_seconds(pid: int, *, children: bool = False) -> float | None:
    """Processor seconds of a process so far, to the hundredth, with `children` those of its reaped children as well.

    None if it is gone.
    """
    try:
        spent = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return None
    total = spent.user + spent.system
    if children:
        total += getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
    return float(total)


def spent_ns(before: dict[int, int], after: dict[int, int]) -> int:
    """Processor nanoseconds between two readings. A process that came in between counts with all it took."""
    return sum(max(0, spent - before.get(pid, 0)) for pid, spent in after.items())


def pids_of(family: Family) -> list[int]:
    """The processes of a family, just now."""
    return [member.process.pid for member in family.members()]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What else happened on the machine during a part of the benchmark; percent of one core."""

    elapsed_s: float
    other_percent: float
    steal_percent: float


class Watch:
    """Tells what other programs took from when it is made until `end`.

    `ours` names the processes of the benchmark; children that they have reaped count as theirs.
    """

    def __init__(self, ours: Callable[[], Iterable[int]]) -> None:
        self._ours = ours
        self._started = time.monotonic()
        self._own_before = self._own()
        self._before = psutil.cpu_times()

    def end(self) -> Surroundings:
        """The sums since the beginning."""
        after = psutil.cpu_times()
        own_after = self._own()
        elapsed_s = time.monotonic() - self._started
        own = sum(max(0.0, spent - self._own_before.get(pid, 0.0)) for pid, spent in own_after.items())
        other = max(0.0, busy_seconds(after) - busy_seconds(self._before) - own)
        steal = getattr(after, "steal", 0.0) - getattr(self._before, "steal", 0.0)
        return Surroundings(elapsed_s, other / elapsed_s * 100, steal / elapsed_s * 100)

    def _own(self) -> dict[int, float]:
        spent = {pid: cpu_seconds(pid, children=True) for pid in self._ours()}
        return {pid: seconds for pid, seconds in spent.items() if seconds is not None}


def busy_seconds(times: object) -> float:
    """Seconds that the machine's processors were busy, of its counters. Guest time is counted in user time already."""
    return float(sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq")))


def idle_percent(before: Any, after: Any) -> float | None:
    """How much of all processors' time nobody had between two readings of `psutil.cpu_times()`; None if none passed.

    The counters tick in hundredths of a second, so a figure of half a second on two processors is good to a percent.
    Time that the hypervisor took away was nobody's to have, and counts neither way.
    """
    idle = sum(getattr(after, part, 0.0) - getattr(before, part, 0.0) for part in ("idle", "iowait"))
    passed = idle + busy_seconds(after) - busy_seconds(before)
    return max(0.0, idle) / passed * 100 if passed > 0 else None
