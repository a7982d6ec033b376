"""What happens past saturation: answers in time, against what is asked for, with and without the bounded queue."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.tables import Table, with_range
from bench.demo.load.k6 import LoadSpec
from bench.demo.studies.testbed import VARIANT_COLOURS, Sample, Scale, Study, Testbed, Variant, summary

#: Offered load over capacity.
SHARES = {
    "quick": (0.75, 1.5, 2.0),
    "default": (0.5, 1.0, 1.5, 2.0),
    "full": (0.5, 0.75, 1.0, 1.25, 1.5, 2.0),
}
SCALES = {"quick": Scale(1, 3.0), "default": Scale(1, 3.0), "full": Scale(5, 4.0)}
#: An answer that comes later is of no use. A few times what one takes in a server with nothing else to do.
SLO_MS = 250.0
#: Clients give up some time after that, as a proxy in front would.
TIMEOUT_S = 1.0
#: So many may wait: what the executors work off well within the SLO.
PLACES = 8
QUERY = "q=gardne+lamp&limit=50"
CLIENTS = 400


class Goodput(Study):
    """Answers within the SLO against offered load.

    In an event loop: with threads, requests that find no free thread wait where no queue of the worker can refuse them.
    """

    name = "goodput"
    title = "Past saturation: answers in time, with and without the bounded queue"
    variants = (
        Variant("bounded", offload=True, asgi=True, env=(("MOLT_WORKER_MAX_QUEUE", str(PLACES)),)),
        Variant(
            "unbounded",
            offload=True,
            asgi=True,
            env=(("MOLT_WORKER_MAX_QUEUE", "65536"), ("MOLT_WORKER_ARENA_MB", "256")),
        ),
        Variant("baseline", asgi=True),
    )

    def runs(self, preset: str) -> tuple[int, float]:
        rounds, seconds = SCALES[preset]
        return (len(SHARES[preset]) * rounds + 1) * len(self.variants), seconds

    def run(self, testbed: Testbed) -> dict[str, Any]:
        options = testbed.options
        shares, (rounds, seconds) = SHARES[options.preset], SCALES[options.preset]

        def load(variant: Variant, what: str, mode: str, vus: int, **more: Any) -> Sample:
            url = testbed.url(variant, "/offload-async/" if variant.offload else "/baseline/")
            spec = LoadSpec(url, mode, seconds, vus, queries=(QUERY,), expect_key="items", **more)
            return testbed.load(self, variant, spec, what)

        capacity: dict[str, float] = {}
        for variant in self.variants:
            # As many clients as executors and places, so that nothing is refused.
            sample = load(variant, "capacity", "closed", options.executor_count + PLACES // 2)
            capacity[variant.name] = max(1.0, sample.load.req_s)
        found: dict[tuple[float, str], list[Sample]] = {}
        for number in range(rounds):
            for share in shares:
                for variant in testbed.turns(self.variants, number):
                    rate = max(1, round(capacity[variant.name] * share))
                    what = f"{share:g} x capacity, round {number + 1}"
                    sample = load(
                        variant, what, "open", CLIENTS, rate=rate, slo_ms=SLO_MS, timeout_s=TIMEOUT_S
                    )
                    found.setdefault((share, variant.name), []).append(sample)
        points = [
            {
                "share": share,
                "runs": {name: _point(found[share, name], best * share) for name, best in capacity.items()},
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
            "kept": {name: _kept(points, name) for name in capacity},
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        names = list(section["capacity_req_s"])
        cells = (("goodput_req_s", 0, "in time/s"), ("p99_ms", 0, "p99 ms"), ("busy_share", 2, "refused"))
        columns = ("offered / capacity", *(f"{name}: {what}" for _, _, what in cells for name in names))
        rows = tuple(
            (
                f"{point['share']:g}",
                *(
                    with_range(point["runs"][name][figure], digits)
                    for figure, digits, _ in cells
                    for name in names
                ),
            )
            for point in section["points"]
        )
        yield Table(f"{self.title} (in time: within {section['slo_ms']:g} ms)", columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        for name, kept in section["kept"].items():
            yield f"{name}: at the highest load offered, {kept:.0%} of the best goodput is kept."

    def plot(self, axes: Any, section: Mapping[str, Any]) -> None:
        shares = [point["share"] for point in section["points"]]
        for name, best in section["capacity_req_s"].items():
            found = [point["runs"][name]["goodput_req_s"]["median"] / best for point in section["points"]]
            axes.plot(shares, found, marker="o", markersize=3, label=name, color=VARIANT_COLOURS[name])
        ideal = [min(1, share) for share in shares]
        axes.plot(shares, ideal, color="black", linewidth=0.6, linestyle=":", label="ideal")
        axes.set_xlabel("offered load / capacity")
        axes.set_ylabel(f"answers within {section['slo_ms']:g} ms / capacity")
        axes.set_ylim(bottom=0)
        axes.grid()
        axes.legend()


def _point(samples: list[Sample], offered: float) -> dict[str, Any]:
    loads = [sample.load for sample in samples]
    return summary(
        samples,
        goodput_req_s=[load.within_slo / load.duration_s for load in loads],
        busy_share=[load.failed.get("busy_429", 0) / max(1, load.requests + load.dropped) for load in loads],
    ) | {"offered_req_s": offered}


def _kept(points: list[dict[str, Any]], name: str) -> float:
    """Goodput at the highest offered load over the best of all."""
    goodput = [point["runs"][name]["goodput_req_s"]["median"] for point in points]
    return goodput[-1] / max(goodput) if max(goodput) else 0.0


STUDY = Goodput()
