"""The list endpoint in a ProcessPoolExecutor: what the standard library offers for this. For comparison."""

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
    """The page as JSON, from a process of this process's pool, which starts with the first call."""
    global _pool
    with _lock:
        if _pool is None:
            workers = int(os.environ.get("MOLT_WORKER_EXECUTORS") or 0) or os.cpu_count()
            # Not forked from a server with threads: the documentation warns of that.
            _pool = ProcessPoolExecutor(workers, mp_context=get_context("forkserver"))
    return _pool.submit(_work, payload).result(timeout_s)


def stop() -> None:
    """End the pool's processes, its servant included."""
    global _pool
    with _lock:
        if _pool is not None:
            _pool.shutdown()
            _pool = None
