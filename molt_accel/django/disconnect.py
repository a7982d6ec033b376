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
from typing import Any, Final

from asgiref.sync import async_to_sync
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest

from molt_accel.call import Call, Reply
from molt_accel.client import default_client
from molt_accel.config import Config
from molt_accel.django.payload import unwrapped
from molt_accel.hangup import HALF_CLOSE
from molt_accel.waits import adrive, drive

#: Whether there is an event for the peer's end, even behind unread data. Systems without it (macOS) see the end only
#: after the data.
_TELLS: Final = hasattr(select, "POLLRDHUP")


class SocketHangup:
    """A `cancel_check` for a connection. It has a `fileno`, so that a call can wait for the hang-up.

    A client that has closed its sending half (FIN) may be gone, or may wait for the answer. Over TCP both look the
    same until something is sent to it. Browsers and proxies close both halves, and don't wait.

    Args:
        connection: The connection.
        at_half_close: Take such a client for gone. Ignored for Unix sockets, where the two can be told apart.
    """

    def __init__(self, connection: socket.socket, *, at_half_close: bool = True) -> None:
        self._connection: Final = connection
        self._heeds_half_close: Final = at_half_close

    # Worked out by those who ask, who are few: most calls have ended before.
    @property
    def _at_half_close(self) -> bool:
        return self._heeds_half_close and not (_TELLS and self._connection.family == socket.AF_UNIX)

    @property
    def events(self) -> int:
        """The events of poll(2) that say so, for the hang-up watcher."""
        return HALF_CLOSE if self._at_half_close else 0

    def fileno(self) -> int:
        return self._connection.fileno()

    def __call__(self) -> bool:
        """Whether the client is gone."""
        fd = self.fileno()
        if fd < 0:
            return True
        if _TELLS:
            poll = select.poll()
            poll.register(fd, self.events)
            return bool(poll.poll(0))
        try:
            # On a duplicate of the descriptor, because an SSLSocket can't peek.
            with socket.socket(fileno=socket.dup(fd)) as probe:
                return self._at_half_close and probe.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


def cancel_check(request: HttpRequest, config: Config | None = None) -> Callable[[], bool] | None:
    """Return the check for whether this request's browser has gone away; None if the server offers none.

    `config` says what counts (``cancel_on_half_close``); by default the default client's.

    It serves as the option ``cancel_check`` of a direct call. Under ASGI there is none, because Django cancels the
    task of the view: call `Client.acall` there, in a sync view through ``async_to_sync``.
    """
    connection = unwrapped(request).META.get("gunicorn.socket")
    if connection is None:
        return None
    return SocketHangup(connection, at_half_close=(config or default_client().config).cancel_on_half_close)


def drive_for(
    request: HttpRequest, make_call: Callable[[HttpRequest, Any, bool], Call], payload: object
) -> Reply:
    """Make a sync view's call: under ASGI in the event loop, where Django can cancel it.

    `make_call` is given the request, the payload, and whether the call may block its thread.
    """
    if isinstance(unwrapped(request), ASGIRequest) and not _in_event_loop():
        reply: Reply = async_to_sync(adrive)(make_call(request, payload, False))
    else:
        reply = drive(make_call(request, payload, True))
    return reply


def _in_event_loop() -> bool:
    """Whether this is an event loop's own thread, which must not block until the loop has done something."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
