"""Whether the HTTP client is still there, on servers that let one look.

Under ASGI nothing is needed: Django cancels the view's task. gunicorn's sync and gthread workers hand the
connection's socket to the application as ``gunicorn.socket``.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Final

from django.http import HttpRequest

#: The peer's end, also behind data that nobody has read yet. Elsewhere unread data hides the end.
_RDHUP: Final = getattr(select, "POLLRDHUP", 0)


class SocketHangup:
    """A `cancel_check` for a connection. Its `fileno` lets a call wait for the hang-up instead of asking."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: Final = connection

    def fileno(self) -> int:
        """The connection's descriptor."""
        return self._connection.fileno()

    def __call__(self) -> bool:
        """Whether the client has closed or reset the connection."""
        fd = self._connection.fileno()
        if fd < 0:
            return True
        if _RDHUP:
            poll = select.poll()
            poll.register(fd, _RDHUP)
            return bool(poll.poll(0))
        try:
            # Of the descriptor, not through an SSLSocket, which can't peek.
            with socket.socket(fileno=socket.dup(fd)) as probe:
                return probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def check_for(request: HttpRequest) -> Callable[[], bool] | None:
    """The best way to notice that this request's client goes away; None where the server offers none."""
    connection = request.META.get("gunicorn.socket")
    return SocketHangup(connection) if connection is not None else None
