"""What a call waits for, each in two ways: blocking a thread, and in an event loop.

A call is a generator that yields these; `drive` blocks for each, `adrive` awaits it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator
from typing import Any, Final, Protocol, TypeVar

import msgspec

from molt_accel.errors import MoltTimeout
from molt_accel.ipc.frame import format_id
from molt_accel.transports.base import PendingCall, Transport

log = logging.getLogger("molt_accel")

FOREVER: Final = float("inf")

T = TypeVar("T")


class Wait(Protocol):
    """Something a call waits for, in both ways of waiting."""

    def block(self) -> object:
        """Wait on this thread."""

    async def wait(self) -> object:
        """Wait in the running event loop."""


class CallEnd(msgspec.Struct, frozen=True):
    """Wait for a call's end; False if the time is over first."""

    pending: PendingCall
    timeout_s: float | None

    def block(self) -> bool:
        return self.pending.wait(self.timeout_s)

    async def wait(self) -> bool:
        pending = self.pending
        if pending.done:
            await asyncio.sleep(0)  # other tasks get their turn, however fast the answers are
            return True
        loop = asyncio.get_running_loop()
        ended = loop.create_future()

        def settle() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake() -> None:
            try:
                loop.call_soon_threadsafe(settle)
            except RuntimeError:  # the loop was closed: nobody waits any more
                log.debug("call %s ended after its event loop", format_id(pending.request_id))

        pending.on_done(wake)
        timer = None if self.timeout_s is None else loop.call_later(self.timeout_s, settle)
        try:
            await ended
        finally:
            if timer is not None:
                timer.cancel()
        return pending.done


def _start_aside(transport: Transport, then: Callable[[Exception | None], object]) -> None:
    """Start a transport on a thread of its own, which goes on when its caller waits no longer.

    Others need the worker too, and the next call finds it started.
    """

    def start() -> None:
        try:
            transport.start()
        except Exception as exc:
            then(exc)
        else:
            then(None)

    # Not in an event loop's pool of threads, where views may hold every place for long.
    threading.Thread(target=start, name="molt-starter", daemon=True).start()


class WorkerStart(msgspec.Struct, frozen=True):
    """Wait until the transport can take a request, or the time is over."""

    transport: Transport
    timeout_s: float

    def block(self) -> None:
        if self.timeout_s == FOREVER:
            self.transport.start()
            return
        started = threading.Event()
        errors: list[Exception] = []

        def settle(error: Exception | None) -> None:
            if error is not None:
                errors.append(error)
            started.set()

        try:
            _start_aside(self.transport, settle)
        except RuntimeError:  # no more threads are allowed
            self.transport.start()
            return
        if not started.wait(min(self.timeout_s, threading.TIMEOUT_MAX)):
            raise not_started_in_time()
        if errors:
            raise errors.pop()

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        started = loop.create_future()

        def settle(error: Exception | None) -> None:
            if not started.done():
                started.set_result(None) if error is None else started.set_exception(error)

        def tell(error: Exception | None) -> None:
            with contextlib.suppress(RuntimeError):  # the loop was closed: nobody waits any more
                loop.call_soon_threadsafe(settle, error)

        _start_aside(self.transport, tell)
        try:
            async with asyncio.timeout(None if self.timeout_s == FOREVER else self.timeout_s):
                await started
        except TimeoutError:
            raise not_started_in_time() from None


class Pause(msgspec.Struct, frozen=True):
    """Wait for a time."""

    seconds: float

    def block(self) -> None:
        time.sleep(self.seconds)

    async def wait(self) -> None:
        await asyncio.sleep(self.seconds)


def not_started_in_time() -> MoltTimeout:
    """The error of a call whose worker is not there when its deadline passes."""
    late = "the worker was not started within the deadline"
    return MoltTimeout(late, facts={"phase": "transport"})


def drive(steps: Generator[Wait, Any, T]) -> T:
    """Run a generator of waits to its end on this thread."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.block()
            except BaseException as exc:
                del step  # it knows the call's outcome: an error's traceback must not lead back to the error
                step = steps.throw(exc)
            else:
                del step
                step = steps.send(outcome)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def adrive(steps: Generator[Wait, Any, T]) -> T:
    """Run a generator of waits to its end in the running event loop. Cancelling the task cancels the call."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = await step.wait()
            except BaseException as exc:
                del step
                step = steps.throw(exc)
            else:
                del step
                step = steps.send(outcome)
    except StopIteration as stop:
        result: T = stop.value
        return result
