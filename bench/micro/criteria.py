"""What a call may cost, as criteria that a run reaches or doesn't; each is computed from that run alone."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bench.harness.stats import Spread, rounded
from bench.micro.figures import Measured
from bench.micro.options import Layout, Options
from bench.micro.payloads import size_name
from bench.micro.peers import RAW_FROM, row

_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}
SIXTEEN = Layout(16, 1)


@dataclass(frozen=True, slots=True)
class Criterion:
    """A figure, what it is compared with, and how."""

    name: str
    comparison: str
    limit: float
    unit: str
    measure: Callable[[Measured], Spread | float | None]


def criteria(options: Options) -> Iterator[Criterion]:
    """All criteria, also those whose peers or conditions this run leaves out."""
    small = options.payload_sizes[0]

    def latency(
        figure: str, over: str, under: str, condition: str
    ) -> Callable[[Measured], Spread | float | None]:
        return lambda measured: measured.latency_ratio(figure, over, under, condition, small)

    for over, under, comparison, limit in (
        ("shm", "ring", "<=", 3.0),
        ("pipe", "shm", ">=", 3.0),
        ("executor", "shm", ">=", 20.0),
        ("gunicorn", "shm", ">=", 30.0),
    ):
        yield Criterion(
            f"idle machine, {size_name(small)}: p50 of {over} / {under}",
            comparison, limit, "", latency("p50_us", over, under, "idle"),
        )  # fmt: skip
    for condition, words, comparison in (
        ("one", "one core busy", "<"),
        ("all", "every core busy", "<="),
    ):
        for figure in ("p50_us", "p99_us"):
            yield Criterion(
                f"{words}, {size_name(small)}: {figure[:3]} of shm / pipe",
                comparison, 1.0, "", latency(figure, "shm", "pipe", condition),
            )  # fmt: skip
    yield Criterion(
        f"calls per second of shm / executor, {SIXTEEN.name}, {options.executors} executors",
        ">=", 10.0, "", lambda measured: measured.throughput_ratio("shm", "executor", SIXTEEN),
    )  # fmt: skip
    for size in options.payload_sizes:
        if size >= RAW_FROM:
            yield Criterion(
                f"bytes per second of shm / pipe at {size_name(size)}, bytes as they are",
                ">=", 1.5, "", _bandwidth(size),
            )  # fmt: skip
    for name in ("shm", "stdio"):
        yield Criterion(
            f"idle processor time of client and worker, {name}, over {options.idle_seconds:g} s",
            "<", 0.2, "% of a core", _idle(name),
        )  # fmt: skip


def _bandwidth(size: int) -> Callable[[Measured], Spread | None]:
    shm, pipe = row("shm", raw=True), row("pipe", raw=True)
    return lambda measured: measured.latency_ratio("mib_s", shm, pipe, "idle", size)


def _idle(peer: str) -> Callable[[Measured], float | None]:
    def measure(measured: Measured) -> float | None:
        return measured.idle[peer].percent if peer in measured.idle else None

    return measure


def judge(options: Options, measured: Measured) -> list[dict[str, Any]]:
    """Each criterion as an object of the results file; `reached` is null where it wasn't measured."""
    judged = []
    for criterion in criteria(options):
        value = criterion.measure(measured)
        median = value.median if isinstance(value, Spread) else value
        judged.append(
            {
                "name": criterion.name,
                "comparison": criterion.comparison,
                "limit": criterion.limit,
                "unit": criterion.unit,
                "value": None if median is None else rounded(median),
                "spread": value.as_json() if isinstance(value, Spread) else None,
                "reached": None
                if median is None
                else _OPERATORS[criterion.comparison](median, criterion.limit),
            }
        )
    return judged
