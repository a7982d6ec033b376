"""What a heavy view does to a light one beside it: the light one's latency, alone and with the heavy under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.plots import log_scale, reach
from bench.core.statistics import spread_json
from bench.core.tables import Table, with_range
from bench.demo.load.k6 import LoadSpec
from bench.demo.studies.testbed import (
    BASELINE,
    COMPILED,
    OFFLOAD,
    VARIANT_COLOURS,
    Sample,
    Scale,
    Study,
    Testbed,
    sample_ratio,
    summary,
)

SCALES = {"quick": Scale(1, 3.0), "default": Scale(1, 3.0), "full": Scale(5, 6.0)}
#: Requests a second to the light view: enough for a p99, too few to load the server by themselves.
LIGHT_RATE = 50
#: Fewer than the server has threads, so that the light one never waits for a thread, only for the interpreter.
HEAVY_CLIENTS = 4
HEAVY_QUERY = "q=gardne+lamp&limit=50"
PERCENTILES = ("p50", "p95", "p99")


class Neighbour(Study):
    """A light view beside a heavy one."""

    name = "neighbour"
    title = "A light view beside a heavy one"
    variants = (BASELINE, OFFLOAD, COMPILED)

    def runs(self, preset: str) -> tuple[int, float]:
        rounds, seconds = SCALES[preset]
        return (len(self.variants) + 1) * rounds, seconds

    def run(self, testbed: Testbed) -> dict[str, Any]:
        rounds, seconds = SCALES[testbed.options.preset]
        found: dict[str, list[Sample]] = {}
        for number in range(rounds):
            turns = [(variant.name, variant) for variant in testbed.turns(self.variants, number)]
            for name, variant in [("alone", BASELINE), *turns]:
                path = "/offload/" if variant.offload else "/baseline/"
                heavy = f"{testbed.url(variant, path)}?{HEAVY_QUERY}" if name != "alone" else ""
                spec = LoadSpec(
                    url=testbed.url(variant, "/light/"), mode="open", duration_s=seconds, vus=100,
                    rate=LIGHT_RATE, expect_key="status", heavy_url=heavy, heavy_vus=HEAVY_CLIENTS,
                )  # fmt: skip
                what = f"light view {'alone' if not heavy else 'beside the heavy one'}, round {number + 1}"
                found.setdefault(name, []).append(testbed.load(self, variant, spec, what))
        return {
            "title": self.title,
            "heavy_clients": HEAVY_CLIENTS,
            "light_rate": LIGHT_RATE,
            "runs": {
                name: summary(
                    samples, heavy_req_s=[each.load.heavy_ok / each.load.duration_s for each in samples]
                )
                | {"heavy_failed": sum(sample.load.heavy_failed for sample in samples)}
                for name, samples in found.items()
            },
            "ratio_p99": {
                name: sample_ratio(found["baseline"], samples, "p99_ms")
                for name, samples in found.items()
                if name not in ("alone", "baseline")
            },
            "alone_p99_ms": spread_json(sample.figures()["p99_ms"] for sample in found["alone"]),
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = ("heavy view", *(f"light {each} ms" for each in PERCENTILES), "heavy answers/s", "errors")
        rows = tuple(
            (
                name,
                *(with_range(run[f"{each}_ms"], 2) for each in PERCENTILES),
                with_range(run["heavy_req_s"], 0) if name != "alone" else "-",
                str(run["errors"] + run["heavy_failed"]),
            )
            for name, run in section["runs"].items()
        )
        title = f"{section['light_rate']} light requests/s, {section['heavy_clients']} heavy clients"
        yield Table(f"{self.title}: {title}", columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for name, ratio in section["ratio_p99"].items():
            yield f"Beside a heavy view, the light one's p99 is {with_range(ratio, 1)} times better with {name}."

    def plot(self, axes: Any, section: Mapping[str, Any]) -> None:
        width = 0.26
        for place, (variant, run) in enumerate(section["runs"].items()):
            for index, (name, alpha) in enumerate(zip(PERCENTILES, (0.4, 0.7, 1.0), strict=True)):
                found = run[f"{name}_ms"]
                if found is None:
                    continue
                bars = axes.bar(
                    place + (index - 1) * width, found["median"], width, alpha=alpha,
                    color=VARIANT_COLOURS[variant], yerr=reach(found), capsize=2,
                )  # fmt: skip
                axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
        log_scale(axes, "y")
        axes.set_xticks(range(len(section["runs"])), [f"heavy view: {name}" for name in section["runs"]])
        axes.set_ylabel("latency of the light view, ms: p50, p95, p99")


STUDY = Neighbour()
