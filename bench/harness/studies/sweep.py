"""From which cost of a handler on does offloading pay? The same handler at costs from nothing to 50 ms."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from bench.harness.k6 import LoadSpec
from bench.harness.options import Options
from bench.harness.studies.study import Bed, Context, Sample, Study, Way, ratio_spread, shown, summary
from bench.harness.table import Table

#: Milliseconds of processor time that the handler takes in Python; 0 is the empty handler.
COSTS = {
    "quick": (0.0, 0.1, 0.3, 1.0, 5.0),
    "default": (0.0, 0.05, 0.1, 0.3, 1.0, 5.0, 20.0),
    "full": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0, 20.0, 50.0),
}
ROUNDS = {"quick": 1, "default": 2, "full": 5}
SECONDS = {"quick": 1.0, "default": 1.5, "full": 2.0}
WAYS = (Way("baseline"), Way("offload", offload=True), Way("compiled", offload=True, compiled=True))


def iterations_per_ms(seconds: float = 0.5) -> float:
    """How many of the handler's iterations take a millisecond of processor time here, in Python."""
    from demo.molt_worker_app.cost import spend
    from demo.molt_worker_app.schema import Cost

    spend(Cost(200))
    until = time.monotonic() + seconds
    found = []
    while time.monotonic() < until:
        started = time.process_time()
        spend(Cost(2000))
        found.append(2000 / ((time.process_time() - started) * 1000))
    return median(found)


def break_even(points: Sequence[tuple[float, float]]) -> float | None:
    """The cost from which on a ratio stays at 1 or more, between two points on logarithmic axes.

    Args:
        points: Cost and ratio, by cost. The cost 0 counts as half of the least other one.

    Returns:
        The least cost that was measured, where the ratio was never less; None: it never pays.
    """
    placed = [(cost or points[1][0] / 2, ratio) for cost, ratio in points]
    below = [number for number, (_, ratio) in enumerate(placed) if ratio < 1]
    if not below:
        return placed[0][0]
    last = below[-1]
    if last == len(placed) - 1:
        return None
    (low, less), (high, more) = placed[last], placed[last + 1]
    share = math.log(1 / less) / math.log(more / less)
    return float(low * (high / low) ** share)


class Sweep:
    """Throughput and processor time against the handler's cost."""

    name = "sweep"
    title = "What offloading costs, and from which cost of a handler on it pays"

    def load_seconds(self, options: Options) -> float:
        runs = len(COSTS[options.preset]) * len(WAYS) * ROUNDS[options.preset]
        return runs * SECONDS[options.preset]

    def run(self, context: Context) -> dict[str, Any]:
        options = context.options
        costs, rounds = COSTS[options.preset], ROUNDS[options.preset]
        per_ms = iterations_per_ms()
        found: dict[tuple[float, str], list[Sample]] = {}
        with Bed(context, self.name, WAYS) as bed:
            paths = {way.name: "/cost/offload/" if way.offload else "/cost/baseline/" for way in bed.ways}
            for number in range(rounds):
                for cost in costs:
                    for way in bed.turns(number):
                        query = f"iterations={round(cost * per_ms)}"
                        spec = LoadSpec(
                            url=bed.url(way, paths[way.name]), mode="closed", vus=options.concurrency,
                            duration_s=SECONDS[options.preset], queries=(query,), expect_key="total",
                        )  # fmt: skip
                        if number == 0 and cost == costs[0]:
                            bed.load(way, spec, "warm-up")
                        what = f"{cost:g} ms, round {number + 1}"
                        found.setdefault((cost, way.name), []).append(bed.load(way, spec, what))
            names = [way.name for way in bed.ways]
        return {
            "title": self.title,
            "iterations_per_ms": per_ms,
            "points": [
                {
                    "handler_ms": cost,
                    "iterations": round(cost * per_ms),
                    "runs": {name: summary(found[cost, name]) for name in names},
                    "ratio_req_s": {
                        name: _ratio(found[cost, name], found[cost, "baseline"], "req_s")
                        for name in names[1:]
                    },
                    "ratio_cpu": {
                        name: _ratio(found[cost, name], found[cost, "baseline"], "cpu_ms_per_request")
                        for name in names[1:]
                    },
                }
                for cost in costs
            ],
            "break_even_ms": {
                name: break_even(
                    [
                        (cost, _median(_ratio(found[cost, name], found[cost, "baseline"], "req_s")))
                        for cost in costs
                    ]
                )
                for name in names[1:]
            },
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        names = list(section["points"][0]["runs"])
        columns = (
            "handler, ms of CPU in Python",
            *(f"{name} req/s" for name in names),
            *(f"{name} / baseline" for name in names[1:]),
            *(f"{name}: CPU / baseline" for name in names[1:]),
        )
        rows = tuple(
            (
                f"{point['handler_ms']:g}",
                *(shown(point["runs"][name]["req_s"], 0) for name in names),
                *(shown(point["ratio_req_s"][name]) for name in names[1:]),
                *(shown(point["ratio_cpu"][name]) for name in names[1:]),
            )
            for point in section["points"]
        )
        yield Table(self.title, columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        runs = section["points"][0]["runs"]
        for name, ratio in section["points"][0]["ratio_cpu"].items():
            server, worker = (runs[name].get(f"{part}_cpu_ms_per_request") for part in ("server", "worker"))
            yield (
                f"{name}: an empty handler takes {shown(ratio)} times the processor time of one in the server: "
                f"{shown(server, 3)} ms in the server and {shown(worker, 3)} ms in the worker, against "
                f"{shown(runs['baseline']['cpu_ms_per_request'], 3)} ms."
            )
        for name, cost in section["break_even_ms"].items():
            if cost is None:
                yield f"{name}: no handler of the sweep was served faster than in the server."
            else:
                yield f"{name}: offloading gives more throughput from {cost:.2g} ms of handler CPU on."


def _ratio(up: Sequence[Sample], down: Sequence[Sample], name: str) -> dict[str, Any] | None:
    return ratio_spread([each.figures()[name] for each in up], [each.figures()[name] for each in down])


def _median(over_rounds: Mapping[str, Any] | None) -> float:
    return float(over_rounds["median"]) if over_rounds is not None else 0.0


STUDY: Study = Sweep()
