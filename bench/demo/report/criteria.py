"""What the demo benchmark has to show, computed from the results document alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from bench.core.criteria import NEVER, Criterion
from bench.demo.studies import goodput, neighbour
from bench.demo.studies.testbed import SERVERS

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


def _of(study: str, find: Callable[..., Any], *words: str) -> Callable[[Document], Any]:
    """A figure that the study itself finds in its section."""

    def found(document: Document) -> Any:
        section = document["studies"].get(study)
        return None if section is None else find(section, *words)

    return found


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
    Criterion("empty_cpu", "processor time of an empty handler, offloaded against not", "<=", 1.08,
              _study("sweep", "points", 0, "ratio_cpu", "compiled")),
    Criterion("break_even_ms", "cost of a handler from which on offloading pays, compiled", "<=", 0.3,
              _break_even, "ms"),
    Criterion("neighbour_p99", "a light view's p99 beside 4 heavy clients: baseline against offload", ">=", 5.0,
              _study("neighbour", "ratio_p99", "gunicorn")),
    *(
        Criterion(f"goodput_{server}_{share}x",
                  f"best goodput kept at {share} times the capacity, with what refusals took: {server}",
                  ">=", limit, _of("goodput", goodput.worst_kept, server, share))
        for server in SERVERS
        for share, limit in (("2", 0.95), ("5", 0.85))
    ),
    Criterion("mix_quick_p99", "p99 of a 1 ms request beside ones of 500 ms, of which one runs at a time", "<=", 20.0,
              _study("mix", "runs", "limited", "slowest_ms"), "ms"),
    Criterion("mix_low", "answers of low priority a second beside them", ">=", 1.0,
              _study("mix", "runs", "limited", "low_req_s")),
    *(
        Criterion(f"neighbour_{server}_{name}",
                  f"a light view's p99 beside 32 clients and more, over 3 x alone + 5 ms: {server}, {title}", "<=", 1.0,
                  _of("neighbour", neighbour.worst, server, name, "over_allowed"))
        for server in SERVERS
        for name, title in neighbour.TITLES.items()
        if name != neighbour.FLOOR
    ),
    *(
        Criterion(f"neighbour_{server}_floor",
                  f"the same beside clients that hammer, over a view's that only refuses: {server}", "<=", 1.5,
                  _of("neighbour", neighbour.worst, server, neighbour.HAMMERED, "over_floor"))
        for server in SERVERS
    ),
    *(
        Criterion(f"neighbour_{server}_busy", f"share of time that executors are busy beside them: {server}", ">=", 0.9,
                  _of("neighbour", partial(neighbour.worst, least=True), server, neighbour.OFFLOAD, "busy_share"))
        for server in SERVERS
    ),
)
# fmt: on
