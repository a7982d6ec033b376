"""Places for calls, of which there are only so many: a bulkhead of this process."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

_all: Final[weakref.WeakSet[Places]] = weakref.WeakSet()


class Places:
    """So many calls may be under way at once. Thread-safe; a forked child begins with all places free.

    A place is told by its holder, so giving it up twice, or without having got it, does no harm: whoever asks for one
    may be interrupted in the middle, and give it up all the same.

    Args:
        limit: How many places there are, 1 or more.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self._forget()
        _all.add(self)

    def _forget(self) -> None:
        # Reentrant, because a signal handler on a thread that holds it may call.
        self._lock = threading.RLock()
        self._holders: set[object] = set()

    @property
    def taken(self) -> int:
        return len(self._holders)

    @property
    def full(self) -> bool:
        return len(self._holders) >= self.limit

    def take(self, holder: object) -> bool:
        """Take a place. Returns False if all are taken."""
        with self._lock:
            if len(self._holders) >= self.limit:
                return False
            self._holders.add(holder)
            return True

    def give_up(self, holder: object) -> None:
        """Give up the holder's place, if it has one."""
        with self._lock:
            self._holders.discard(holder)


def _forget_all() -> None:
    for places in list(_all):
        places._forget()  # the calls that hold them, and the lock, are the parent's


os.register_at_fork(after_in_child=_forget_all)
