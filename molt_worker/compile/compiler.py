"""Compiles modules with mypyc into a folder of builds, from which workers import them.

A module that can't be compiled, or isn't certain to answer as in Python, stays in Python with the reason. Where there
are calls to verify by, modules that answer them otherwise stay there too. The record is replaced last and whole, so a
build that is cut short changes nothing.
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
from molt_worker.compile import verify
from molt_worker.compile.attempts import NO_COMPILER, QUICK, Attempts, BuildError, Say
from molt_worker.compile.plan import Source, belonging, closure, notes, refused
from molt_worker.compile.record import ABI, VERSION, CompiledError, Module, Record

OPT_LEVEL: Final = "3"
#: Unused builds that stay in the folder: a worker that is starting may be about to load them.
_KEPT: Final = 1
_MISSING: Final = "molt-worker build needs mypyc, the extra 'compile': pip install 'mypy[mypyc]' setuptools"


def compiler() -> str:
    """Return the versions of mypyc and the C compiler, and the optimisation. Raises BuildError: one is missing."""
    if text := missing():
        raise BuildError(text)
    command = _command()
    try:
        done = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as exc:
        raise BuildError(f"{command[0]}: {exc}; {NO_COMPILER}") from exc
    flags = os.environ.get("CFLAGS", "")
    return f"mypyc {metadata.version('mypy')}, {done.stdout.splitlines()[0]}, -O{OPT_LEVEL} {flags}".strip()


def missing() -> str:
    """Return what a build would lack here, and what to do; empty: nothing, as far as can be told without a process."""
    if None in map(importlib.util.find_spec, ("mypyc", "setuptools")):
        return _MISSING
    program = _command()[0]
    return "" if shutil.which(program) else f"{program} is not there; {NO_COMPILER}"


def _command() -> list[str]:
    return (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()


def key_of(sources: dict[str, str], modules: Sequence[Source], compiled_by: str, verified: str = "") -> str:
    """Return the key of a build, 16 hexadecimal digits. Builds of the same key are the same."""
    names = [each.name for each in modules]
    whole = [VERSION, ABI, sys.version, compiled_by, sorted(sources.items()), names, verified]
    return compiled.digest(json.dumps(whole).encode())[:16]


def build(
    reference: str,
    build_dir: str = "",
    include: Sequence[str] = (),
    calls: Path | None = None,
    *,
    force: bool = False,
    say: Say,
) -> tuple[Record, bool]:
    """Build the exports of a reference, unless the build in use has the same sources and compiler.

    Args:
        reference, build_dir: As for `record.record_path`.
        include: Further modules and packages to compile, if the exports import them.
        calls: A file of calls to verify by; see `verify.read_calls`. Without one, a build that was verified will do.
        force: Build even if nothing has changed.
        say: Called with a line for each step.

    Returns:
        The record of the build that is now in use, and whether it is new.

    Raises:
        BuildError: there is no compiler, or it fails for a reason that is not in the modules.
        ExportsError: the exports or the calls are not in order, or a module isn't found.
    """
    started = time.monotonic()
    path = compiled.record_path(reference, build_dir)
    entries = compiled.entry_modules(reference)
    sources = closure(entries)
    modules = belonging(sources, entries, include)
    hashes = {name: compiled.digest(source.data) for name, source in sorted(sources.items())}
    given = verify.read_calls(calls) if calls else []
    verified = compiled.digest(calls.read_bytes()) if calls else ""
    compiled_by = compiler()
    key = key_of(hashes, modules, compiled_by, verified)
    with contextlib.suppress(CompiledError):
        there = compiled.read_record(path)
        alike = key if calls else key_of(hashes, modules, compiled_by, there.verified)
        if there.key == alike and not force and not compiled.changes(there, path.parent):
            return there, False
    path.parent.mkdir(parents=True, exist_ok=True)
    left = refused(sources, modules)
    with tempfile.TemporaryDirectory(prefix=".work-", dir=path.parent) as scratch:
        work = Path(scratch)
        attempts = Attempts(work, f"molt_{key}", say, sources, entries)

        def store(libraries: dict[str, Path], into: Path) -> Record:
            record = Record(
                version=VERSION,
                key=key,
                abi=ABI,
                exports=reference,
                compiler=compiled_by,
                seconds=round(time.monotonic() - started, 1),
                modules=[
                    left.get(each.name) or Module(each.name, True, notes=notes(each.tree)) for each in modules
                ],
                sources=hashes,
                libraries={
                    name: str(each.relative_to(attempts.lib)) for name, each in sorted(libraries.items())
                },
                verified=verified,
                calls=len(given),
            )
            _store(record, libraries, work, into)
            return record

        if given:
            trial = work / "trial" / path.name

            def differing(libraries: dict[str, Path]) -> str:
                store(libraries, trial)
                return python.difference(verify.outcomes(reference, given, trial.parent))

            say(f"running {len(given)} calls in Python, twice")
            python = verify.Expected.of(reference, given, say)
            _leave_differing(attempts, modules, left, differing, say)
        record = store(attempts.settle(modules, left, OPT_LEVEL), path)
    _prune(path, record)
    return record, True


def _leave_differing(
    attempts: Attempts,
    modules: Sequence[Source],
    left: dict[str, Module],
    differing: Callable[[dict[str, Path]], str],
    say: Say,
) -> None:
    """Add the modules to `left` that make calls differ. `differing` says the first difference; empty: there is none."""
    while libraries := attempts.settle(modules, left, QUICK):
        say("running the calls compiled")
        if not (what := differing(libraries)):
            return
        say(f"searching for the module at fault: {what}")
        able = [each for each in modules if each.name not in left]
        reasons = {able[-1].name: what}

        def fails(some: Sequence[Source], reasons: dict[str, str] = reasons) -> str:
            done = attempts.once(some)
            reasons[some[-1].name] = reason = done.reason or differing(done.libraries)
            return reason

        name = attempts.culprit(able, fails)
        left[name] = Module(name, False, f"answers otherwise when compiled: {reasons[name]}")


def _store(record: Record, libraries: dict[str, Path], work: Path, path: Path) -> None:
    """Put a build into the folder of builds, and then its record to `path`."""
    folder = path.parent / record.key
    fresh = work / "fresh"
    for name, library in libraries.items():
        target = fresh / record.libraries[name]
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(library, target)
    fresh.mkdir(exist_ok=True)
    path.parent.mkdir(exist_ok=True)
    if folder.exists():  # the same build; move it, since a worker may have its files open
        before = tempfile.mkdtemp(prefix="before-", dir=work)
        folder.rename(Path(before, folder.name))
    fresh.rename(folder)
    (work / "record").write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=1))
    os.replace(work / "record", path)


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
