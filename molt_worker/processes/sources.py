"""The files that an import of the exports was made of, and whether one was changed since.

Entrypoints import modules later, too, and a module that was not there may have been added. So whatever source stands in
the folders that the project's modules come from counts, imported or not. Files that settings are read from do, too (a
``.env`` with the address of a database): servers are restarted when one was changed.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import os
import sys
import sysconfig
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Final

from molt_worker.entrypoints import importer, project
from molt_worker.entrypoints.exports import manifest_of, read_manifest
from molt_worker.processes.commands import Sources

#: The stamp of a file that changed during the import: nobody knows which of the two was read.
_UNCERTAIN: Final = 0
_CLOCK_TICK_NS: Final = 10_000_000  #: a file's times are this much coarser than the clock
_SUFFIXES: Final = (*importlib.machinery.SOURCE_SUFFIXES, *importlib.machinery.EXTENSION_SUFFIXES)
#: What settings are made of besides variables of the environment. JSON is not among it: programs write that, too.
_SETTINGS: Final = (".env", ".toml", ".yaml", ".yml", ".ini", ".cfg")
#: How much is looked at, the project's packages first. 2,000 files in 200 folders take under 20 ms.
_MAX_FILES: Final = 5_000
_MAX_FOLDERS: Final = 1_000
_MAX_ENTRIES: Final = 2_000  #: of a folder: one with more holds data
_NO_PACKAGES: Final = {"__pycache__", "node_modules"}
_LIBRARIES: Final = {"site-packages", "dist-packages"}


def imported(exports: str, began_ns: int) -> Sources:
    """The manifest, the files of all modules that this process has imported since `began_ns` (of time.time_ns), and the
    sources in the project's folders.
    """
    modules = list(sys.modules.items())
    files = [getattr(module, "__file__", None) for _, module in modules]
    files += [getattr(getattr(module, "__loader__", None), "archive", None) for _, module in modules]
    files += [str(path) for path in (manifest_of(exports), *importer.sources()) if path is not None]
    found = []
    for path in {os.path.abspath(file) for file in files if isinstance(file, str)}:
        with contextlib.suppress(OSError):  # in an archive, or gone
            changed_ns = os.stat(path).st_mtime_ns
            torn = began_ns - _CLOCK_TICK_NS <= changed_ns <= time.time_ns()
            found.append((path, _UNCERTAIN if torn else stamp(path)))
    folders = _project_folders()
    # Beside a folder `src`, for instance, and where a process looks that is started there.
    beside = {os.getcwd(), *map(os.path.dirname, folders)} - set(folders)
    found += [(path, stamp(path)) for path in (os.path.join(folder, ".env") for folder in beside)]
    return Sources(found, folders, _digest(folders))


def of_project(exports: str, told: Iterable[str] = ()) -> list[str]:
    """The manifest, and the sources in the project's folders, for a process that need not have imported the exports.

    These folders are those of the exports' modules, of the modules that this process has imported, and those `told`: a
    worker's `Sources.folders`.

    Raises ExportsError: the reference, or the manifest, can't be used.
    """
    reference = project.exports_of(exports)
    manifest = manifest_of(reference)
    if manifest is None:
        modules = set(reference.split(","))
    else:
        modules = {export.target.partition(":")[0] for export in read_manifest(manifest)}
    folders = dict.fromkeys(told)
    for module in modules:
        if (path := importer.find_source(module)) is not None:
            folders |= dict.fromkeys((str(path.parent), str(path.parents[module.count(".")])))
    found = [] if manifest is None else [str(manifest.absolute())]
    return [*found, *(path for path, _ in _scan((*folders, *_project_folders())))]


def changed(known: Sources) -> bool:
    """Whether a file is not what it was, or one was added to the project's folders or removed from them."""
    if any(stamp(path) != was for path, was in known.files):
        return True
    return bool(known.folders) and _digest(known.folders) != known.digest


def stamp(path: str) -> int:
    """A number that is another one when the file was written, replaced or removed."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return -1


def _stamp(found: os.stat_result) -> int:
    return hash((found.st_mtime_ns, found.st_size, found.st_ino)) & (2**63 - 1) | 1


def _project_folders() -> tuple[str, ...]:
    """The folders of the project's modules, and behind them those that its modules and packages are found in."""
    packages = {str(path.parent): None for path in importer.sources()}
    roots: dict[str, None] = {}
    standard = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if not isinstance(file, str) or name == "__main__":
            continue
        path = os.path.abspath(file)
        if path.startswith(standard) or not _LIBRARIES.isdisjoint(path.split(os.sep)):
            continue
        folder = os.path.dirname(path)
        packages[folder] = None
        for _ in range(name.count(".") + hasattr(module, "__path__")):
            folder = os.path.dirname(folder)
        roots[folder] = None
    return tuple(packages | roots)


def _digest(folders: Iterable[str]) -> int:
    """A number for all sources that the folders have now. It is another one in processes that have no common parent."""
    return hash(frozenset(_scan(folders))) & (2**63 - 1)


def _scan(folders: Iterable[str]) -> Iterator[tuple[str, int]]:
    """The sources in these folders and in folders below them that could be packages, with their stamps."""
    left = deque(folders)
    seen: set[tuple[int, int]] = set()  # links may lead in circles
    files = 0
    while left and files < _MAX_FILES and len(seen) < _MAX_FOLDERS:
        folder = left.popleft()
        try:
            found = os.stat(folder)
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
            with os.scandir(folder) as scanned:
                entries = [entry for entry, _ in zip(scanned, range(_MAX_ENTRIES + 1), strict=False)]
        except OSError:  # gone, or not ours to read
            continue
        if len(entries) > _MAX_ENTRIES or any(entry.name == "pyvenv.cfg" for entry in entries):
            continue
        for entry in entries:
            with contextlib.suppress(OSError):  # gone, or a link to nothing
                if _counts(entry.name):
                    files += 1
                    yield entry.path, _stamp(entry.stat())
                elif entry.name.isidentifier() and entry.name not in _NO_PACKAGES and entry.is_dir():
                    left.append(entry.path)


def _counts(name: str) -> bool:
    if name.startswith("."):
        return name == ".env" or name.startswith(".env.")  # others are an editor's
    return name.endswith((*_SUFFIXES, *_SETTINGS))
