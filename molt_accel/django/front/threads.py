"""Threads for what Django runs outside the event loop, kept from one request to the next.

Django's ASGI handler has a thread made for each request, for its signals and for whatever is sync, and ends it with
the request. On a busy machine the loop waits for each start until the new thread has had its turn.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import Any, Final

from asgiref.sync import SyncToAsync, ThreadSensitiveContext

#: So many are kept while nobody needs them.
KEPT: Final = 32


class _Thread(ThreadPoolExecutor):
    """One thread, which knows what it has to do."""

    def __init__(self) -> None:
        super().__init__(max_workers=1, thread_name_prefix="molt-django")
        self.asked: list[Future[Any]] = []

    def submit(self, *args: Any, **kwargs: Any) -> Future[Any]:
        future = super().submit(*args, **kwargs)
        self.asked = [*(each for each in self.asked if not each.done()), future]
        return future


_idle: Final[list[_Thread]] = []


@asynccontextmanager
async def one_thread() -> AsyncIterator[None]:
    """Have what is thread-sensitive in this context run on one thread that nobody else has.

    As in Django without it: a caller's own thread goes first, where one waits in `async_to_sync`; and a task that
    outlives the request gets another thread. A context that is given its executor as an argument does neither.
    """
    async with ThreadSensitiveContext() as context:
        if SyncToAsync.thread_sensitive_context.get() is not context:
            yield  # somebody around this has a context already
            return
        thread = _idle.pop() if _idle else _Thread()
        SyncToAsync.context_to_thread_executor[context] = thread
        try:
            yield
        finally:
            # Before the context ends, which would end the thread.
            SyncToAsync.context_to_thread_executor.pop(context, None)
            _keep_when_done(thread)


def _keep_when_done(thread: _Thread) -> None:
    # A view may still run whose request was cancelled. What was cancelled itself counts as done before that is.
    for each in thread.asked:
        if not each.done():
            each.add_done_callback(lambda _: _keep_when_done(thread))
            return
    thread.asked = []  # and what they have returned
    if len(_idle) < KEPT:
        _idle.append(thread)
    else:
        thread.shutdown(wait=False)


# A forked child has the objects and not the threads.
os.register_at_fork(after_in_child=_idle.clear)
