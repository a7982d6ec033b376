"""The bounded queue of stdio: first come, first served, and items that may wait for a place."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

Item = TypeVar("Item")


class Verdict(enum.Enum):
    """What the queue says to a new item."""

    QUEUED = enum.auto()
    WAITING = enum.auto()
    BUSY = enum.auto()


class BoundedQueue(Generic[Item]):
    """At most `capacity` queued items, and any that wait for a place. Each has a key.

    Args:
        capacity: Places in the queue; 0: an item can only wait to be taken.
        max_bytes: Bytes of all items together; an item that would exceed it is refused, unless it is the only one.
    """

    def __init__(self, capacity: int, max_bytes: int) -> None:
        self.capacity: Final = capacity
        self._max_bytes = max_bytes
        self._bytes = 0
        # Both in order of arrival; key -> (item, size).
        self._queued: dict[int, tuple[Item, int]] = {}
        self._waiting: dict[int, tuple[Item, int]] = {}

    def __len__(self) -> int:
        return len(self._queued)

    @property
    def empty(self) -> bool:
        """Whether nothing is queued and nothing waits for a place."""
        return not self._queued and not self._waiting

    def __iter__(self) -> Iterator[Item]:
        for rows in (self._queued, self._waiting):
            yield from [item for item, _ in rows.values()]

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
        rows[key] = (item, size)
        self._bytes += size
        return verdict

    def take(self) -> Item | None:
        """Remove and return the oldest item, or None."""
        for key, (item, _) in (self._queued or self._waiting).items():
            self.remove(key)
            return item
        return None

    def put_back(self, key: int, item: Item, size: int) -> None:
        """Put an item in front of all others, whether there is a place or not."""
        self._queued = {key: (item, size), **self._queued}
        self._bytes += size

    def remove(self, key: int) -> None:
        """Remove an item, if there is one with this key."""
        _, size = self._queued.pop(key, None) or self._waiting.pop(key, None) or (None, 0)
        self._bytes -= size

    def promote(self) -> Item | None:
        """Give a free place to the item that has waited longest. Returns it; None: there is no place or no item."""
        if len(self._queued) >= self.capacity or not self._waiting:
            return None
        key = next(iter(self._waiting))
        self._queued[key] = row = self._waiting.pop(key)
        return row[0]
