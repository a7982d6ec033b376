"""The name of a pool: a lock that one worker holds at a time, and the socket at which clients find it."""

from __future__ import annotations

import contextlib
import os
import socket
from typing import Final

from molt_accel.errors import AlreadyServed
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint


class Name:
    """A name that this worker serves, until it lets go of it.

    Raises AlreadyServed: another worker serves it; MoltWorkerUnavailable: the socket's directory can't be used.
    """

    def __init__(self, directory: str, name: str) -> None:
        control.ensure_directory(directory)
        self.path: Final = control.socket_path(directory, name)
        lock_fd = control.lock(directory, name, "lock", wait=False)
        if lock_fd is None:
            raise AlreadyServed(f"another worker serves the pool {name!r} already")
        self._lock_fd = lock_fd
        self._inode = -1

    def bind(self) -> socket.socket:
        """The socket that clients connect to, bound but not listening yet."""
        listener = control.new_socket()
        listener.setblocking(False)
        if os.path.lexists(self.path):
            os.unlink(self.path)  # a worker that was killed has left it, as nobody else has the lock
        listener.bind(self.path)
        self._inode = os.lstat(self.path).st_ino
        failpoint("supervisor.bound")
        return listener

    def let_go(self) -> None:
        """Remove the socket's path and release the lock, so that another worker can serve the name."""
        if self._lock_fd >= 0:
            with contextlib.suppress(FileNotFoundError):
                # Else somebody tidied up, and the path is another worker's.
                if os.lstat(self.path).st_ino == self._inode:
                    os.unlink(self.path)
            failpoint("supervisor.leaving")
            os.close(self._lock_fd)
            self._lock_fd = -1
