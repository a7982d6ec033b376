"""What a heavy view does to a light one beside it: the light one's latency, alone and with the heavy under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.k6 import LoadSpec
from bench.harness.options import Options
from bench.harness.studies.study import (
    Bed,
    Context,
    Sample,
    Study,
    Way,
    as_spread,
    ratio_spread,
    shown,
    summary,
)
from bench.harness.table import Table

ROUNDS = {"quick": 1, "default": 2, "full": 5}
SECONDS = {"quick": 3.0, "default": 4.0, "full": 6.0}
#: Requests a second to the light view: enough for a p99, too few to load the server by themselves.
LIGHT_RATE = 50
#: Fewer than the server has threads, so that the light one never waits for a thread, only for the interpreter.
HEAVY_CLIENTS = 4
HEAVY_QUERY = "q=gardne+lamp&limit=50"
WAYS = (Way("baseline"), Way("offload", offload=True), Way("compiled", offload=True, compiled=True))


class Neighbour:
    """A light view beside a heavy one."""

    name = "neighbour"
    title = "A light view beside a heavy one"

    def load_seconds(self, options: Options) -> float:
        return (len(WAYS) + 1) * ROUNDS[options.preset] * SECONDS[options.preset]

    def run(self, context: Context) -> dict[str, Any]:
        options = context.options
        seconds = SECONDS[options.preset]
        found: dict[str, list[Sample]] = {}
        with Bed(context, self.name, WAYS) as bed:
            for number in range(ROUNDS[options.preset]):
                turns = [(way.name, way) for way in bed.turns(number)]
                for name, way in [("alone", bed.ways[0]), *turns]:
                    path = "/offload/" if way.offload else "/baseline/"
                    heavy = f"{bed.url(way, path)}?{HEAVY_QUERY}" if name != "alone" else ""
                    spec = LoadSpec(
                        url=bed.url(way, "/light/"), mode="open", duration_s=seconds, vus=100, rate=LIGHT_RATE,
                        expect_key="status", heavy_url=heavy, heavy_vus=HEAVY_CLIENTS,
                    )  # fmt: skip
                    what = (
                        f"light view {'alone' if not heavy else 'beside the heavy one'}, round {number + 1}"
                    )
                    found.setdefault(name, []).append(bed.load(way, spec, what))
        p99 = {name: [sample.figures()["p99_ms"] for sample in samples] for name, samples in found.items()}
        heavy_req_s = {
            name: [sample.load.heavy_ok / sample.load.duration_s for sample in samples]
            for name, samples in found.items()
        }
        return {
            "title": self.title,
            "heavy_clients": HEAVY_CLIENTS,
            "light_rate": LIGHT_RATE,
            "runs": {
                name: summary(samples, heavy_req_s=heavy_req_s[name])
                | {"heavy_failed": sum(sample.load.heavy_failed for sample in samples)}
                for name, samples in found.items()
            },
            "ratio_p99": {
                name: ratio_spread(p99["baseline"], p99[name])
                for name in found
                if name not in ("alone", "baseline")
            },
            "alone_p99_ms": as_spread(p99["alone"]),
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = ("heavy view", "light p50 ms", "light p95 ms", "light p99 ms", "heavy answers/s", "errors")
        rows = tuple(
            (
                name,
                *(shown(run[f"{each}_ms"]) for each in ("p50", "p95", "p99")),
                shown(run["heavy_req_s"], 0) if name != "alone" else "-",
                str(run["errors"] + run["heavy_failed"]),
            )
            for name, run in section["runs"].items()
        )
        yield Table(
            f"{self.title}: {section['light_rate']} light requests/s, {section['heavy_clients']} heavy clients",
            columns,
            rows,
        )

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for name, ratio in section["ratio_p99"].items():
            yield f"Beside a heavy view, the light one's p99 is {shown(ratio, 1)} times better with {name}."


STUDY: Study = Neighbour()
