"""The bells of a pool: pipes by which executors wake the event loops of clients.

All are made before the first fork server, so every executor has their writing ends from its first moment on, whichever
fork server it comes from. A client that has event loops is lent a reading end.
"""

from __future__ import annotations

import contextlib
import fcntl
import heapq
import os
import resource
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from molt_accel.ipc import control
from molt_worker.runtime.log import LogSink

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena

PER_CLIENT: Final = 8  #: how many bells one client may have: each of its event loops takes one
#: A process with so many descriptors affords one bell, with twice as many two.
_FDS_PER_BELL: Final = 32
_FIRST_FD: Final = 10  #: below are numbers that a fork server gives to its own
_PAGE: Final = 4096


def affordable(limit: int) -> int:
    """How many bells a process can afford that may have `limit` descriptors; RLIM_INFINITY: any number."""
    from molt_accel.ipc.shm import _native as core

    return core.BELLS if limit == resource.RLIM_INFINITY else min(core.BELLS, limit // _FDS_PER_BELL)


def _pipe() -> tuple[int, int]:
    """A pipe that never blocks: its reading and its writing end. Raises OSError: there are no descriptors left."""
    ends = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    moved: list[int] = []
    try:
        # What is on its way is a byte or two: leave the memory of this user's pipes to others.
        with contextlib.suppress(OSError):
            fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, _PAGE)
        moved.append(fcntl.fcntl(ends[0], fcntl.F_DUPFD_CLOEXEC, _FIRST_FD))
        moved.append(fcntl.fcntl(ends[1], fcntl.F_DUPFD_CLOEXEC, _FIRST_FD))
    except OSError:
        control.close_all(moved)
        raise
    finally:
        control.close_all([*ends])
    return moved[0], moved[1]


@dataclass(eq=False)
class Bells:
    """The pipes, and which are lent."""

    arena: Arena
    log: LogSink

    def __post_init__(self) -> None:
        self._pipes: list[tuple[int, int]] = []
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        try:
            for _ in range(affordable(limit)):
                self._pipes.append(_pipe())
        except OSError as exc:  # clients without a bell wait with a thread
            self.log.log("warning", "bells_limited", bells=len(self._pipes), error=str(exc))
        self._free = list(range(len(self._pipes)))  # a heap
        self.arena.use_bells(self.writing_ends)

    @property
    def writing_ends(self) -> tuple[int, ...]:
        """By bell; executors inherit them."""
        return tuple(writing for _, writing in self._pipes)

    def lend(self) -> tuple[int, int] | None:
        """Lend a bell. Returns its number and the descriptor of its reading end; None: there is none left."""
        if not self._free:
            return None
        bell = heapq.heappop(self._free)
        reading, _ = self._pipes[bell]
        self.arena.arm(bell, False)
        with contextlib.suppress(BlockingIOError):
            while os.read(reading, _PAGE):  # rung for its last client
                pass
        return bell, reading

    def take_back(self, bells: Iterable[int]) -> None:
        """Take bells back of a client that can't read from them any more, or said that it won't."""
        for bell in bells:
            heapq.heappush(self._free, bell)

    def close(self) -> None:
        for pipe in self._pipes:
            for end in pipe:
                os.close(end)
        self._pipes.clear()
        self._free.clear()
        self.arena.use_bells(())
