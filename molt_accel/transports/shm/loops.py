"""Event loops that wait for calls: each has a bell of its own, by which executors wake its selector.

No thread stands in between. One turn of the loop takes all calls that have ended, and resolves their futures where
they are awaited. A loop without a bell waits with the completion thread. So do calls whose bytes don't fit a ring:
moving them would keep the loop busy. So do all for a while, where an executor has lost its end of a bell.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from molt_accel.ipc.shm._native import Arena, due_calls, next_time_ns
from molt_accel.ipc.shm.layout import NEVER
from molt_accel.transports import forks
from molt_accel.transports.settling import settle, settle_at, settle_from_afar

if TYPE_CHECKING:
    from molt_accel.transports.shm.transport import ShmCall

    Ended = asyncio.Future[None]
    #: Has the completion thread wait for a call. Raises RuntimeError: no more threads are allowed.
    Adopt = Callable[[ShmCall], None]

log = logging.getLogger("molt_accel")

#: How often a loop looks at its calls while it has some: an executor may die before it rings.
_LOOK_NS: Final = 100_000_000
_MOST_BELLS: Final = 8  #: a worker lends a client no more
_REFUSED_S: Final = 10.0  #: how long a client does not ask again after the worker had no bell for it
#: How long no bell is used after an executor could not ring one. The next try costs calls up to `_LOOK_NS`.
_SILENCE_S: Final = 600.0
_READ_BYTES: Final = 4096


class Bell:
    """The reading end of a bell that the worker has lent this client."""

    def __init__(self, number: int, fd: int) -> None:
        self.number: Final = number
        self.fd = fd

    def close(self) -> None:
        with forks.close_lock():
            fd, self.fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        self.close()


class Silence:
    """The time in which a connection uses no bells, because an executor could not ring one."""

    def __init__(self) -> None:
        self.until_s = 0.0  #: of CLOCK_MONOTONIC; 0: there is none

    def begin(self) -> None:
        self.until_s = time.monotonic() + _SILENCE_S
        log.warning(
            "an executor can't wake this process's event loops: code that it ran has closed descriptors that it had "
            "not opened (os.closerange?). For %d s a thread waits for awaited calls",
            _SILENCE_S,
        )

    def is_on(self) -> bool:
        if self.until_s and time.monotonic() >= self.until_s:
            self.until_s = 0.0
        return self.until_s != 0.0


class LoopCalls:
    """The calls on one connection that one event loop waits for.

    `add` and all that ends a call run in the loop's thread. Another thread has `wake` do that, or takes the calls away
    from a loop that doesn't run.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, bell: Bell, arena: Arena, adopt: Adopt, silence: Silence
    ) -> None:
        self._loop: Callable[[], asyncio.AbstractEventLoop | None] = weakref.ref(loop)  # which refers to this
        self.bell = bell
        self._arena = arena
        self._adopt = adopt
        self._silence = silence
        self._calls: set[ShmCall] = set()
        self._late: list[ShmCall] = []
        #: For the timer: a loop that is closed doesn't let go of its timers.
        self._itself: Final = weakref.ref(self)
        self._timer: asyncio.TimerHandle | None = None
        self._timer_ns = NEVER
        self._ending = False
        # A loop that isn't running may begin to run while another thread takes its calls away.
        self._lock = threading.RLock()
        loop.add_reader(bell.fd, self._on_bell)
        arena.arm(bell.number)

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        return self._loop()

    @property
    def count(self) -> int:
        """How many calls the loop waits for."""
        return len(self._calls)

    def add(self, call: ShmCall, until_ns: int) -> Ended | None:
        """Wait for a call, at most until `until_ns` (0: for ever).

        Returns what is done when it ends or the time is over. None: it has ended, or a thread must wait for it.
        """
        calls, channel = self._calls, call.channel
        is_new = call.loop_calls is None
        # Before the bell is rung for it: otherwise the loop would be woken for nothing.
        if is_new and not calls and call.glance():
            call.release()
            return None
        loop = self._loop()
        if loop is None or (is_new and (channel.flows or self._is_silent())):
            return None
        ended: Ended = loop.create_future()
        now_ns, call.until_ns = time.monotonic_ns(), until_ns or NEVER
        call.ended = ended
        if is_new:
            call.loop_calls = self
            call.waited_for = True
            calls.add(call)
            channel.aim(self.bell.number)
            if channel.late:
                if not self._late:
                    loop.call_soon(self._catch_up)
                self._late.append(call)
        if (next_ns := min(now_ns + _LOOK_NS, call.until_ns, call.look_ns)) < self._timer_ns:
            self._set_timer(loop, now_ns, next_ns)
        if due_calls((call,), self._arena, now_ns):  # it may have ended before the bell was rung for it
            self.look()
        return ended

    def _is_silent(self) -> bool:
        silence = self._silence
        if not silence.until_s:
            return False
        if silence.is_on():
            return True
        self._arena.arm(self.bell.number)  # what befell it before doesn't count
        return False

    def _catch_up(self) -> None:
        """Wake executors for requests that were left to one that spins, which may have taken up another one."""
        late, self._late = self._late, []
        for call in late:
            if call in self._calls:
                call.channel.catch_up()

    def _set_timer(self, loop: asyncio.AbstractEventLoop, now_ns: int, next_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_ns = next_ns
        self._timer = loop.call_later(max(0, next_ns - now_ns) / 1e9, _on_timer_of, self._itself)

    def _on_timer(self) -> None:
        """Look at all calls, and come back while there are some."""
        self._timer = None
        self._timer_ns = NEVER
        self._arm()  # a ring may have been lost
        self.look()
        loop = self._loop()
        if self._calls and loop is not None:
            now_ns = time.monotonic_ns()
            self._set_timer(loop, now_ns, min(now_ns + _LOOK_NS, next_time_ns(self._calls)))

    def _on_bell(self) -> None:
        try:
            is_open = bool(os.read(self.bell.fd, _READ_BYTES))
        except BlockingIOError:  # somebody else has read it
            is_open = True
        except OSError:
            is_open = False
        if is_open:
            self._arm()  # before the look: what happens after it is rung for
        else:  # the worker is gone, which the connection is about to notice
            self._mute()
        self.look()

    def _arm(self) -> None:
        """Have the bell rung for what happens from now on. In the loop's thread.

        If an executor could not ring it, the completion thread waits for the calls, and for later ones.
        """
        if self._arena.arm(self.bell.number) or not self._calls:
            return
        self.evict()
        if not self._calls:  # else there can be no such thread, and to look in time is better than nothing
            self._silence.begin()

    def _mute(self) -> None:
        """Listen to the bell no longer. In the loop's thread."""
        loop = self._loop()
        if loop is not None and self.bell.fd >= 0 and not loop.is_closed():
            loop.remove_reader(self.bell.fd)

    def look(self) -> None:
        """Take what has ended, and let go of what has waited long enough. In the loop's thread."""
        over: list[ShmCall] = []
        with self._lock:
            now_ns = time.monotonic_ns()
            for call in due_calls(self._calls, self._arena, now_ns):
                if not call.done:
                    if call.channel.flows and self._hand_over(call):
                        continue
                    try:
                        call.advance(0)
                    except Exception as exc:  # a bug in one call must not take the others along
                        log.exception("a call could not be moved on")
                        call.fail(exc)
                if call.done:
                    self._calls.discard(call)
                    over.append(call)
                elif now_ns >= call.until_ns:
                    call.until_ns = NEVER
                    settle(call.ended)
        for call in over:
            self._finish(call)
        if self._ending and not self._calls:
            self._retire()

    def _finish(self, call: ShmCall) -> None:
        call.release()
        settle(call.ended)

    def ended(self, call: ShmCall) -> None:
        """A call was ended from this side, on any thread."""
        loop = self._loop()
        if loop is not None and loop.is_running() and loop is not _running_loop():
            with contextlib.suppress(RuntimeError):  # it was closed just now
                loop.call_soon_threadsafe(self.look)
                return
        with self._lock:
            if call not in self._calls:
                return
            self._calls.discard(call)
        if loop is _running_loop():
            self._finish(call)
        else:  # nobody else is going to care for it
            call.release()
            settle_from_afar(loop, call.ended)

    def end(self) -> None:
        """The connection has ended or is closing: have all calls end, and give the bell up then. On any thread."""
        self._ending = True
        loop = self._loop()
        if loop is not None and loop is _running_loop():
            self.look()
            return
        is_running = is_open = False
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                loop.call_soon_threadsafe(self.look)
                is_running, is_open = loop.is_running(), True
        if not is_running:
            self.evict()
        if not is_open:  # so is its selector
            self.bell.close()

    def evict(self) -> None:
        """Have the completion thread wait for the calls of a loop that doesn't run, or for which nobody rings."""
        with self._lock:
            calls = list(self._calls)
            self._calls.clear()
        for call in calls:
            self._hand_over(call)

    def _hand_over(self, call: ShmCall) -> bool:
        """Have the completion thread wait for a call. False: there can be no such thread, and the call stays here."""
        loop, ended = self._loop(), call.ended
        self._calls.discard(call)
        call.loop_calls, call.callback = None, lambda: settle_from_afar(loop, ended)
        try:
            self._adopt(call)
        except RuntimeError:
            call.loop_calls, call.callback = self, None
            self._calls.add(call)
            return False
        if loop is not None and call.until_ns != NEVER and _running_loop() is loop:
            settle_at(loop, ended, call.until_ns)
        return True

    def forget(self) -> None:
        """In a forked child: it is the parent's loop, and its selector and its way to be woken are the parent's too."""
        self._loop = _no_loop
        self._lock = threading.RLock()
        self._calls = set()

    def _retire(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._mute()
        self.bell.close()


def _on_timer_of(itself: weakref.ref[LoopCalls]) -> None:
    if (calls := itself()) is not None:
        calls._on_timer()


class Loops:
    """The event loops that wait for calls on one connection. Thread-safe.

    Args:
        arena: The connection's.
        ask: Asks the worker for a bell. `granted` tells what it has answered. Returns False if it could not be asked.
        adopt: Has the completion thread wait for a call.
    """

    def __init__(self, arena: Arena, ask: Callable[[], bool], adopt: Adopt) -> None:
        self._arena = arena
        self._ask = ask
        self._adopt = adopt
        self._of: dict[int, LoopCalls] = {}  # by the loop's id
        #: Loops that watch no descriptors.
        self._without: weakref.WeakSet[asyncio.AbstractEventLoop] = weakref.WeakSet()
        self._silence = Silence()
        self._free: list[Bell] = []
        self._bells: weakref.WeakSet[Bell] = weakref.WeakSet()
        self._asked = False
        self._refused_until_s = 0.0
        self._over = False
        self._lock = threading.RLock()

    def of(self, loop: asyncio.AbstractEventLoop) -> LoopCalls | None:
        """The calls of the loop that is running here. None: a thread has to wait for them."""
        found = self._of.get(id(loop))
        if found is not None and found.loop is loop:
            return found
        return self._welcome(loop)  # another loop that had the same id is gone

    def _welcome(self, loop: asyncio.AbstractEventLoop) -> LoopCalls | None:
        with self._lock:
            if self._over:
                return None
            self.sweep()
            if loop in self._without or self._silence.is_on():
                return None
            if not self._free:
                self._ask_for_one()
                return None
            bell = self._free.pop()
            try:
                found = LoopCalls(loop, bell, self._arena, self._adopt, self._silence)
            except (NotImplementedError, OSError):  # a loop that watches no descriptors, or no more
                self._free.append(bell)
                self._without.add(loop)
                return None
            self._of[id(loop)] = found
            return found

    def _ask_for_one(self) -> None:
        if self._asked or len(self._bells) >= _MOST_BELLS or time.monotonic() < self._refused_until_s:
            return
        self._asked = self._ask()
        if not self._asked:  # it doesn't read what it is sent, or is gone
            self._ask_no_more_for_a_while()

    def _ask_no_more_for_a_while(self) -> None:
        self._refused_until_s = time.monotonic() + _REFUSED_S

    def sweep(self) -> None:
        """Take the bells back of loops that are closed or gone, and care for calls that they have left.

        Nothing tells that a loop was closed. So the channels of such calls stay leased until another loop or another
        client wants one, or this one has none left: whoever needs them has this done.
        """
        with self._lock:
            for key, calls in list(self._of.items()):
                if (loop := calls.loop) is None or loop.is_closed():
                    calls.evict()
                    if not calls.count:
                        del self._of[key]
                        self._free.append(calls.bell)

    def granted(self, number: int | None, fd: int | None) -> None:
        """The worker's answer: a bell and its reading end, or none."""
        with self._lock:
            self._asked = False
            if number is None or fd is None:
                self._ask_no_more_for_a_while()
                return
            bell = Bell(number, fd)
            if not self._over:
                self._bells.add(bell)
                self._free.append(bell)

    def _let_go(self) -> None:
        """Refer to the connection no longer, which refers to this: else its memory stays until garbage is collected."""
        self._over = True
        self._ask, self._adopt = _ask_nobody, _drop

    def end(self) -> None:
        """The connection has ended or is closing."""
        with self._lock:
            self._let_go()
            free, self._free = self._free, []
            all_calls = list(self._of.values())
            self._of.clear()  # from now on they belong to their loops, whose end is theirs
        for bell in free:
            bell.close()
        for calls in all_calls:
            calls.end()

    def forget(self) -> None:
        """In a forked child: close the parent's descriptors. Its loops are not touched, whose selectors it shares."""
        self._lock = threading.RLock()
        self._let_go()
        for bell in list(self._bells):
            bell.close()
        for calls in self._of.values():
            calls.forget()
        self._of.clear()
        self._free.clear()


def _no_loop() -> None:
    return None


def _ask_nobody() -> bool:
    """In the place of what asks the worker for a bell: it could not be asked."""
    return False


def _drop(call: ShmCall) -> None:
    """In the place of what has the completion thread wait for a call: there are none any more."""


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
