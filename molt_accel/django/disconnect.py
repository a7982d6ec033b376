"""Whether the HTTP client is still there, on servers that let one look.

Under ASGI Django cancels the view's task: async views need nothing, and a sync view, which runs on a thread
beside it, makes its call in the event loop, where asgiref cancels it too. gunicorn's sync and gthread workers
hand the connection's socket to the application as ``gunicorn.socket``.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable
from typing import Final

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from molt_accel.call import Call, Reply
from molt_accel.waits import adrive, drive

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


def cancel_check(request: HttpRequest) -> Callable[[], bool] | None:
    """How to notice that this request's browser goes away: for the option ``cancel_check`` of a direct call.

    None where the server lets nobody look: under ASGI, where the task of the view is cancelled instead (make the call
    by `Client.acall`, in a sync view through ``async_to_sync``), and under servers other than gunicorn.
    """
    connection = _django_s(request).META.get("gunicorn.socket")
    return SocketHangup(connection) if connection is not None else None


def _django_s(request: HttpRequest) -> HttpRequest:
    """The request itself, where a framework such as Django REST framework has wrapped it."""
    wrapped = getattr(request, "_request", None)
    return wrapped if isinstance(wrapped, HttpRequest) else request


def drive_for(request: HttpRequest, call: Call) -> Reply:
    """Run a sync view's call to its end, where it can be cancelled when this request's client goes away."""
    if isinstance(_django_s(request), ASGIRequest) and not _in_event_loop():
        reply: Reply = async_to_sync(adrive)(call)
        return reply
    return drive(call)


def _in_event_loop() -> bool:
    """Whether this is an event loop's own thread, which can't wait for what the loop does."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
