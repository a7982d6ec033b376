"""Who takes whose place in the pool: bookkeeping only, no processes.

An executor that is recycled serves on until its successor is ready, so the pool never has fewer executors than it
should. Meanwhile the two of them count as one.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)


class Replacements(Generic[Member]):
    """Members of a pool that are being replaced, and those that replace them."""

    def __init__(self) -> None:
        self._successors: dict[Member, Member] = {}  # old one -> the new one that is still starting
        self._recycled: set[Member] = set()  # are to be replaced
        self._replaced: set[Member] = set()  # retire as soon as they have no request

    def counts(self, member: Member) -> bool:
        """Whether it is one of the pool's number, now or when it has started."""
        return member not in self._replaced and member not in self._successors.values()

    def recycle(self, member: Member) -> bool:
        """Have a member replaced. False if that is under way or done already, or if it is still starting."""
        if member in self._recycled or not self.counts(member):
            return False
        self._recycled.add(member)
        return True

    def is_recycled(self, member: Member) -> bool:
        """Whether it is to be replaced."""
        return member in self._recycled

    def replaced(self, member: Member) -> bool:
        """Whether its successor has taken its place, so that it is to retire."""
        return member in self._replaced

    def has_successor(self, member: Member) -> bool:
        """Whether one that will take its place is starting."""
        return member in self._successors

    def prepare(self, old: Member, new: Member) -> None:
        """Let a new one, which starts now, take the old one's place when it is ready."""
        self._successors[old] = new

    def take_over(self, new: Member) -> Member | None:
        """A new one is ready. Returns the one whose place it has taken, which must retire; None if there is none."""
        old = self._predecessor(new)
        self.forget(new)
        if old is not None:
            self._replaced.add(old)
        return old

    def forget(self, member: Member) -> None:
        """A member is gone. Its successor counts for itself now; its predecessor needs another successor."""
        self._successors.pop(member, None)
        predecessor = self._predecessor(member)
        if predecessor is not None:
            del self._successors[predecessor]
        self._recycled.discard(member)
        self._replaced.discard(member)

    def _predecessor(self, member: Member) -> Member | None:
        return next((old for old, new in self._successors.items() if new is member), None)
