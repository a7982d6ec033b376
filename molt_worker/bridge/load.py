"""What a pool has to do, by its own reports: what autoscalers go by, and `nats micro` shows."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

#: How often the pool is asked for a report, in s.
LOOK_S: Final = 1.0
#: The busy share is a mean over so many reports: an autoscaler asks less often than executors begin and end.
REPORTS: Final = 30


class Load(NamedTuple):
    """A pool's load at a moment."""

    queue_depth: int  #: requests that wait for an executor
    running: int  #: requests that executors have
    executors: int
    busy_share: float  #: of the executors' time, over the last 30 reports: 0 to 1


class LoadMeter:
    """Makes loads of a pool's reports."""

    def __init__(self) -> None:
        self._shares: Final[deque[float]] = deque(maxlen=REPORTS)
        self._load = Load(0, 0, 0, 0.0)

    @property
    def load(self) -> Load:
        """The load by the last report."""
        return self._load

    def take(self, report: Mapping[str, Any]) -> None:
        """Take a report: what a pool answers to a ping."""
        executors = report["executors"]
        size, busy = int(executors["size"]), int(executors["busy"])
        self._shares.append(min(1.0, busy / max(1, size)))
        share = sum(self._shares) / len(self._shares)
        self._load = Load(int(report["queue_depth"]), busy, size, round(share, 4))
