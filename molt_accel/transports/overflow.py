"""Where calls go that the local pool refuses: to pools of other hosts, if they have room.

Nothing of it costs a call that is taken on here. The connection is made when it is first wanted, and not waited for.
"""

from __future__ import annotations

import importlib
import logging
import math
import threading
import time
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import MoltError, MoltStartFailed
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import PING, Request
from molt_accel.transports import forks
from molt_accel.transports.base import Transport

log = logging.getLogger("molt_accel")

#: After all hosts that were asked have refused, or none was there, none is asked for so long, in s. Not for longer than
#: what a full pool has yet to do, or it stands idle for the rest.
PAUSE_S: Final = 0.05
#: After the connection could not be made, it is not tried again for so long, in s.
CONNECT_PAUSE_S: Final = 1.0
#: With less time than this left, in ns, a request stays: it would be late.
LEAST_NS: Final = 5_000_000


class Overflow:
    """The way to the other hosts of one client.

    Args:
        config: Names the messaging system.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._transport: Transport | None = None
        self._lock = threading.RLock()
        self._closed = False
        self._not_before_s = 0.0
        forks.register(self)

    @property
    def has_room(self) -> bool:
        """Whether other hosts may take a request: nobody has said otherwise just now."""
        return time.monotonic() >= self._not_before_s

    def for_request(self, request: Request) -> Transport | None:
        """Return where a refused request may go; None: nowhere, or not yet."""
        if request.entry == PING or not self.has_room:
            return None
        if request.deadline_ns and request.deadline_ns - time.monotonic_ns() < LEAST_NS:
            return None
        transport = self._opened()
        return transport if transport is not None and transport.ready else None

    def note(self, error: MoltError | None) -> bool:
        """Take note of how a request ended there. Returns whether that is its outcome; else it was not run."""
        not_run = outcomes.was_not_run(error)
        if not_run:
            self._not_before_s = time.monotonic() + PAUSE_S
        return not not_run

    def _opened(self) -> Transport | None:
        transport = self._transport
        if transport is not None and transport.ready:
            return transport
        with self._lock:
            if self._closed:
                return None
            if self._transport is None:
                cluster = importlib.import_module("molt_accel.transports.cluster")
                self._transport = cluster.ClusterTransport(self._config)
            self._not_before_s = time.monotonic() + CONNECT_PAUSE_S  # for the thread that connects
            threading.Thread(
                target=self._start, args=(self._transport,), name="molt-starter", daemon=True
            ).start()
        return None

    def _start(self, transport: Transport) -> None:
        try:
            transport.start()
        except MoltStartFailed as exc:  # nothing that a later try could change
            self._not_before_s = math.inf
            log.warning("no overflow to other hosts: %s", exc.detail)
        except MoltError:
            self._not_before_s = time.monotonic() + CONNECT_PAUSE_S
        else:
            self._not_before_s = 0.0

    def after_fork_in_child(self) -> None:
        """Whoever has the lock in the parent is no thread of this process. The connection forgets itself."""
        self._lock = threading.RLock()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            transport = self._transport
        if transport is not None:
            transport.close()


def overflow_of(config: Config) -> Overflow | None:
    """Return the overflow that is configured; None: there is none."""
    return None if config.overflow == "off" else Overflow(config)
