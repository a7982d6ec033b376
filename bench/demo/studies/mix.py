"""A quick entrypoint beside slow ones that would fill the pool: with and without a limit on the slow ones.

In an event loop, so that only the pool is shared. Clients of an entrypoint of low priority ask all the time as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.plots import log_scale, reach
from bench.core.tables import Table, number, with_range
from bench.demo.load.k6 import Clients, LoadSpec
from bench.demo.options import Options
from bench.demo.studies.cost import iterations_per_ms, url_of, warm
from bench.demo.studies.testbed import (
    RUN_OVERHEAD_S,
    Sample,
    Scale,
    Study,
    Testbed,
    Variant,
    summary,
)

SCALES = {"quick": Scale(1, 2.0), "default": Scale(1, 3.0), "full": Scale(5, 4.0)}
QUICK_MS, SLOW_MS, LOW_MS = 1.0, 500.0, 5.0
#: Requests a second to the quick entrypoint.
QUICK_RATE = 50
#: A few times as many as executors, so that slow requests always wait.
SLOW_CLIENTS = 8
LOW_CLIENTS = 1
#: Before the quick entrypoint is measured.
LEAD_S = 1.0
TIMEOUT_S = 15.0
PERCENTILES = ("p50", "p95", "p99")
SERVED = Variant("offload", offload=True, asgi=True)
#: By what runs beside the quick entrypoint: at which path the slow requests are served.
WAYS = {"alone": "", "unlimited": "/cost/offload-async/", "limited": "/cost/limited-async/"}
TITLES = {
    "alone": "nothing",
    "unlimited": "slow ones without a limit",
    "limited": "slow ones, one at a time",
}
COLOURS = {"alone": "#9aa5b1", "unlimited": "#4f8fc0", "limited": "#d9622b"}


class Mix(Study):
    """Quick requests beside slow ones, which all of a pool's executors may run or only one."""

    name = "mix"
    title = "Quick requests beside slow ones in one pool"

    def variants(self, preset: str) -> tuple[Variant, ...]:
        return (SERVED,)

    def lasts_s(self, options: Options) -> float:
        rounds, seconds = SCALES[options.preset].of(options)
        return len(WAYS) * rounds * (LEAD_S + seconds + RUN_OVERHEAD_S)

    def run(self, testbed: Testbed) -> dict[str, Any]:
        rounds, seconds = SCALES[testbed.options.preset].of(testbed.options)
        per_ms = iterations_per_ms()
        warm(testbed, SERVED, per_ms)

        def url(path: str, cost_ms: float) -> str:
            return f"{testbed.url(SERVED, path)}?iterations={round(cost_ms * per_ms)}"

        found: dict[str, list[Sample]] = {}
        for round_ in range(rounds):
            for name, path in list(WAYS.items())[:: 1 if round_ % 2 == 0 else -1]:
                beside = (
                    Clients("slow", url(path, SLOW_MS), SLOW_CLIENTS, honours=True),
                    Clients("low", url("/cost/low-async/", LOW_MS), LOW_CLIENTS, honours=True),
                )
                spec = LoadSpec(
                    url_of(testbed, SERVED, QUICK_MS * per_ms), "open", seconds, 100, rate=QUICK_RATE,
                    expect_key="total", timeout_s=TIMEOUT_S, others=beside if path else (),
                    lead_s=LEAD_S if path else 0.0,
                )  # fmt: skip
                what = f"quick requests beside {TITLES[name]}, round {round_ + 1}"
                found.setdefault(name, []).append(testbed.load(self, SERVED, spec, what, watched=True))
        return {
            "title": self.title,
            "quick_ms": QUICK_MS,
            "slow_ms": SLOW_MS,
            "low_ms": LOW_MS,
            "quick_rate": QUICK_RATE,
            "slow_clients": SLOW_CLIENTS,
            "runs": {name: _run(found[name]) for name in WAYS},
        }

    def tables(self, section: Mapping[str, Any]) -> Iterator[Table]:
        columns = (
            "beside",
            *(f"quick {each} ms" for each in PERCENTILES),
            "quick refused",
            "slow answers/s",
            "low answers/s",
            "executors busy",
        )
        rows = tuple(
            (
                TITLES[name],
                *(with_range(run[f"{each}_ms"], 1) for each in PERCENTILES),
                with_range(run["refused_share"], 2),
                with_range(run["slow_req_s"], 1),
                with_range(run["low_req_s"], 1),
                with_range(run["busy_share"], 2),
            )
            for name, run in section["runs"].items()
        )
        what = (
            f"{section['quick_rate']} quick requests/s of {section['quick_ms']:g} ms, "
            f"{section['slow_clients']} clients of {section['slow_ms']:g} ms"
        )
        yield Table(f"{self.title}: {what}", columns, rows)

    def sentences(self, section: Mapping[str, Any]) -> Iterator[str]:
        without, limited = (section["runs"][name] for name in ("unlimited", "limited"))
        yield (
            f"Beside {section['slow_clients']} clients of {section['slow_ms']:g} ms, a quick request's p99 is "
            f"{with_range(without['p99_ms'], 0)} ms, and {with_range(limited['p99_ms'], 1)} ms where one slow request "
            f"runs at a time; {with_range(limited['low_req_s'], 1)} requests of low priority are answered a second."
        )

    def plot(self, figure: Any, section: Mapping[str, Any]) -> None:
        axes = figure.subplots()
        width = 0.26
        for place, (way, run) in enumerate(section["runs"].items()):
            for index, (name, alpha) in enumerate(zip(PERCENTILES, (0.4, 0.7, 1.0), strict=True)):
                if (found := run[f"{name}_ms"]) is not None:
                    bars = axes.bar(
                        place + (index - 1) * width, found["median"], width, alpha=alpha,
                        color=COLOURS[way], yerr=reach(found), capsize=2,
                    )  # fmt: skip
                    axes.bar_label(bars, fmt=number, fontsize=7, padding=2)
        log_scale(axes, "y")
        axes.set_xticks(range(len(section["runs"])), [f"beside {TITLES[way]}" for way in section["runs"]])
        axes.set_ylabel("quick requests, ms: p50, p95, p99")


def _run(samples: list[Sample]) -> dict[str, Any]:
    loads = [sample.load for sample in samples]

    def answers(name: str) -> list[float | None]:
        return [load.others[name].ok / load.duration_s if name in load.others else None for load in loads]

    return summary(
        samples,
        slowest_ms=[sample.slowest_ms(TIMEOUT_S * 1000) for sample in samples],
        refused_share=[load.refused_share for load in loads],
        slow_req_s=answers("slow"),
        low_req_s=answers("low"),
        busy_share=[sample.busy_share for sample in samples],
    )


STUDY = Mix()
