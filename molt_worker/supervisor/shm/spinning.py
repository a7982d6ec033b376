"""How long it pays to spin on this machine before sleeping: the price of sleeping, measured once at start."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from typing import Final

from molt_accel.config import default_executors
from molt_worker.runtime import cgroups

_ROUNDS: Final = 40
#: Bounds of what is measured: a shorter spin meets no answer, and a longer one costs others more than it gives.
_MIN_NS: Final = 50_000
_MAX_NS: Final = 100_000
#: Files of a group's limit and period, in version 2 of control groups and in version 1. "max" and -1: no limit.
_LIMITS: Final = (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us"))


@dataclass(frozen=True, slots=True)
class SpinLimits:
    """Longest spin in nanoseconds, and how many clients and executors may spin at once.

    `cpus`: processors of the machine; 1 where there are no two for a caller and an executor. `narrow`: this process
    may use only some of the machine's, or has a quota.
    """

    spin_ns: int
    clients: int
    executors: int
    cpus: int
    narrow: bool


def measure() -> SpinLimits:
    """Measure the limits for this machine and its load, which takes a few milliseconds.

    A spin as long as sleeping and being woken takes costs at most twice what the better of the two would have cost. On
    one processor, or under a quota of less than two, a process that spins takes the time of the one it waits for. So
    nobody does, and both sides wait as where others want the processors: on one, where they wake each other soonest.
    """
    machine = os.cpu_count() or 1
    cpus = min(default_executors(), quota())
    narrow = cpus < machine
    if cpus < 2:
        return SpinLimits(_MIN_NS, 0, 0, 1, narrow)
    from molt_accel.ipc.shm._native import ParkMeter

    meter = ParkMeter()
    other = threading.Thread(target=meter.run, args=(1, _ROUNDS))
    other.start()
    park_ns = meter.run(0, _ROUNDS)
    other.join()
    spin_ns = min(max(park_ns, _MIN_NS), _MAX_NS)
    return SpinLimits(spin_ns, int(cpus) - 1, max(1, int(cpus) // 2), machine, narrow)


def quota(root: str = cgroups.ROOT, own: str = cgroups.OWN) -> float:
    """How many processors this process may use on average; all of them if no control group has a limit.

    Each of its groups, and each group around that, may have one. A container sees only the innermost, at the root.
    """
    limits = [float(os.cpu_count() or 1)]
    for group in cgroups.of_this_process("cpu", root, own):
        for names in _LIMITS:
            with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
                limit, period = map(int, " ".join((group / name).read_text() for name in names).split())
                if limit >= 0:
                    limits.append(limit / period)
    return min(limits)
