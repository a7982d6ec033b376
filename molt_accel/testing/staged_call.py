"""A call that a test has put something into the way of: it may begin late, and its transport is not its client's."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Final

from molt_accel.call import whose_fault
from molt_accel.errors import MoltError
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import Request
from molt_accel.ipc.outcomes import timed_out_running
from molt_accel.transports.base import PendingCall, Result, Sender, Success, seconds_until, success_of


class StagedCall:
    """A `PendingCall`. It has `begun`, or is sent after `delay_s`; if its deadline comes first, it ends there.

    Args:
        owner: The transport that it goes to.
        begun: The call on that one, if it has been sent.
        delay_s: Seconds until it is sent.
    """

    def __init__(
        self, request: Request, owner: Sender, begun: PendingCall | None = None, delay_s: float = 0.0
    ) -> None:
        self.request_id: Final = request.request_id
        self._request: Final = request
        self._owner: Final = owner
        self._begun = begun
        due_s = time.monotonic() + delay_s
        deadline_s = request.deadline_ns / 1e9 or due_s
        self._times_out: Final = due_s > deadline_s
        self._due_s: Final = min(due_s, deadline_s)
        self._ended: Result | None = None  # before it was sent
        self._lost = False
        self._lock: Final = threading.Lock()
        self._woken: Final = threading.Event()
        self._callback: Callable[[], object] | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def done(self) -> bool:
        return self._ended is not None or self.lost or (self._begun is not None and self._begun.done)

    @property
    def result(self) -> Result | None:
        return self._ended if self._begun is None else self._begun.result

    @property
    def lost(self) -> bool:
        return self._lost or (self._begun is not None and self._begun.lost)

    @property
    def success(self) -> Success | None:
        return success_of(self.result)

    def wait_until(self, until_ns: int) -> bool:
        return self.wait(seconds_until(until_ns))

    def wait(self, timeout_s: float | None) -> bool:
        until_s = None if timeout_s is None else time.monotonic() + timeout_s
        while self._begun is None and not self.done:
            now_s = time.monotonic()
            if now_s >= self._due_s:
                self._begin()
            elif until_s is not None and now_s >= until_s:
                return False
            else:
                self._woken.wait((self._due_s if until_s is None else min(self._due_s, until_s)) - now_s)
        if self._begun is None:
            return True
        return self._begun.wait(None if until_s is None else max(0.0, until_s - time.monotonic()))

    def on_done(self, callback: Callable[[], object]) -> None:
        self._callback = callback
        if self._begun is not None:
            self._begun.on_done(callback)
        elif self.done:
            callback()
        elif self._timer is None:
            left_s = max(0.0, self._due_s - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(left_s, self._begin)

    def ended_in(self, loop: asyncio.AbstractEventLoop, until_ns: int) -> asyncio.Future[None] | None:
        return None if self._begun is None or self._callback else self._begun.ended_in(loop, until_ns)

    def abandon(self, error: MoltError) -> bool:
        """End it with `error`; see `Sender.abandon`."""
        with self._lock:
            begun = self._begun
            if begun is None and not self.done:
                self._ended = error
                self._wake()
                return True
        return begun is not None and not begun.done and self._owner.abandon(begun, error)

    def _begin(self) -> None:
        with self._lock:
            if self.done or self._begun is not None:
                return
            if self._times_out:
                self._ended = timed_out_running()
            else:
                try:
                    self._begun = self._owner.submit(self._request)
                    self._lost = self._begun is None
                except FrameError as exc:
                    self._ended = whose_fault(exc)
                except MoltError as exc:
                    self._ended = exc
            self._wake()

    def _wake(self) -> None:
        self._woken.set()
        if self._timer is not None:
            self._timer.cancel()
        if self._callback is not None:
            if self._begun is not None:
                self._begun.on_done(self._callback)
            else:
                self._callback()
