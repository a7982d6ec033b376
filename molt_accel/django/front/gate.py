"""How many requests are on their way through Django at once, on an event loop that is behind.

A loop reads all that has arrived before it goes on with what it has begun. So a flood is let in as a whole, while the
pool's queue is still empty and nothing says that most of it will be refused; each request then takes the full way
through Django to be told so, and those that are served are late. Behind the gate a request is asked again when its
turn comes, and by then the queue is what those before it made it.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable
from typing import Final

from molt_accel.errors import MoltBusy

#: So many may be on their way from here to their call. As measured with a server of half a core at five times the
#: capacity: 8 keep 0.72 of the goodput, 32 keep 0.68, 1000 keep 0.55 and let answers wait for a second.
ROOM: Final = 8
#: How often is looked after those that wait, in s. They are few and short if the loop is not behind.
TICK_S: Final = 0.01
#: A loop that looks no later than this is not behind: who is on the way then waits for something else, such as a
#: middleware's database, and takes no room.
LATE_S: Final = 0.002
#: On a loop that is behind, who has been on the way for so long takes no room either.
FORGOTTEN_S: Final = 0.1

Ask = Callable[[], MoltBusy | None]


class Gate:
    """Lets requests in, one after the other, and at most `ROOM` at once that have not made their call.

    Args:
        loop: Where all of it runs, except `leave`, which any thread may call.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop: Final = loop
        self._thread: Final = threading.get_ident()
        self._inside: Final[dict[object, float]] = {}  # since when, the oldest first
        self._waiting: Final[deque[tuple[object, Ask, asyncio.Future[MoltBusy | None]]]] = deque()
        self._is_ticking = False

    async def enter(self, holder: object, ask: Ask) -> MoltBusy | None:
        """Wait for the holder's turn. Returns why it is refused; None: it is let in, and `leave` shall follow."""
        error = ask()
        if error is not None:
            return error
        if not self._waiting and len(self._inside) < ROOM:
            self._inside[holder] = self._loop.time()
            return None
        turn: asyncio.Future[MoltBusy | None] = self._loop.create_future()
        self._waiting.append((holder, ask, turn))
        self._tick_again()
        try:
            return await turn
        except asyncio.CancelledError:
            self.leave(holder)  # its turn may have come in between
            raise

    def leave(self, holder: object) -> None:
        """Take note that the holder makes its call, or ends without one. More than once does no harm."""
        if threading.get_ident() == self._thread:
            self._leave(holder)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                self._loop.call_soon_threadsafe(self._leave, holder)

    def _leave(self, holder: object) -> None:
        if self._inside.pop(holder, None) is not None:
            self._let_in()

    def _let_in(self) -> None:
        while self._waiting and len(self._inside) < ROOM:
            holder, ask, turn = self._waiting.popleft()
            if turn.done():
                continue  # it was cancelled
            try:
                error = ask()
            except Exception as failure:  # its own; those behind it shall have their turn
                turn.set_exception(failure)
                continue
            if error is None:
                self._inside[holder] = self._loop.time()
            turn.set_result(error)

    def _tick_again(self) -> None:
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(TICK_S, self._tick, self._loop.time() + TICK_S)

    def _tick(self, due: float) -> None:
        self._is_ticking = False
        now = self._loop.time()
        longest = FORGOTTEN_S if now - due > LATE_S else TICK_S
        for holder, since in list(self._inside.items()):
            if now - since < longest:
                break
            del self._inside[holder]
        self._let_in()
        if self._waiting:
            self._tick_again()
