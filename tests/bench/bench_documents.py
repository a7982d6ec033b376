"""Makes runs and results documents for the tests of figures and reports."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.harness.aggregate import LATENCIES, Mode, Run
from bench.harness.document import build
from bench.harness.k6 import LoadResult
from bench.harness.options import Options
from bench.harness.sampling import Usage
from bench.harness.scenarios import SCENARIOS, Scenario
from bench.harness.servers import StopReport
from bench.harness.worker_metrics import MetricsSample

BY_NAME: dict[str, Scenario] = {scenario.name: scenario for scenario in SCENARIOS}


def load(ok: int, *, p: float = 5.0, failed: dict[str, int] | None = None, dropped: int = 0) -> LoadResult:
    """A load result of one second."""
    latency = dict.fromkeys(("min", "avg", *LATENCIES, "max"), p) if ok else None
    return LoadResult(
        1.0, ok + sum((failed or {}).values()), ok, failed or {}, dropped, latency, 1000 * ok, 100 * ok
    )


def run(
    name: str,
    result: LoadResult,
    *,
    mode: Mode = "closed",
    round_: int = 0,
    rate: int | None = None,
    rows: int = 1,
) -> Run:
    """A run with usage figures and some metrics rows."""
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


def document(
    runs: list[Run],
    stopped: list[StopReport] | None = None,
    logs: dict[str, str] | None = None,
    workers: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """A whole results document about `runs`."""
    return build(
        options=Options(Path("results"), executors=2),
        command="python bench/scripts/run_demo_bench.py",
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        elapsed_s=12.5,
        surroundings={
            "git": {"commit": "abc", "dirty": False},
            "machine": {"cpu": "some", "cores_usable": 2},
            "tools": {"python": "CPython 3.11.7", "k6": "1.1.0"},
        },
        settings={item.scenario.name: {"MOLT_FAKE_DB_DELAY_MS": "3"} for item in runs},
        workers=workers or {"offload": {"version": "0.1.0", "executors": 2, "transport": "shm"}},
        client={"executors": 2},
        alike={},
        runs=runs,
        stopped=stopped if stopped is not None else [StopReport()],
        logs=logs,
    )
