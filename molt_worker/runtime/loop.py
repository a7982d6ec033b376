"""The supervisor's event loop: it watches descriptors and one timer. A bug in a callback costs one event only."""

from __future__ import annotations

import contextlib
import os
import selectors
import time
import traceback
from collections.abc import Callable
from typing import Final

from molt_accel.ipc.stream import FrameStream
from molt_worker.runtime.log import LogSink

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE
#: Longest wait in one turn. poll(2) waits 24 days at most, and a deadline may be later.
_MAX_WAIT_S: Final = 3600.0

Action = Callable[[int], object]


class EventLoop:
    """Calls back when descriptors are ready, and when a timer may be due.

    There is no heap of timers. Each object keeps its own next time and passes it to `at`. The loop keeps only the
    earliest; when that is due, the supervisor looks at every object that has a time. This is cheap: pool and queue
    are small, and most requests end long before their deadline.
    """

    def __init__(self, log: LogSink) -> None:
        self._log = log
        # poll takes any stdin; epoll refuses a regular file. The pool is small, so poll is fast enough.
        self._selector = selectors.PollSelector()
        self._events: dict[int, int] = {}
        self._dropped: set[int] = set()  # descriptors that this turn stopped watching
        self._timer_ns = 0

    def at(self, when_ns: int) -> int:
        """Note that a timer is due at `when_ns`, in ns of CLOCK_MONOTONIC (0: never). Returns `when_ns`."""
        if when_ns and (not self._timer_ns or when_ns < self._timer_ns):
            self._timer_ns = when_ns
        return when_ns

    def watch(self, fd: int, events: int, action: Action | None = None) -> None:
        """Watch a descriptor for `events`; 0 stops watching it. Without `action`, the earlier one stays."""
        known = self._events.get(fd)
        if known == events or (known is None and not events):
            return
        if not events:
            self._selector.unregister(fd)
            del self._events[fd]
            self._dropped.add(fd)
            return
        if known is None:
            self._selector.register(fd, events, action)
        else:
            self._selector.modify(fd, events, action or self._selector.get_key(fd).data)
        self._events[fd] = events

    def watch_stream(self, stream: FrameStream, on_readable: Callable[[], object]) -> None:
        """Call back when a stream can be read, and flush what it has queued when its descriptor takes more.

        Call this again after a `send`, which may have queued something. The stream must have one descriptor.
        """

        def on_ready(mask: int) -> None:
            if mask & WRITE:
                with contextlib.suppress(BrokenPipeError):  # reading finds the end of the stream
                    stream.flush()
                self.watch_stream(stream, on_readable)
            if mask & READ:
                on_readable()

        self.watch(stream.read_fd, READ | (WRITE if stream.pending_bytes else 0), on_ready)

    def turn(self, on_timers: Callable[[int], object]) -> None:
        """Wait for events and handle them. When a timer is due, call `on_timers` with the time in ns."""
        timeout_s = None
        if self._timer_ns:
            timeout_s = min(max(0.0, (self._timer_ns - time.monotonic_ns()) / 1e9), _MAX_WAIT_S)
        events = self._selector.select(timeout_s)
        self._dropped.clear()
        for key, mask in events:
            # An earlier event of this turn may have closed the descriptor, and another file may have its number now.
            if key.fd not in self._dropped:
                self.guard(key.data, mask)
        if self._timer_ns:
            now_ns = time.monotonic_ns()
            if now_ns >= self._timer_ns:
                self._timer_ns = 0
                self.guard(on_timers, now_ns)

    def guard(self, action: Callable[..., object], *args: object) -> None:
        """Call `action`. A bug in it is logged with its place, and costs this one event instead of the worker."""
        try:
            action(*args)
        except Exception as exc:
            place = traceback.extract_tb(exc.__traceback__)[-1]
            at = f"{os.path.basename(place.filename)}:{place.lineno}"
            self._log.log("error", "supervisor_bug", error=f"{type(exc).__name__}: {exc}", at=at)

    def close(self) -> None:
        self._selector.close()
