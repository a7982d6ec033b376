"""What the demo benchmark has to show, computed from the results document alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from bench.core.criteria import NEVER, Criterion

Document = Mapping[str, Any]


def _against(baseline: str, figure: str) -> Callable[[Document], Any]:
    def find(document: Document) -> Any:
        for entry in document["comparisons"]:
            if (entry["candidate"], entry["baseline"]) == ("offload", baseline):
                return (entry["closed"] or {}).get(figure)
        return None

    return find


def _study(*path: str | int) -> Callable[[Document], Any]:
    def find(document: Document) -> Any:
        found: Any = document["studies"]
        for name in path:
            if isinstance(found, Mapping) and name not in found:
                return None
            found = found[name]
        return found

    return find


def _break_even(document: Document) -> Any:
    found = document["studies"].get("sweep", {}).get("break_even_ms", {})
    if "compiled" not in found:
        return None
    return NEVER if found["compiled"] is None else found["compiled"]


# fmt: off
CRITERIA: tuple[Criterion[Document], ...] = (
    Criterion("threads_req_s", "throughput against one process with threads", ">=", 5.0,
              _against("baseline-threads", "req_s")),
    Criterion("cores_req_s", "throughput against a process for each core", ">=", 3.0,
              _against("baseline-cores", "req_s")),
    Criterion("threads_p99", "p99 against one process with threads", "<=", 1.0,
              _against("baseline-threads", "p99_ms")),
    Criterion("cores_p99", "p99 against a process for each core", "<=", 1.0,
              _against("baseline-cores", "p99_ms")),
    Criterion("empty_cpu", "processor time of an empty handler, offloaded against not", "<=", 1.15,
              _study("sweep", "points", 0, "ratio_cpu", "compiled")),
    Criterion("break_even_ms", "cost of a handler from which on offloading pays, compiled", "<=", 0.3,
              _break_even, "ms"),
    Criterion("neighbour_p99", "a light view's p99 beside a heavy one: baseline against offload", ">=", 5.0,
              _study("neighbour", "ratio_p99", "compiled")),
    Criterion("goodput_kept", "share of the best goodput that is kept at twice the capacity", ">=", 0.9,
              _study("goodput", "kept", "bounded")),
)
# fmt: on
