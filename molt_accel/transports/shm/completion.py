"""Waits for many calls at once: one thread for all calls of this process's event loops.

An event loop can't wait in shared memory. The executors of its calls ring one common doorbell. This thread listens
there, and looks which calls have ended.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

from molt_accel.ipc.shm._native import Channel

log = logging.getLogger("molt_accel")

#: How often the thread looks at every call: an executor may die before it rings.
_LOOK_NS: Final = 100_000_000
#: How long the thread listens without a call before it sleeps until the next one.
_IDLE_NS: Final = 1_000_000_000
_BLIND_S: Final = 0.001  #: how long it sleeps between two looks while it has no doorbell


class Completing(Protocol):
    """A call that the completion thread moves on."""

    @property
    def channel(self) -> Channel: ...

    def poll(self) -> int:
        """Move the call on without waiting. Returns 0 at its end, else when to do so again at the latest (ns)."""


class CompletionThread:
    """The thread and its calls.

    Args:
        find_doorbell: Finds a channel of this client on which no request is ever published. While it returns None,
            the thread looks at the calls every `_BLIND_S`, and asks again.
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
        """Wait for a call. No other thread may wait for it from now on."""
        with self._lock:
            self._calls[id(call)] = call  # before a new thread looks whether there are any
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="molt-completion", daemon=True)
                try:
                    thread.start()
                except BaseException:  # no more threads are allowed
                    del self._calls[id(call)]
                    raise
                self._thread = thread
        if self._doorbell is not None:
            call.channel.redirect(self._doorbell)
        self._some.set()
        self.wake()  # the call may have ended before its doorbell was redirected

    def stop(self) -> None:
        """End the thread after the last call. A call that comes later starts another one."""
        self._stopping = True
        self._some.set()
        self.wake()

    def quiet(self, timeout_s: float) -> bool:
        """Wait until the thread has ended, and no longer listens to its doorbell. Returns False if it takes longer."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():  # it is in the middle of its last call
            return True
        thread.join(timeout_s)
        return not thread.is_alive()

    def wake(self) -> None:
        """Have the thread look at all calls now, because one was ended from this side."""
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
                if self._doorbell is None and (doorbell := self._find_doorbell()) is not None:
                    self._doorbell = doorbell  # before the redirections: `add` sees it for any later call
                    for call in list(self._calls.values()):
                        call.channel.redirect(doorbell)
            until_ns = time.monotonic_ns() + _LOOK_NS
            for key, call in list(self._calls.items()):
                try:
                    again_ns = call.poll()
                except Exception:  # a bug in one call must not take the others along
                    log.exception("a call could not be moved on")
                    again_ns = 0
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

    def _over(self) -> bool:
        """Whether the thread ends now. If so, `add` finds no thread and starts another."""
        with self._lock:
            if not self._stopping or self._calls:
                return False
            self._thread = None
            return True
