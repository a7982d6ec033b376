"""The files that an import of the exports was made of, and whether one was changed since."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterable
from typing import Final

from molt_worker.entrypoints import importer
from molt_worker.entrypoints.exports import manifest_of

#: A file and its stamp.
Source = tuple[str, int]
#: The stamp of a file that changed during the import: nobody knows which of the two was read.
_UNCERTAIN: Final = 0
_CLOCK_TICK_NS: Final = 10_000_000  #: a file's times are this much coarser than the clock


def imported(exports: str, began_ns: int) -> list[Source]:
    """The manifest and the files of all modules that this process has imported since `began_ns` (of time.time_ns)."""
    files = [getattr(module, "__file__", None) for module in list(sys.modules.values())]
    files += [str(path) for path in (manifest_of(exports), *importer.sources()) if path is not None]
    found = []
    for path in {os.path.abspath(file) for file in files if isinstance(file, str)}:
        with contextlib.suppress(OSError):  # of an archive, or gone
            changed_ns = os.stat(path).st_mtime_ns
            torn = began_ns - _CLOCK_TICK_NS <= changed_ns <= time.time_ns()
            found.append((path, _UNCERTAIN if torn else stamp(path)))
    return found


def changed(files: Iterable[Source]) -> bool:
    """Whether one of the files is not what it was."""
    return any(stamp(path) != known for path, known in files)


def stamp(path: str) -> int:
    """A number that is another one when the file was written, replaced or removed."""
    try:
        found = os.stat(path)
    except OSError:
        return -1
    return hash((found.st_mtime_ns, found.st_size, found.st_ino)) & (2**63 - 1) | 1
