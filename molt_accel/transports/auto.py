"""The choice that can't be made before a worker was asked: shared memory, or stdio where there is no room for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from molt_accel.errors import MoltError, NoSharedMemory
from molt_accel.ipc.messages import Request
from molt_accel.transports.base import PendingCall, Transport

log = logging.getLogger("molt_accel")


class AutoTransport:
    """Shared memory, until it turns out that it can't serve here; then stdio, for good and with one warning.

    Args:
        first: The transport to begin with.
        open_second: Makes the one to go on with.
    """

    submit: Callable[[Request], PendingCall | None]

    def __init__(self, first: Transport, open_second: Callable[[], Transport]) -> None:
        self._open_second = open_second
        # Reentrant, because a signal handler or the garbage collector may close the client on a thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        # The first is not closed before the end: other threads may be about to use it, and calls be in flight on it.
        self._transports: list[Transport] = []
        self._use(first)

    def _use(self, transport: Transport) -> None:
        self._transport = transport
        self._transports.append(transport)
        # What every call needs goes straight to it.
        self.submit = transport.submit

    @property
    def ready(self) -> bool:
        return self._transport.ready

    @property
    def patience_s(self) -> float:
        return self._transport.patience_s

    def start(self) -> None:
        try:
            self._transport.start()
        except NoSharedMemory as exc:
            self._switch(exc)
            self._transport.start()

    def wait_ready(self, timeout_s: float) -> None:
        try:
            self._transport.wait_ready(timeout_s)
        except NoSharedMemory as exc:
            self._switch(exc)
            self._transport.wait_ready(timeout_s)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        return any(transport.abandon(pending, error) for transport in self._transports)

    def _switch(self, why: NoSharedMemory) -> None:
        with self._lock:
            if len(self._transports) == 1:
                log.warning(
                    "no shared memory, so each server process starts a worker of its own: %s", why.detail
                )
                second = self._open_second()
                if self._closed:
                    second.close()
                self._use(second)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            transports = list(self._transports)
        for transport in transports:
            transport.close()
