"""The bounded queue of stdio: in the order of a number that each item has, and items that may wait for a place."""

from __future__ import annotations

import enum
import itertools
from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class Verdict(enum.Enum):
    """What the queue says to a new item."""

    QUEUED = enum.auto()
    WAITING = enum.auto()
    BUSY = enum.auto()


class _Row(NamedTuple):
    """An item, as rows are sorted: by its number, and by arrival where that is the same."""

    order: int
    sequence: int
    key: int
    item: Any
    size: int


class BoundedQueue(Generic[Item]):
    """At most `capacity` queued items, and any that wait for a place. Each has a key.

    Args:
        capacity: Places in the queue; 0: an item can only wait to be taken.
        max_bytes: Bytes of all items together; an item that would exceed it is refused, unless it is the only one.
        order: The number of an item; the least is taken first. May change only with a `sort` right after.
    """

    def __init__(self, capacity: int, max_bytes: int, order: Callable[[Item], int]) -> None:
        self.capacity: Final = capacity
        self._max_bytes = max_bytes
        self._order = order
        self._bytes = 0
        self._sequence = itertools.count()
        self._queued: list[_Row] = []
        self._waiting: list[_Row] = []
        self._rows: dict[int, _Row] = {}  # both, by key

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def empty(self) -> bool:
        """Whether nothing is queued and nothing waits for a place."""
        return not self._rows

    def __iter__(self) -> Iterator[Item]:
        for rows in (self._queued, self._waiting):
            yield from [row.item for row in rows]

    def before(self, order: int) -> Iterator[Item]:
        """The items that will be taken before one of this number, in that order."""
        for rows in (self._queued, self._waiting):
            for row in rows:
                if row.order > order:
                    break
                yield row.item

    def offer(self, key: int, item: Item, size: int, *, may_wait: bool) -> Verdict:
        """Queue an item, or let it wait for a place, if there is room. Its size is in bytes."""
        if self._bytes + size > self._max_bytes and self._bytes:
            return Verdict.BUSY
        if len(self._queued) < self.capacity:
            rows, verdict = self._queued, Verdict.QUEUED
        elif may_wait:
            rows, verdict = self._waiting, Verdict.WAITING
        else:
            return Verdict.BUSY
        self._insert(rows, key, item, size)
        return verdict

    def take(self, may: Callable[[Item], bool] = lambda _: True) -> Item | None:
        """Remove and return the first item that may be taken; None: there is none."""
        for rows in (self._queued, self._waiting):
            for row in rows:
                if may(row.item):
                    self.remove(row.key)
                    item: Item = row.item
                    return item
        return None

    def put_back(self, key: int, item: Item, size: int) -> None:
        """Queue an item, whether there is a place or not."""
        self._insert(self._queued, key, item, size)

    def remove(self, key: int) -> None:
        """Remove an item, if there is one with this key."""
        row = self._rows.pop(key, None)
        if row is not None:
            self._bytes -= row.size
            queued = self._queued
            at = bisect_left(queued, row)
            rows = queued if at < len(queued) and queued[at] is row else self._waiting
            del rows[bisect_left(rows, row)]

    def promote(self) -> Item | None:
        """Give a free place to the first item that waits for one. Returns it; None: there is no place or no item."""
        if len(self._queued) >= self.capacity or not self._waiting:
            return None
        row = self._waiting.pop(0)
        insort(self._queued, row)
        item: Item = row.item
        return item

    def sort(self) -> None:
        """Look at the numbers of all items again."""
        for rows in (self._queued, self._waiting):
            rows[:] = sorted(row._replace(order=self._order(row.item)) for row in rows)
            self._rows.update((row.key, row) for row in rows)

    def _insert(self, rows: list[_Row], key: int, item: Item, size: int) -> None:
        row = self._rows[key] = _Row(self._order(item), next(self._sequence), key, item, size)
        insort(rows, row)
        self._bytes += size
