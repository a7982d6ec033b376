"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.criteria import judge
from bench.core.environment import available_cores
from bench.core.results import Heading, Kind
from bench.demo.load.servers import StopReport
from bench.demo.options import Options
from bench.demo.report.ablation import ablation
from bench.demo.report.aggregate import Run, compare, find_errors, find_warnings, summarise
from bench.demo.report.criteria import CRITERIA
from bench.demo.scenarios import layout

KIND = Kind("molt-accel demo benchmark", "demo_k6", 4)
FAKE_DATABASE = {
    "delay_ms": "MOLT_FAKE_DB_DELAY_MS",
    "decode_us_per_row": "MOLT_FAKE_DB_DECODE_US_PER_ROW",
    "cpu_iters": "MOLT_FAKE_DB_CPU_ITERS",
}


def build(
    heading: Heading,
    options: Options,
    runs: Sequence[Run],
    *,
    tools: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, str]],
    workers: Mapping[str, Mapping[str, Any]],
    client: Mapping[str, Any] | None,
    verified: Mapping[str, Any],
    stopped: Sequence[StopReport],
    logs: Mapping[str, str] | None = None,
    torn_lines: int = 0,
    build: Mapping[str, Any] | None = None,
    studies: Mapping[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    scenarios = _scenarios(options, runs, workers)
    found = {"comparisons": compare(runs), "studies": dict(studies or {}), "scenarios": scenarios}
    told = [*find_warnings(runs, scenarios), *warnings]
    if torn_lines:
        told.append(f"{torn_lines} lines at the end of the metrics files were torn.")
    if build and "failed" in build:
        told.append(f"The handler cores could not be compiled, so all ran in Python: {build['failed']}")
    shutdown = _shutdown(stopped)
    if shutdown["remaining"] or shutdown["killed"]:
        told.append(shutdown["sentence"])
    first = next(iter(settings.values()), {})
    return heading.document(
        errors=find_errors(scenarios),
        warnings=told,
        tools=dict(tools),
        options=_options(options),
        configuration={
            "fake_database": {name: first.get(variable, "0") for name, variable in FAKE_DATABASE.items()},
            "scenarios": {name: dict(values) for name, values in settings.items()},
            "workers": {name: dict(facts) for name, facts in workers.items()},
            "client": dict(client) if client is not None else None,
        },
        verified=dict(verified),
        build=dict(build or {}),
        criteria=judge(CRITERIA, found),
        ablation=ablation(runs),
        **found,
        logs=dict(logs or {}),
        shutdown=shutdown,
    )


def _options(options: Options) -> dict[str, Any]:
    stated = dataclasses.asdict(options)
    # Where the files went and where k6 lay are of this machine and not of the benchmark.
    del stated["out"], stated["k6"]
    stated["executors"] = options.executor_count
    stated["cores"] = available_cores()
    return stated


def _scenarios(
    options: Options, runs: Sequence[Run], workers: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for scenario in dict.fromkeys(run.scenario.name for run in runs):
        own = [run for run in runs if run.scenario.name == scenario]
        first = own[0].scenario
        by_mode = {mode: [run for run in own if run.mode == mode] for mode in ("closed", "open")}
        seen = {part: max(run.usage.parts[part].processes for run in own) for part in own[0].usage.parts}
        asked = layout(first, options)
        # The transport in use, if the worker said so: "auto" is only what was asked for.
        used = dataclasses.replace(
            asked, transport=workers.get(scenario, {}).get("transport", asked.transport)
        )
        entries[scenario] = {
            "title": first.title,
            "group": first.group,
            "role": first.role,
            "path": first.path,
            "layout": used.as_json() | {"transport_asked": asked.transport},
            "processes": seen | {"total": sum(seen.values())},
            **{mode: summarise(found) if found else None for mode, found in by_mode.items()},
            "runs": [run.as_json() for run in own],
            "series": _series(by_mode["closed"]),
        }
    return entries


def _series(closed: Sequence[Run]) -> list[list[float]]:
    """What the plot over time shows: the first round, of scenarios with a worker and of one without to compare with."""
    shown = [run for run in closed if run.scenario.role == "offload" or run.scenario.name == "baseline-cores"]
    return shown[0].usage.series if shown else []


def _shutdown(stopped: Sequence[StopReport]) -> dict[str, Any]:
    left: dict[str, list[str]] = {
        name: [process for report in stopped for process in getattr(report, name)]
        for name in ("terminated", "killed", "remaining")
    }
    sentence = f"All {len(stopped)} servers and their workers were stopped; nothing remains."
    if left["remaining"]:
        sentence = f"Processes remain after the stop: {', '.join(left['remaining'])}."
    elif left["killed"]:
        sentence = f"Nothing remains, but these had to be killed: {', '.join(left['killed'])}."
    elif left["terminated"]:
        sentence += f" {len(left['terminated'])} stayed after their server and were asked to end."
    return {**left, "sentence": sentence}
