"""What a call may cost, as criteria that a run reaches or doesn't; each is computed from that run alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.core.criteria import Criterion
from bench.core.statistics import Spread
from bench.micro.options import Layout, Options
from bench.micro.payloads import size_name
from bench.micro.peers.table import RAW_FROM, row
from bench.micro.report.figures import LATENCIES, Measured

SIXTEEN, FOUR_CLIENTS, TASKS = Layout(16), Layout(1, 4), Layout(64, kind="task")
ALIKE = (("shm", "pipe-own"), ("shm-same", "pipe"))
"""Peers whose other sides are in the same kind of session: in one of its own, and in the caller's."""
WAITING_ALIKE = (("shm-io", "pipe-own"), ("shm-same-io", "pipe"))
"""The same with a pool in which other requests wait. A Pipe has no pool, so nothing beside a call changes it."""
PARKING = (("shm", "shm-park"), ("shm-same", "shm-same-park"))
"""The waiting policy, and what it must never lose to: both sides always sleep."""
Figure = Callable[[Measured], Spread | float | None]


def criteria(options: Options) -> Iterator[Criterion[Measured]]:
    """All criteria, also those whose peers or conditions this run leaves out."""
    small = options.payload_sizes[0]
    yield from _idle_latency(small)
    yield from _busy_latency(small)
    yield from _rates(options)
    for size in options.payload_sizes:
        if size >= RAW_FROM:
            title = f"bytes per second of shm / pipe at {size_name(size)}, bytes as they are"
            figure = _latency("mib_s", row("shm", raw=True), row("pipe", raw=True), "idle", size)
            yield Criterion(f"bytes_s_shm_pipe_{size}", title, ">=", 2.0, figure)
    for figure_name, words in (
        ("own_cpu_us_per_call", "the server's process"),
        ("cpu_us_per_call", "server and worker"),
    ):
        title = f"processor time of a request, offloaded empty view / not: {words}"
        yield Criterion(
            f"view_{figure_name}",
            title,
            "<=",
            1.08,
            _latency(figure_name, "view-offload", "view", "idle", small),
        )
    for peer in ("shm", "shm-4", "shm-8", "stdio"):
        title = f"idle processor time of client and worker, {peer}, over {options.idle_seconds:g} s"
        yield Criterion(f"idle_cpu_{peer}", title, "<", 0.2, _idle(peer), "% of a core")


def _idle_latency(small: int) -> Iterator[Criterion[Measured]]:
    for over, under, comparison, limit in (
        ("shm", "ring", "<=", 1.5),
        ("pipe-own", "shm", ">=", 5.0),
        ("pipe", "shm-same", ">=", 5.0),
        ("executor", "shm", ">=", 20.0),
        ("gunicorn", "shm", ">=", 30.0),
    ):
        title = f"idle machine, {size_name(small)}: p50 of {over} / {under}"
        figure = _latency("p50_us", over, under, "idle", small)
        yield Criterion(f"idle_p50_{over}_{under}", title, comparison, limit, figure)


def _busy_latency(small: int) -> Iterator[Criterion[Measured]]:
    for condition, words in (("one", "one core busy"), ("all", "every core busy")):
        for over, under in (*ALIKE, *WAITING_ALIKE, *PARKING):
            for figure in LATENCIES:
                short = figure.removesuffix("_us")
                title = f"{words}, {size_name(small)}: {short} of {over} / {under}"
                found = _latency(figure, over, under, condition, small)
                yield Criterion(f"{condition}_{short}_{over}_{under}", title, "<=", 1.0, found)


def _rates(options: Options) -> Iterator[Criterion[Measured]]:
    pools = f"{options.executors} executors"
    for over, under, layout, limit in (
        ("shm", "executor", SIXTEEN, 10.0),
        ("shm-same", "executor", SIXTEEN, 10.0),
        *((*pair, layout, 1.5) for layout in (SIXTEEN, FOUR_CLIENTS) for pair in ALIKE),
    ):
        title = f"calls per second of {over} / {under}, {layout.name}, {pools}"
        name = f"calls_s_{over}_{under}_{layout.name.replace(' ', '_')}"
        yield Criterion(name, title, ">=", limit, _rate(over, under, layout))
    title = f"calls per second of acall, {TASKS.name} / shm, {SIXTEEN.name}, {pools}"
    yield Criterion("calls_s_acall_shm", title, ">=", 1.0, _rate("acall", "shm", TASKS, SIXTEEN))
    title = f"processor time of a call, client and worker, shm, {SIXTEEN.name}, {pools}"
    yield Criterion("cpu_shm", title, "<=", 12.5, lambda measured: measured.cpu_at("shm", SIXTEEN), "us")


def _latency(figure: str, over: str, under: str, condition: str, size: int) -> Figure:
    return lambda measured: measured.latency_ratio(figure, over, under, condition, size)


def _rate(over: str, under: str, layout: Layout, other: Layout | None = None) -> Figure:
    return lambda measured: measured.throughput_ratio(over, under, layout, other)


def _idle(peer: str) -> Figure:
    return lambda measured: measured.idle[peer].percent if peer in measured.idle else None
