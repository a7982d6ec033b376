"""Futures of event loops that say that a wait is over: settled in the loop, from another thread, or at a time."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from molt_accel.transports.base import seconds_until

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future


def settle(ended: Future[None]) -> None:
    """Settle it, unless that was done before. In the loop's thread."""
    if not ended.done():
        ended.set_result(None)


def settle_from_afar(loop: AbstractEventLoop | None, ended: Future[None]) -> None:
    """Have its loop settle it, on any thread. Does nothing if the loop is gone or closed: nobody waits any more."""
    if loop is not None:
        with contextlib.suppress(RuntimeError):  # it is closed
            loop.call_soon_threadsafe(settle, ended)


def settle_at(loop: AbstractEventLoop, ended: Future[None], until_ns: int) -> None:
    """Settle it at a time of CLOCK_MONOTONIC, unless that is done before; 0: never. In the loop's thread."""
    left_s = seconds_until(until_ns)
    if left_s is not None:
        timer = loop.call_later(left_s, settle, ended)
        ended.add_done_callback(lambda _: timer.cancel())
