"""Places for calls, of which there are only so many: what bulkheads of this process are made of."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final

from molt_accel.overload.estimate import Estimate

#: More calls than a process can have under way.
UNLIMITED: Final = 2**31

_all: Final[weakref.WeakSet[Places]] = weakref.WeakSet()
# Reentrant, because a signal handler on a thread that holds it may call.
_lock = threading.RLock()


def one_at_a_time() -> threading.RLock:
    """The lock to hold for looking at places and taking some. No call is made while it is held."""
    return _lock


class Places:
    """So many calls may be under way at once. Thread-safe; a forked child begins with all places free.

    A place is told by its holder, so giving it up twice, or without having got it, does no harm: whoever asks for one
    may be interrupted in the middle, and give it up all the same.

    Args:
        limit: How many places there are, 1 or more.

    Attributes:
        usual: What calls take that had a place, as their holders have it learn.
    """

    def __init__(self, limit: int) -> None:
        self.limit: Final = limit
        self.usual: Final = Estimate()
        self._holders: set[object] = set()
        with _lock:
            _all.add(self)

    @property
    def taken(self) -> int:
        return len(self._holders)

    @property
    def full(self) -> bool:
        return len(self._holders) >= self.limit

    def take(self, holder: object) -> bool:
        """Take a place. Returns False if all are taken."""
        with _lock:
            if len(self._holders) >= self.limit:
                return False
            self._holders.add(holder)
            return True

    def give_up(self, holder: object) -> None:
        """Give up the holder's place, if it has one."""
        with _lock:
            self._holders.discard(holder)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.RLock()  # its holder may not exist in this process
    for places in list(_all):
        places._holders = set()  # the parent's calls


os.register_at_fork(after_in_child=_after_fork_in_child)
