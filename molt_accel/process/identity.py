"""Who may share a pool: processes whose code would run alike, on the same data.

An executor serves with the code that its worker finds, the data that its environment leads to, and the limits that it
inherits. So a process may use a pool only if a worker that it started itself would be the same in all that. The
environment counts whole, but for what can't matter to an entrypoint: settings are made of it (a settings module, the
address of a database), and nobody knows from which variables.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import resource
import site
import sys
import sysconfig
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Final

from molt_accel.errors import MoltStartFailed
from molt_accel.process import testdb
from molt_accel.version import __version__

#: What terminals, sessions, service managers, servers, reloaders and test runners set for themselves.
_CAN_NOT_MATTER = frozenset(
    """
    _ CACHE_DIRECTORY COLORTERM COLUMNS DBUS_SESSION_BUS_ADDRESS DESKTOP_SESSION DISPLAY EDITOR GPG_TTY GUNICORN_FD
    GUNICORN_PID HISTFILE HISTSIZE HOSTNAME INVOCATION_ID JOURNAL_STREAM LESS LESSCLOSE LESSOPEN LINES LISTEN_FDNAMES
    LISTEN_FDS LISTEN_PID LOGNAME LOGS_DIRECTORY LS_COLORS MAIL MAINPID MANAGERPID MEMORY_PRESSURE_WATCH
    MEMORY_PRESSURE_WRITE NOTIFY_SOCKET OLDPWD PAGER PS1 PS2 PWD RUNTIME_DIRECTORY SERVER_SOFTWARE SHELL SHLVL
    SYSTEMD_EXEC_PID TERM TERM_PROGRAM TERM_PROGRAM_VERSION TMUX TMUX_PANE UWSGI_ORIGINAL_PROC_NAME UWSGI_RELOADS
    VIRTUAL_ENV VIRTUAL_ENV_PROMPT VISUAL WATCHDOG_PID WATCHDOG_USEC WINDOWID XDG_ACTIVATION_TOKEN XDG_CURRENT_DESKTOP
    XDG_GREETER_DATA_DIR XDG_MENU_PREFIX XDG_RUNTIME_DIR XDG_SEAT XDG_SEAT_PATH XDG_VTNR DJANGO_AUTORELOAD RUN_MAIN
    """.split()  # noqa: SIM905  # one row for each would be fifty lines
)
_CAN_NOT_MATTER_FROM = ("PYTEST_", "SSH_", "SUDO_", "XDG_SESSION_", "COV_CORE_", "COVERAGE_")
#: Limits of which the soft one has an effect, and what an error calls them.
_LIMITS: Final = {
    "RLIMIT_CPU": "limit of processor time",
    "RLIMIT_AS": "limit of address space",
    "RLIMIT_DATA": "limit of data",
    "RLIMIT_NOFILE": "limit of open files",
}


class Inherited:
    """The environment and ``sys.path`` that a worker gets from this process, as they were when its client was made.

    A library that is imported later may change both. Then the process would fit no pool that others start, or start one
    that they don't fit.
    """

    __slots__ = ("environ", "path")

    def __init__(self) -> None:
        self.environ: Final = dict(os.environ)
        self.path: Final = [entry for entry in sys.path if isinstance(entry, str)]  # Python skips others, too


def of_this_process(
    exports: str | None, path: list[str], environ: Mapping[str, str], unsaid: Collection[str] = ()
) -> dict[str, str]:
    """Return what this process has of each thing that must be the same: its name -> a digest of it.

    Digests, because what stands in an environment is nobody else's business.

    Args:
        exports: The exports: a module, or the absolute path of a manifest; None: any.
        path: Folders that the exports are imported from.
        environ: The environment variables that a worker inherits.
        unsaid: Names of environment variables that may have any value.

    Raises:
        MoltStartFailed: the working directory was deleted.
    """
    try:
        here = os.getcwd()
    except OSError as exc:
        raise MoltStartFailed(
            f"this process's working directory is gone ({exc.strerror}); change to another"
        ) from exc
    parts: dict[str, object] = {
        "user": os.getuid() if hasattr(os, "getuid") else "",
        "Python": (os.path.realpath(sys.prefix), sys.version),
        "version of molt-accel": __version__,
        "working directory": os.path.realpath(here),
        "sys.path": path,
        "umask": _umask(),
        "exports": exports,
        "test databases": testdb.names(),
        **dict(_granted()),
    }
    for name, value in environ.items():
        if name not in _CAN_NOT_MATTER and not name.startswith(_CAN_NOT_MATTER_FROM):
            parts[f"environment variable {name}"] = value
    parts |= {f"environment variable {name}": None for name in unsaid}
    return {name: digest(value) for name, value in parts.items()}


def _granted() -> Iterator[tuple[str, object]]:
    """What the system grants this process, and then to its children."""
    for constant, name in _LIMITS.items():
        if hasattr(resource, constant):
            yield name, resource.getrlimit(getattr(resource, constant))[0]
    yield "niceness", os.getpriority(os.PRIO_PROCESS, 0)
    yield "groups", (os.getgid(), os.getegid(), sorted(os.getgroups()))
    if hasattr(os, "sched_getaffinity"):
        yield "processors", sorted(os.sched_getaffinity(0))


def import_path(entries: Iterable[str]) -> list[str]:
    """Return what is in a ``sys.path`` besides the working directory, Python's own folders, and what isn't there."""
    return list(dict.fromkeys(_own_path(entries)))


def _own_path(entries: Iterable[str]) -> Iterator[str]:
    try:
        here = os.path.realpath(os.getcwd())
    except OSError:  # it was deleted, and with it whatever is below it
        here, entries = "", filter(os.path.isabs, entries)
    for entry in entries:
        folder = os.path.realpath(entry) if entry else here
        if folder != here and not f"{folder}{os.sep}".startswith(_pythons()) and os.path.exists(folder):
            yield folder


@functools.cache
def _pythons() -> tuple[str, ...]:
    """The folders of the standard library, and of installed packages and commands. A project may be below a prefix.

    Python puts the folder of a command first: `gunicorn`'s and `molt-worker`'s would differ from `manage.py`'s.
    """
    base = {"installed_base": sys.base_prefix, "base": sys.base_prefix, "platbase": sys.base_exec_prefix}
    paths = [sysconfig.get_paths(), sysconfig.get_paths(vars=base)]
    own = {each[kind] for each in paths for kind in ("stdlib", "platstdlib", "purelib", "platlib", "scripts")}
    own.add(sysconfig.get_path("scripts", sysconfig.get_preferred_scheme("user")))
    if hasattr(site, "getsitepackages"):  # an old virtualenv has a module of its own
        own |= {*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else ())}
    version = f"python{sys.version_info.major}{sys.version_info.minor}.zip"
    own |= {os.path.join(prefix, sys.platlibdir, version) for prefix in (sys.prefix, sys.base_prefix)}
    return tuple(os.path.join(os.path.realpath(folder), "") for folder in own)


def differences(mine: dict[str, str], others: dict[str, str]) -> list[str]:
    """Return the names of what is not the same. What one of the two leaves unsaid may be anything."""
    pairs = ((name, mine.get(name), others.get(name)) for name in mine.keys() | others.keys())
    return sorted(name for name, one, other in pairs if one != other and _UNSAID not in (one, other))


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that stand for a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:16]


_UNSAID: Final = digest(None)


def _umask() -> str:
    """The umask. Linux lets a process read it; elsewhere that would mean to set it for a moment, for all threads."""
    lines: Iterable[str] = ()
    with (
        contextlib.suppress(OSError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        lines = list(status)
    return next((line for line in lines if line.startswith("Umask:")), "")
