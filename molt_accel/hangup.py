"""Notices when a descriptor hangs up, for threads that wait for something else: one thread watches for all of them.

Calls use it whose HTTP client may go away. The thread sleeps in poll(2) until a watched descriptor hangs up or the set
of descriptors changes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import threading
from collections.abc import Callable, Iterator
from typing import Final

log = logging.getLogger("molt_accel")

#: The events of poll(2) at which a peer has closed its sending half. POLLRDHUP tells that from data that it sent (a
#: pipelined request). Systems without it report both alike, and the callback has to look for itself. A reset, and an
#: end of both halves, are reported even for no events.
HALF_CLOSE: Final = getattr(select, "POLLRDHUP", select.POLLIN)


class HangupWatcher:
    """Calls back when a watched descriptor hangs up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._watched: dict[int, tuple[Callable[[], object], int]] = {}
        self._thread: threading.Thread | None = None
        self._wake_r = self._wake_w = -1

    def start(self) -> bool:
        """Have the thread run. Returns False if none can be started: then the caller must look for itself."""
        try:
            with self._lock:
                self._ensure_thread()
        except (OSError, RuntimeError):
            return False
        return True

    @contextlib.contextmanager
    def watching(self, fd: int, callback: Callable[[], object], events: int = HALF_CLOSE) -> Iterator[None]:
        """Call `callback` once, on the watcher's thread, if `fd` hangs up or has one of `events` in this context.

        `start` comes first.
        """
        # A duplicate still means this connection if its owner closes `fd` and the number is used again.
        try:
            own = os.dup(fd)
        except OSError:  # it is closed already, which counts as a hang-up
            callback()
            yield
            return
        try:
            with self._lock:
                self._ensure_thread()
                self._watched[own] = callback, events
                self._look_again()
            yield
        finally:
            with self._lock:
                self._watched.pop(own, None)
                os.close(own)
                # A poll under way keeps the connection open until it returns, so end it.
                self._look_again()

    def _look_again(self) -> None:
        with contextlib.suppress(OSError):  # full: the thread is about to look anyway; -1: there is no thread
            os.write(self._wake_w, b"w")

    def _ensure_thread(self) -> None:
        if self._thread is None:
            if self._wake_r < 0:
                self._wake_r, self._wake_w = os.pipe()
            os.set_blocking(self._wake_r, False)
            os.set_blocking(self._wake_w, False)
            thread = threading.Thread(target=self._run, name="molt-hangup-watcher", daemon=True)
            thread.start()
            self._thread = thread

    def _run(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self._wake_r, select.POLLIN)
            with self._lock:
                polled = dict(self._watched)
                for fd, (_, events) in polled.items():
                    poll.register(fd, events)
            for fd, _ in poll.poll():
                if fd == self._wake_r:
                    os.read(self._wake_r, 4096)
                else:
                    self._hung_up(fd, polled[fd][0])

    def _hung_up(self, fd: int, callback: Callable[[], object]) -> None:
        with self._lock:
            if fd not in self._watched or self._watched[fd][0] is not callback:
                return  # no longer watched; another call may have the number by now
            del self._watched[fd]
        try:
            callback()
        except Exception:
            log.exception("a hang-up callback failed")

    def _after_fork_in_child(self) -> None:
        for fd in (self._wake_r, self._wake_w, *self._watched):
            if fd >= 0:
                with contextlib.suppress(OSError):
                    os.close(fd)
        self.__init__()  # type: ignore[misc]


#: The one watcher of this process; its thread starts with the first use.
hangups: Final = HangupWatcher()
os.register_at_fork(after_in_child=hangups._after_fork_in_child)
