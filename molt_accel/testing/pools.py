"""Where calls run while a test wants it: in this process, or in a worker that is the test's own."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from typing import Any, Final

import psutil

from molt_accel.client import Client
from molt_accel.config import Config
from molt_accel.testing import stage
from molt_accel.transports.base import Transport

_LOOK_S: Final = 0.005
_STOP_S: Final = 10.0  #: how long a worker may take to stop, beyond its grace time


class _Inline(stage.Layer):
    def transport_for(self, on: stage.StagedTransport) -> Transport:
        inline: Transport = on.inline
        return inline


class _Served(stage.Layer):
    """Requests of a client itself, and of the one that a pool's views share, go to that client's worker."""

    def __init__(self, client: Client, pool: str | None = None) -> None:
        own = client._transport
        self._transport = own.real if isinstance(own, stage.StagedTransport) else own
        self._pool = pool

    def transport_for(self, on: stage.StagedTransport) -> Transport | None:
        its_own = on.real is self._transport
        return self._transport if its_own or (on.pool == self._pool and on.is_shared) else None


@contextlib.contextmanager
def inline_pool() -> Iterator[None]:
    """Have all clients of this process run entrypoints in this process, also those that were made before.

    Under Django's test runner and pytest-django they do so without it. Elsewhere, and within `real_pool`, it is needed.
    """
    with stage.laid(_Inline()):
        yield


@contextlib.contextmanager
def running_pool(pool: str = "default", **fields: Any) -> Iterator[Client]:
    """Start a worker that is this process's alone, and have its processes gone at the end. Returns a client of it.

    Its settings are the project's, but for the socket's directory and what follows from it: no other test run, and no
    server of the project, meets it. It logs warnings to this process's standard error. Under Django's tests it works
    on their databases.

    Args:
        pool: Which pool of MOLT_POOLS it stands for.
        fields: Fields of `Config` that it is to have, for example ``executors=1, transport="stdio"``.

    Raises:
        ConfigError: there is no such pool, or a value is not allowed.
        MoltWorkerUnavailable: it can't start; the text says why.
    """
    with tempfile.TemporaryDirectory(prefix="molt-", ignore_cleanup_errors=True) as folder:
        own = {"transport": "auto", "runtime_dir": folder, "linger_ms": 0, "autostart": True}
        log = {"log": "stderr", "log_level": "warning"}
        config = Config.load(pool=pool, **{**own, **log, **fields})
        with Client(config) as client, stage.laid(_Served(client)):
            client.start()
            supervisor = psutil.Process(client.ping(config.start_timeout_ms)["pid"])
            try:
                yield client
            finally:
                client.close()
                _wait_for_end(supervisor, config.grace_ms / 1000 + _STOP_S)


def _wait_for_end(process: psutil.Process, timeout_s: float) -> None:
    until_s = time.monotonic() + timeout_s
    # No child of this process: whoever reaps it may take its time.
    with contextlib.suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE and time.monotonic() < until_s:
            time.sleep(_LOOK_S)


@contextlib.contextmanager
def use_pool(client: Client, pool: str = "default") -> Iterator[Client]:
    """Have the views of a pool, and whoever asks `client_for`, call the worker of `client`.

    Args:
        client: A client of a worker, as `running_pool` gives it.
        pool: Which pool of MOLT_POOLS.
    """
    with stage.laid(_Served(client, pool)):
        yield client


@contextlib.contextmanager
def real_pool(pool: str = "default", **fields: Any) -> Iterator[Client]:
    """Start a worker for a pool, and have its views and `client_for` call it: `running_pool` and `use_pool` in one."""
    with running_pool(pool, **fields) as client, use_pool(client, pool):
        yield client
