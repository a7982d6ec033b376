"""Which server runs this process's views, as far as that bounds calls: how many threads it serves with.

gunicorn's gthread worker and waitress serve with a fixed number of threads. Neither says so in the WSGI environment, so
the first request looks it up on its own stack, where the server is. Other servers bound nothing: an event loop has
no threads to run out of, runserver makes one for each connection, and a process that serves one request at a time has
nobody else to serve.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, Final, NamedTuple

from django.core.signals import request_started

from molt_accel.overload.server_threads import SERVER_THREADS

_UID: Final = "molt_accel.server_threads"


class Threads(NamedTuple):
    """What a server serves with."""

    number: int  #: 0: it is no server that is known
    waiting: Callable[[], int]  #: how many requests wait for a thread


def _of_gunicorn(worker: Any) -> Threads:
    return Threads(int(worker.cfg.threads), worker.tpool._work_queue.qsize)


def _of_waitress(task: Any) -> Threads:
    server = task.channel.server
    queue = server.task_dispatcher.queue
    return Threads(int(server.adj.threads), lambda: len(queue))


#: By the module of the server's function that runs the application: what its `self` serves with.
_THREADS: Final[dict[str, Callable[[Any], Threads]]] = {
    "gunicorn.workers.gthread": _of_gunicorn,
    "waitress.task": _of_waitress,
}
_UNKNOWN: Final = Threads(0, lambda: 0)


def watch() -> None:
    """Have the next request of a server tell how many threads that has."""
    request_started.connect(_learn, dispatch_uid=_UID)


def threads_of_server() -> Threads:
    """Return what the server serves with that has called this function."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        threads = _THREADS.get(frame.f_globals.get("__name__", ""))
        server = frame.f_locals.get("self") if threads is not None else None
        if threads is not None and server is not None:
            try:
                return threads(server)
            except (AttributeError, TypeError, ValueError):  # another release of the server
                return _UNKNOWN
        frame = frame.f_back
    return _UNKNOWN


def _learn(sender: object = None, environ: dict[str, Any] | None = None, **_: Any) -> None:
    if environ is not None and "SERVER_SOFTWARE" not in environ:
        return  # Django's test client, which a server may use to warm up
    request_started.disconnect(dispatch_uid=_UID)
    if environ is not None:
        SERVER_THREADS.count, SERVER_THREADS.waiting = threads_of_server()
