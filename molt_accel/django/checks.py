"""System checks of the project's pools: ``manage.py check``, and with ``--deploy`` what matters on a server.

No check imports an entrypoint or starts a process. What can't be seen without an import, ``manage.py molt_check`` sees.
"""

from __future__ import annotations

import ast
import contextlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Warned
from django.urls import get_resolver

from molt_accel.config import Config, ConfigError, pool_names
from molt_accel.django import placement
from molt_accel.errors import MoltError
from molt_accel.ipc import control
from molt_worker.compile import record
from molt_worker.compile.record import CompiledError
from molt_worker.entrypoints.exports import ExportsError, look_in, manifest_of, read_manifest
from molt_worker.entrypoints.importer import find_source
from molt_worker.entrypoints.project import exports_of

_MB: Final = 1024 * 1024
_SHM: Final = "/dev/shm"  # noqa: S108  # where the kernel keeps shared memory
_LIMIT: Final = Path("/sys/fs/cgroup/memory.max")

#: Of every message: what is checked, and what to do. docs/reference/checks.md has the same table.
HINTS: Final = {
    "molt.E001": "Correct the setting.",
    "molt.E002": "Correct MOLT_EXPORTS, or the manifest or module that it names.",
    "molt.E003": "Set MOLT_RUNTIME_DIR to a shorter path, or MOLT_WORKER_NAME to a shorter name.",
    "molt.E004": "Remove the directory, or set MOLT_RUNTIME_DIR to one that only this user may use.",
    "molt.E005": "Run manage.py molt_build before the server starts.",
    "molt.W001": "Mark the function with @molt_worker.export, or correct the name; manage.py molt_check looks closer.",
    "molt.W002": "Install a C compiler and molt-accel[compile] where builds are made.",
    "molt.W003": "Set MOLT_COMPILED = 'off' while you develop.",
    "molt.W011": "Make it writable for its owner only: chmod go-w.",
    "molt.W012": "Make /dev/shm larger (in a container: --shm-size), or MOLT_WORKER_ARENA_MB smaller.",
    "molt.W013": "Lower MOLT_WORKER_EXECUTORS or MOLT_WORKER_MAX_RSS_MB, or give the service more memory.",
}


def check_pools() -> list[CheckMessage]:
    """Check the settings, exports and places of all pools."""
    return list(_of_pools())


def check_deployment() -> list[CheckMessage]:
    """Check what a server would be hurt by: who may write where, and whether there is memory for the pools."""
    configs = [config for _, config in _configs()]
    return [*_writable_builds(configs), *_too_little_memory(configs)]


def _message(kind: Callable[..., CheckMessage], number: str, text: str, pool: str = "") -> CheckMessage:
    return kind(f"The pool {pool!r}: {text}" if pool else text, hint=HINTS[number], id=number)


def _configs() -> Iterator[tuple[str, Config]]:
    for pool in pool_names():
        try:
            yield pool, Config.load(pool=pool)
        except ConfigError:
            continue  # `check_pools` says so


def _of_pools() -> Iterator[CheckMessage]:
    for pool in pool_names():
        try:
            config = Config.load(pool=pool)
        except ConfigError as exc:
            yield _message(Error, "molt.E001", str(exc))
            continue
        try:
            # As its worker would look for modules.
            look_in(config.path)
            reference = exports_of(config.exports)
            entries = _entries(reference)
        except (ExportsError, ValueError) as exc:
            yield _message(Error, "molt.E002", str(exc), pool)
            continue
        yield from _unknown_entries(pool, entries)
        yield from _compiled(pool, config, reference)
        if config.transport in ("auto", "shm") and sys.platform == "linux":
            yield from _places(pool, config)


def _entries(reference: str) -> set[str] | None:
    """The names of the exports, as far as they can be read without an import; None: a module may have others.

    Raises ExportsError: the reference can't be right.
    """
    if path := manifest_of(reference):
        return {each.name for each in read_manifest(path)}
    names: set[str] = set()
    for module in reference.split(","):
        source = find_source(module)
        if source is None:
            raise ExportsError(f"{module}: there is no module of this name with a source file")
        try:
            tree = ast.parse(source.read_bytes(), str(source))
        except (OSError, SyntaxError, ValueError) as exc:
            raise ExportsError(f"{module}: {type(exc).__name__}: {exc}") from exc
        found = _marked(tree)
        if found is None:
            return None
        names |= found
    return names


def _marked(tree: ast.Module) -> set[str] | None:
    """The names that a module's functions may be exported by; None: it could be any.

    Names that it imports are among them, since functions that another module has marked are exported too.
    """
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            names |= {each.asname or each.name for each in node.names}
        elif isinstance(node, ast.FunctionDef):
            marks = [mark for mark in node.decorator_list if _is_export(mark)]
            calls = [mark for mark in marks if isinstance(mark, ast.Call)]
            given = [word.value for call in calls for word in call.keywords if word.arg == "name"]
            names |= {str(ast.literal_eval(each)) for each in given if isinstance(each, ast.Constant)}
            names |= {node.name} if marks and not given else set()
            if not all(isinstance(each, ast.Constant) for each in given):
                return None
        elif any(_is_export(each) for each in ast.walk(node) if isinstance(each, ast.Call)):
            return None
    return None if "*" in names else names


def _is_export(mark: ast.expr) -> bool:
    """Whether a decorator, or a call, is of the name of `molt_worker.export`."""
    return ast.unparse(mark.func if isinstance(mark, ast.Call) else mark).rpartition(".")[2] == "export"


def _unknown_entries(pool: str, entries: set[str] | None) -> Iterator[CheckMessage]:
    with contextlib.suppress(Exception):  # Django's own check says so
        _ = get_resolver().url_patterns  # imports the views
    for (of_pool, entry), where in sorted(placement.decorated().items()):
        if of_pool == pool and entries is not None and entry not in entries:
            yield _message(Warned, "molt.W001", f"{where} offloads {entry!r}, which no export has.", pool)


def _compiled(pool: str, config: Config, reference: str) -> Iterator[CheckMessage]:
    if config.compiled == "off":
        return
    try:
        path = record.record_path(reference, config.build_dir)
        record.check_fresh(record.read_record(path), path)
    except CompiledError as exc:
        if config.compiled == "require":
            yield _message(Error, "molt.E005", f"compiled code is required, but {exc}.", pool)
            if shutil.which("cc") is None and shutil.which("gcc") is None:
                yield _message(Warned, "molt.W002", "there is no C compiler to build it with.", pool)
    else:
        if settings.DEBUG:
            text = "DEBUG is on, and executors run compiled code, which a change of a source puts out of use."
            yield _message(Warned, "molt.W003", text, pool)


def _places(pool: str, config: Config) -> Iterator[CheckMessage]:
    directory = config.pool_directory
    try:
        control.socket_path(directory, config.pool_name)
    except MoltError as exc:
        yield _message(Error, "molt.E003", exc.detail, pool)
    if os.path.lexists(directory):
        try:
            control.ensure_directory(directory)
        except MoltError as exc:
            yield _message(Error, "molt.E004", exc.detail, pool)


def _writable_builds(configs: list[Config]) -> Iterator[CheckMessage]:
    for folder in sorted({config.build_dir for config in configs if config.build_dir}):
        try:
            mode = os.stat(folder).st_mode
        except OSError:
            continue
        if mode & (stat.S_IWOTH | stat.S_IWGRP):
            yield _message(
                Warned, "molt.W011", f"Others may write to {folder}, whose code executors would run."
            )


def _too_little_memory(configs: list[Config]) -> Iterator[CheckMessage]:
    shared = sum(config.arena_mb for config in configs if config.transport in ("auto", "shm"))
    try:
        found = os.statvfs(_SHM)
        free_mb = found.f_bavail * found.f_frsize // _MB
    except OSError:
        free_mb = shared
    if free_mb < shared:
        text = f"{_SHM} has {free_mb} MiB free, and the pools may take {shared} MiB (MOLT_WORKER_ARENA_MB)."
        yield _message(Warned, "molt.W012", text)
    wanted = sum(config.pool_size * config.max_rss_mb for config in configs)
    if wanted > (most_mb := _memory_mb()):
        text = (
            f"Executors may take {wanted} MiB (number x MOLT_WORKER_MAX_RSS_MB), and there are {most_mb} MiB."
        )
        yield _message(Warned, "molt.W013", text)


def _memory_mb() -> int:
    """How much memory there is for this process, in MiB: the machine's, or what its control group may use."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # there is no such file, or it says "max"
        total = min(total, int(_LIMIT.read_text()))
    return total // _MB
