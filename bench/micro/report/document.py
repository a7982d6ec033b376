"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.cpu import Surroundings
from bench.core.criteria import judge
from bench.core.environment import available_cores, tools
from bench.core.results import Heading, Kind
from bench.core.statistics import rounded, spread_json
from bench.micro.options import BUSY, LAYOUTS, Options
from bench.micro.peers.table import PEERS, of_row, row
from bench.micro.report.criteria import criteria
from bench.micro.report.figures import CURVE, LATENCIES, Batch, Measured, curve

KIND = Kind("molt-accel micro benchmark", "micro", 3)
PACKAGES = (
    "molt-accel", "msgpack", "msgspec", "posix-ipc", "psutil", "pyzmq", "Pebble", "iceoryx2", "gunicorn", "uvloop",
    "Django",
)  # fmt: skip
P99_CALLS = 300
"""Of fewer calls in a batch, fewer than three make its p99."""
DISTURBED_PERCENT = 5.0
"""Of a core: what other programs may take before a warning says so."""


def build(
    heading: Heading,
    options: Options,
    measured: Measured,
    *,
    settings: Mapping[str, str],
    not_run: Mapping[str, str],
    failed: Mapping[str, str],
    left_out: Mapping[str, str],
    surroundings: Mapping[str, Surroundings],
    left_over: list[str],
    by_session: bool = False,
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    return heading.document(
        errors=[f"{name} failed: {reason}" for name, reason in failed.items()],
        warnings=[
            *(f"{name} was not measured: {reason}." for name, reason in left_out.items()),
            *_warnings(options, measured, surroundings, left_over, by_session),
        ],
        tools=tools(PACKAGES),
        options=_options(options),
        settings=dict(settings),
        surroundings={
            name: {key: rounded(value) for key, value in dataclasses.asdict(during).items()}
            for name, during in surroundings.items()
        },
        peers={
            name: {key: getattr(PEERS[name], key) for key in ("title", "carries", "waits", "own_session")}
            | {"not_run": not_run.get(name)}
            for name in options.chosen_peers
        },
        curve_percentiles=list(CURVE),
        latency={condition: _latency(options, measured, condition) for condition in options.conditions},
        throughput=_throughput(options, measured),
        idle_cpu={
            name: {
                "processes": idle.processes,
                "seconds": rounded(idle.seconds),
                "percent": rounded(idle.percent),
            }
            for name, idle in measured.idle.items()
        },
        criteria=judge(criteria(options), measured),
    )


def _options(options: Options) -> dict[str, Any]:
    stated = dataclasses.asdict(options)
    # Where the files went is of this machine and not of the benchmark.
    del stated["out"], stated["sizes"]
    return stated | {
        "peers": list(options.chosen_peers),
        "payload_sizes": list(options.payload_sizes),
        "rounds": options.round_count,
        "window_s": options.window,
        "idle_s": options.idle_seconds,
        "budgets": {str(size): dataclasses.asdict(options.budget(size)) for size in options.payload_sizes},
        "cores": available_cores(),
    }


def _latency(options: Options, measured: Measured, condition: str) -> dict[str, Any]:
    by_size: dict[str, Any] = {}
    for size in options.sizes_under(condition):
        rows = [row(name, raw) for raw in options.raw_too(size) for name in options.chosen_peers]
        found = {name: measured.of(name, condition, size) for name in rows}
        by_size[str(size)] = {
            name: _figures(batches, keep_curve=size == options.payload_sizes[0])
            for name, batches in found.items()
            if batches
        }
    return by_size


def _figures(batches: list[Batch], *, keep_curve: bool) -> dict[str, Any]:
    """Ratios and bandwidth are left out: tables compute them from the rounds."""
    figures: dict[str, Any] = {
        "calls": sum(batch.calls for batch in batches),
        "in_rounds": [batch.round for batch in batches],
    } | {
        name: spread_json(getattr(batch, name) for batch in batches)
        for name in (*LATENCIES, "cpu_us_per_call", "own_cpu_us_per_call", "idle_percent")
    }
    if keep_curve:
        figures["curve_us"] = [rounded(value, 4) for value in curve(batches)]
    return figures


def _throughput(options: Options, measured: Measured) -> dict[str, Any]:
    by_layout: dict[str, Any] = {}
    for layout in LAYOUTS:
        found = {name: measured.at(name, layout) for name in options.chosen_peers}
        figures = {
            name: {
                figure: spread_json(getattr(window, figure) for window in windows)
                for figure in ("calls_s", "cpu_us_per_call", "idle_percent")
            }
            for name, windows in found.items()
            if windows
        }
        if figures:
            by_layout[layout.name] = figures
    return by_layout


def _warnings(
    options: Options,
    measured: Measured,
    surroundings: Mapping[str, Surroundings],
    left_over: list[str],
    by_session: bool,
) -> Iterator[str]:
    for name, during in surroundings.items():
        if during.other_percent > DISTURBED_PERCENT:
            yield f"Other programs took {during.other_percent:.0f} % of a core during {name!r}."
    for name, during in surroundings.items():
        if during.steal_percent > DISTURBED_PERCENT:
            yield f"The hypervisor took {during.steal_percent:.0f} % of a core away during {name!r}."
    if options.round_count < 3:
        yield f"{options.round_count} rounds say little; the default is made for comparing."
    few = [
        f"{batch.peer} ({batch.calls})"
        for batch in measured.batches
        if batch.condition in BUSY and PEERS[of_row(batch.peer)[0]].judged and batch.calls < P99_CALLS
    ]
    if few:
        yield f"On busy cores the p99 is that of few calls in a batch: {', '.join(few)}."
    if by_session and any(condition in BUSY for condition in options.conditions):
        yield (
            "The scheduler here divides busy cores among sessions (autogroup): compare a peer whose other side is in a "
            "session of its own with such a one, as shm with pipe-own, and shm-same with pipe."
        )
    if left_over:
        yield f"Processes had to be killed at the end: {', '.join(left_over)}."
