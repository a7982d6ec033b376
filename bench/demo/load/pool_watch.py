"""How busy the executors of a pool are while a run lasts: looked at from outside, which costs the pool nothing."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from molt_accel.config import Config
from molt_accel.errors import MoltWorkerUnavailable
from molt_worker.cli.observer import Observer, PoolPlace

INTERVAL_S = 0.05
_AT_WORK = frozenset({"busy", "stopping"})


class PoolWatch:
    """Looks at a pool again and again in a thread, from entering the context to leaving it.

    Attributes:
        busy_share: The share of all executors that had a request, on average; None: there was no pool to look at, as
            over stdio.
    """

    def __init__(self, env: Mapping[str, str], interval_s: float = INTERVAL_S) -> None:
        self.busy_share: float | None = None
        self._interval_s = interval_s
        self._pool = PoolPlace.of(
            Config.load(worker_name=env["MOLT_WORKER_NAME"], runtime_dir=env["MOLT_RUNTIME_DIR"])
        )
        self._stop = threading.Event()
        self._seen: list[float] = []
        self._thread: threading.Thread | None = None

    def __enter__(self) -> PoolWatch:
        try:
            observer = Observer.of(self._pool)
        except MoltWorkerUnavailable:
            return self
        self._thread = threading.Thread(
            target=self._look, args=(observer,), name="bench-pool-watch", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        if self._seen:
            self.busy_share = sum(self._seen) / len(self._seen)

    def _look(self, observer: Observer) -> None:
        try:
            while not self._stop.wait(self._interval_s):
                snapshot = observer.look()
                working = sum(executor.state in _AT_WORK for executor in snapshot.executors)
                self._seen.append(working / max(1, snapshot.pool_size))
        finally:
            observer.close()
