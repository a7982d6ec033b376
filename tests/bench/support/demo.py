"""Makes runs and results documents of the demo's benchmark."""

from datetime import UTC, datetime
from typing import Any

from bench.core.criteria import judge
from bench.core.results import Heading, Kind
from bench.demo.load.k6 import LoadResult
from bench.demo.load.sampling import Usage
from bench.demo.load.servers import StopReport
from bench.demo.load.worker_metrics import MetricsSample
from bench.demo.options import Options
from bench.demo.report.aggregate import LATENCIES, Mode, Run
from bench.demo.report.criteria import CRITERIA
from bench.demo.report.document import KIND, build
from bench.demo.scenarios import SCENARIOS, Scenario

BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}


def heading(kind: Kind) -> Heading:
    """The heading of a document that was made at a fixed time on a made-up machine."""
    where = {"git": {"commit": "abc", "dirty": False}, "machine": {"cpu": "some", "cores_usable": 2}}
    return Heading(
        kind, "python bench/scripts/some.py", datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), where=where
    )


def load(ok: int, *, p: float = 5.0, failed: dict[str, int] | None = None, dropped: int = 0) -> LoadResult:
    """A load result of one second."""
    latency = dict.fromkeys(("min", "avg", *LATENCIES, "max"), p) if ok else None
    return LoadResult(
        1.0, ok + sum((failed or {}).values()), ok, failed or {}, dropped, latency, 1000 * ok, 100 * ok
    )


def run(name: str, result: LoadResult, *, round_: int = 0, rate: int | None = None, rows: int = 1) -> Run:
    """A run with usage figures and some metrics rows; with a rate, of the open loop."""
    mode: Mode = "closed" if rate is None else "open"
    usage = Usage(elapsed_s=1.0, busy_cpu_seconds=1.0)
    usage.parts["server"].cpu_seconds = 0.5
    usage.parts["server"].processes = 2
    usage.parts["server"].samples = 4
    if BY_NAME[name].role == "offload":
        usage.parts["worker"].cpu_seconds = 0.5
        usage.parts["worker"].processes = 4
    metrics = MetricsSample()
    for _ in range(rows):
        metrics.add_line(
            b'{"status": "Ok", "endpoint": "offload", "queue_us": 10, "exec_us": 100, "queue_depth": 1}'
        )
    return Run(BY_NAME[name], mode, round_, 0, "2026-01-01T00:00:00+00:00", rate, result, usage, metrics)


def document(runs: list[Run], **changes: Any) -> dict[str, Any]:
    """A whole results document about `runs`; `changes` are put over what `build` is given."""
    given: dict[str, Any] = {
        "tools": {"python": "CPython 3.11.7", "k6": "1.1.0"},
        "settings": {each.scenario.name: {"MOLT_FAKE_DB_DELAY_MS": "3"} for each in runs},
        "workers": {"offload": {"version": "0.1.0", "executors": 2, "transport": "shm"}},
        "client": {"executors": 2},
        "verified": {},
        "stopped": [StopReport()],
    }
    return build(heading(KIND), Options(executors=2), runs, **(given | changes))


def whole(*, failed: dict[str, int] | None = None) -> dict[str, Any]:
    runs = []
    for number in range(2):
        runs += [
            run("baseline-threads", load(100, p=10), round_=number),
            run("baseline-cores", load(160, p=6), round_=number),
            run("offload", load(150 + 10 * number, p=5, failed=failed), round_=number),
            run("baseline-threads", load(60, p=8), rate=60, round_=number),
            run("offload", load(60, p=4), rate=60, round_=number),
        ]
    runs += [run("data-baseline", load(10)), run("data-offload", load(20))]
    return document(runs)


def with_everything() -> dict[str, Any]:
    """A document with an ablation and each study, as a run leaves them."""
    runs = []
    for name in ("baseline-threads", "baseline-cores", "offload-stdio", "offload-python", "offload"):
        runs += [run(name, load(100 + len(name)), round_=number) for number in range(2)]
    made = document(runs)
    figure = {"median": 5.0, "min": 4.0, "max": 6.0, "rounds": [4.0, 5.0, 6.0]}
    names = ["p50_ms", "p95_ms", "p99_ms", "req_s", "cpu_ms_per_request", "goodput_req_s", "busy_share"]
    names += [
        "free_after_ms",
        "cpu_ms_after",
        "idle_after_ms",
        "heavy_ok_s",
        "heavy_refused_s",
        "over_allowed",
    ]
    names += [
        "server_cores",
        "worker_cores",
        "k6_cores",
        "refused_share",
        "slow_req_s",
        "low_req_s",
        "slowest_ms",
    ]
    variant = dict.fromkeys(names, figure) | {"errors": 0, "heavy_failed": 0}
    share = {"median": 0.9, "min": 0.8, "max": 1.0, "rounds": [0.8, 0.9, 1.0]}
    points = [{"share": 1.0, "run": variant}, {"share": 2.0, "run": variant}]
    kept = {name: {"2": share} for name in ("kept", "lost", "kept_and_lost")}
    ratios = dict.fromkeys(("offload", "compiled"), figure)

    def runs_of(*variants: str) -> dict[str, Any]:
        return {"runs": dict.fromkeys(variants, variant)}

    point = runs_of("baseline", "offload", "compiled") | {"ratio_req_s": ratios, "ratio_cpu": ratios}
    made["studies"] = {
        "sweep": {
            "title": "Sweep",
            "points": [point | {"handler_ms": ms} for ms in (0, 0.1, 1)],
            "break_even_ms": {"offload": None, "compiled": 0.07},
        },
        "goodput": {
            "title": "Goodput",
            "slo_ms": 250,
            "cells": [
                {
                    "server": server,
                    "handler_ms": 20.0,
                    "variants": {name: {"points": points, **kept} for name in ("offload", "baseline")},
                }
                for server in ("gunicorn", "uvicorn")
            ],
        },
        "mix": runs_of("alone", "unlimited", "limited")
        | {"title": "Mix", "quick_rate": 50, "quick_ms": 1.0, "slow_clients": 8, "slow_ms": 500.0},
        "neighbour": {
            "title": "Neighbour",
            "light_rate": 50,
            "heavy_ms": 100.0,
            "ratio_p99": {"gunicorn": figure},
            "servers": {
                server: {
                    "alone": variant,
                    "points": [
                        runs_of("offload", "hammered", "baseline") | {"clients": clients}
                        for clients in (4, 32)
                    ],
                }
                for server in ("gunicorn", "uvicorn")
            },
        },
        "abort": runs_of("baseline", "offload") | {"title": "Abort", "clients": 12, "cost_ms": 300},
    }
    made["criteria"] = judge(CRITERIA, made)
    return made
