"""What a call waits for. Each kind of wait can block a thread, or wait in an event loop.

A call is a generator that yields these waits: `drive` blocks for each, `adrive` awaits each.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Generator
from typing import Any, Final, Protocol, TypeVar

import msgspec

from molt_accel.errors import MoltTimeout, MoltWorkerUnavailable
from molt_accel.transports.base import PendingCall, Sender
from molt_accel.transports.settling import settle_at, settle_from_afar

FOREVER: Final = float("inf")

T = TypeVar("T")


class Wait(Protocol):
    """Something that a call waits for."""

    def block(self) -> object:
        """Wait on this thread."""

    async def wait(self) -> object:
        """Wait in the running event loop."""


class CallEnd(msgspec.Struct, frozen=True):
    """Wait for a call's end. The outcome is False if the time is over first."""

    pending: PendingCall
    until_ns: int  #: of CLOCK_MONOTONIC; 0: for ever

    def block(self) -> bool:
        return self.pending.wait_until(self.until_ns)

    async def wait(self) -> bool:
        pending = self.pending
        if not pending.done:
            loop = asyncio.get_running_loop()
            ended = pending.ended_in(loop, self.until_ns)
            if ended is not None:
                await ended
                return pending.done
        if pending.done:
            await asyncio.sleep(0)  # give other tasks a turn, even if every answer is already there
            return True
        ended = loop.create_future()
        pending.on_done(lambda: settle_from_afar(loop, ended))
        settle_at(loop, ended, self.until_ns)
        await ended
        return pending.done


def _start_aside(transport: Sender) -> concurrent.futures.Future[None]:
    """Start a transport on a thread of its own, which goes on if its caller stops waiting.

    Other calls need the worker too, and the next one finds it started.
    """
    started: concurrent.futures.Future[None] = concurrent.futures.Future()
    started.set_running_or_notify_cancel()  # nobody can cancel it from now on

    def start() -> None:
        try:
            transport.start()
        except Exception as exc:
            started.set_exception(exc)
        else:
            started.set_result(None)

    # Not in an event loop's pool of threads, whose places views may hold for long.
    threading.Thread(target=start, name="molt-starter", daemon=True).start()
    return started


class WorkerStart(msgspec.Struct, frozen=True):
    """Wait until the transport can take a request, or the time is over."""

    transport: Sender
    timeout_s: float

    def block(self) -> None:
        if self.timeout_s == FOREVER:
            self.transport.start()
            return
        try:
            started = _start_aside(self.transport)
        except RuntimeError:  # no more threads are allowed
            self.transport.start()
            return
        concurrent.futures.wait([started], min(self.timeout_s, threading.TIMEOUT_MAX))
        if not started.done():
            raise not_started_in_time()
        try:
            started.result()
        finally:
            del started  # an error's traceback must not lead back to the error

    async def wait(self) -> None:
        try:
            aside = _start_aside(self.transport)
        except RuntimeError as exc:  # no more threads are allowed, and the event loop must not block
            raise MoltWorkerUnavailable(f"can't start or attach to a worker: {exc}") from exc
        started = asyncio.wrap_future(aside)
        try:
            async with asyncio.timeout(None if self.timeout_s == FOREVER else self.timeout_s):
                await started
        except TimeoutError:
            raise not_started_in_time() from None


class Pause(msgspec.Struct, frozen=True):
    seconds: float

    def block(self) -> None:
        time.sleep(self.seconds)

    async def wait(self) -> None:
        await asyncio.sleep(self.seconds)


def not_started_in_time() -> MoltTimeout:
    """The error of a call whose deadline passes before there is a worker."""
    return MoltTimeout("the worker was not started within the deadline", facts={"phase": "transport"})


def drive(steps: Generator[Wait, Any, T]) -> T:
    """Run a generator of waits to its end on this thread."""
    try:
        step = next(steps)
        while True:
            try:
                outcome = step.block()
            except BaseException as exc:
                del step  # it holds the call's outcome: an error's traceback must not lead back to the error
                step = steps.throw(exc)
            else:
                del step
                step = steps.send(outcome)
    except StopIteration as stop:
        result: T = stop.value
        return result


async def adrive(steps: Generator[Wait, Any, T], step: Wait | None = None) -> T:
    """Run a generator of waits to its end in the running event loop. Cancelling the task cancels the call.

    `step` is the wait that it stands at, if it has begun.
    """
    try:
        step = step or next(steps)
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
