"""Imports that a stop has interrupted: executors that are forked later do them before they take requests.

An import that takes longer than the deadlines of the calls that need it would never come to its end: a stop interrupts
it, and the executor in which it was interrupted has to leave. The next one does it outside any request, where only
`start_timeout_ms` bounds it. The fork server itself does not: while it imports, it could kill no executor.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from typing import Final

_MAX_NAMES: Final = 100
_READ_BYTES: Final = 65536


class LateImports:
    """The names of these modules, in the fork server. Executors tell them through a pipe, and have a copy.

    What they tell is lines of the executor's number and a word: `NAME` was interrupted, `-NAME` has failed, or nothing
    when it has done all imports.
    """

    def __init__(self) -> None:
        self._names: dict[str, None] = {}
        self._given_up: set[str] = set()
        self._busy: dict[int, list[str]] = {}  # what executors that have just started import, by number
        self._rest = b""
        self._read_fd, self._write_fd = os.pipe()  # not inherited by programs
        os.set_blocking(self._read_fd, False)
        os.set_blocking(self._write_fd, False)

    # -- in an executor --------------------------------------------------------------------------------------

    def only_tell(self) -> None:
        """Close the end that only the fork server reads."""
        os.close(self._read_fd)

    def tell(self, number: int, word: str) -> None:
        with contextlib.suppress(OSError):  # the pipe is full: it will be interrupted again
            os.write(self._write_fd, f"{number} {word}\n".encode())

    def run(self, number: int) -> Iterator[tuple[str, BaseException]]:
        """Do the imports. Yields those that fail; they are not tried again."""
        for name in self._busy.get(number, ()):
            try:
                importlib.import_module(name)
            except BaseException as exc:  # user code may raise anything, also SystemExit
                self.tell(number, f"-{name}")
                yield name, exc
        if number in self._busy:
            self.tell(number, "")

    # -- in the fork server ----------------------------------------------------------------------------------

    def before_fork(self, number: int) -> None:
        """Read what was told. The executor that is forked now has these imports to do."""
        self._hear()
        if names := [name for name in self._names if name not in sys.modules]:
            self._busy[number] = names

    def after_exit(self, number: int) -> list[str]:
        """The imports in whose middle an executor ended, by a crash or because it took too long: they are given up."""
        self._hear()
        names = self._busy.pop(number, [])
        for name in names:
            self._give_up(name)
        return names

    def _hear(self) -> None:
        with contextlib.suppress(OSError):  # there is no more; or user code has closed it
            while data := os.read(self._read_fd, _READ_BYTES):
                *lines, self._rest = (self._rest + data).split(b"\n")
                for line in lines:
                    number, _, word = line.decode(errors="replace").partition(" ")
                    if not word and number.isdigit():
                        self._busy.pop(int(number), None)
                    elif word.startswith("-"):
                        self._give_up(word[1:])
                    elif word and word not in self._given_up and len(self._names) < _MAX_NAMES:
                        self._names[word] = None

    def _give_up(self, name: str) -> None:
        self._names.pop(name, None)
        self._given_up.add(name)
