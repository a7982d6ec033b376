"""Assembles the results document: the object that is stored as JSON and that all reports are made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from bench.harness.ablation import ablation
from bench.harness.aggregate import Run, compare, find_errors, find_warnings, summarise
from bench.harness.criteria import criteria
from bench.harness.options import Options, available_cores
from bench.harness.scenarios import layout
from bench.harness.servers import StopReport

SCHEMA_VERSION = 2
FAKE_DATABASE = {
    "delay_ms": "MOLT_FAKE_DB_DELAY_MS",
    "decode_us_per_row": "MOLT_FAKE_DB_DECODE_US_PER_ROW",
    "cpu_iters": "MOLT_FAKE_DB_CPU_ITERS",
}


def build(
    *,
    options: Options,
    command: str,
    created: datetime,
    elapsed_s: float,
    surroundings: Mapping[str, Any],
    settings: Mapping[str, Mapping[str, str]],
    workers: Mapping[str, Mapping[str, Any]],
    client: Mapping[str, Any] | None,
    alike: Mapping[str, Any],
    runs: Sequence[Run],
    stopped: Sequence[StopReport],
    logs: Mapping[str, str] | None = None,
    torn_lines: int = 0,
    build: Mapping[str, Any] | None = None,
    studies: Mapping[str, Any] | None = None,
    doubts: Sequence[str] = (),
) -> dict[str, Any]:
    """The results document; its fields are described in `bench/README.md`."""
    scenarios = _scenarios(options, runs, workers)
    errors = find_errors(scenarios)
    warnings = find_warnings(runs, scenarios)
    warnings += [
        f"{name} ran over stdio: there was no shared memory for it."
        for name, entry in scenarios.items()
        if (entry["layout"]["transport_asked"], entry["layout"]["transport"]) == ("auto", "stdio")
    ]
    if torn_lines:
        warnings.append(f"{torn_lines} lines at the end of the metrics files were torn.")
    warnings += doubts
    if build and "failed" in build:
        warnings.append(f"The handler cores could not be compiled, so all ran in Python: {build['failed']}")
    shutdown = _shutdown(stopped)
    if shutdown["remaining"] or shutdown["killed"]:
        warnings.append(shutdown["sentence"])
    first = next(iter(settings.values()), {})
    comparisons = compare(runs)
    found = {"comparisons": comparisons, "studies": dict(studies or {}), "scenarios": scenarios}
    return {
        "schema_version": SCHEMA_VERSION,
        "kind": "molt-accel demo benchmark",
        "created_utc": created.isoformat(timespec="seconds"),
        "elapsed_s": round(elapsed_s, 1),
        "command": command,
        "errors": errors,
        "warnings": warnings,
        **surroundings,
        "options": _options(options),
        "configuration": {
            "fake_database": {name: first.get(variable, "0") for name, variable in FAKE_DATABASE.items()},
            "scenarios": {name: dict(values) for name, values in settings.items()},
            "workers": {name: dict(facts) for name, facts in workers.items()},
            "client": dict(client) if client is not None else None,
        },
        "verified": dict(alike),
        "build": dict(build or {}),
        "criteria": criteria(found),
        "ablation": ablation(runs),
        **found,
        "logs": dict(logs or {}),
        "shutdown": shutdown,
    }


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
        by_mode = {mode: [run for run in own if run.mode == mode] for mode in ("closed", "open")}
        seen = {
            part: max(run.usage.parts[part].processes for run in own) for part in ("server", "worker")
        }  # fmt: skip
        wished = layout(own[0].scenario, options)
        # The one in use, where the worker said so: "auto" is a wish.
        laid_out = dataclasses.replace(
            wished, transport=workers.get(scenario, {}).get("transport", wished.transport)
        ).as_json() | {"transport_asked": wished.transport}
        entries[scenario] = {
            "title": own[0].scenario.title,
            "group": own[0].scenario.group,
            "role": own[0].scenario.role,
            "path": own[0].scenario.path,
            "layout": laid_out,
            "processes": seen | {"total": sum(seen.values())},
            **{mode: summarise(found) if found else None for mode, found in by_mode.items()},
            "runs": [run.as_json() for run in own],
        }
    return entries


def _shutdown(stopped: Sequence[StopReport]) -> dict[str, Any]:
    terminated = [name for report in stopped for name in report.terminated]
    killed = [name for report in stopped for name in report.killed]
    remaining = [name for report in stopped for name in report.remaining]
    sentence = f"All {len(stopped)} servers and their workers were stopped; nothing remains."
    if remaining:
        sentence = f"Processes remain after the stop: {', '.join(remaining)}."
    elif killed:
        sentence = f"Nothing remains, but these had to be killed: {', '.join(killed)}."
    elif terminated:
        sentence += f" {len(terminated)} stayed after their server and were asked to end."
    return {"terminated": terminated, "killed": killed, "remaining": remaining, "sentence": sentence}
