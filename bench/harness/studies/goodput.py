"""What happens past saturation: answers in time, against what is asked for, with and without the bounded queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.k6 import LoadSpec
from bench.harness.options import Options
from bench.harness.studies.study import Bed, Context, Sample, Study, Way, shown, summary
from bench.harness.table import Table

SHARES = {
    "quick": (0.75, 1.5, 2.0),
    "default": (0.5, 0.75, 1.0, 1.5, 2.0),
    "full": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
}
ROUNDS = {"quick": 1, "default": 1, "full": 5}
SECONDS = {"quick": 3.0, "default": 4.0, "full": 4.0}
#: An answer that comes later is of no use. A few times what one takes in a server with nothing else to do.
SLO_MS = 250.0
#: Clients give up some time after that, as a proxy in front would.
TIMEOUT_S = 1.0
#: So many may wait: what the executors work off well within the SLO.
PLACES = 8
QUERY = "q=gardne+lamp&limit=50"
#: In an event loop: with threads, requests that find none wait where no queue of the worker can refuse them.
WAYS = (
    Way("bounded", offload=True, asgi=True, env={"MOLT_WORKER_MAX_QUEUE": str(PLACES)}),
    Way(
        "unbounded",
        offload=True,
        asgi=True,
        env={"MOLT_WORKER_MAX_QUEUE": "65536", "MOLT_WORKER_ARENA_MB": "256"},
    ),
    Way("baseline", asgi=True),
)
CLIENTS = 400


class Goodput:
    """Answers within the SLO against offered load."""

    name = "goodput"
    title = "Past saturation: answers in time, with and without the bounded queue"

    def load_seconds(self, options: Options) -> float:
        runs = len(SHARES[options.preset]) * len(WAYS) * ROUNDS[options.preset] + len(WAYS)
        return runs * SECONDS[options.preset]

    def run(self, context: Context) -> dict[str, Any]:
        options = context.options
        seconds, shares = SECONDS[options.preset], SHARES[options.preset]
        found: dict[tuple[float, str], list[Sample]] = {}
        capacity: dict[str, float] = {}
        with Bed(context, self.name, WAYS) as bed:
            for way in bed.ways:
                spec = LoadSpec(
                    url=bed.url(way, _path(way)), mode="closed", duration_s=seconds, queries=(QUERY,),
                    # As many as executors and places, so that nothing is refused.
                    vus=options.executor_count + PLACES // 2, expect_key="items",
                )  # fmt: skip
                capacity[way.name] = max(1.0, bed.load(way, spec, "capacity").load.req_s)
            for number in range(ROUNDS[options.preset]):
                for share in shares:
                    for way in bed.turns(number):
                        rate = max(1, round(capacity[way.name] * share))
                        spec = LoadSpec(
                            url=bed.url(way, _path(way)), mode="open", duration_s=seconds, queries=(QUERY,),
                            vus=CLIENTS, rate=rate, expect_key="items", slo_ms=SLO_MS, timeout_s=TIMEOUT_S,
                        )  # fmt: skip
                        what = f"{share:g} x capacity, round {number + 1}"
                        found.setdefault((share, way.name), []).append(bed.load(way, spec, what))
            names = [way.name for way in bed.ways]
        points = [
            {
                "share": share,
                "runs": {name: _point(found[share, name], capacity[name] * share) for name in names},
            }
            for share in shares
        ]
        return {
            "title": self.title,
            "slo_ms": SLO_MS,
            "timeout_s": TIMEOUT_S,
            "places": PLACES,
            "capacity_req_s": capacity,
            "points": points,
            "kept": {name: _kept(points, name) for name in names},
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        names = list(section["capacity_req_s"])
        columns = (
            "offered / capacity",
            *(f"{name}: in time/s" for name in names),
            *(f"{name}: p99 ms" for name in names),
            *(f"{name}: refused" for name in names),
        )
        rows = tuple(
            (
                f"{point['share']:g}",
                *(shown(point["runs"][name]["goodput_req_s"], 0) for name in names),
                *(shown(point["runs"][name]["p99_ms"], 0) for name in names),
                *(shown(point["runs"][name]["busy_share"]) for name in names),
            )
            for point in section["points"]
        )
        yield Table(f"{self.title} (in time: within {section['slo_ms']:g} ms)", columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for name, kept in section["kept"].items():
            yield f"{name}: at the highest load offered, {kept:.0%} of the best goodput is kept."


def _path(way: Way) -> str:
    return "/offload-async/" if way.offload else "/baseline/"


def _point(samples: list[Sample], offered: float) -> dict[str, Any]:
    return summary(
        samples,
        goodput_req_s=[sample.load.within_slo / sample.load.duration_s for sample in samples],
        busy_share=[
            sample.load.failed.get("busy_429", 0) / max(1, sample.load.requests + sample.load.dropped)
            for sample in samples
        ],
    ) | {"offered_req_s": offered}


def _kept(points: list[dict[str, Any]], name: str) -> float:
    """Goodput at the highest offered load over the best of all."""
    goodput = [point["runs"][name]["goodput_req_s"]["median"] for point in points]
    return goodput[-1] / max(goodput) if max(goodput) else 0.0


STUDY: Study = Goodput()
