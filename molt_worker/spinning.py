"""How long it pays to spin on this machine before sleeping: the price of sleeping, measured once at start."""

from __future__ import annotations

import contextlib
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from molt_accel.config import default_executors
from molt_accel.ipc.arena import native

_ROUNDS: Final = 40
#: Whatever was measured: a shorter spin meets no answer, and a longer one takes more from others than it gives.
_MIN_NS: Final = 50_000
_MAX_NS: Final = 100_000
_CGROUP_LIMIT: Final = "/sys/fs/cgroup/cpu.max"


@dataclass(frozen=True, slots=True)
class SpinLimits:
    """Longest spin in nanoseconds, how many clients and executors may spin at once, and processors there are."""

    spin_ns: int
    clients: int
    executors: int
    cpus: int


def measure() -> SpinLimits:
    """The limits for this machine and its load. Takes a few milliseconds.

    Spinning for as long as sleeping and being woken would cost is never more than twice as dear as having known.
    On one processor, or under a quota of less than two, whoever spins takes the time of whom it waits for.
    """
    cpus = min(default_executors(), quota())
    if cpus < 2:
        return SpinLimits(0, 0, 0, 1)
    meter = native().ParkMeter()
    other = threading.Thread(target=meter.run, args=(1, _ROUNDS))
    other.start()
    park_ns = meter.run(0, _ROUNDS)
    other.join()
    spin_ns = min(max(park_ns, _MIN_NS), _MAX_NS)
    return SpinLimits(spin_ns, int(cpus) - 1, max(1, int(cpus) // 2), int(cpus))


def quota(path: str = _CGROUP_LIMIT) -> float:
    """How many processors the control group may use in the mean; all of them where nothing is said."""
    with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
        limit, period = Path(path).read_text().split()
        return int(limit) / int(period)
    return float(os.cpu_count() or 1)
