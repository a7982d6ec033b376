"""Which processes belong to something that the benchmark started, and whether each is of the server or of the worker.

A worker may be a child of a server process (stdio), or stand beside it because it was started once and is shared
(shared memory). So a process belongs to a family by descent or by a mark in its environment, which a process that
detaches keeps. It is of the worker if it or a process above it has the command line of a molt-worker: a forked executor
has the command line that its fork server has.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, Literal

import psutil

Part = Literal["server", "worker"]
MARK_VARIABLE = "MOLT_BENCH_RUN"
_NAMES = ("molt-worker", "molt_worker")


def is_worker_command(command: Sequence[str]) -> bool:
    """Whether a command line is that of a molt-worker.

    Only an executable, module or process title counts: the project may live in a directory called
    molt_worker, and a server may carry that path anywhere in its arguments.
    """
    if command and command[0].startswith(_NAMES):
        return True
    for before, argument in zip(("", *command), command, strict=False):
        path = PurePath(argument)
        if path.name in ("molt-worker", "molt-worker.exe"):
            return True
        if path.suffix == ".py" and path.parent.name == "molt_worker":
            return True
        if before == "-m" and argument.split(".")[0] == "molt_worker":
            return True
        if before == "-c" and "molt_worker" in argument:
            return True
    return False


@dataclass(frozen=True, slots=True)
class Member:
    """A process of the family, with what it is part of."""

    process: psutil.Process
    part: Part


class Family:
    """The processes of one server: its root, all below it, and all that carry its mark."""

    def __init__(self, root: int | None, mark: str) -> None:
        self._root = root
        self._mark = mark
        self._known: dict[int, psutil.Process] = {}
        self._foreign: set[int] = set()

    def members(self) -> list[Member]:
        """The living processes of the family, just now.

        Cheap enough to be called several times a second: the environment of a process is read when the process is first
        seen, and only its command line again and again, as a forked child may run another program.
        """
        pids = psutil.pids()
        self._foreign.intersection_update(pids)
        self._known = {pid: process for pid, process in self._known.items() if process.is_running()}
        fresh = {pid: process for pid in pids if (process := self._look_at(pid)) is not None}
        parents: dict[int, int] = {}
        for pid, process in (self._known | fresh).items():
            try:
                parents[pid] = process.ppid()
            except psutil.Error:
                fresh.pop(pid, None)
        self._adopt(fresh, parents)
        return self._classified(parents)

    def _look_at(self, pid: int) -> psutil.Process | None:
        if pid in self._known or pid in self._foreign:
            return None
        try:
            return psutil.Process(pid)
        except psutil.Error:
            return None

    def _adopt(self, fresh: dict[int, psutil.Process], parents: dict[int, int]) -> None:
        """Takes the processes of `fresh` that belong here, children after parents; the others count as foreign."""
        for pid, process in fresh.items():
            if pid == self._root or self._has_mark(process):
                self._known[pid] = process
        grew = True
        while grew:
            children = [pid for pid in fresh if pid not in self._known and parents.get(pid) in self._known]
            self._known |= {pid: fresh[pid] for pid in children}
            grew = bool(children)
        self._foreign.update(pid for pid in fresh if pid not in self._known)

    def _has_mark(self, process: psutil.Process) -> bool:
        # The command line as well: a program that sets its title may overwrite its environment with it.
        try:
            if process.environ().get(MARK_VARIABLE) == self._mark:
                return True
            return any(self._mark in argument for argument in process.cmdline())
        except (psutil.Error, OSError):
            return False

    def _classified(self, parents: dict[int, int]) -> list[Member]:
        own: dict[int, bool] = {}
        for pid, process in self._known.items():
            try:
                if process.status() == psutil.STATUS_ZOMBIE:
                    continue
                own[pid] = is_worker_command(process.cmdline())
            except psutil.Error:
                continue

        def in_worker(pid: int | None) -> bool:
            while pid is not None and pid in own:
                if own[pid]:
                    return True
                pid = parents.get(pid)
            return False

        return [Member(self._known[pid], "worker" if in_worker(pid) else "server") for pid in own]


def wait_gone(processes: Iterable[psutil.Process], timeout_s: float) -> list[psutil.Process]:
    """Waits until the processes have ended; returns those that have not. A zombie has ended."""
    _, alive = psutil.wait_procs([process for process in processes if _lives(process)], timeout=timeout_s)
    return [process for process in alive if _lives(process)]


def _lives(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def gunicorn_flags() -> tuple[str, ...]:
    """Flags that only newer gunicorn versions know. Their control socket would be one for all servers of a user."""
    settings: Any = importlib.import_module("gunicorn.config").KNOWN_SETTINGS
    known = {flag for setting in settings for flag in (setting.cli or ())}
    return ("--no-control-socket",) if "--no-control-socket" in known else ()
