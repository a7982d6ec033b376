"""A copy of what only the supervisor writes to the arena. Clients can write over the arena, but not over the copy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from molt_accel.ipc.frame import PEEK_BYTES, format_id, peek
from molt_accel.ipc.shm.layout import HELD, Gauge, generation_of, serial_of, state_of
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.entrypoints.exports import Export

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena
    from molt_worker.supervisor.shm.spinning import SpinLimits


def request_serial(channel: int, word: int) -> int:
    """The serial (`layout.serial_of`) of the request that a channel's state word is of."""
    return serial_of(channel, generation_of(word))


class Ledger:
    """The gauges of the arena's header, which channels are in use, and what entrypoints are there."""

    def __init__(self, arena: Arena, limits: SpinLimits) -> None:
        self.arena = arena
        self._limits = limits
        self._gauges: dict[int, int] = {}  # by `Gauge`
        self._entries: dict[str, tuple[int, int]] = {}  # by name: delay of the class, limit
        self._in_use = 0  # channels from this one on were never granted

    def __getitem__(self, gauge: Gauge) -> int:
        return self._gauges[gauge]

    def __setitem__(self, gauge: Gauge, value: int) -> None:
        self._gauges[gauge] = value
        self.arena.set_gauge(gauge, value)

    def use(self, channel: int) -> None:
        """A channel was granted, so supervisor and executors look at it from now on."""
        self._in_use = max(self._in_use, channel + 1)

    def name_entries(self, exports: Iterable[Export]) -> int:
        """Give the exports their rows. Returns how many have none, because there are too many."""
        from molt_accel.ipc.shm._native import ENTRIES

        now = {each.name: (DELAY_NS[each.priority], each.max_concurrency or 0) for each in exports}
        # Those with limits first: what they promise needs a row. Last those that are gone, of which some may be queued.
        gone = {name: (DELAY_NS[Priority.NORMAL], 0) for name in self._entries if name not in now}
        rows = dict(sorted(now.items(), key=lambda item: not item[1][1])) | gone
        self._entries = dict(list(rows.items())[:ENTRIES])
        self._keep_entries()
        return max(0, len(now) - ENTRIES)

    def _keep_entries(self) -> None:
        """Have rows for these entrypoints, and for no others."""
        from molt_accel.ipc.shm._native import entry_id

        self.arena.keep_entries(frozenset(map(entry_id, self._entries)))
        for name, (delay_ns, limit) in self._entries.items():
            self.arena.set_entry(name, delay_ns, limit)

    def repair(self) -> None:
        """Write all of it again, because a client may have written over it."""
        arena = self.arena
        arena.repair()
        arena.set_cpus(self._limits.cpus, self._limits.narrow)
        arena.set_in_use(self._in_use)
        self._keep_entries()
        for gauge, value in self._gauges.items():
            if gauge != Gauge.WAKE_NS:  # each look at deadlines writes it
                arena.set_gauge(gauge, value)

    def words(self) -> list[tuple[int, int]]:
        """Channels that are not IDLE, with their state words. They are looked at one by one, marked or not."""
        return self.arena.with_requests(self._in_use)

    def held(self) -> list[tuple[int, int]]:
        """Channels and state words of the requests that executors have."""
        return [(channel, word) for channel, word in self.words() if state_of(word) in HELD]

    def request_on(self, channel: int) -> dict[str, object]:
        """Fields of a log line for a channel's request; none if the rest of a large one has overwritten its start."""
        request = peek(self.arena.request_bytes(channel, PEEK_BYTES))
        if request is None:
            return {}
        return {"request_id": format_id(request.request_id), "entry": request.entry}
