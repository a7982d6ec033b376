"""Puts frames together that come in pieces, within bounds: what a stranger begins is not kept for long."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from molt_accel.cluster.wire import Pieces
from molt_accel.ipc.frame import Fault, FrameError

#: So many frames may be under way in pieces at once.
MOST: Final = 64
#: For so long, in s, the next piece is waited for.
PATIENCE_S: Final = 5.0


class Intake:
    """Frames that come in pieces, each by the subject that its pieces are sent to.

    Args:
        max_frame_bytes: The longest frame that is taken. All that are under way may have four times that.
        clock: Seconds that never go back.
    """

    def __init__(self, max_frame_bytes: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_bytes: Final = max_frame_bytes
        self._clock: Final = clock
        self._begun: Final[dict[str, tuple[Pieces, float, int]]] = {}
        self._bytes = 0

    def begin(self, key: str, piece: bytes) -> bytes | None:
        """Take a first piece. Returns the frame if it is complete already.

        Raises FrameError: it is no piece, or there are too many under way.
        """
        self._forget_late_ones()
        if len(self._begun) >= MOST:
            raise FrameError(Fault.RANGE, f"{MOST} requests come in pieces already")
        self._begun[key] = (Pieces(self._max_bytes), 0.0, 0)
        return self.add(key, piece)

    def add(self, key: str, piece: bytes) -> bytes | None:
        """Take another piece of what was begun by this key; of what was not, or is given up, nothing comes."""
        if key not in self._begun:
            return None
        pieces, _, had = self._begun[key]
        try:
            whole = pieces.add(piece)
        except FrameError:
            self.drop(key)
            raise
        self._bytes += len(piece)
        self._begun[key] = (pieces, self._clock() + PATIENCE_S, had + len(piece))
        if whole is not None or self._bytes > 4 * self._max_bytes:
            self.drop(key)
        return whole

    def drop(self, key: str) -> None:
        """Give up what was begun by this key."""
        if key in self._begun:
            self._bytes -= self._begun.pop(key)[2]

    def _forget_late_ones(self) -> None:
        now_s = self._clock()
        for key in [key for key, (_, until_s, _) in self._begun.items() if until_s < now_s]:
            self.drop(key)
