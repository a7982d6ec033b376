"""What a call may cost, as criteria that a run reaches or doesn't; each is computed from that run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.core.criteria import Criterion
from bench.core.statistics import Spread
from bench.micro.options import Layout, Options
from bench.micro.payloads import size_name
from bench.micro.peers.table import RAW_FROM, row
from bench.micro.report.figures import Measured

SIXTEEN = Layout(16, 1)
Figure = Callable[[Measured], Spread | float | None]


def criteria(options: Options) -> Iterator[Criterion[Measured]]:
    """All criteria, also those whose peers or conditions this run leaves out."""
    small = options.payload_sizes[0]
    name = size_name(small)

    def latency(figure: str, over: str, under: str, condition: str, size: int = small) -> Figure:
        return lambda measured: measured.latency_ratio(figure, over, under, condition, size)

    for over, under, comparison, limit in (
        ("shm", "ring", "<=", 3.0),
        ("pipe", "shm", ">=", 3.0),
        ("executor", "shm", ">=", 20.0),
        ("gunicorn", "shm", ">=", 30.0),
    ):
        title = f"idle machine, {name}: p50 of {over} / {under}"
        figure = latency("p50_us", over, under, "idle")
        yield Criterion(f"idle_p50_{over}_{under}", title, comparison, limit, figure)
    for condition, words, comparison in (("one", "one core busy", "<"), ("all", "every core busy", "<=")):
        for percentile in ("p50", "p99"):
            title = f"{words}, {name}: {percentile} of shm / pipe"
            figure = latency(f"{percentile}_us", "shm", "pipe", condition)
            yield Criterion(f"{condition}_{percentile}_shm_pipe", title, comparison, 1.0, figure)
    title = f"calls per second of shm / executor, {SIXTEEN.name}, {options.executors} executors"
    yield Criterion(
        "calls_s_shm_executor", title, ">=", 10.0, lambda m: m.throughput_ratio("shm", "executor", SIXTEEN)
    )
    for size in options.payload_sizes:
        if size >= RAW_FROM:
            title = f"bytes per second of shm / pipe at {size_name(size)}, bytes as they are"
            figure = latency("mib_s", row("shm", raw=True), row("pipe", raw=True), "idle", size)
            yield Criterion(f"bytes_s_shm_pipe_{size}", title, ">=", 1.5, figure)
    for peer in ("shm", "stdio"):
        title = f"idle processor time of client and worker, {peer}, over {options.idle_seconds:g} s"
        yield Criterion(f"idle_cpu_{peer}", title, "<", 0.2, _idle(peer), "% of a core")


def _idle(peer: str) -> Figure:
    return lambda measured: measured.idle[peer].percent if peer in measured.idle else None
