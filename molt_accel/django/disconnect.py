"""Whether the HTTP client is still there, on servers that tell.

Under ASGI, Django cancels the view's task, so async views need nothing. A sync view runs on a thread beside the event
loop, but makes its call in the loop, where asgiref cancels it too. gunicorn's sync and gthread workers give the
connection's socket to the application, as ``gunicorn.socket``.
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

#: The event for the peer's end, even behind unread data. Systems without it (macOS) see the end only after the data.
_RDHUP: Final = getattr(select, "POLLRDHUP", 0)


class SocketHangup:
    """A `cancel_check` for a connection. It has a `fileno`, so that a call can wait for the hang-up."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection: Final = connection

    def fileno(self) -> int:
        return self._connection.fileno()

    def __call__(self) -> bool:
        """Whether the client has closed or reset the connection."""
        fd = self.fileno()
        if fd < 0:
            return True
        if _RDHUP:
            poll = select.poll()
            poll.register(fd, _RDHUP)
            return bool(poll.poll(0))
        try:
            # On a duplicate of the descriptor, because an SSLSocket can't peek.
            with socket.socket(fileno=socket.dup(fd)) as probe:
                return probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def cancel_check(request: HttpRequest) -> Callable[[], bool] | None:
    """Return the check for whether this request's browser has gone away; None if the server offers none.

    It serves as the option ``cancel_check`` of a direct call. Under ASGI there is none, because Django cancels the
    task of the view: call `Client.acall` there, in a sync view through ``async_to_sync``.
    """
    connection = _unwrapped(request).META.get("gunicorn.socket")
    return SocketHangup(connection) if connection is not None else None


def _unwrapped(request: HttpRequest) -> HttpRequest:
    """Return Django's own request, which frameworks such as Django REST framework wrap."""
    wrapped = getattr(request, "_request", None)
    return wrapped if isinstance(wrapped, HttpRequest) else request


def drive_for(request: HttpRequest, call: Call) -> Reply:
    """Run a sync view's call to its end: under ASGI in the event loop, where Django can cancel it."""
    if isinstance(_unwrapped(request), ASGIRequest) and not _in_event_loop():
        reply: Reply = async_to_sync(adrive)(call)
        return reply
    return drive(call)


def _in_event_loop() -> bool:
    """Whether this is an event loop's own thread, which must not block until the loop has done something."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
