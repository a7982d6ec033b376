"""Forks of this process: what a child must forget, and the lock by which starts and forks exclude each other."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Final, Protocol


class Forgetting(Protocol):
    """Something that holds what belongs to this process only, such as a connection."""

    def after_fork_in_child(self) -> None:
        """Let go of the parent's things without a word to their other ends."""


_members: Final[weakref.WeakSet[Forgetting]] = weakref.WeakSet()
# A signal handler or the garbage collector may fork or close a client on a thread that holds it: hence reentrant.
_start_lock = threading.RLock()


def register(member: Forgetting) -> None:
    """Have a child of this process call `member.after_fork_in_child` first of all. Keeps no reference to it."""
    _members.add(member)


def start_lock() -> threading.RLock:
    """The lock to hold while a connection is made; a fork waits for it.

    Otherwise a child could inherit the pipes or the socket of a connection that is half made, known to nobody who
    could close them there.
    """
    return _start_lock


def _after_fork_in_child() -> None:
    global _start_lock
    _start_lock = threading.RLock()  # its holder may not exist in this process
    for member in list(_members):
        member.after_fork_in_child()


os.register_at_fork(
    before=lambda: _start_lock.acquire(),
    after_in_parent=lambda: _start_lock.release(),
    after_in_child=_after_fork_in_child,
)
