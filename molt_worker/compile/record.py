"""Records of builds: a worker uses what `molt-worker build` has made only if the sources are still the same.

A build is a folder with a record beside it (`Record`): which modules were compiled, and the hash of every source file
that they depend on. `enable` compares the hashes with the sources that Python would import now. If all are the same,
this process imports the modules from the build. Nothing here compiles; that is `compiler.py`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import sys
import sysconfig
from pathlib import Path
from typing import Final

import msgspec

from molt_accel.config import COMPILED_MODES
from molt_worker.entrypoints import exports
from molt_worker.entrypoints.importer import BuildFinder, find_source, is_compiled

VERSION: Final = 2  #: version of the record's format. A record of another version is not used.
FOLDER: Final = ".molt-build"
#: The ABI that a library must have to be loaded in this process. Part of its file's name (PEP 3149).
ABI: Final = str(sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag)


class CompiledError(exports.ExportsError):
    """No build can be used. The text is one line that says why and what to do."""


class NotOurs(CompiledError):
    """Others can write to the build, so it isn't used."""


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the build has done with one module."""

    name: str
    compiled: bool  #: it is native code
    reason: str = ""  #: why it was left in Python; empty: it is compiled
    line: int = 0  #: the source line of the reason; 0: the reason is not about a line
    notes: list[str] = []  #: what makes it slow when compiled, with lines

    @property
    def where(self) -> str:
        """The module's name, with the line of the reason if there is one."""
        return f"{self.name}:{self.line}" if self.line else self.name


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a build was made from, and what is in it."""

    version: int
    key: str  #: a hash of sources, ABI and compiler; the name of the build's folder
    abi: str
    exports: str  #: the exports reference, as it was given
    compiler: str  #: the versions of mypyc and of the C compiler, and the optimisation
    seconds: float  #: how long the build took
    modules: list[Module]
    #: The hashes of the sources of all modules that the build depends on, by their names. Modules left in Python are
    #: among them, because compiled modules hold their constants.
    sources: dict[str, str]
    libraries: dict[str, str]  #: the files in the build's folder, by the names that they are imported by
    verified: str = ""  #: the hash of the file of calls that it was verified by; empty: it wasn't
    calls: int = 0  #: how many calls that file has


def digest(data: bytes) -> str:
    """Return the SHA-256 of a source file, as a record holds it."""
    return hashlib.sha256(data).hexdigest()


def entry_modules(reference: str) -> list[str]:
    """Return the modules of a reference's entrypoints, without an import. Raises ExportsError: a bad manifest."""
    path = exports.manifest_of(reference)
    if path is None:
        return reference.split(",")
    return sorted({export.target.partition(":")[0] for export in exports.read_manifest(path)})


def source_of(module: str) -> Path:
    """Return the source file of a module. Raises CompiledError: there is none."""
    source = find_source(module)
    if source is None:
        raise CompiledError(
            f"{module}: there is no such Python module with a source file; is its folder on sys.path? Modules in an "
            "archive stay in Python"
        )
    return source


def record_path(reference: str, build_dir: str = "") -> Path:
    """Return the path of the record of a reference's build for this Python. The file need not exist.

    Args:
        reference: Exports, as `--exports` takes them.
        build_dir: The folder of builds; empty: `.molt-build` beside the manifest, or beside the first module.
    """
    entries = entry_modules(reference)
    if build_dir:
        folder = Path(build_dir).absolute()
    else:
        beside = exports.manifest_of(reference) or source_of(entries[0])
        folder = beside.absolute().parent / FOLDER
    name = entries[0].rpartition(".")[2]
    return folder / f"{name}-{digest(' '.join(entries).encode())[:8]}.{ABI}.json"


def read_record(path: Path) -> Record:
    """Read the record of a build.

    Raises CompiledError: it is missing, can't be read, is of another version, or other users could have written it.
    """
    try:
        for each in (path.parent, path):
            _check_ours(each)
        record = msgspec.json.decode(path.read_bytes(), type=Record)
        folder = path.parent / record.key
        for each in (folder, *(folder / library for library in record.libraries.values())):
            with contextlib.suppress(FileNotFoundError):  # `changes` says so
                _check_ours(each)
    except FileNotFoundError:
        raise CompiledError(f"{path}: there is no build") from None
    except (OSError, msgspec.DecodeError) as exc:
        raise CompiledError(f"{path}: can't be read: {exc}") from exc
    if (record.version, record.abi) != (VERSION, ABI):
        raise CompiledError(f"{path}: it is of another version")
    return record


def _check_ours(path: Path) -> None:
    """The worker runs code from this folder, which may be anywhere. So only the user and root may write there."""
    found = path.stat()
    if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
        raise NotOurs(f"{path}: others can write there, so it isn't used")


def changes(record: Record, folder: Path) -> list[str]:
    """Return a text for each change since a build was made, whose record is in `folder`. None: it can be used."""
    found = []
    for name, wanted in record.sources.items():
        source = find_source(name)
        try:
            if source is None or digest(source.read_bytes()) != wanted:
                found.append(f"{name} has changed" if source else f"{name} is gone")
        except OSError as exc:
            found.append(f"{name} can't be read ({exc.strerror})")
    there = folder / record.key
    missing = [library for library in record.libraries.values() if not (there / library).is_file()]
    return found + [f"{library} is missing" for library in missing]


def check_fresh(record: Record, path: Path) -> None:
    """Raise CompiledError if a build can't be used any more. `path` is the path of its record."""
    if stale := changes(record, path.parent):
        raise CompiledError(f"{path}: the build is stale: {_some(stale)}")


def enable(reference: str, mode: str = "prefer", build_dir: str = "") -> str:
    """Make this process import the entrypoints' modules from their build from now on.

    Args:
        reference, build_dir: As for `record_path`.
        mode: `require`: fail without a build of these sources; `prefer`: use one if there is one; `off`.

    Returns:
        A warning that says why the existing build can't be used; empty: there is nothing to warn of.

    Raises:
        CompiledError: for `require`: no build is of these sources, or a module of it was imported before.
        ExportsError: the manifest is not in order.
        ValueError: the mode is unknown.
    """
    if mode not in COMPILED_MODES:
        raise ValueError(f"mode: {mode!r} is not allowed; allowed: {', '.join(COMPILED_MODES)}")
    if mode == "off":
        return ""
    path = None
    try:
        path = record_path(reference, build_dir)
        record = read_record(path)
        check_fresh(record, path)
        late = [name for name in record.libraries if name in sys.modules and not is_compiled(name)]
        if late:
            raise CompiledError(f"imported before the build could be used: {_some(late)}")
    except CompiledError as exc:
        if mode == "require":
            raise CompiledError(f"compiled is required, but {exc}; {how_to(reference)}") from exc
        return str(exc) if path is not None and path.exists() else ""
    folder = path.parent / record.key
    BuildFinder({name: folder / library for name, library in record.libraries.items()}).install()
    return ""


def require(table: exports.ExportTable, reference: str, build_dir: str = "") -> None:
    """Raise CompiledError, which says why, if an entrypoint is not compiled. Those of this package are exempt."""
    for export in table:
        module = export.target.partition(":")[0]
        if export.compiled or module.partition(".")[0] == __name__.partition(".")[0]:
            continue
        record = read_record(record_path(reference, build_dir))
        why = next((each.reason for each in record.modules if each.name == module), "unknown to it")
        raise CompiledError(f"compiled is required, but {export.name} is in Python: {module}: {why}")


def how_to(reference: str) -> str:
    """Return the advice that names the command for a build."""
    return f"make one by: molt-worker build {reference}".rstrip()


def _some(texts: list[str]) -> str:
    """Join the first three texts, and say how many more there are."""
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
