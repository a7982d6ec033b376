"""Waiting for many calls at once: one thread for all calls of this process's event loops.

An event loop can't wait in shared memory. Its calls have their executors ring one common doorbell, and the thread that
listens there looks which of them have ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Channel

log = logging.getLogger("molt_accel")

#: Rings can be lost with who died before ringing, so everything is looked at this often.
_LOOK_NS: Final = 100_000_000
#: How long the thread listens for another call before it sleeps for good.
_IDLE_NS: Final = 1_000_000_000
#: How long it sleeps between two looks while it has no doorbell.
_BLIND_S: Final = 0.001


class Completing(Protocol):
    """A call that the completion thread moves on."""

    @property
    def channel(self) -> Channel:
        """Its channel."""

    def poll(self) -> int:
        """Move it on without waiting. 0 when it has ended, else the latest time (ns) to do so again."""


class CompletionThread:
    """The thread and its calls.

    Args:
        find_doorbell: Finds a channel of this client that no request is ever published on; None where there is none. It
            is asked again then, and meanwhile the calls are looked at every now and then.
    """

    def __init__(self, find_doorbell: Callable[[], Channel | None]) -> None:
        self._find_doorbell = find_doorbell
        self._doorbell: Channel | None = None
        self._calls: dict[int, Completing] = {}
        self._some = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def add(self, call: Completing) -> None:
        """Take care of a call from now on; nobody else may wait for it any more."""
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="molt-completion", daemon=True)
                self._calls[id(call)] = call  # before it looks whether there are any
                try:
                    thread.start()
                except BaseException:  # no more threads are allowed
                    del self._calls[id(call)]
                    raise
                self._thread = thread
            else:
                self._calls[id(call)] = call
        if self._doorbell is not None:
            call.channel.redirect(self._doorbell)
        self._some.set()
        self.wake()  # it may have ended before its doorbell was redirected

    def stop(self) -> None:
        """End when the last call has. Calls that come later are taken care of all the same."""
        self._stopping = True
        self._some.set()
        self.wake()

    def quiet(self, timeout_s: float) -> bool:
        """Whether it has ended, or does so within the time: nobody listens to its doorbell any more."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():  # which is in the middle of its last call
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def wake(self) -> None:
        """Look at all calls now: one was ended from this side."""
        if self._doorbell is not None:
            self._doorbell.ring()

    def _run(self) -> None:
        heard = 0
        last_call_ns = time.monotonic_ns()
        while True:
            if not self._calls:
                if self._over():
                    return
                if time.monotonic_ns() - last_call_ns > _IDLE_NS:
                    self._some.clear()
                    if not self._calls and not self._stopping:
                        self._some.wait()
            else:
                last_call_ns = time.monotonic_ns()
                self._ensure_doorbell()
            until_ns = time.monotonic_ns() + _LOOK_NS
            for key, call in list(self._calls.items()):
                again_ns = self._poll(call)
                if again_ns:
                    until_ns = min(until_ns, again_ns)
                else:
                    del self._calls[key]
            if self._stopping and self._over():
                return
            if self._doorbell is not None:
                heard = self._doorbell.listen(heard, until_ns)
            else:
                time.sleep(_BLIND_S)

    def _ensure_doorbell(self) -> None:
        if self._doorbell is None and (doorbell := self._find_doorbell()) is not None:
            self._doorbell = doorbell  # before looking: a call that is not here yet will find it
            for call in list(self._calls.values()):
                call.channel.redirect(doorbell)

    def _over(self) -> bool:
        """Whether to end now. Who adds a call afterwards finds no thread, and starts another."""
        with self._lock:
            if not self._stopping or self._calls:
                return False
            self._thread = None
            return True

    def _poll(self, call: Completing) -> int:
        try:
            return call.poll()
        except Exception:  # a bug in one call must not take the others along
            log.exception("a call could not be moved on")
            return 0
