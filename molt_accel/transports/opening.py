"""Opens the transport that the configuration asks for: the one place that chooses it."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import NoSharedMemory
from molt_accel.ipc.shm import arena as arenas
from molt_accel.transports.base import Transport


def _open_stdio(config: Config) -> Transport:
    from molt_accel.transports.stdio import StdioTransport

    return StdioTransport(config)


def _open_inline(config: Config) -> Transport:
    # By name and only here: the client library depends on the worker's for nothing else.
    inline = importlib.import_module("molt_worker.inline")
    transport: Transport = inline.InlineTransport(config)
    return transport


def _open_shm(config: Config) -> Transport:
    arenas.native()  # raises if it can't run here
    from molt_accel.transports.shm.transport import ShmTransport

    return ShmTransport(config)


def _open_auto(config: Config) -> Transport:
    from molt_accel.transports.auto import AutoTransport

    try:
        return AutoTransport(_open_shm(config), lambda: _open_stdio(config))
    except NoSharedMemory:
        return _open_stdio(config)


def _open_nats(config: Config) -> Transport:
    from molt_accel.transports.cluster import ClusterTransport

    return ClusterTransport(config)


_OPENERS: Final[dict[str, Callable[[Config], Transport]]] = {
    "auto": _open_auto,
    "shm": _open_shm,
    "stdio": _open_stdio,
    "nats": _open_nats,
    "inline": _open_inline,
}


def open_transport(config: Config) -> Transport:
    """Open the configured transport. Raises MoltWorkerUnavailable if it can't run here; the text says why."""
    return _OPENERS[config.transport](config)
