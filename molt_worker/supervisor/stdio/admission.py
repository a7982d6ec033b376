"""The entrypoints of a stdio pool under load: their limits and classes, what they usually take, and what is refused.

The rule itself is in `molt_accel/overload`. This module tells it what the pool is doing, and keeps what it remembers.
Entrypoints are named here and looked up, because requests may come before the exports are known.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from molt_accel.durations import NS_PER_MS
from molt_accel.errors import BusyReason
from molt_accel.overload.admission import CALM, Standing, is_hopeless, judge
from molt_accel.overload.estimate import Estimate, is_due
from molt_accel.overload.line import EntryLoad, Wait, expected_wait
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.entrypoints.exports import Export

_NONE: Final[frozenset[str]] = frozenset()


class Running(NamedTuple):
    """A request that an executor has."""

    entry: str
    since_ns: int


class Refusal(NamedTuple):
    """Why a request is refused, and how long it would have had to wait."""

    reason: BusyReason
    wait_ns: int


@dataclass(slots=True)
class _Entry:
    limit: int = 0  #: how many of its requests may run at once; 0: any
    priority: Priority = Priority.NORMAL
    standing: Standing = CALM
    estimate: Estimate = field(default_factory=Estimate)
    learnt_ns: int = 0  #: when one of its requests ended last
    refused: int = 0


class Admission:
    """What a pool takes on, and who is passed over.

    Args:
        target_ns: How long requests may stand in the queue; 0: as long as they like.
        running: What each executor has that has a request. Kept by the caller.
    """

    def __init__(self, target_ns: int, running: Mapping[Any, Running]) -> None:
        self._target_ns = target_ns
        self._running = running
        self._entries: dict[str, _Entry] = {}

    def set_exports(self, exports: Iterable[Export]) -> None:
        """Take over limits and classes. What has been learnt stays, but for entrypoints that are gone."""
        entries = {}
        for export in exports:
            entry = entries[export.name] = self._entries.get(export.name) or _Entry()
            entry.limit, entry.priority = export.max_concurrency or 0, export.priority
        self._entries = entries

    def _entry(self, name: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            entry = self._entries[name] = _Entry()
        return entry

    def order(self, name: str, arrived_ns: int) -> int:
        """The number by which a request has its place in the queue: the least is taken up first."""
        entry = self._entries.get(name)
        return arrived_ns + DELAY_NS[entry.priority if entry is not None else Priority.NORMAL]

    def at_limit(self) -> AbstractSet[str]:
        """The entrypoints of which so many requests run as may, at this moment."""
        limited = {name: entry.limit for name, entry in self._entries.items() if entry.limit}
        if not limited:
            return _NONE
        counts = Counter(each.entry for each in self._running.values())
        return {name for name, limit in limited.items() if counts[name] >= limit}

    def began_at_once(self, name: str, now_ns: int) -> None:
        """A request did not have to wait at all."""
        entry = self._entry(name)
        entry.standing = judge(entry.standing, now_ns, Wait(0), 0, None, self._target_ns).standing

    def refusal(
        self, name: str, now_ns: int, deadline_ns: int, ahead: Iterable[str], idle: int
    ) -> Refusal | None:
        """Decide on a request that has arrived; None: it is taken on.

        Args:
            name: Its entrypoint.
            now_ns: By CLOCK_MONOTONIC.
            deadline_ns: Its deadline, by the same clock; 0: none.
            ahead: The entrypoints of the requests that will be taken up before it, in that order.
            idle: How many executors have no request.
        """
        entry = self._entry(name)
        wait = self._wait(name, now_ns, ahead, idle)
        if wait is None:
            return None
        left_ns = deadline_ns - now_ns if deadline_ns else None
        usual_ns = entry.estimate.mean_ns
        trial = not wait.kin and is_due(usual_ns, entry.learnt_ns, now_ns)
        reason, entry.standing = judge(
            entry.standing, now_ns, wait, usual_ns, left_ns, self._target_ns, trial=trial
        )
        return Refusal(reason, wait.ns) if reason is not None else None

    def wait_ns(self, name: str, now_ns: int, ahead: Iterable[str], idle: int) -> int:
        """How long a request would wait, in ns; 0: that is not known. The arguments are those of `refusal`."""
        wait = self._wait(name, now_ns, ahead, idle)
        return wait.ns if wait is not None else 0

    def _wait(self, name: str, now_ns: int, ahead: Iterable[str], idle: int) -> Wait | None:
        """How long a request would wait; None: no executor is ready, so nobody can tell."""
        left: dict[str, list[int]] = {}
        for each in self._running.values():
            left_ns = self._entry(each.entry).estimate.left_ns(now_ns - each.since_ns)
            left.setdefault(each.entry, []).append(left_ns)
        free_in = [0] * idle + [ns for several in left.values() for ns in several]
        if not free_in:
            return None

        def load(of: str) -> EntryLoad:
            entry = self._entry(of)
            return EntryLoad(entry.estimate.mean_ns, entry.limit, left.get(of, ()))

        before = list(ahead)
        loads = {of: load(of) for of in {name, *before}}
        return expected_wait(free_in, [loads[of] for of in before], loads[name])

    def is_hopeless(self, name: str, now_ns: int, left_ns: int, queued: int) -> bool:
        """Whether a request that has been taken up, with so much time left and others queued, shall not begin."""
        entry = self._entry(name)
        if is_due(entry.estimate.mean_ns, entry.learnt_ns, now_ns):
            return False
        return is_hopeless(entry.estimate.least_ns(), left_ns, queued)

    def learn(self, name: str, now_ns: int, took_ns: int, *, stopped: bool = False) -> None:
        """Count what a request took that has ended. `stopped`: it was ended before its time."""
        entry = self._entry(name)
        entry.learnt_ns = now_ns
        entry.estimate.learn(took_ns, stopped=stopped)

    def count(self, name: str) -> None:
        """Count a refusal, for whatever reason."""
        if (entry := self._entries.get(name)) is not None:
            entry.refused += 1

    def report(self, queued: Iterable[str]) -> dict[str, dict[str, object]]:
        """What is known of entrypoints that have been called, or have a limit or a class.

        `queued`: the entrypoints of what is queued.
        """
        waiting = Counter(queued)
        running = Counter(each.entry for each in self._running.values())
        rows: dict[str, dict[str, object]] = {}
        for name, entry in self._entries.items():
            says = entry.limit or entry.priority is not Priority.NORMAL
            if says or entry.estimate.samples or entry.refused or waiting[name] or running[name]:
                rows[name] = {
                    "usual_ms": round(entry.estimate.mean_ns / NS_PER_MS, 3),
                    "running": running[name],
                    "queued": waiting[name],
                    "limit": entry.limit or None,
                    "priority": entry.priority.value,
                    "refused": entry.refused,
                }
        return rows
