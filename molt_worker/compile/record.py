"""Entrypoints as native code: what `molt-worker build` has made, taken only where it is of the very same sources.

A build lies in a folder, with a record beside it (`Record`): which modules were compiled, and the hash of every source
file that they depend on. `enable` compares these with the sources that Python would import now, and then has imports of
those modules come from the build. Nothing here compiles anything; that is `build.py`.
"""

from __future__ import annotations

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

#: Of records. One of another version is as good as none.
VERSION: Final = 1
FOLDER: Final = ".molt-build"
#: What a library must be made for to be loaded here; part of its file's name (PEP 3149).
ABI: Final = str(sysconfig.get_config_var("SOABI") or sys.implementation.cache_tag)


class CompiledError(exports.ExportsError):
    """There is no build that can be used; one line that says why, and what to do."""


class Module(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What became of one module.

    Attributes:
        compiled: Whether it is native code.
        reason: Why it was left in Python.
        line: Of its source, where the reason is; 0: it isn't about a line.
        notes: What costs it speed, and where.
    """

    name: str
    compiled: bool
    reason: str = ""
    line: int = 0
    notes: list[str] = []

    @property
    def where(self) -> str:
        """The module, and the line that matters."""
        return f"{self.name}:{self.line}" if self.line else self.name


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a build is of, and what is in it.

    Attributes:
        key: Of sources, ABI and compiler; the name of the build's folder.
        exports: The reference it was built for, as it was given.
        compiler: The versions of mypyc and of the C compiler, and the optimisation.
        seconds: How long it took.
        sources: Each module that the build depends on, with the hash of its source. Compiled modules hold constants
            of modules that are not, so these count too.
        libraries: The files in the build's folder, by the names that they are imported by.
    """

    version: int
    key: str
    abi: str
    exports: str
    compiler: str
    seconds: float
    modules: list[Module]
    sources: dict[str, str]
    libraries: dict[str, str]


def digest(data: bytes) -> str:
    """The hash of a source file's bytes, as records have it."""
    return hashlib.sha256(data).hexdigest()


def entry_modules(reference: str) -> list[str]:
    """The modules that the entrypoints of a reference are in; nothing is imported.

    Raises:
        ExportsError: the manifest is not in order.
    """
    if reference and not exports.is_manifest_path(reference):
        return [reference]
    path = Path(reference) if reference else exports.PACKAGED
    return sorted({export.target.partition(":")[0] for export in exports.read_manifest(path)})


def record_path(reference: str, build_dir: str = "") -> Path:
    """Where the record of a reference's build is on this Python, whether there is one or not.

    Args:
        reference: Exports, as `--exports` takes them.
        build_dir: The folder of builds; empty: `.molt-build` beside the manifest, or beside the module.
    """
    entries = entry_modules(reference)
    if build_dir:
        folder = Path(build_dir).absolute()
    elif not reference or exports.is_manifest_path(reference):
        folder = Path(reference or exports.PACKAGED).absolute().parent / FOLDER
    else:
        source = find_source(reference)
        if source is None:
            raise CompiledError(f"{reference}: there is no such Python module; is its folder on sys.path?")
        folder = source.parent / FOLDER
    name = entries[0].rpartition(".")[2]
    return folder / f"{name}-{digest(' '.join(entries).encode())[:8]}.{ABI}.json"


def read_record(path: Path) -> Record:
    """A record.

    Raises:
        CompiledError: there is none, it can't be read, or somebody else could have written it.
    """
    try:
        for each in (path.parent, path):
            found = each.stat()
            # Code is loaded from there; as safe as the sources if it is beside them, but it may be anywhere.
            if found.st_uid not in (os.geteuid(), 0) or found.st_mode & stat.S_IWOTH:
                raise CompiledError(f"{each}: others can write there, so it isn't used")
        record = msgspec.json.decode(path.read_bytes(), type=Record)
    except FileNotFoundError:
        raise CompiledError(f"{path}: there is no build") from None
    except (OSError, msgspec.DecodeError) as exc:
        raise CompiledError(f"{path}: can't be read: {exc}") from exc
    if (record.version, record.abi) != (VERSION, ABI):
        raise CompiledError(f"{path}: it is of another version")
    return record


def changes(record: Record, folder: Path) -> list[str]:
    """What has changed since a build was made, a text each; none: it can be used.

    Args:
        folder: Where the record is.
    """
    found = []
    for name, wanted in record.sources.items():
        source = find_source(name)
        try:
            if source is None or digest(source.read_bytes()) != wanted:
                found.append(f"{name} has changed" if source else f"{name} is gone")
        except OSError as exc:
            found.append(f"{name} can't be read ({exc.strerror})")
    there = folder / record.key
    return found + [
        f"{each} is missing" for each in record.libraries.values() if not (there / each).is_file()
    ]


def enable(reference: str, mode: str = "prefer", build_dir: str = "") -> str:
    """Have the entrypoints' modules imported from their build from now on, in this process.

    Args:
        reference: Exports, as `--exports` takes them.
        mode: `require`: there must be a build of these sources; `prefer`: use it if there is one; `off`.
        build_dir: As for `record_path`.

    Returns:
        What is worth a warning: there is a build, but it can't be used, and why. Empty: there is nothing to say.

    Raises:
        CompiledError: `require`, and there is no build of these sources, or their modules are imported already.
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
        stale = changes(record, path.parent)
        if stale:
            raise CompiledError(f"{path}: the build is stale: {some(stale)}")
        late = [name for name in record.libraries if name in sys.modules and not is_compiled(name)]
        if late:
            raise CompiledError(f"imported before the build could be used: {some(late)}")
    except CompiledError as exc:
        if mode == "require":
            raise CompiledError(f"compiled is required, but {exc}; {how_to(reference)}") from exc
        return str(exc) if path is not None and path.exists() else ""
    BuildFinder(
        {name: path.parent / record.key / library for name, library in record.libraries.items()}
    ).install()
    return ""


def require(table: exports.ExportTable, reference: str, build_dir: str = "") -> None:
    """See to it that every entrypoint is compiled, but for those that come with this package.

    Raises:
        CompiledError: one is not; the text says why.
    """
    for export in table:
        module = export.target.partition(":")[0]
        if export.compiled or module.partition(".")[0] == __name__.partition(".")[0]:
            continue
        path = record_path(reference, build_dir)
        why = next(
            (each.reason for each in read_record(path).modules if each.name == module), "unknown to it"
        )
        raise CompiledError(f"compiled is required, but {export.name} is in Python: {module}: {why}")


def how_to(reference: str) -> str:
    """What makes a build that can be used."""
    return f"make one by: molt-worker build {reference}".rstrip()


def some(texts: list[str]) -> str:
    """The first of some texts, and how many more there are."""
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")
