"""The tables of a report, made from the results document alone and free of any markup."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from bench.core.tables import Table, middle, number, with_range
from bench.demo.scenarios import GROUPS
from bench.demo.studies.registry import STUDIES

MODES = {
    "closed": "closed loop (each client asks again at once, and none is refused for its wait)",
    "open": "open loop (constant arrival rate)",
}
Entry = Mapping[str, Any]


def tables(document: Entry) -> Iterator[Table]:
    """Every table of the report but the criteria, in reading order."""
    if document["ablation"]["steps"]:
        yield _ablation_table(document["ablation"]["steps"])
    for name, section in document["studies"].items():
        yield from STUDIES[name].tables(section)
    for group in GROUPS.values():
        members = members_of(document, group.name)
        if not members:
            continue
        yield _layout_table(group.title, members)
        for mode, words in MODES.items():
            shown = {name: entry[mode] for name, entry in members.items() if entry.get(mode)}
            if shown:
                rate = next(iter(shown.values()))["rate"]
                at = f", {rate} requests/s" if rate is not None else ""
                yield _load_table(f"{group.title}: {words}{at}", shown)
                yield _usage_table(f"{group.title}: processor and memory, {mode} loop", shown)
        ratios = [entry for entry in document["comparisons"] if entry["group"] == group.name]
        if ratios:
            yield _ratio_table(f"{group.title}: ratios within each round", ratios)
        metrics = {
            f"{name}, {mode}": entry[mode]["worker_metrics"]
            for name, entry in members.items()
            for mode in MODES
            if entry.get(mode) and entry["role"] == "offload" and entry[mode]["worker_metrics"]["rows"]
        }
        if metrics:
            yield _metrics_table(f"{group.title}: worker metrics, p50 / p95", metrics)


def members_of(document: Entry, group: str) -> dict[str, Any]:
    """The scenarios of a group."""
    return {name: entry for name, entry in document["scenarios"].items() if entry["group"] == group}


def _ablation_table(steps: Iterable[Entry]) -> Table:
    rows = tuple(
        (
            step["explains"],
            step["title"],
            f"{step['before']} to {step['after']}",
            *(with_range(step[name], 2) for name in ("req_s", "cpu_ms_per_request", "p99_ms")),
        )
        for step in steps
    )
    columns = ("from", "what is changed", "scenarios", "req/s, times", "CPU/req, times", "p99, times")
    return Table("Where the gain comes from: list endpoint, closed loop", columns, rows, left=3)


def _layout_table(title: str, members: Entry) -> Table:
    rows = []
    for name, entry in members.items():
        layout, seen = entry["layout"], entry["processes"]
        rows.append(
            (
                name,
                entry["title"],
                f"{layout['server_processes']} x {layout['server_threads']}",
                f"{layout['workers'] or '?'} x {layout['executors']}" if layout["executors"] else "-",
                layout["transport"] or "-",
                f"{seen['server']} + {seen['worker']} = {seen['total']}",
            )
        )
    columns = (
        "scenario",
        "what",
        "server processes x threads",
        "workers x executors",
        "transport",
        "all processes: server + worker",
    )
    return Table(f"{title}: what ran", columns, tuple(rows), left=2)


def _load_table(title: str, shown: Entry) -> Table:
    spreads = {
        "req_s": "req/s",
        "p50_ms": "p50 ms",
        "p95_ms": "p95 ms",
        "p99_ms": "p99 ms",
        "p999_ms": "p99.9 ms",
    }
    rows = tuple(
        (
            name,
            f"{summary['error_rate']:.2%}" if summary["error_rate"] else "0",
            str(summary["ok"]),
            *(with_range(summary[figure]) for figure in spreads),
            number(summary["bytes_received"] / 1e6),
            middle(summary["cpu_ms_per_request"]),
        )
        for name, summary in shown.items()
    )
    columns = ("scenario", "errors", "answers", *spreads.values(), "MB received", "CPU ms/req")
    return Table(title, columns, rows)


def _usage_table(title: str, shown: Entry) -> Table:
    rows = tuple(
        (
            name,
            part,
            str(usage["processes"]),
            *(number(usage[figure][end]) for figure in ("cpu_percent", "rss_mib") for end in ("avg", "max")),
            number(usage["pss_mib"]),
            str(usage["samples"]),
        )
        for name, summary in shown.items()
        for part in ("server", "worker")
        if (usage := summary[part])["processes"]
    )
    figures = ("CPU % avg", "CPU % max", "RSS MiB avg", "RSS MiB max", "PSS MiB", "samples")
    return Table(title, ("scenario", "part", "processes", *figures), rows, left=2)


def _ratio_table(title: str, ratios: Iterable[Entry]) -> Table:
    columns = {
        ("closed", "req_s"): "closed: req/s (more is better)",
        ("closed", "p95_ms"): "closed: p95 (less is better)",
        ("closed", "cpu_ms_per_request"): "closed: CPU/req",
        ("open", "p50_ms"): "open: p50",
        ("open", "p95_ms"): "open: p95",
        ("open", "p99_ms"): "open: p99",
    }
    rows = tuple(
        (
            f"{entry['candidate']} / {entry['baseline']}",
            *(with_range((entry[mode] or {}).get(figure), 2) for mode, figure in columns),
        )
        for entry in ratios
    )
    return Table(title, ("ratio", *columns.values()), rows)


def _metrics_table(title: str, metrics: Entry) -> Table:
    names = ("queue_depth", "queue_us", "decode_us", "handler_us", "encode_us", "exec_us", "client_us")
    rows = tuple(
        (
            label,
            str(values["rows"]),
            *(
                f"{number(values[name]['p50'])} / {number(values[name]['p95'])}" if name in values else "-"
                for name in names
            ),
        )
        for label, values in metrics.items()
    )
    return Table(title, ("scenario, loop", "rows", *names), rows)
