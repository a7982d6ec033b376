"""Threads for what Django runs outside the event loop, kept from one request to the next.

Django's ASGI handler has a thread made for each request, for its signals and for whatever is sync, and ends it with
the request. On a busy machine the loop waits for each start until the new thread has had its turn.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from asgiref.sync import ThreadSensitiveContext

#: So many are kept while nobody needs them.
KEPT: Final = 32
#: Since asgiref 3.13 a context can be given its thread. Before, each request has one made.
_can_be_given: Final = "executor" in inspect.signature(ThreadSensitiveContext).parameters


class _Thread(ThreadPoolExecutor):
    """One thread, which knows whether it has something to do."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="molt-django")
        self.last: Future[Any] | None = None

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        self.last = super().submit(*args, **kwargs)
        return self.last


_idle: Final[list[_Thread]] = []


@asynccontextmanager
async def one_thread() -> AsyncIterator[None]:
    """Have what is thread-sensitive in this context run on one thread that nobody else has."""
    if not _can_be_given:
        yield
        return
    thread = _idle.pop() if _idle else _Thread()
    try:
        async with ThreadSensitiveContext(executor=thread):
            yield
    finally:
        if thread.last is None:
            _keep(thread)
        else:  # called at once if it has ended; a view may still run whose request was cancelled
            thread.last.add_done_callback(lambda _: _keep(thread))


def _keep(thread: _Thread) -> None:
    thread.last = None  # and what it has returned
    if len(_idle) < KEPT:
        _idle.append(thread)
    else:
        thread.shutdown(wait=False)


# A forked child has the objects and not the threads.
os.register_at_fork(after_in_child=_idle.clear)
