"""The control socket of a pool: its path, who may connect, and how messages are sent and received.

Each message (see `messages`) is a frame in a packet of its own (SOCK_SEQPACKET), so nothing has to be cut out of a
stream. `__ping__` is the only request that comes this way.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import struct
from array import array
from typing import Final

from molt_accel.errors import MoltWorkerUnavailable, NoSharedMemory
from molt_accel.ipc.frame import PREFIX_BYTES, Decoder, FrameError, Item, decode, encode

#: Longest message. A report with some thousand entrypoints fits.
MAX_MESSAGE_BYTES: Final = 128 * 1024
_CREDENTIALS: Final = struct.Struct("3i")
_SUN_PATH_BYTES: Final = 107
_FD_BYTES: Final = array("i").itemsize


def socket_path(directory: str, name: str) -> str:
    """Return the path of a pool's socket. Raises NoSharedMemory if it is too long."""
    path = os.path.join(directory, f"{name}.sock")
    if len(os.fsencode(path)) > _SUN_PATH_BYTES:
        raise NoSharedMemory(
            f"the socket's path is too long ({path}, {_SUN_PATH_BYTES} bytes at most); set MOLT_RUNTIME_DIR"
        )
    return path


def ensure_directory(directory: str) -> None:
    """Make the directory.

    Raises:
        NoSharedMemory: there is no place for it; the text says what to set.
        MoltWorkerUnavailable: it is not this user's, or others may use it.
    """
    try:
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        check_directory(directory)
    except OSError as exc:
        raise no_place(f"can't make the directory {directory}", exc) from exc


def check_directory(directory: str) -> None:
    """Raise MoltWorkerUnavailable if a directory is not this user's, or others may use it; OSError if there is none."""
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o077:
        raise MoltWorkerUnavailable(
            f"{directory} must be a directory of this user with mode 0700; remove it, or set MOLT_RUNTIME_DIR"
        )


def no_place(what: str, why: OSError) -> NoSharedMemory:
    """Return the error for a runtime directory that can't be written to."""
    return NoSharedMemory(
        f"{what}: {why.strerror}; set MOLT_RUNTIME_DIR to a place that this user can write to (on a tmpfs where the "
        "file system is read-only), or use MOLT_TRANSPORT=stdio"
    )


def lock(directory: str, name: str, purpose: str, *, wait: bool) -> int | None:
    """Lock a pool's file for a purpose. Returns its descriptor; None if another process has the lock.

    The kernel releases the lock when its holder dies.
    """
    fd = os.open(os.path.join(directory, f"{name}.{purpose}"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(fd)
        return None
    except BaseException:
        os.close(fd)
        raise
    return fd


def new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer(sock: socket.socket) -> tuple[int, int]:
    """Pid and user id of the process at the other end, as the kernel knows them."""
    pid, uid, _ = _CREDENTIALS.unpack(
        sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return pid, uid


def send(sock: socket.socket, message: Item, fds: tuple[int, ...] = ()) -> None:
    """Send a message without blocking.

    Raises OSError if the other end is gone, or reads nothing any more (BlockingIOError).
    """
    data = encode(message, MAX_MESSAGE_BYTES)
    # Not socket.send_fds, nor recv_fds below: they take flags but ignore them.
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
    sock.sendmsg([data], rights, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)


def receive(sock: socket.socket, messages: Decoder, max_fds: int = 0) -> tuple[Item | None, list[int]]:
    """Receive a message, and the descriptors that came with it. Returns None at the end of file.

    Args:
        messages: Decodes the control messages that may come.
        max_fds: How many descriptors may come along.

    Raises:
        FrameError: it is no valid message; its descriptors are closed.
        OSError: there is none yet (BlockingIOError, TimeoutError), or the connection is broken.
    """
    room = socket.CMSG_LEN(max_fds * _FD_BYTES)
    try:
        data, rights, _, _ = sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    except ConnectionResetError:
        # The kernel says once that the other end closed before it had read everything. What that sent comes after.
        data, rights, _, _ = sock.recvmsg(MAX_MESSAGE_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    found = array("i")
    for level, kind, raw in rights:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(raw[: len(raw) - len(raw) % _FD_BYTES])
    fds = found.tolist()
    if not data:
        close_all(fds)
        return None, []
    try:
        return decode(data[PREFIX_BYTES:], messages), fds
    except FrameError:
        close_all(fds)
        raise


def close_all(fds: list[int]) -> None:
    for fd in fds:
        with contextlib.suppress(OSError):
            os.close(fd)
