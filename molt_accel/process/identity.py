"""Who may share a pool: processes whose code would run alike, on the same data.

An executor serves with the code that its worker finds, the data that its environment leads to, and the limits that it
inherits. So a process may use a pool only if a worker that it started itself would be the same in all that. The
environment counts whole, but for what can't matter to an entrypoint: settings are made of it (a settings module, the
address of a database), and nobody knows from which variables.

A pool that a client starts is for whoever is as that client is. It is told so, since the command that starts it may
change what it would find itself (``nice -n 5 molt-worker``).
"""

from __future__ import annotations

import errno
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

#: Tells a worker the identity of the client that starts it, as JSON.
STARTER: Final = "MOLT_STARTER"
#: What terminals, sessions, service managers, servers, task queues, reloaders and test runners set for themselves.
_CAN_NOT_MATTER = frozenset(
    """
    _ CACHE_DIRECTORY COLORFGBG COLORTERM COLUMNS DBUS_SESSION_BUS_ADDRESS DESKTOP_SESSION DISPLAY EDITOR
    FORKED_BY_MULTIPROCESSING GPG_TTY HISTCONTROL HISTFILE HISTFILESIZE HISTSIZE HISTTIMEFORMAT HONCHO_PROCESS_NAME
    HOSTNAME INVOCATION_ID JOURNAL_STREAM LC_TERMINAL LC_TERMINAL_VERSION LESS LESSCLOSE LESSOPEN LINES LISTEN_FDNAMES
    LISTEN_FDS LISTEN_PID LOGNAME LOGS_DIRECTORY LS_COLORS MAIL MAILTO MAINPID MANAGERPID MEMORY_PRESSURE_WATCH
    MEMORY_PRESSURE_WRITE NOTIFY_SOCKET OLDPWD PAGER PIPENV_ACTIVE POETRY_ACTIVE PS1 PS2 PWD PYCHARM_HOSTED
    PYTHONDONTWRITEBYTECODE PYTHONUNBUFFERED RUNTIME_DIRECTORY SERVER_SOFTWARE SESSION_MANAGER SHELL SHLVL
    STARSHIP_SESSION_KEY STARSHIP_SHELL STY SYSTEMD_EXEC_PID TERM TERM_PROGRAM TERM_PROGRAM_VERSION TERM_SESSION_ID
    TMUX TMUX_PANE TRIGGER_PATH TRIGGER_TIMER_MONOTONIC_USEC TRIGGER_TIMER_REALTIME_USEC TRIGGER_UNIT UV
    UV_RUN_RECURSION_DEPTH VIRTUAL_ENV VIRTUAL_ENV_PROMPT VISUAL VTE_VERSION WATCHDOG_PID WATCHDOG_USEC
    WAYLAND_DISPLAY WINDOWID XAUTHORITY XDG_ACTIVATION_TOKEN XDG_CURRENT_DESKTOP XDG_GREETER_DATA_DIR XDG_MENU_PREFIX
    XDG_RUNTIME_DIR XDG_SEAT XDG_SEAT_PATH XDG_VTNR DJANGO_AUTORELOAD RUN_MAIN
    """.split()  # noqa: SIM905  # one row for each would be ninety lines
)
_CAN_NOT_MATTER_FROM = (
    *("CELERY_LOG_", "COV_CORE_", "COVERAGE_", "DIRENV_", "GNOME_TERMINAL_", "GUNICORN_", "ITERM_", "KITTY_"),
    *("KONSOLE_", "PYTEST_", "RQ_", "SSH_", "SUDO_", "SUPERVISOR_", "UWSGI_", "VSCODE_", "WEZTERM_"),
    *("XDG_SESSION_", "_MP_FORK_LOG"),
)
_VARIABLE: Final = "environment variable "
#: As one, if there are more: Kubernetes sets seven for each service of a namespace, and a message has a limit.
_MOST_VARIABLES: Final = 400
_MOST_LISTED: Final = 40  #: names of variables in an error's text
#: Tests that run at once tell by it whose data is whose.
_MATTERS: Final = frozenset({"PYTEST_XDIST_WORKER"})
#: What Python makes of the "C" locale when it starts (PEP 538). A server that embeds Python doesn't.
_COERCED: Final = ("C.UTF-8", "C.utf8", "UTF-8")
#: So many files a worker's process may open at least, if the hard limit lets it. Servers have higher limits than
#: shells for the sake of their connections, which an executor has none of.
OPEN_FILES: Final = 4096
#: In a worker: what the command that started it has changed, as it is now and as it was. None: there is none.
_changed: dict[str, tuple[str | None, str | None]] = {}
#: Limits of which the soft one has an effect, and what an error calls them.
_LIMITS: Final = {
    "RLIMIT_CPU": "limit of processor time",
    "RLIMIT_AS": "limit of address space",
    "RLIMIT_DATA": "limit of data",
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
        MoltStartFailed: the working directory was deleted, or no more files can be opened.
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
    variables = {name: value for name, value in environ.items() if _counts(name, environ)}
    if len(variables) > _MOST_VARIABLES:
        parts["environment"] = {name: value for name, value in variables.items() if name not in unsaid}
    else:
        parts |= {_VARIABLE + name: value for name, value in variables.items()}
    parts |= {_VARIABLE + name: None for name in unsaid}
    return _as_started({name: digest(value) for name, value in parts.items()})


def of_starter(own: dict[str, str]) -> dict[str, str]:
    """In a worker: return the identity of the client that has started it; `own` if nobody told.

    From then on this process and its children have that one, but for what they change themselves. So an executor knows
    its own pool.
    """
    global _changed
    told: dict[str, str] = json.loads(os.environ.pop(STARTER, "{}"))
    if not told:
        return own
    told["exports"] = own["exports"]  # they may be said on the worker's own command line
    _changed = {name: (own.get(name), told.get(name)) for name in differences(told, own)}
    return told


def _as_started(found: dict[str, str]) -> dict[str, str]:
    for name, (own, told) in _changed.items():
        if found.get(name) == own:
            found.pop(name, None)
            found |= {} if told is None else {name: told}
    return found


def _counts(name: str, environ: Mapping[str, str]) -> bool:
    """Whether a variable of an environment may matter to an entrypoint."""
    if name == "LC_CTYPE" and environ[name] in _COERCED and not environ.get("LC_ALL"):
        return environ.get("LANG", "") not in ("", "C", "POSIX")
    can_not = name in _CAN_NOT_MATTER or name.startswith(_CAN_NOT_MATTER_FROM)
    return name in _MATTERS or not can_not


def _granted() -> Iterator[tuple[str, object]]:
    """What the system grants this process, and then to its children."""
    for constant, name in _LIMITS.items():
        if hasattr(resource, constant):
            yield name, resource.getrlimit(getattr(resource, constant))[0]
    yield "limit of open files", open_files(resource.getrlimit(resource.RLIMIT_NOFILE)[1])
    yield "niceness", os.getpriority(os.PRIO_PROCESS, 0)
    yield "groups", (os.getgid(), os.getegid(), sorted(os.getgroups()))
    if hasattr(os, "sched_getaffinity"):
        yield "processors", sorted(os.sched_getaffinity(0))


def open_files(hard_limit: int) -> int:
    """Return how many files a worker's process may open at least, under a hard limit."""
    return OPEN_FILES if hard_limit == resource.RLIM_INFINITY else min(hard_limit, OPEN_FILES)


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
        if folder != here and not f"{folder}{os.sep}".startswith(_PYTHONS) and os.path.exists(folder):
            yield folder


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


#: Read when this module is imported: `sysconfig` that fails once, where no more files can be opened, fails for ever.
_PYTHONS: Final = _pythons()


def differences(mine: dict[str, str], others: dict[str, str]) -> list[str]:
    """Return the names of what is not the same. What one of the two leaves unsaid may be anything."""
    pairs = ((name, mine.get(name), others.get(name)) for name in mine.keys() | others.keys())
    return sorted(name for name, one, other in pairs if one != other and _UNSAID not in (one, other))


def listed(differing: list[str]) -> str:
    """Return `differences` as a text. All are named, if they aren't very many: each has to be looked after."""
    variables = [name.removeprefix(_VARIABLE) for name in differing if name.startswith(_VARIABLE)]
    others = [name for name in differing if not name.startswith(_VARIABLE)]
    if variables:
        more = f" and {len(variables) - _MOST_LISTED} more" if len(variables) > _MOST_LISTED else ""
        others.append(f"environment variables: {', '.join(variables[:_MOST_LISTED])}{more}")
    return "; ".join(others)


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that stand for a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:16]


_UNSAID: Final = digest(None)


def _umask() -> str:
    """The umask. Linux lets a process read it; elsewhere that would mean to set it for a moment, for all threads.

    Raises MoltStartFailed: no more files can be opened. What differs for a moment only must not make another pool.
    """
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next((line for line in status if line.startswith("Umask:")), "")
    except OSError as exc:
        if exc.errno in (errno.EMFILE, errno.ENFILE):
            raise MoltStartFailed(f"this process's umask can't be read: {exc.strerror}") from exc
        return ""
