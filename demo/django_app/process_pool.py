"""Handler cores in a ProcessPoolExecutor, the standard library's way to do this. For comparison."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final

import orjson

from demo.molt_worker_app.core import list_items
from demo.molt_worker_app.cost import spend
from demo.molt_worker_app.schema import Cost, ListParameters
from molt_worker.entrypoints import typed

_lock: Final = threading.Lock()
_pool: ProcessPoolExecutor | None = None


def list_page(payload: Any) -> bytes:
    """Return the page as JSON."""
    return orjson.dumps(list_items(typed.convert(payload, ListParameters)))


def spent(iterations: int) -> bytes:
    """Return as JSON what `spend` gives for so many iterations."""
    return orjson.dumps(spend(Cost(iterations)))


def submit(work: Callable[[Any], bytes], payload: Any) -> Future[bytes]:
    """Have a process of the pool do the work. The first call starts the pool."""
    global _pool
    with _lock:
        if _pool is None:
            workers = int(os.environ.get("MOLT_WORKER_EXECUTORS") or 0) or os.cpu_count()
            # The server has threads, and Python's documentation warns of forking such a process.
            _pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    return _pool.submit(work, payload)


def stop() -> None:
    """Shut down the pool, if it was started, and wait until its processes have ended."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.shutdown()
            _pool = None
