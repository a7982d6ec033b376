"""The transport `auto`: shared memory, or stdio if the worker finds no room for shared memory."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from molt_accel.errors import BusyReason, MoltBusy, MoltError, NoSharedMemory
from molt_accel.ipc.messages import Request
from molt_accel.transports.base import PendingCall, Transport
from molt_accel.transports.line import Line
from molt_accel.transports.overflow import Overflow

log = logging.getLogger("molt_accel")


class AutoTransport:
    """Uses shared memory until that turns out not to work here; then stdio, for good and with one warning.

    Args:
        first: The transport to begin with.
        open_second: Makes the transport to go on with.
    """

    submit: Callable[[Request], PendingCall | None]

    def __init__(self, first: Transport, open_second: Callable[[], Transport]) -> None:
        self._open_second = open_second
        # Reentrant, because a signal handler or the garbage collector may close the client on a thread that holds it.
        self._lock = threading.RLock()
        self._closed = False
        # The first stays open until the end: calls may be in flight on it, and other threads be about to use it.
        self._transports: list[Transport] = []
        self._use(first)

    def _use(self, transport: Transport) -> None:
        self._transport = transport
        self._transports.append(transport)
        self.submit = transport.submit

    @property
    def ready(self) -> bool:
        return self._transport.ready

    @property
    def max_wait_ms(self) -> int:
        return self._transport.max_wait_ms

    @property
    def line(self) -> Line:
        return self._transport.line

    @property
    def overflow(self) -> Overflow | None:
        return self._transport.overflow

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        return self._transport.refusal(entry, left_ns)

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        return self._transport.busy(reason, wait_ns)

    @property
    def patience_s(self) -> float:
        return self._transport.patience_s

    def start(self) -> None:
        self._on_either(lambda transport: transport.start())

    def wait_ready(self, timeout_s: float) -> None:
        self._on_either(lambda transport: transport.wait_ready(timeout_s))

    def _on_either(self, act: Callable[[Transport], None]) -> None:
        try:
            act(self._transport)
        except NoSharedMemory as exc:
            with self._lock:
                if len(self._transports) == 1:
                    log.warning(
                        "no shared memory, so each server process starts a worker of its own: %s", exc.detail
                    )
                    second = self._open_second()
                    if self._closed:
                        second.close()
                    self._use(second)
            act(self._transport)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        return any(transport.abandon(pending, error) for transport in self._transports)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            transports = list(self._transports)
        for transport in transports:
            transport.close()
