"""Compiles modules with mypyc into a folder of builds, from which workers import them.

A module that can't be compiled stays in Python, with the reason, and the others are tried again. A process of its own
then imports all of them once. The record is replaced last and whole, so a build that is cut short changes nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Final

import msgspec

from molt_worker.compile import record as compiled
from molt_worker.compile import steps as build_steps
from molt_worker.compile.plan import Source, belonging, blockers, closure, notes
from molt_worker.compile.record import ABI, VERSION, CompiledError, Module, Record

Say = Callable[[str], None]

OPT_LEVEL: Final = "3"
#: Unused builds that stay in the folder: a worker that is starting may be about to load them.
_KEPT: Final = 1
_MISSING: Final = "molt-worker build needs mypyc, the extra 'compile': pip install 'mypy[mypyc]' setuptools"
_NO_COMPILER: Final = "a C compiler and Python's headers are needed: on Debian, apt install gcc python3-dev"
_MESSAGE: Final = re.compile(r"(?P<path>[^:\n]+\.py):(?:(?P<line>\d+):)? error: (?P<text>.*)")


class BuildError(Exception):
    """The whole build failed. The text says what to do."""


def compiler() -> str:
    """Return the versions of mypyc and the C compiler, and the optimisation. Raises BuildError: one is missing."""
    if None in map(importlib.util.find_spec, ("mypyc", "setuptools")):
        raise BuildError(_MISSING)
    command = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BuildError(f"{command[0]}: {exc}; {_NO_COMPILER}") from exc
    flags = os.environ.get("CFLAGS", "")
    return f"mypyc {metadata.version('mypy')}, {done.stdout.splitlines()[0]}, -O{OPT_LEVEL} {flags}".strip()


def key_of(sources: dict[str, str], modules: Sequence[Source], compiled_by: str) -> str:
    """Return the key of a build, 16 hexadecimal digits. Builds of the same key are the same."""
    whole = [VERSION, ABI, sys.version, compiled_by, sorted(sources.items()), [each.name for each in modules]]
    return compiled.digest(json.dumps(whole).encode())[:16]


def _run(step: str, given: object, roots: Sequence[str], work: Path) -> subprocess.CompletedProcess[str]:
    # mypy looks for modules in the folders of their packages; the trial import uses the caller's sys.path.
    environment = {**os.environ, "MYPYPATH": os.pathsep.join(roots), "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(
        [sys.executable, "-m", build_steps.__name__, step],
        input=json.dumps(given),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=work,
        env=environment,
        check=False,
    )


def _root_of(source: Source) -> str:
    """Return the folder that contains the module's top-level package."""
    depth = source.name.count(".") + (source.path.name == "__init__.py")
    return str(source.path.parents[depth])


def _compile(
    modules: list[Source], group: str, work: Path, left: dict[str, Module], say: Say
) -> dict[str, Path]:
    """Compile what can be, and add the other modules to `left`. Returns the libraries by their import names.

    Raises BuildError: the compiler fails for a reason that is not in the modules.
    """
    roots = sorted({_root_of(source) for source in modules})
    while modules:
        say(f"mypyc: {', '.join(source.name for source in modules)}")
        shutil.rmtree(work / "lib", ignore_errors=True)
        given = (str(work), group, OPT_LEVEL, [str(source.path) for source in modules])
        done = _run("compile", given, roots, work)
        failed = {}
        if done.returncode:
            by_path = {str(source.path): source.name for source in modules}
            for match in _MESSAGE.finditer(done.stdout):
                name = by_path.get(str(Path(work, match["path"]).absolute()))
                if name and name not in failed:
                    failed[name] = Module(name, False, match["text"], int(match["line"] or 0))
            if not failed:
                hint = f"; {_NO_COMPILER}" if build_steps.MADE_C in done.stdout else ""
                raise BuildError(f"mypyc failed{hint}:\n{done.stdout[-3000:].strip()}")
        else:
            libraries = _libraries(work / "lib")
            say("importing what was compiled")
            failed = _tried(libraries, [source.name for source in modules], roots, work)
            if not failed:
                return libraries
            # A module that imports a failed one may work once that one is left in Python, so try it again.
            first = [each.name for each in modules if failed.keys().isdisjoint(each.imports)]
            failed = {name: why for name, why in failed.items() if name in first} or failed
        left.update(failed)
        modules = [source for source in modules if source.name not in failed]
    return {}


def _libraries(folder: Path) -> dict[str, Path]:
    """Return the files of compiled modules, by the names that they are imported by."""
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    files = folder.rglob(f"*{suffix}")
    return {".".join(file.relative_to(folder).parts).removesuffix(suffix): file for file in files}


def _tried(
    libraries: dict[str, Path], names: list[str], roots: Sequence[str], work: Path
) -> dict[str, Module]:
    """Import compiled modules in another process. Returns those that fail; BuildError: the process has crashed."""
    given = ({name: str(path) for name, path in libraries.items()}, names)
    output = _run("import", given, roots, work).stdout
    answer = [line for line in output.splitlines() if line.startswith(build_steps.ANSWER + "{")]
    if not answer:
        why = "the compiled modules end the process that imports them"
        raise BuildError(f"{why}:\n{output[-3000:].strip()}")
    found: dict[str, str] = json.loads(answer[-1].removeprefix(build_steps.ANSWER))
    return {name: Module(name, False, reason) for name, reason in found.items()}


def build(
    reference: str, build_dir: str = "", include: Sequence[str] = (), *, force: bool = False, say: Say
) -> tuple[Record, bool]:
    """Build the exports of a reference, unless the build in use has the same sources and compiler.

    Args:
        reference, build_dir: As for `record.record_path`.
        include: Further modules and packages to compile, if the exports import them.
        force: Build even if nothing has changed.
        say: Called with a line for each step.

    Returns:
        The record of the build that is now in use, and whether it is new.

    Raises:
        BuildError: there is no compiler, or it fails for a reason that is not in the modules.
        ExportsError: the exports are not in order, or a module isn't found.
    """
    started = time.monotonic()
    path = compiled.record_path(reference, build_dir)
    entries = compiled.entry_modules(reference)
    sources = closure(entries)
    modules = belonging(sources, entries, include)
    names = [source.name for source in modules]
    hashes = {name: compiled.digest(source.data) for name, source in sorted(sources.items())}
    compiled_by = compiler()
    key = key_of(hashes, modules, compiled_by)
    with contextlib.suppress(CompiledError):
        there = compiled.read_record(path)
        if there.key == key and not force and not compiled.changes(there, path.parent):
            return there, False
    path.parent.mkdir(parents=True, exist_ok=True)
    left: dict[str, Module] = {}
    for source in modules:
        for line, reason in blockers(source.tree):
            left.setdefault(source.name, Module(source.name, False, reason, line))
    with tempfile.TemporaryDirectory(prefix=".work-", dir=path.parent) as scratch:
        work = Path(scratch)
        able = [source for source in modules if source.name not in left]
        libraries = _compile(able, f"molt_{key}", work, left, say)
        folder = path.parent / key
        fresh = work / "fresh"
        fresh.mkdir()
        for library in libraries.values():
            target = fresh / library.relative_to(work / "lib")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(library, target)
        if folder.exists():  # the same build; move it, since a worker may have its files open
            folder.rename(work / "before")
        fresh.rename(folder)
        record = Record(
            version=VERSION,
            key=key,
            abi=ABI,
            exports=reference,
            compiler=compiled_by,
            seconds=round(time.monotonic() - started, 1),
            modules=[left.get(name) or Module(name, True, notes=notes(sources[name].tree)) for name in names],
            sources=hashes,
            libraries={name: str(each.relative_to(work / "lib")) for name, each in sorted(libraries.items())},
        )
        (work / "record").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
        os.replace(work / "record", path)
    _prune(path, record)
    return record, True


def _prune(path: Path, record: Record) -> None:
    """Remove builds that no record in the folder names. The youngest `_KEPT` of them stay."""
    used = {record.key}
    for each in path.parent.glob("*.json"):
        with contextlib.suppress(CompiledError):
            used.add(compiled.read_record(each).key)
    folders = [each for each in path.parent.iterdir() if re.fullmatch("[0-9a-f]{16}", each.name)]
    old = [each for each in folders if each.name not in used]
    for each in sorted(old, key=lambda folder: folder.stat().st_mtime, reverse=True)[_KEPT:]:
        shutil.rmtree(each, ignore_errors=True)
