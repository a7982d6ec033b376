"""The list endpoint in a ProcessPoolExecutor, the standard library's way to do this. For comparison."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any, Final

import orjson

from demo.molt_worker_app.core import list_items
from demo.molt_worker_app.schema import ListParameters
from molt_worker.entrypoints import typed

_lock: Final = threading.Lock()
_pool: ProcessPoolExecutor | None = None


def _work(payload: Any) -> bytes:
    return orjson.dumps(list_items(typed.convert(payload, ListParameters)))


def call(payload: Any, timeout_s: float) -> bytes:
    """Return the page as JSON, made by a process pool. The first call starts the pool."""
    global _pool
    with _lock:
        if _pool is None:
            workers = int(os.environ.get("MOLT_WORKER_EXECUTORS") or 0) or os.cpu_count()
            # The server has threads, and Python's documentation warns of forking such a process.
            _pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    return _pool.submit(_work, payload).result(timeout_s)


def stop() -> None:
    """Shut down the pool, if it was started, and wait until its processes have ended."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.shutdown()
            _pool = None
