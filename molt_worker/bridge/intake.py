"""Puts frames together that come in pieces, within bounds: what a stranger begins is not kept for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from molt_accel.cluster.wire import Pieces
from molt_accel.errors import BusyReason
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import FrameError

#: So many frames may be under way in pieces at once.
MOST: Final = 64
#: For so long, in s, the next piece is waited for.
PATIENCE_S: Final = 5.0


@dataclass(slots=True)
class _Begun:
    """A frame of which pieces have come."""

    entry: str
    reply: str
    pieces: Pieces
    until_s: float = 0.0
    bytes: int = 0


class Intake:
    """Frames that come in pieces, each by the subject that its pieces are sent to.

    Args:
        max_frame_bytes: The longest frame that is taken. All that are under way may have four times that.
        clock: Seconds that never go back.
    """

    def __init__(self, max_frame_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes: Final = max_frame_bytes
        self._clock: Final = clock
        self._begun: Final[dict[str, _Begun]] = {}
        self._bytes = 0

    @property
    def under_way(self) -> int:
        """How many frames have begun whose next piece may still come."""
        self._forget_late_ones()
        return len(self._begun)

    @property
    def replies(self) -> list[str]:
        """Where the answers of those go."""
        self._forget_late_ones()
        return [begun.reply for begun in self._begun.values()]

    def begin(self, key: str, entry: str, reply: str, piece: bytes) -> bytes | None:
        """Take a first piece. Returns the frame if it is complete already.

        Args:
            key: By which the other pieces come.
            entry: The entrypoint that it was sent to.
            reply: Where its answer goes.
            piece: With its first byte.

        Raises:
            FrameError: it is no piece, or of a frame that is too long.
            MoltBusy: too much is under way.
        """
        self._forget_late_ones()
        if len(self._begun) >= MOST:
            raise outcomes.busy(BusyReason.UNREAD)
        self._begun[key] = _Begun(entry, reply, Pieces(self._max_bytes))
        return self.add(key, piece)

    def add(self, key: str, piece: bytes) -> bytes | None:
        """Take another piece of what was begun by this key; of what was not, or is given up, nothing comes.

        Raises as `begin` does; then the frame is given up.
        """
        begun = self._begun.get(key)
        if begun is None:
            return None
        try:
            whole = begun.pieces.add(piece)
        except FrameError:
            self.drop(key)
            raise
        self._bytes += len(piece)
        begun.bytes += len(piece)
        begun.until_s = self._clock() + PATIENCE_S
        if whole is not None:
            self.drop(key)
        elif self._bytes > 4 * self._max_bytes:
            self.drop(key)
            raise outcomes.busy(BusyReason.UNREAD)
        return whole

    def owner_of(self, key: str) -> tuple[str, str] | None:
        """Return the entrypoint and where the answer goes of what was begun by this key; None: nothing was."""
        begun = self._begun.get(key)
        return None if begun is None else (begun.entry, begun.reply)

    def drop(self, key: str) -> None:
        """Give up what was begun by this key."""
        if key in self._begun:
            self._bytes -= self._begun.pop(key).bytes

    def give_up(self) -> list[tuple[str, str]]:
        """Give up all that was begun. Returns the entrypoint of each, and where its answer goes."""
        given_up = [(begun.entry, begun.reply) for begun in self._begun.values()]
        for key in list(self._begun):
            self.drop(key)
        return given_up

    def _forget_late_ones(self) -> None:
        now_s = self._clock()
        for key in [key for key, begun in self._begun.items() if begun.until_s < now_s]:
            self.drop(key)
