"""The file by which points are armed: a record for each, mapped by the test and by every process under test."""

import mmap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

#: Of molt_failpoint_record in failpoints.h, in words of 64 bits.
_RECORD: Final = 16
_NAME_BYTES: Final = 40
_COUNTDOWN, _ONLY, _SIGNAL, _PID, _HIT_NS = range(5, 10)


@dataclass(frozen=True, slots=True)
class Hit:
    """Who passed an armed point, and when (CLOCK_MONOTONIC)."""

    pid: int
    ns: int


class Control:
    """Arms points for the processes whose MOLT_FAILPOINTS_FILE is this file.

    Args:
        path: Where the file is made.
        names: Of all points.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self.path: Final = path
        self._at: dict[str, int] = {}
        data = bytearray(_RECORD * 8)
        for number, name in enumerate(names, 1):
            self._at[name] = number * _RECORD
            assert len(name) < _NAME_BYTES, name
            data += name.encode().ljust(_RECORD * 8, b"\0")
        path.write_bytes(data)
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        self._words = memoryview(self._memory).cast("q")

    def arm(self, name: str, signal: int, nth: int = 1, only: int = 0) -> None:
        """Have the process that makes the n-th passage from now on send itself a signal there, once.

        Args:
            name: The point.
            signal: What to send.
            nth: Which passage counts.
            only: Count this process's passages; 0: everybody's.
        """
        at, words = self._at[name], self._words
        words[at + _PID] = 0
        words[at + _ONLY], words[at + _SIGNAL] = only, signal
        words[at + _COUNTDOWN] = nth
        words[_COUNTDOWN] = 1

    def disarm(self) -> None:
        """Nobody is hit any more."""
        self._words[_COUNTDOWN] = 0
        for at in self._at.values():
            self._words[at + _COUNTDOWN] = 0

    def hit(self, name: str) -> Hit | None:
        """Who was hit since the point was armed."""
        at = self._at[name]
        pid = self._words[at + _PID]
        return Hit(pid, self._words[at + _HIT_NS]) if pid else None

    def close(self) -> None:
        """Unmap the file."""
        self._words.release()
        self._memory.close()
