"""What bounds the calls that one process has under way: MOLT_MAX_IN_FLIGHT, `max_in_flight` of a view, its threads.

A pool refuses what its executors can't do in time. This refuses what would leave the process without threads for
other views. Whoever sets no limit, and serves with no threads that are known, pays one look for it.
"""

from __future__ import annotations

import weakref
from typing import Final

from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS
from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc.messages import Response
from molt_accel.overload.estimate import Estimate
from molt_accel.overload.places import Places
from molt_accel.overload.server_threads import SERVER_THREADS, refused_wait_ns, wait_ns
from molt_accel.transports import forks
from molt_accel.transports.base import Transport

#: Of all clients of this process. Replaced as a whole, since calls on other threads read it.
_all: tuple[weakref.ref[Bulkheads], ...] = ()


class Bulkheads:
    """What bounds the calls of one client.

    Args:
        config: The client's.
        transport: The client's.
    """

    def __init__(self, config: Config, transport: Transport) -> None:
        global _all
        self._transport: Final = transport
        self._executors: Final = config.pool_size
        self._target_ns: Final = config.queue_target_ms * NS_PER_MS
        self._places: Final = None if config.max_in_flight is None else Places(config.max_in_flight)
        self._usual: Final = Estimate()
        with forks.start_lock():
            _all = (*(each for each in _all if each() is not None), weakref.ref(self))

    @property
    def limited(self) -> bool:
        """Whether the configuration has a limit."""
        return self._places is not None

    def refusal(self, view: Places | None = None) -> MoltBusy | None:
        """The error of a call that is made now; None: it would be taken on. `view` are the places of its view."""
        if any(places is not None and places.full for places in (view, self._places)):
            return self.full()
        return self._crowded()

    def _crowded(self) -> MoltBusy | None:
        threads = SERVER_THREADS.count
        if not threads or self._places is not None or not self._target_ns:
            return None
        in_pool = self._transport.in_flight + 1
        if in_pool <= self._executors:
            return None
        others = sum(each._transport.in_flight for ref in _all if (each := ref()) not in (None, self))
        usual_ns = self._usual.mean_ns
        waits_ns = refused_wait_ns(
            in_pool + others, threads, in_pool, self._executors, usual_ns, self._target_ns
        )
        return self._busy(waits_ns) if waits_ns else None

    def full(self) -> MoltBusy:
        """The error of a call that finds all places taken."""
        return self._busy(wait_ns(self._transport.in_flight + 1, self._executors, self._usual.mean_ns))

    def _busy(self, waits_ns: int) -> MoltBusy:
        return self._transport.busy(BusyReason.IN_FLIGHT, waits_ns)

    def take(self, passage: Passage, view: Places | None) -> None:
        if (view is not None and not view.take(passage)) or (
            self._places is not None and not self._places.take(passage)
        ):
            raise self.full()
        refusal = self._crowded()
        if refusal is not None:
            raise refusal

    def give_up(self, passage: Passage, view: Places | None, response: Response | None) -> None:
        for places in (view, self._places):
            if places is not None:
                places.give_up(passage)
        if response is not None and response.exec_us:
            self._usual.learn(response.exec_us * 1000)


class Passage:
    """One call's way through the bulkheads of its client and its view.

    Args:
        bulkheads: The client's.
        view: The view's places; None: it has none of its own.
    """

    __slots__ = ("_bulkheads", "_view")

    def __init__(self, bulkheads: Bulkheads, view: Places | None = None) -> None:
        self._bulkheads = bulkheads
        self._view = view

    def enter(self) -> None:
        """Take a place in each. Whatever this raises, `leave` comes after it. Raises MoltBusy: there is none."""
        self._bulkheads.take(self, self._view)

    def leave(self, response: Response | None) -> None:
        """Give up the places, and learn from the response, if one came."""
        self._bulkheads.give_up(self, self._view, response)
