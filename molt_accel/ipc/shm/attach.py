"""Attaches to a pool: connects to its control socket, and exchanges the first messages.

Clients attach, and so do observers such as `molt-worker status`: these map the arena read-only and get no channels.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Final

from molt_accel.errors import (
    MoltStartFailed,
    MoltWorkerUnavailable,
    WorkerVanished,
    unavailable_class,
)
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import SHM_FROM_WORKER, Attach, Attached, Refused, Reloading
from molt_accel.ipc.outcomes import other_protocol
from molt_accel.ipc.shm import arena as arenas
from molt_accel.version import __version__

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena, ArenaView

FIRST_BATCH: Final = 32  #: how many channels a client asks for at first; enough for most servers
#: How long the supervisor may take to accept and to answer. It never blocks.
ANSWER_S: Final = 10.0
_CROWD_S: Final = 0.002  #: how long to wait before another try if too many others connect


def connect(path: str) -> socket.socket | None:
    """Connect to the worker that serves this path. Returns None if none does.

    Raises MoltWorkerUnavailable if another user's process serves it, or this one may not connect.
    """
    sock = control.new_socket()
    try:
        sock.settimeout(ANSWER_S)
        _connect(sock, path)
        _, uid = control.peer(sock)
        if uid != os.getuid():
            raise MoltWorkerUnavailable(f"{path} is served by user {uid}, not by this one ({os.getuid()})")
    except (FileNotFoundError, ConnectionRefusedError):
        sock.close()
        return None
    except OSError as exc:
        sock.close()
        raise MoltWorkerUnavailable(f"can't connect to {path}: {exc}") from exc
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(sock: socket.socket, path: str) -> None:
    """Connect, and try again while the listener's backlog is full: the kernel doesn't wait then."""
    until_s = time.monotonic() + ANSWER_S
    while True:
        try:
            sock.connect(path)
            return
        except BlockingIOError:
            if time.monotonic() >= until_s:
                raise
            time.sleep(_CROWD_S)


def handshake(
    sock: socket.socket, identity: dict[str, str], *, nested: bool = False
) -> tuple[Arena, Attached]:
    """Attach as a client of this identity, on a connected control socket. `nested`: this process is part of a worker.

    Raises:
        MoltStartFailed, MoltIncompatible, WorkerVanished: the worker refused.
        MoltWorkerUnavailable: the worker doesn't answer.
    """
    fd, granted = _ask(sock, Attach(__version__, False, FIRST_BATCH, identity, nested))
    return arenas.attach(fd), granted


def observe(sock: socket.socket) -> ArenaView:
    """Attach as an observer, which doesn't keep the pool alive. Raises as `handshake` does."""
    fd, _ = _ask(sock, Attach(__version__, True, 0))
    return arenas.view(fd)


def _ask(sock: socket.socket, question: Attach) -> tuple[int, Attached]:
    """Ask to attach. Returns the arena's descriptor and the worker's answer."""
    fds: list[int] = []
    try:
        sock.settimeout(ANSWER_S)
        control.send(sock, question)
        failpoint("client.attaching")
        answer, fds = control.receive(sock, SHM_FROM_WORKER, max_fds=1)
        if isinstance(answer, Reloading):
            sock.settimeout(answer.timeout_ms / 1000 + ANSWER_S)
            answer, fds = control.receive(sock, SHM_FROM_WORKER, max_fds=1)
        sock.settimeout(None)
        if answer is None:
            raise WorkerVanished("the worker closed the connection")
        if isinstance(answer, Attached) and len(fds) == 1:
            return fds.pop(), answer
        raise _refusal(answer.error if isinstance(answer, Refused) else None)
    except FrameError as exc:
        raise other_protocol(exc.detail) from exc
    except ConnectionError as exc:
        raise WorkerVanished(f"the worker closed the connection: {exc}") from exc
    except OSError as exc:
        raise MoltWorkerUnavailable(f"no connection to the worker: {exc}") from exc
    finally:
        control.close_all(fds)


def _refusal(body: object) -> MoltWorkerUnavailable:
    """The error for an answer other than a grant."""
    detail = body.get("detail") if isinstance(body, dict) else None
    if not isinstance(body, dict) or not isinstance(detail, str):
        return other_protocol("its answer is no grant")
    kind = unavailable_class(body.get("code"))
    return kind(detail if issubclass(kind, MoltStartFailed) else f"the worker refused: {detail}")
