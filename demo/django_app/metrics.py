"""Metrics of requests: one JSON line for each request, appended to a file that processes may share."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from typing import Any

from django.conf import settings

from molt_accel import codec
from molt_accel.options import CallMetrics

log = logging.getLogger("demo.metrics")


class JsonLines:
    """Appends rows to a file as JSON lines. An empty path switches it off.

    Each row is one write to a descriptor opened for appending, so lines of different threads and processes never
    mix. A failed write must not fail the request that is measured, so it is only logged, and only the first one.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._descriptor = -1
        self._complained = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row. Raises nothing if the file can't be written."""
        if not self.path:
            return
        line = codec.encode("json", row) + b"\n"
        try:
            written = os.write(self._opened(), line)
        except OSError as exc:
            self._complain(exc.strerror or str(exc))
        else:
            if written != len(line):
                self._complain(f"only {written} of {len(line)} bytes were taken")

    def reset(self) -> None:
        """Close the file; the next write opens it again. A forked child calls this before it starts threads."""
        # A thread of the parent may hold the lock, and the child has no such thread to release it.
        self._lock = threading.Lock()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _opened(self) -> int:
        if self._descriptor < 0:
            with self._lock:
                if self._descriptor < 0:
                    self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        return self._descriptor

    def _complain(self, reason: str) -> None:
        if not self._complained:
            self._complained = True
            log.error("MOLT_DEMO_METRICS_PATH: can't append to %r: %s", self.path, reason)


SINK = JsonLines(settings.MOLT_DEMO_METRICS_PATH)
os.register_at_fork(after_in_child=SINK.reset)


def recorder(endpoint: str) -> Callable[[CallMetrics], None]:
    """Return a metrics hook that writes a call's metrics with the name of its endpoint."""

    def record(metrics: CallMetrics) -> None:
        SINK.write({"endpoint": endpoint, **metrics.as_dict()})

    return record
