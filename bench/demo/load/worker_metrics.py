"""Reads the metrics that the demo writes as JSON lines, one for each request, and sums them up.

The file is read in slices, from where it ended before a run to where it ends after it, so warm-up stays out. A line
that isn't a JSON object (torn by a kill, or not the demo's) is counted and passed over.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.core.statistics import percentile, rounded

TIMES = ("queue_us", "exec_us", "handler_us", "decode_us", "encode_us", "client_us")
LEVELS = ("queue_depth", "in_flight")
SIZES = ("payload_bytes", "response_bytes")


@dataclass(slots=True)
class MetricsSample:
    """The metrics rows of one or several runs, by field."""

    rows: int = 0
    bad_lines: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    endpoints: Counter[str] = field(default_factory=Counter)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add_line(self, line: bytes) -> None:
        """Takes one line of the file."""
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            self.bad_lines += 1
            return
        self.rows += 1
        self.statuses[str(row.get("status", "?"))] += 1
        self.endpoints[str(row.get("endpoint", "?"))] += 1
        for name in (*TIMES, *LEVELS, *SIZES):
            value = row.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                with contextlib.suppress(OverflowError):  # an integer may have any number of digits
                    number = float(value)
                    self.values.setdefault(name, []).append(number)

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file; a field that no row had is left out."""
        summary: dict[str, Any] = {
            "rows": self.rows,
            "bad_lines": self.bad_lines,
            "statuses": dict(sorted(self.statuses.items())),
            "endpoints": dict(sorted(self.endpoints.items())),
        }
        for name, values in self.values.items():
            ordered = sorted(values)
            summary[name] = {
                "count": len(ordered),
                "mean": rounded(sum(ordered) / len(ordered)),
                "p50": rounded(percentile(ordered, 50)),
                "p95": rounded(percentile(ordered, 95)),
                "p99": rounded(percentile(ordered, 99)),
                "max": rounded(ordered[-1]),
            }
        return summary


def pooled(samples: Iterable[MetricsSample]) -> MetricsSample:
    """One sample of all rows: percentiles over rounds are exact, since the rows themselves are there."""
    whole = MetricsSample()
    for sample in samples:
        whole.rows += sample.rows
        whole.bad_lines += sample.bad_lines
        whole.statuses += sample.statuses
        whole.endpoints += sample.endpoints
        for name, values in sample.values.items():
            whole.values.setdefault(name, []).extend(values)
    return whole


class MetricsFile:
    """The metrics file of one server, read slice by slice."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._offset = 0

    def read_new(self, *, last: bool = False) -> MetricsSample:
        """What was appended since the last call; an absent file is an empty one.

        A line without its end is left for the next call, unless this is the `last` one.
        """
        sample = MetricsSample()
        try:
            with self.path.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
        except FileNotFoundError:
            return sample
        whole = new if last else new[: new.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            if line.strip():
                sample.add_line(line)
        return sample
