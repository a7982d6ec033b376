"""What the demo benchmark has to show, and whether it did: each wish with what was seen, from the document alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

NEVER = "never"


class Criterion(NamedTuple):
    """A figure and what it should be.

    Attributes:
        seen: Finds the figure in the document, as a spread or a number; None: it wasn't measured.
    """

    name: str
    title: str
    at_least: float | None
    at_most: float | None
    seen: Callable[[Mapping[str, Any]], Any]


def _against(baseline: str, figure: str) -> Callable[[Mapping[str, Any]], Any]:
    def find(document: Mapping[str, Any]) -> Any:
        for entry in document["comparisons"]:
            if (entry["candidate"], entry["baseline"]) == ("offload", baseline):
                return (entry["closed"] or {}).get(figure)
        return None

    return find


def _study(*path: str | int) -> Callable[[Mapping[str, Any]], Any]:
    def find(document: Mapping[str, Any]) -> Any:
        found: Any = document["studies"]
        for name in path:
            if isinstance(found, Mapping) and name not in found:
                return None
            found = found[name]
        return found

    return find


def _break_even(document: Mapping[str, Any]) -> Any:
    found = document["studies"].get("sweep", {}).get("break_even_ms", {})
    if "compiled" not in found:
        return None
    return NEVER if found["compiled"] is None else found["compiled"]


# fmt: off
CRITERIA = (
    Criterion("threads_req_s", "throughput against one process with threads", 5.0, None,
              _against("baseline-threads", "req_s")),
    Criterion("cores_req_s", "throughput against a process for each core", 3.0, None,
              _against("baseline-cores", "req_s")),
    Criterion("threads_p99", "p99 against one process with threads", None, 1.0,
              _against("baseline-threads", "p99_ms")),
    Criterion("cores_p99", "p99 against a process for each core", None, 1.0,
              _against("baseline-cores", "p99_ms")),
    Criterion("empty_cpu", "processor time of an empty handler, offloaded against not", None, 1.15,
              _study("sweep", "points", 0, "ratio_cpu", "compiled")),
    Criterion("break_even_ms", "cost of a handler from which on offloading pays, compiled, ms", None, 0.3,
              _break_even),
    Criterion("neighbour_p99", "a light view's p99 beside a heavy one: baseline against offload", 5.0, None,
              _study("neighbour", "ratio_p99", "compiled")),
    Criterion("goodput_kept", "share of the best goodput that is kept at twice the capacity", 0.9, None,
              _study("goodput", "kept", "bounded")),
)
# fmt: on


def criteria(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Each criterion with what was seen; `reached` is None where it wasn't measured."""
    found = []
    for criterion in CRITERIA:
        seen = criterion.seen(document)
        middle = seen["median"] if isinstance(seen, Mapping) else seen
        reached = False if seen == NEVER else None
        if isinstance(middle, (int, float)):
            reached = (criterion.at_least is None or middle >= criterion.at_least) and (
                criterion.at_most is None or middle <= criterion.at_most
            )
        found.append(
            {
                "name": criterion.name,
                "title": criterion.title,
                "at_least": criterion.at_least,
                "at_most": criterion.at_most,
                "seen": seen,
                "reached": reached,
            }
        )
    return found
