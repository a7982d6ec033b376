"""Who may share a pool: processes whose code would run alike, on the same data.

An executor serves with the code that its worker finds and the data that its environment leads to. So a process may use
a pool only if it has the same user, Python, working directory, ``sys.path``, umask, exports and environment. The
environment counts whole, but for what can't matter to an entrypoint: settings are made of it (a settings module, the
address of a database), and nobody knows from which variables.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator

from molt_accel.errors import MoltStartFailed
from molt_accel.process import testdb
from molt_accel.version import __version__

#: What terminals, sessions, service managers, servers, reloaders and test runners set for themselves.
_CAN_NOT_MATTER = frozenset(
    """
    _ COLORTERM COLUMNS DBUS_SESSION_BUS_ADDRESS DESKTOP_SESSION DISPLAY EDITOR GPG_TTY HISTFILE
    HISTSIZE INVOCATION_ID JOURNAL_STREAM LESS LESSCLOSE LESSOPEN LINES LISTEN_FDNAMES LISTEN_FDS
    LISTEN_PID LOGNAME LS_COLORS MAIL MAINPID MANAGERPID MEMORY_PRESSURE_WATCH MEMORY_PRESSURE_WRITE
    NOTIFY_SOCKET OLDPWD PAGER PS1 PS2 PWD SERVER_SOFTWARE SHELL SHLVL SYSTEMD_EXEC_PID TERM
    TERM_PROGRAM TERM_PROGRAM_VERSION TMUX TMUX_PANE VIRTUAL_ENV VIRTUAL_ENV_PROMPT VISUAL WATCHDOG_PID
    WATCHDOG_USEC WINDOWID DJANGO_AUTORELOAD RUN_MAIN
    """.split()  # noqa: SIM905  # one row for each would be fifty lines
)
_CAN_NOT_MATTER_FROM = ("MOLT_", "PYTEST_", "SSH_", "SUDO_", "XDG_", "COV_CORE_", "COVERAGE_")


def of_this_process(exports: str, path: list[str], ignored: str) -> dict[str, str]:
    """Return what this process has of each thing that must be the same: its name -> a digest of it.

    Digests, because what stands in an environment is nobody else's business.

    Args:
        exports: The configured exports; empty: any.
        path: Folders that the exports are imported from.
        ignored: Names of environment variables that don't count, separated by commas.

    Raises:
        MoltStartFailed: the working directory was deleted.
    """
    try:
        here = os.getcwd()
    except OSError as exc:
        raise MoltStartFailed(
            f"this process's working directory is gone ({exc.strerror}); change to another"
        ) from exc
    parts = {
        "user": os.getuid() if hasattr(os, "getuid") else "",
        "Python": (os.path.realpath(sys.prefix), sys.version),
        "version of molt-accel": __version__,
        "working directory": os.path.realpath(here),
        "sys.path": path,
        "umask": _umask(),
        "exports": exports,
        "test databases": testdb.names(),
    }
    also_ignored = ignored.replace(",", " ").split()
    for name, value in os.environ.items():
        if (
            name not in _CAN_NOT_MATTER
            and not name.startswith(_CAN_NOT_MATTER_FROM)
            and name not in also_ignored
        ):
            parts[f"environment variable {name}"] = value
    return {name: digest(value) for name, value in parts.items()}


def import_path() -> list[str]:
    """Return what this process has in ``sys.path`` besides its working directory and Python's own folders."""
    return list(dict.fromkeys(_own_path()))


def _own_path() -> Iterator[str]:
    pythons = tuple(os.path.join(os.path.realpath(prefix), "") for prefix in (sys.prefix, sys.base_prefix))
    here = ""
    with contextlib.suppress(OSError):  # it was deleted
        here = os.path.realpath(os.getcwd())
    for entry in sys.path:
        folder = os.path.realpath(entry) if entry else here
        if folder != here and not folder.startswith(pythons) and os.path.exists(folder):
            yield folder


def differences(mine: dict[str, str], others: dict[str, str]) -> list[str]:
    """Return the names of what is not the same. Exports that one of the two leaves unsaid may be any."""
    unsaid = digest("")
    if unsaid in (mine.get("exports"), others.get("exports")):
        mine, others = {**mine, "exports": unsaid}, {**others, "exports": unsaid}
    return sorted(name for name in mine.keys() | others.keys() if mine.get(name) != others.get(name))


def digest(value: object) -> str:
    """Return 16 hexadecimal digits that stand for a value of JSON's types."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode(errors="surrogateescape")).hexdigest()[:16]


def _umask() -> str:
    """The umask. Linux lets a process read it; elsewhere that would mean to set it for a moment, for all threads."""
    lines: Iterable[str] = ()
    with (
        contextlib.suppress(OSError),
        open("/proc/self/status", encoding="ascii", errors="replace") as status,
    ):
        lines = list(status)
    return next((line for line in lines if line.startswith("Umask:")), "")
