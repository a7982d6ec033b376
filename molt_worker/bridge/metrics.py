"""A bridge's statistics for programs that ask by HTTP: as Prometheus reads them, and those of all pools as JSON.

| path | answer |
|:--|:--|
| ``/metrics`` | this bridge and its pool, in the text format of Prometheus |
| ``/cluster`` | the sum of all pools of the subject, by NATS' service statistics, as JSON |
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from molt_accel.cluster.engine import EngineError
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.http import Answer
from molt_worker.bridge.load import LoadMeter
from molt_worker.bridge.survey import Survey

TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
JSON: Final = "application/json"
#: By metric: its type, and what it is.
_GAUGES: Final = {
    "molt_pool_queue_depth": "Requests that wait for an executor",
    "molt_pool_running": "Requests that executors have",
    "molt_pool_executors": "Executors that there should be",
    "molt_pool_busy_share": "Share of the executors that was busy, over the last 30 s",
}
_COUNTERS: Final = {
    "molt_bridge_requests_total": "Requests that came from other hosts",
    "molt_bridge_errors_total": "Of these: ended as an error, but for Busy",
    "molt_bridge_busy_total": "Of these: refused by the pool as Busy",
    "molt_bridge_seconds_total": "Time that they took",
}


@dataclass
class Exposition:
    """What is told of a bridge. While it has no pool, `bridge` is None."""

    pool: str
    survey: Survey
    bridge: Bridge | None = None
    meter: LoadMeter | None = None

    async def answer(self, path: str) -> Answer:
        """Answer a GET."""
        if path == "/metrics":
            return Answer(200, TEXT, self._text())
        if path == "/cluster":
            try:
                return Answer(200, JSON, json.dumps(await self.survey.total()) + "\n")
            except EngineError as exc:
                return Answer(503, JSON, json.dumps({"error": str(exc)}) + "\n")
        return Answer(404, JSON, '{"error": "there are /metrics and /cluster"}\n')

    def _text(self) -> str:
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        pool = {"pool": self.pool}
        yield from _head("molt_bridge_up", "gauge", "Whether it serves a pool")
        yield _line("molt_bridge_up", pool, int(self.bridge is not None))
        if self.bridge is None or self.meter is None:
            return
        yield from _head("molt_bridge_in_flight", "gauge", "Requests that the pool has from here")
        yield _line("molt_bridge_in_flight", pool, self.bridge.in_flight)
        for (name, text), value in zip(_GAUGES.items(), self.meter.load, strict=True):
            yield from _head(name, "gauge", text)
            yield _line(name, pool, value)
        rows = {
            entry: (served.requests, served.errors, served.busy, served.nanoseconds / 1e9)
            for entry, served in self.bridge.served.items()
        }
        for at, (name, text) in enumerate(_COUNTERS.items()):
            yield from _head(name, "counter", text)
            for entry, row in rows.items():
                yield _line(name, {**pool, "entry": entry}, row[at])


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    told = ",".join(f'{label}="{_quoted(text)}"' for label, text in labels.items())
    return f"{name}{{{told}}} {value}"


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
