"""Episodes of shedding: a pool that refuses requests says so once, and not with each of them."""

from __future__ import annotations

from collections import Counter
from typing import Final

from molt_accel.durations import NS_PER_S

#: An episode is over when nothing was refused for so long.
PAUSE_NS: Final = 10 * NS_PER_S


class Episode:
    """The refusals of one pool, as one process sees them. Times are nanoseconds of CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self.by_reason: Counter[str] = Counter()  #: how many there were since the process started
        self._count = 0
        self._began_ns = 0
        self._latest_ns = 0

    def refused(self, reason: str, now_ns: int) -> dict[str, object] | None:
        """Count a refusal. Returns what to log, if it is the first one of an episode, else None.

        That is the reason, and of the episode before how many it refused and for how many seconds.
        """
        self.by_reason[reason] += 1
        last = self._latest_ns
        self._latest_ns = now_ns
        if self._count and now_ns - last < PAUSE_NS:
            self._count += 1
            return None
        line: dict[str, object] = {"reason": reason}
        if self._count:
            line |= {"last_refused": self._count, "last_s": round((last - self._began_ns) / NS_PER_S, 1)}
        self._count, self._began_ns = 1, now_ns
        return line
