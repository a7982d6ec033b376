"""Processor time: of peers' processes to the nanosecond, and what other programs took meanwhile."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.harness.processes import Family


def cpu_ns(pids: Iterable[int]) -> dict[int, int]:
    """Processor nanoseconds of processes so far; those that are gone are left out.

    The counters that every system has tick in hundredths of a second, which is as much as an idle worker may
    take in ten. Linux's scheduler counts nanoseconds, for each thread.
    """
    times = {}
    for pid in pids:
        try:
            times[pid] = _scheduled_ns(pid)
        except (OSError, ValueError, IndexError):
            try:
                spent = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            times[pid] = round((spent.user + spent.system) * 1e9)
    return times


def _scheduled_ns(pid: int) -> int:
    tasks = Path(f"/proc/{pid}/task")
    return sum(int((tasks / task / "schedstat").read_text().split()[0]) for task in os.listdir(tasks))


def spent_ns(before: dict[int, int], after: dict[int, int]) -> int:
    """Processor nanoseconds between two readings; all of what came in between."""
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
    """Tells what other programs took from its making until `end`.

    `ours` says the processes of the benchmark. Their reaped children count as theirs.
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
        other = max(0.0, _busy(after) - _busy(self._before) - own)
        steal = getattr(after, "steal", 0.0) - getattr(self._before, "steal", 0.0)
        return Surroundings(elapsed_s, other / elapsed_s * 100, steal / elapsed_s * 100)

    def _own(self) -> dict[int, float]:
        times = {}
        for pid in self._ours():
            try:
                spent = psutil.Process(pid).cpu_times()
            except psutil.Error:
                continue
            children = getattr(spent, "children_user", 0.0) + getattr(spent, "children_system", 0.0)
            times[pid] = spent.user + spent.system + children
        return times


def _busy(times: object) -> float:
    # Guest time is counted in user time already.
    return float(sum(getattr(times, part, 0.0) for part in ("user", "nice", "system", "irq", "softirq")))
