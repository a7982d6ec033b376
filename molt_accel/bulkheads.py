"""What bounds the calls that one process has under way: MOLT_MAX_IN_FLIGHT, `max_in_flight` of a view, its threads.

A pool refuses what its executors can't do in time. This refuses what would leave the process without threads for
other views. Whoever sets no limit, and serves with no threads that are known, pays one look for it.
"""

from __future__ import annotations

import time
import weakref
from typing import Final

from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS
from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc.messages import Response
from molt_accel.overload import server_threads
from molt_accel.overload.admission import CALM, Standing
from molt_accel.overload.estimate import Estimate
from molt_accel.overload.places import UNLIMITED, Places, one_at_a_time
from molt_accel.overload.server_threads import SERVER_THREADS, wait_ns
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
        self.limited: Final = config.max_in_flight is not None  #: the configuration has a limit
        self._transport: Final = transport
        self._executors: Final = config.pool_size
        self._target_ns: Final = config.queue_target_ms * NS_PER_MS
        self._calls: Final = Places(config.max_in_flight or UNLIMITED)
        # Imports and caches make each executor's first request too long.
        self._usual: Final = Estimate(warm_up=config.pool_size + 1)
        self._standing: Standing = CALM  # of the threads: what waits for one, and in one
        with forks.start_lock():
            _all = (*(each for each in _all if each() is not None), weakref.ref(self))

    def refusal(self, view: Places | None = None) -> MoltBusy | None:
        """The error of a call that is made now; None: it would be taken on. `view` are the places of its view."""
        in_pool = self._calls.taken + 1
        if self._calls.full or (view is not None and view.full):
            return self._transport.busy(BusyReason.IN_FLIGHT, self._place_in_ns(view))
        threads = SERVER_THREADS.count
        if not threads or self.limited or (in_pool <= self._executors and self._standing == CALM):
            return None
        calls = 1 + sum(each._calls.taken for ref in _all if (each := ref()) is not None)
        waits_ns, self._standing = server_threads.judge(
            self._standing,
            time.monotonic_ns(),
            calls,
            threads,
            SERVER_THREADS.waiting(),
            in_pool,
            self._executors,
            self._usual.mean_ns if self._usual.is_warm else 0,
            self._target_ns,
        )
        return self._transport.busy(BusyReason.IN_FLIGHT, waits_ns) if waits_ns else None

    def _place_in_ns(self, view: Places | None) -> int:
        """How long a call waits, in ns, where places are taken that it needs."""
        waits_ns = wait_ns(
            self._calls.taken + 1, min(self._calls.limit, self._executors), self._usual.mean_ns
        )
        if view is None or not view.full:
            return waits_ns
        # What the view's calls take says when one of its places is free: others of the client may be far quicker.
        own_ns = wait_ns(view.taken + 1, min(view.limit, self._executors), view.usual.mean_ns)
        return max(waits_ns, own_ns)

    def take(self, passage: Passage, view: Places | None) -> None:
        with one_at_a_time():
            refusal = self.refusal(view)
            if refusal is None:
                self._calls.take(passage)
                if view is not None:
                    view.take(passage)
        if refusal is not None:
            raise refusal

    def give_up(self, passage: Passage, view: Places | None, response: Response | None) -> None:
        self._calls.give_up(passage)
        if view is not None:
            view.give_up(passage)
        if response is not None and response.exec_us:
            self._usual.learn(response.exec_us * 1000)
            if view is not None:
                view.usual.learn(response.exec_us * 1000)


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
