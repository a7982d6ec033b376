"""Refuses calls that would stop all greenlets, where gevent or eventlet has replaced this process's threads.

Greenlets run in turn on one thread. One that waits without telling the library stops all others, even the one that
would notice that the worker has died. A wait in shared memory does that. A wait for a pipe doesn't if the threads were
replaced before this package was imported.
"""

from __future__ import annotations

import sys
import threading
from typing import Final

from molt_accel.errors import MoltStartFailed, MoltWorkerUnavailable, NoSharedMemory

_LOCK_AT_IMPORT: Final = threading.Lock


def _library() -> str:
    """The name of the library that has replaced threads; empty: none."""
    gevent, eventlet = sys.modules.get("gevent.monkey"), sys.modules.get("eventlet.patcher")
    if gevent is not None and gevent.is_module_patched("threading"):
        return "gevent"
    if eventlet is not None and eventlet.is_monkey_patched("thread"):
        return "eventlet"
    return ""


def check_for_shared_memory() -> None:
    """Raise NoSharedMemory if threads are greenlets."""
    if library := _library():
        raise NoSharedMemory(
            f"{library} has replaced this process's threads, and a call in shared memory would stop all of its "
            "greenlets; use MOLT_TRANSPORT=stdio"
        )


def check_for_nats() -> None:
    """Raise MoltStartFailed if threads are greenlets: that of the connection would be one that never gives way."""
    if library := _library():
        raise MoltStartFailed(
            f"{library} has replaced this process's threads, and a connection to NATS would stop all of its greenlets; "
            "calls to other hosts need a server with threads or an event loop"
        )


def check_for_pipes() -> None:
    """Raise MoltWorkerUnavailable if threads became greenlets after this package was imported."""
    if threading.Lock is not _LOCK_AT_IMPORT and (library := _library()):
        raise MoltWorkerUnavailable(
            f"{library} has replaced this process's threads after molt_accel was imported, so a call would stop all of "
            "its greenlets; patch first, for example at the top of gunicorn's configuration, or don't preload"
        )
