"""Which executor takes the place of which other one in the pool. This is bookkeeping only, without processes.

An executor that is recycled serves on until its successor is ready, so the pool never has fewer executors than it
should. Until then the two of them count as one.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=Hashable)


class Replacements(Generic[Member]):
    """Members of a pool that are being replaced, and their successors."""

    def __init__(self) -> None:
        self._successors: dict[Member, Member] = {}  # by the member that they replace; they are starting
        self._recycled: set[Member] = set()  # members that are to be replaced
        self._replaced: set[Member] = set()  # members that retire as soon as they have no request

    def counts(self, member: Member) -> bool:
        """Whether a member counts for the pool's size: it is no successor that starts, and was not replaced."""
        return member not in self._replaced and member not in self._successors.values()

    def recycle(self, member: Member) -> bool:
        """Have a member replaced. False if it is being or was replaced already, or is a successor that starts."""
        if member in self._recycled or not self.counts(member):
            return False
        self._recycled.add(member)
        return True

    def is_recycled(self, member: Member) -> bool:
        """Whether a member is to be replaced."""
        return member in self._recycled

    def replaced(self, member: Member) -> bool:
        """Whether a member's successor has taken its place, so that the member must retire."""
        return member in self._replaced

    def has_successor(self, member: Member) -> bool:
        """Whether a successor of this member is starting."""
        return member in self._successors

    def prepare(self, old: Member, new: Member) -> None:
        """Make `new`, which starts now, the successor of `old`."""
        self._successors[old] = new

    def take_over(self, new: Member) -> Member | None:
        """A member is ready. Returns the member whose place it takes, which must retire; None: it takes nobody's."""
        old = self._predecessor(new)
        self.forget(new)
        if old is not None:
            self._replaced.add(old)
        return old

    def forget(self, member: Member) -> None:
        """A member is gone. Its successor counts for itself now, and its predecessor needs another successor."""
        self._successors.pop(member, None)
        predecessor = self._predecessor(member)
        if predecessor is not None:
            del self._successors[predecessor]
        self._recycled.discard(member)
        self._replaced.discard(member)

    def _predecessor(self, member: Member) -> Member | None:
        return next((old for old, new in self._successors.items() if new is member), None)
