"""Keeps account of a client's channels: which are free, and which are leased for a call.

A channel whose call was given up is not free at once, since an executor may still write to it. It lingers here until
its state word says that no executor can.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import Final

from molt_accel.ipc.shm._native import Arena, Channel, FreeChannels

BATCH: Final = 16  #: how many channels a client asks for when all of its own are in use
_REFUSED_S: Final = 1.0  #: how long a client does not ask again after it was refused more channels


class ChannelPool(FreeChannels):
    """The channels that the worker has granted this client. Thread-safe.

    A call takes no lock here: `FreeChannels`.
    """

    def __init__(self, arena: Arena, max_frame_bytes: int) -> None:
        self._arena = arena
        self._max_frame_bytes = max_frame_bytes
        self._lock = threading.RLock()  # held to change `usable`, or to replace a list by another one
        self._all: list[Channel] = []
        self._refused_until_s = 0.0

    def add(self, indices: Iterable[int]) -> None:
        """Take over channels that were granted. No channel means that other clients hold all for now."""
        new = [Channel(self._arena, index, self._max_frame_bytes) for index in indices]
        if not new:
            self.refused()
        with self._lock:
            self._all += new
            self.usable += len(new)
            self.free += reversed(new)

    def set_aside(self) -> Channel | None:
        """Return a free channel that is not for calls, and doesn't count as in use; None if there is none."""
        channel = self.lease()
        if channel is not None:
            with self._lock:
                self.usable -= 1
        return channel

    def refused(self) -> None:
        self._refused_until_s = time.monotonic() + _REFUSED_S

    def spare(self, count: int) -> list[int]:
        """Give up to `count` free channels away, but keep one. Returns their indices."""
        indices: list[int] = []
        with self._lock:
            while len(indices) < count and len(self.free) > 1:
                try:
                    channel = self.free.pop(0)  # the coldest
                except IndexError:  # leased in this very moment
                    break
                self.usable -= 1
                self._all.remove(channel)
                indices.append(channel.index)
        return indices

    def shut(self) -> None:
        """Lease no more channels, and never touch those that linger again."""
        with self._lock:
            self.is_shut = True
            free, self.free = self.free, []
            lingering, self.lingering = self.lingering, []
            self.usable -= len(free) + len(lingering)

    @property
    def wants_more(self) -> bool:
        """Whether none is free, and asking for more may help."""
        # Channels that linger don't count: they may do so for a grace time, and others may be had at once.
        return not self.free and time.monotonic() >= self._refused_until_s

    @property
    def in_calls(self) -> int:
        """How many channels are leased by calls that have not ended."""
        return self.usable - len(self.free) - len(self.lingering)

    def look_again(self) -> None:
        """Free the channels that linger, where that is possible by now."""
        lingering, self.lingering = self.lingering, []
        for each in lingering:
            self.give_back(each)

    def count_out(self) -> None:
        """Note that a channel came back that is not for calls any more."""
        with self._lock:
            self.usable -= 1

    def wake_all(self) -> None:
        """Ring every channel's doorbell, so that all threads that wait look again."""
        for channel in list(self._all):
            self._arena.ring_client(channel.index)
