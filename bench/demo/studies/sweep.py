"""From which cost of a handler on does offloading pay? The same handler at costs from nothing to 50 ms."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from bench.core.plots import log_scale
from bench.core.tables import Table, with_range
from bench.demo.load.k6 import LoadSpec
from bench.demo.load.warmup import Target, warm_up
from bench.demo.options import Options
from bench.demo.settings import NO_TARGET
from bench.demo.studies.cost import iterations_per_ms, path_of
from bench.demo.studies.testbed import (
    RUN_OVERHEAD_S,
    VARIANT_COLOURS,
    Sample,
    Scale,
    Study,
    Testbed,
    Variant,
    sample_ratio,
    summary,
)

#: Milliseconds of processor time that the handler takes in Python; 0 is the empty handler.
COSTS = {
    "quick": (0.0, 0.1, 1.0),
    "default": (0.0, 0.1, 1.0, 5.0),
    "full": (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 5.0, 20.0, 50.0),
}
SCALES = {"quick": Scale(1, 1.0), "default": Scale(1, 1.0), "full": Scale(5, 2.0)}
EMPTY_ROUNDS = {"quick": 1, "default": 1, "full": 3}
"""Rounds of the empty handler for each of the others: what offloading adds to it is within the noise of a run."""
WARMUPS = 100
VARIANTS = (
    Variant("baseline"),
    Variant("offload", offload=True, env=NO_TARGET),
    Variant("compiled", offload=True, compiled=True, env=NO_TARGET),
)


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


class Sweep(Study):
    """Throughput and processor time against the handler's cost. Without a queue target: the loop is closed."""

    name = "sweep"
    title = "What offloading costs, and from which cost of a handler on it pays"

    def variants(self, preset: str) -> tuple[Variant, ...]:
        return VARIANTS

    def lasts_s(self, options: Options) -> float:
        rounds, seconds = SCALES[options.preset].of(options)
        points = len(COSTS[options.preset]) - 1 + EMPTY_ROUNDS[options.preset]
        return points * len(VARIANTS) * rounds * (seconds + RUN_OVERHEAD_S)

    def run(self, testbed: Testbed) -> dict[str, Any]:
        options = testbed.options
        costs, (rounds, seconds) = COSTS[options.preset], SCALES[options.preset].of(options)
        per_ms = iterations_per_ms()
        for variant in testbed.able(VARIANTS):
            port = testbed.server(variant).port
            target = Target(variant.name, port, path_of(variant), "GET", ("iterations=0",))
            warm_up(target, WARMUPS, options.concurrency)
        found: dict[tuple[float, str], list[Sample]] = {}
        for number in range(rounds * EMPTY_ROUNDS[options.preset]):
            for cost in costs if number < rounds else costs[:1]:
                for variant in testbed.turns(VARIANTS, number):
                    spec = LoadSpec(
                        url=testbed.url(variant, path_of(variant)), mode="closed", vus=options.concurrency,
                        duration_s=seconds, queries=(f"iterations={round(cost * per_ms)}",), expect_key="total",
                    )  # fmt: skip
                    sample = testbed.load(self, variant, spec, f"{cost:g} ms, round {number + 1}")
                    found.setdefault((cost, variant.name), []).append(sample)
        names = [variant.name for variant in testbed.able(VARIANTS)]

        def ratios(cost: float, figure: str) -> dict[str, Any]:
            return {
                name: sample_ratio(found[cost, name], found[cost, "baseline"], figure) for name in names[1:]
            }

        points: list[dict[str, Any]] = [
            {
                "handler_ms": cost,
                "iterations": round(cost * per_ms),
                "runs": {name: summary(found[cost, name]) for name in names},
                "ratio_req_s": ratios(cost, "req_s"),
                "ratio_cpu": ratios(cost, "cpu_ms_per_request"),
            }
            for cost in costs
        ]
        return {
            "title": self.title,
            "iterations_per_ms": per_ms,
            "points": points,
            "break_even_ms": {
                name: break_even(
                    [(point["handler_ms"], _median(point["ratio_req_s"][name])) for point in points]
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
                *(with_range(point["runs"][name]["req_s"], 0) for name in names),
                *(with_range(point["ratio_req_s"][name], 2) for name in names[1:]),
                *(with_range(point["ratio_cpu"][name], 2) for name in names[1:]),
            )
            for point in section["points"]
        )
        yield Table(self.title, columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        runs = section["points"][0]["runs"]
        for name, ratio in section["points"][0]["ratio_cpu"].items():
            server, worker = (runs[name].get(f"{part}_cpu_ms_per_request") for part in ("server", "worker"))
            yield (
                f"{name}: an empty handler takes {with_range(ratio, 2)} times the processor time of one in the server: "
                f"{with_range(server, 3)} ms in the server and {with_range(worker, 3)} ms in the worker, against "
                f"{with_range(runs['baseline']['cpu_ms_per_request'], 3)} ms."
            )
        for name, cost in section["break_even_ms"].items():
            if cost is None:
                yield f"{name}: no handler of the sweep was served faster than in the server."
            else:
                yield f"{name}: offloading gives more throughput from {cost:.2g} ms of handler CPU on."

    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        axes = figure.subplots()
        points = section["points"]
        # The empty handler has no place on a logarithmic axis: half of the least cost stands for it.
        costs = [point["handler_ms"] or points[1]["handler_ms"] / 2 for point in points]
        for name in points[0]["runs"]:
            rates = [point["runs"][name]["req_s"]["median"] for point in points]
            colour = VARIANT_COLOURS["python" if name == "offload" else name]
            axes.plot(costs, rates, marker="o", markersize=3, label=name, color=colour)
            cost = section["break_even_ms"].get(name)
            if cost is not None:
                axes.axvline(cost, color=colour, linewidth=0.8, linestyle=":")
                text = f"{name} pays\nfrom {cost:.2g} ms"
                axes.annotate(text, (cost, min(rates)), fontsize=7, color=colour)
        log_scale(axes, "x", "y")
        axes.set_xlabel("CPU of the handler in Python, ms (the least one: an empty handler)")
        axes.set_ylabel("requests per second")
        axes.grid()
        axes.legend()


def _median(over_rounds: Mapping[str, Any] | None) -> float:
    return float(over_rounds["median"]) if over_rounds is not None else 0.0


STUDY = Sweep()
