"""System checks of the project's pools: ``manage.py check``, and with ``--deploy`` what matters on a server.

No check imports an entrypoint or starts a process: checks run before most commands, which have no use for them. So
exports are read (`molt_worker.entrypoints.offered`), and what can't be told without an import is not complained of.
``manage.py molt_check`` imports them first. Then nothing has to be guessed.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import psutil
from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.core.checks import Warning as Warned
from django.urls import get_resolver

from molt_accel.config import Config, ConfigError, pool_names
from molt_accel.django import placement
from molt_accel.errors import MoltError
from molt_accel.ipc import control
from molt_accel.ipc.shm.arena import Geometry, native
from molt_worker.compile import compiler, record
from molt_worker.compile.record import CompiledError, NotOurs
from molt_worker.entrypoints.exports import ExportsError, look_in
from molt_worker.entrypoints.offered import offered
from molt_worker.entrypoints.project import exports_of
from molt_worker.runtime import cgroups

_MB: Final = 1024 * 1024
_NEAR: Final = 0.75  #: how alike two names of settings are if one is likely to be meant as the other
_SHM: Final = "/dev/shm"  # noqa: S108  # where the kernel keeps shared memory

#: Of every message: what is checked, and what to do. docs/reference/checks.md has the same table.
HINTS: Final = {
    "molt.E001": "Correct the setting.",
    "molt.E002": "Correct MOLT_EXPORTS, or the manifest or module that it names.",
    "molt.E003": "Set MOLT_RUNTIME_DIR to a shorter path, or MOLT_WORKER_NAME to a shorter name.",
    "molt.E004": "Remove the directory, or set MOLT_RUNTIME_DIR to one that only this user may use.",
    "molt.E005": "Run manage.py molt_build before the server starts.",
    "molt.E006": "Add the pool to MOLT_POOLS, or correct pool= of the view.",
    "molt.W001": "Mark the function with @molt_worker.export, or correct the name; manage.py molt_check looks closer.",
    "molt.W002": "Install a C compiler and molt-accel[compile] where builds are made.",
    "molt.W003": "Set MOLT_COMPILED = 'off' while you develop.",
    "molt.W004": "Run manage.py molt_build, or set MOLT_COMPILED = 'off'.",
    "molt.W005": "Set MOLT_RUNTIME_DIR to a shorter path, or MOLT_WORKER_NAME to a shorter name.",
    "molt.W006": "Serve with gunicorn --threads N, or another server whose threads have a bound.",
    "molt.W007": "Decorate it with transaction.non_atomic_requests too, above, if it changes nothing itself.",
    "molt.W008": "Correct the name of the setting.",
    "molt.W011": "Make it writable for its owner only: chmod go-w.",
    "molt.W012": "Make /dev/shm larger (in a container: --shm-size), or MOLT_WORKER_ARENA_MB smaller.",
    "molt.W013": "Lower MOLT_WORKER_EXECUTORS or MOLT_WORKER_MAX_RSS_MB, or give the service more memory.",
    "molt.W014": "Make the directory above it, writable for this user, or set MOLT_RUNTIME_DIR to another place.",
}


def check_pools() -> list[CheckMessage]:
    """Check the settings, exports and places of all pools, and the views that call them."""
    with contextlib.suppress(Exception):  # Django's own check says so
        _ = get_resolver().url_patterns  # imports the views
    return [
        *_misnamed_settings(),
        *_of_pools(),
        *_unknown_pools(),
        *_views_in_transactions(),
        *_unbounded_threads(),
    ]


def check_deployment() -> list[CheckMessage]:
    """Check what a server would be hurt by: who may write where, and whether there is memory for the pools."""
    configs = list(_configs())
    return [*_writable_builds(configs), *_no_place(configs), *_too_little_memory(configs)]


def _message(kind: Callable[..., CheckMessage], number: str, text: str, pool: str = "") -> CheckMessage:
    return kind(f"The pool {pool!r}: {text}" if pool else text, hint=HINTS[number], id=number)


def _configs() -> Iterator[Config]:
    for pool in _pools():
        with contextlib.suppress(ConfigError):  # `check_pools` says so
            yield Config.load(pool=pool)


def _pools() -> list[str]:
    """The pools' names. Where the setting is no mapping, `Config.load` says so."""
    return pool_names() if isinstance(getattr(settings, "MOLT_POOLS", {}), Mapping) else ["default"]


@contextlib.contextmanager
def _importing_as(config: Config) -> Iterator[None]:
    """Look for modules as a pool's worker would. What this process imports from, and by it its pools, stays."""
    before = sys.path[:]
    try:
        look_in(config.path)
        yield
    finally:
        sys.path[:] = before


def _is_shared(config: Config) -> bool:
    return config.transport in ("auto", "shm") and sys.platform == "linux"


def _misnamed_settings() -> Iterator[CheckMessage]:
    """Settings that nothing reads. Only those whose names are near to one that counts: others may be the project's."""
    known = {field.metadata["env"] for field in dataclasses.fields(Config)} | {"MOLT_POOLS"}
    for name in sorted(each for each in dir(settings) if each.startswith("MOLT_") and each not in known):
        for near in difflib.get_close_matches(name, sorted(known), 1, _NEAR):
            yield _message(Warned, "molt.W008", f"{name} is no setting of Molt Accel; {near} is.")


def _of_pools() -> Iterator[CheckMessage]:
    said: set[str] = set()
    for pool in _pools():
        try:
            config = Config.load(pool=pool)
        except ConfigError as exc:
            if str(exc) not in said:  # a setting of all pools
                yield _message(Error, "molt.E001", str(exc))
            said.add(str(exc))
            continue
        try:
            with _importing_as(config):
                reference = exports_of(config.exports)
                yield from _unknown_entries(pool, offered(reference))
                yield from _compiled(pool, config, reference)
        except (ExportsError, ValueError) as exc:
            yield _message(Error, "molt.E002", str(exc), pool)
        if _is_shared(config):
            yield from _places(pool, config)


def _unknown_entries(pool: str, entries: set[str] | None) -> Iterator[CheckMessage]:
    for (of_pool, entry), where in sorted(placement.decorated().items()):
        if of_pool == pool and entries is not None and entry not in entries:
            yield _message(Warned, "molt.W001", f"{where} offloads {entry!r}, which no export has.", pool)


def _unknown_pools() -> Iterator[CheckMessage]:
    known = _pools()
    for (pool, entry), where in sorted(placement.decorated().items()):
        if pool not in known:
            text = f"{where} offloads {entry!r} to the pool {pool!r}, which MOLT_POOLS does not have."
            yield _message(Error, "molt.E006", text)


def _views_in_transactions() -> Iterator[CheckMessage]:
    """Offloaded views that hold a transaction while they wait, of which their entrypoint sees nothing."""
    atomic = [alias for alias, each in settings.DATABASES.items() if each.get("ATOMIC_REQUESTS")]
    said: set[str] = set()
    with contextlib.suppress(Exception):  # Django's own check says what is wrong with the URLs
        for view in _views(get_resolver().url_patterns) if atomic else ():
            within = [alias for alias in atomic if alias not in getattr(view, "_non_atomic_requests", ())]
            where = placement.offloaded(view)
            if where and within and where not in said:
                said.add(where)
                of = f"(ATOMIC_REQUESTS of {', '.join(within)})"
                text = f"{where} runs in a transaction {of}, which its entrypoint doesn't see."
                yield _message(Warned, "molt.W007", text)


def _views(patterns: list[Any]) -> Iterator[Any]:
    for each in patterns:
        if hasattr(each, "url_patterns"):
            yield from _views(each.url_patterns)
        else:
            yield each.callback


def _unbounded_threads() -> Iterator[CheckMessage]:
    """All that can be seen from here: servers for production bound their threads, each by settings of its own."""
    if "runserver" in sys.argv[1:2] and "--nothreading" not in sys.argv and not settings.DEBUG:
        text = (
            "DEBUG is off, and runserver has a thread for each connection: any number may wait for the pools."
        )
        yield _message(Warned, "molt.W006", text)


def _compiled(pool: str, config: Config, reference: str) -> Iterator[CheckMessage]:
    if config.compiled == "off":
        return
    path = None
    try:
        path = record.record_path(reference, config.build_dir)
        record.check_fresh(record.read_record(path), path)
    except CompiledError as exc:
        if config.compiled == "require":
            yield _message(Error, "molt.E005", f"compiled code is required, but {exc}.", pool)
            if missing := compiler.missing():
                yield _message(Warned, "molt.W002", f"it can't be built here: {missing}.", pool)
        elif path is not None and path.exists():
            yield _message(Warned, "molt.W004", f"executors run Python: {exc}.", pool)
    else:
        if settings.DEBUG:
            text = "DEBUG is on, and executors run compiled code, which a change of a source puts out of use."
            yield _message(Warned, "molt.W003", text, pool)


def _places(pool: str, config: Config) -> Iterator[CheckMessage]:
    directory = config.pool_directory
    try:
        control.socket_path(directory, config.pool_name)
    except MoltError as exc:
        if config.transport == "shm":
            yield _message(Error, "molt.E003", exc.detail, pool)
        else:
            text = f"each server process will have a worker of its own, over stdio: {exc.detail}"
            yield _message(Warned, "molt.W005", text, pool)
    try:
        control.check_directory(directory)
    except OSError:  # a client makes it
        pass
    except MoltError as exc:
        yield _message(Error, "molt.E004", exc.detail, pool)


def _writable_builds(configs: list[Config]) -> Iterator[CheckMessage]:
    said: set[str] = set()
    for config in configs:
        if config.compiled == "off":
            continue
        with contextlib.suppress(ExportsError, ValueError, OSError), _importing_as(config):
            path = record.record_path(exports_of(config.exports), config.build_dir)
            folder = str(path.parent)
            text = f"Others may write to {folder}, whose code executors would run."
            try:
                if not os.stat(folder).st_mode & (stat.S_IWOTH | stat.S_IWGRP):
                    record.read_record(path)
                    continue
            except NotOurs as exc:
                text = f"{exc}."
            if folder not in said:
                said.add(folder)
                yield _message(Warned, "molt.W011", text)


def _no_place(configs: list[Config]) -> Iterator[CheckMessage]:
    for directory in sorted({config.pool_directory for config in configs if _is_shared(config)}):
        above = os.path.dirname(os.path.abspath(directory))
        if not os.path.lexists(directory) and not os.access(above, os.W_OK | os.X_OK):
            yield _message(Warned, "molt.W014", f"The runtime directory {directory} can't be made.")


def _too_little_memory(configs: list[Config]) -> Iterator[CheckMessage]:
    with contextlib.suppress(OSError, MoltError):  # where there is no shared memory, clients say so
        found = os.statvfs(_SHM)
        free_mb = found.f_bavail * found.f_frsize // _MB
        shared = sum(_arena_bytes(config) for config in configs if _is_shared(config)) // _MB
        if free_mb < shared:
            text = f"{_SHM} has {free_mb} MiB free, and the pools that don't run yet take {shared} MiB."
            yield _message(Warned, "molt.W012", text)
    # An executor shares memory with the others at first, and less and less as it writes. Where nothing limits it, it is
    # taken to need what this process does, which has the same project.
    own_mb = psutil.Process().memory_info().rss // _MB
    wanted = sum(config.pool_size * (config.max_rss_mb or own_mb) for config in configs)
    most_mb = cgroups.memory(psutil.virtual_memory().total) // _MB
    if wanted > most_mb:
        count = sum(config.pool_size for config in configs)
        text = f"{count} executors may take {wanted} MiB, and there are {most_mb} MiB for this service."
        yield _message(Warned, "molt.W013", text)


def _arena_bytes(config: Config) -> int:
    """The shared memory that a pool will take. One that runs has taken it."""
    if os.path.lexists(control.socket_path(config.pool_directory, config.pool_name)):
        return 0
    it = Geometry.fitting(config.pool_size, config.max_queue, config.arena_mb * _MB)
    return int(native().arena_size(it.channels, it.slots, it.ring_bytes))
