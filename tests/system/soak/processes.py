"""The processes of a soak test: which plays what role, what each needs, and what is left of them."""

import contextlib
from collections.abc import Iterable, Iterator

import psutil

from molt_accel.errors import MoltWorkerUnavailable
from molt_accel.ipc import control
from molt_accel.ipc.shm.attach import connect

#: All processes of one soak test inherit this variable.
MARK = "MOLT_SOAK_ID"


def server_of(path: str) -> int:
    """Who serves a pool's socket, as the kernel knows; 0: nobody."""
    with contextlib.suppress(MoltWorkerUnavailable):
        sock = connect(path)
        if sock is not None:
            with sock:
                return control.peer(sock)[0]
    return 0


def families(supervisors: Iterable[int]) -> Iterator[tuple[str, psutil.Process]]:
    """The supervisors, their fork servers and executors, by role."""
    for pid in supervisors:
        with contextlib.suppress(psutil.Error):
            supervisor = psutil.Process(pid)
            yield "supervisor", supervisor
            for forkserver in supervisor.children():
                yield "forkserver", forkserver
                with contextlib.suppress(psutil.Error):
                    yield from (("executor", executor) for executor in forkserver.children())


def needs(process: psutil.Process) -> tuple[int, int] | None:
    """Resident bytes, without what it shares with others, and descriptors; None if it has ended."""
    with contextlib.suppress(psutil.Error, OSError):
        memory = process.memory_info()
        return memory.rss - memory.shared, process.num_fds()
    return None


def zombies(processes: Iterable[psutil.Process]) -> list[str]:
    """Those that have ended, and nobody has asked for their exit codes."""
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.status() == psutil.STATUS_ZOMBIE:
                found.append(f"{process.name()} {process.pid}")
    return found
