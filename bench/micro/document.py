"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Mapping
from datetime import datetime
from importlib import metadata
from typing import Any

from bench.harness.options import available_cores
from bench.harness.stats import Spread, rounded, spread
from bench.micro.cpu import Surroundings
from bench.micro.criteria import judge
from bench.micro.figures import Batch, Measured, curve
from bench.micro.options import BUSY, LAYOUTS, Options
from bench.micro.payloads import MIB
from bench.micro.peers import PEERS, of_row, row
from bench.micro.tables import REFERENCES

SCHEMA_VERSION = 1
PACKAGES = (
    "molt-accel", "msgpack", "msgspec", "posix-ipc", "psutil", "pyzmq", "Pebble", "iceoryx2", "gunicorn"
)  # fmt: skip
P99_CALLS = 300
"""Of fewer calls in a batch, fewer than three make its p99."""
OTHERS_DOUBT_PERCENT = 5.0
"""Of a core: what other programs may take before the figures are doubted."""


def build(
    *,
    options: Options,
    command: str,
    created: datetime,
    elapsed_s: float,
    where: Mapping[str, Any],
    settings: Mapping[str, str],
    measured: Measured,
    not_run: Mapping[str, str],
    failed: Mapping[str, str],
    surroundings: Mapping[str, Surroundings],
    left_over: list[str],
    by_session: bool = False,
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "molt-accel micro benchmark",
        "created_utc": created.isoformat(timespec="seconds"),
        "elapsed_s": round(elapsed_s, 1),
        "command": command,
        "errors": [f"{name} failed: {reason}" for name, reason in failed.items()],
        "warnings": _warnings(options, measured, surroundings, left_over, by_session),
        **where,
        "tools": tools(),
        "options": _options(options),
        "settings": dict(settings),
        "surroundings": {
            name: {key: rounded(value) for key, value in dataclasses.asdict(during).items()}
            for name, during in surroundings.items()
        },
        "peers": {
            name: {
                "title": PEERS[name].title,
                "carries": PEERS[name].carries,
                "waits": PEERS[name].waits,
                "not_run": not_run.get(name),
            }
            for name in options.chosen_peers
        },
        "latency": {condition: _latency(options, measured, condition) for condition in options.conditions},
        "throughput": _throughput(options, measured),
        "idle_cpu": {
            name: {
                "processes": idle.processes,
                "seconds": rounded(idle.seconds),
                "percent": rounded(idle.percent),
            }
            for name, idle in measured.idle.items()
        },
        "criteria": judge(options, measured),
    }


def tools() -> dict[str, Any]:
    """Versions of what took part; None for a package that isn't installed."""
    versions: dict[str, Any] = {"python": f"{platform.python_implementation()} {platform.python_version()}"}
    for package in PACKAGES:
        try:
            versions[package.lower().replace("-", "_")] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package.lower().replace("-", "_")] = None
    return versions


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
            name: _figures(measured, batches, keep_curve=size == options.payload_sizes[0])
            for name, batches in found.items()
            if batches
        }
    return by_size


def _figures(measured: Measured, batches: list[Batch], *, keep_curve: bool) -> dict[str, Any]:
    first = batches[0]
    _, raw = of_row(first.peer)

    def ratios(figure: str) -> dict[str, Any]:
        # Bytes as they are against bytes as they are, and objects against objects.
        found = {
            reference: measured.latency_ratio(
                figure, first.peer, row(reference, raw), first.condition, first.size
            )
            for reference in REFERENCES
        }
        return {name: value.as_json() for name, value in found.items() if value is not None}

    figures: dict[str, Any] = {
        "calls": sum(batch.calls for batch in batches),
        "p50_us": _spread(spread(batch.p50_us for batch in batches)),
        "p99_us": _spread(spread(batch.p99_us for batch in batches)),
        "mean_us": _spread(spread(batch.mean_us for batch in batches)),
        "p50_ratio": ratios("p50_us"),
        "p99_ratio": ratios("p99_us"),
    }
    if first.size >= MIB:
        figures["mib_s"] = _spread(spread(batch.mib_s for batch in batches))
        figures["mib_s_ratio"] = ratios("mib_s")
    if keep_curve:
        figures["curve_us"] = [rounded(value) for value in curve(batches)]
    return figures


def _throughput(options: Options, measured: Measured) -> dict[str, Any]:
    by_layout: dict[str, Any] = {}
    for layout in LAYOUTS:
        figures = {}
        for name in options.chosen_peers:
            windows = measured.at(name, layout)
            if windows:
                figures[name] = {
                    "calls_s": _spread(spread(window.calls_s for window in windows)),
                    "cpu_us_per_call": _spread(spread(window.cpu_us_per_call for window in windows)),
                }
        if figures:
            by_layout[layout.name] = figures
    return by_layout


def _spread(value: Spread | None) -> dict[str, Any] | None:
    return None if value is None else value.as_json()


def _warnings(
    options: Options,
    measured: Measured,
    surroundings: Mapping[str, Surroundings],
    left_over: list[str],
    by_session: bool,
) -> list[str]:
    warnings = [
        f"Other programs took {during.other_percent:.0f} % of a core during {name!r}."
        for name, during in surroundings.items()
        if during.other_percent > OTHERS_DOUBT_PERCENT
    ]
    warnings += [
        f"The hypervisor took {during.steal_percent:.0f} % of a core away during {name!r}."
        for name, during in surroundings.items()
        if during.steal_percent > OTHERS_DOUBT_PERCENT
    ]
    if options.round_count < 3:
        warnings.append(f"{options.round_count} rounds say little; the default is made for comparing.")
    few = [
        f"{batch.peer} ({batch.calls})"
        for batch in measured.batches
        if batch.condition in BUSY and batch.peer in ("shm", "pipe") and batch.calls < P99_CALLS
    ]
    if few:
        warnings.append(f"On busy cores the p99 is that of few calls in a batch: {', '.join(few)}.")
    if by_session and any(condition in BUSY for condition in options.conditions):
        warnings.append(
            "The scheduler here shares busy cores out among sessions (autogroup): a worker in a session of its "
            "own, as shm's and stdio's, has a share of its own; what a client forked shares its client's."
        )
    if left_over:
        warnings.append(f"Processes had to be killed at the end: {', '.join(left_over)}.")
    return warnings
