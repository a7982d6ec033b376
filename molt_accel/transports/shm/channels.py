"""Which channels a client may use: leased for a call, returned after it. Bookkeeping only.

A channel whose call was given up is not free at once: an executor may still write to it. It lingers here until its
state word says that nobody can.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from molt_accel.ipc.shm.layout import Gauge

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena, Channel

#: How many more channels are asked for when all are in use.
BATCH: Final = 16
#: How long a refusal of more channels is taken for an answer.
_REFUSED_S: Final = 1.0


class ChannelPool:
    """The channels that the worker has granted this client. Thread-safe.

    What each call needs takes no lock: it is one step on a list. The channel used last is used next: its memory is
    warm.
    """

    def __init__(self, arena: Arena, max_frame_bytes: int) -> None:
        self._arena = arena
        self._max_frame_bytes = max_frame_bytes
        self._lock = threading.RLock()  # for what changes `_usable`, or puts another list in the place of one
        self._all: list[Channel] = []
        self._usable = 0  # granted, and not set aside
        self._free: list[Channel] = []
        self._lingering: list[Channel] = []
        self._refused_until_s = 0.0
        self._shut = False

    def add(self, indices: Iterable[int]) -> None:
        """Channels were granted; none at all means that there are none left for now."""
        from molt_accel.ipc.shm._native import Channel

        new = [Channel(self._arena, index, self._max_frame_bytes) for index in indices]
        if not new:
            self.refused()
        with self._lock:
            self._all += new
            self._usable += len(new)
            self._free += reversed(new)

    def set_aside(self) -> Channel | None:
        """A free channel that is not for calls: it doesn't count as in use. None if there is none."""
        channel = self.lease()
        if channel is not None:
            with self._lock:
                self._usable -= 1
        return channel

    def refused(self) -> None:
        """There are no more channels for now."""
        self._refused_until_s = time.monotonic() + _REFUSED_S

    def spare(self, count: int) -> list[int]:
        """Part with up to so many free channels, but for one. Their indices."""
        indices: list[int] = []
        with self._lock:
            while len(indices) < count and len(self._free) > 1:
                try:
                    channel = self._free.pop(0)  # the coldest
                except IndexError:  # leased in this very moment
                    break
                self._usable -= 1
                self._all.remove(channel)
                indices.append(channel.index)
        return indices

    def shut(self) -> None:
        """Nothing can be leased any more, and nothing that was given up is touched any more."""
        with self._lock:
            self._shut = True
            free, self._free = self._free, []
            lingering, self._lingering = self._lingering, []
            self._usable -= len(free) + len(lingering)

    @property
    def wants_more(self) -> bool:
        """Whether none is free, and asking for more may help."""
        # One that lingers may do so for a grace time: nobody is refused because of it while there are others.
        return not self._free and time.monotonic() >= self._refused_until_s

    @property
    def any_free(self) -> bool:
        """Whether one is free, or about to be."""
        return bool(self._free or self._lingering)

    @property
    def in_calls(self) -> int:
        """How many are leased by calls that have not ended."""
        return self._usable - len(self._free) - len(self._lingering)

    def lease(self) -> Channel | None:
        """A free channel. None if there is none, or this client has as many in use as it may."""
        if self._lingering:
            self._sweep()
        if self._usable - len(self._free) >= self._arena.gauge(Gauge.CLIENT_LIMIT):
            return None
        try:
            return self._free.pop()
        except IndexError:
            return None

    def give_back(self, channel: Channel) -> None:
        """A call has ended; its channel is free now or later."""
        clear = channel.clear()
        if self._shut:  # the worker may grant it to another client at any moment from now on
            with self._lock:
                self._usable -= 1
        elif clear:
            self._free.append(channel)
        else:
            self._lingering.append(channel)

    def _sweep(self) -> None:
        lingering, self._lingering = self._lingering, []
        for channel in lingering:
            self.give_back(channel)

    def wake_all(self) -> None:
        """Ring every channel's doorbell, so that whoever waits looks again."""
        for channel in list(self._all):
            self._arena.ring_client(channel.index)
