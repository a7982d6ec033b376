"""Forks of this process: what a child must forget, and the locks that keep starts, closes and forks apart."""

from __future__ import annotations

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
_close_lock = threading.RLock()


def register(member: Forgetting) -> None:
    """Have a child of this process call `member.after_fork_in_child` first. Keeps only a weak reference."""
    _members.add(member)


def start_lock() -> threading.RLock:
    """The lock to hold while a connection is made; a fork waits for it.

    Otherwise a child could inherit the descriptors of a half-made connection, and nobody there could close them.
    """
    return _start_lock


def close_lock() -> threading.RLock:
    """The lock to hold while a connection's descriptors are closed, and for no longer; a fork waits for it.

    Otherwise a child could inherit one that is still open, but that its object has forgotten already.
    """
    return _close_lock


def _before_fork() -> None:
    _start_lock.acquire()
    _close_lock.acquire()


def _after_fork_in_parent() -> None:
    _close_lock.release()
    _start_lock.release()


def _after_fork_in_child() -> None:
    global _start_lock, _close_lock
    _start_lock, _close_lock = (
        threading.RLock(),
        threading.RLock(),
    )  # their holders may not exist in this process
    for member in list(_members):
        member.after_fork_in_child()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
