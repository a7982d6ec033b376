"""Forks of this process: what a child must forget, and the lock that keeps starts and forks apart."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Final, Protocol


class Forgetting(Protocol):
    def after_fork_in_child(self) -> None:
        """Drop the parent's connections, and tell their other ends nothing."""


_members: Final[weakref.WeakSet[Forgetting]] = weakref.WeakSet()
# Reentrant, because a signal handler or the garbage collector may fork or close a client on a thread that holds it.
_start_lock = threading.RLock()


def register(member: Forgetting) -> None:
    """Have a child of this process call `member.after_fork_in_child` first. Keeps only a weak reference."""
    _members.add(member)


def start_lock() -> threading.RLock:
    """The lock to hold while a connection is made; a fork waits for it.

    Otherwise a child could inherit the descriptors of a half-made connection, and nobody there could close them.
    """
    return _start_lock


class Descriptor:
    """A descriptor that a child must not keep: its object knows of none while another thread is about to close it."""

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd
        self._what: Final = _what_is(fd)

    def close_in_child(self) -> None:
        """Close it unless that was done. The number may be another descriptor's by now, which is left alone."""
        with contextlib.suppress(OSError):
            if _what_is(self._fd) == self._what:
                os.close(self._fd)


def _what_is(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino


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
