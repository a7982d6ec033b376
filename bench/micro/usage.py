"""What a batch of calls took of the machine: processor time of both sides, and what nobody had."""

from __future__ import annotations

import os
from collections.abc import Iterable

import psutil

from bench.core.cpu import cpu_ns, idle_percent, spent_ns


class Usage:
    """Tells what was taken from entering the context to leaving it.

    Read by the client process itself, right before the first call and right after the last one: warming up, sorting
    and sending are not in it.
    """

    def __init__(self, pids: Iterable[int]) -> None:
        """`pids` are the processes of the other side; this process and what it has reaped count in any case."""
        self._pids = {*pids, os.getpid()}
        self.taken: dict[str, int | float | None] = {}

    def __enter__(self) -> Usage:
        self._machine = psutil.cpu_times()
        self._before, self._reaped = cpu_ns(self._pids), _reaped_ns()
        return self

    def __exit__(self, *_: object) -> None:
        after, reaped = cpu_ns(self._pids), _reaped_ns() - self._reaped
        own = {os.getpid()}
        self.taken = {
            "cpu_ns": spent_ns(self._before, after) + reaped,
            "own_cpu_ns": spent_ns(self._before, {pid: after[pid] for pid in own & after.keys()}),
            "idle_percent": idle_percent(self._machine, psutil.cpu_times()),
        }


def _reaped_ns() -> int:
    """Processor time of children that have ended; some peers start their processes anew for each batch."""
    times = os.times()
    return round((times.children_user + times.children_system) * 1e9)
