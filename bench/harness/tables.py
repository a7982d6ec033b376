"""The tables and sentences of a report, made from the results document alone and free of any markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.scenarios import GROUPS
from bench.harness.studies import STUDIES
from bench.harness.table import Table

CAVEAT = (
    "k6, the servers and the worker share one machine: k6 takes processor time that the servers can't have, "
    "so the figures compare the scenarios with each other and are not what this machine could serve."
)
MODES = {
    "closed": "closed loop (each client asks again at once)",
    "open": "open loop (constant arrival rate)",
}


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the report, in reading order."""
    measured = [entry for entry in document.get("criteria", ()) if entry["reached"] is not None]
    if measured:
        yield _criteria_table(measured)
    if document.get("ablation", {}).get("steps"):
        yield _ablation_table(document["ablation"]["steps"])
    for name, section in document.get("studies", {}).items():
        yield from STUDIES[name].tables(section)
    for group in GROUPS.values():
        members = {
            name: entry for name, entry in document["scenarios"].items() if entry["group"] == group.name
        }
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


def _criteria_table(entries: list[Mapping[str, Any]]) -> Table:
    rows = []
    for entry in entries:
        wanted = (
            f"at least {entry['at_least']:g}"
            if entry["at_least"] is not None
            else f"at most {entry['at_most']:g}"
        )
        seen = entry["seen"]
        if isinstance(seen, Mapping):
            seen = _with_range(seen, digits=2)
        text = seen if isinstance(seen, str) else f"{seen:.2f}"
        rows.append((entry["title"], wanted, text, "reached" if entry["reached"] else "NOT reached"))
    return Table("What it has to show", ("figure", "wanted", "seen", ""), tuple(rows))


def _ablation_table(steps: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            step["explains"],
            step["title"],
            f"{step['before']} to {step['after']}",
            _with_range(step["req_s"], digits=2),
            _with_range(step["cpu_ms_per_request"], digits=2),
            _with_range(step["p99_ms"], digits=2),
        )
        for step in steps
    )
    columns = ("from", "what is changed", "scenarios", "req/s, times", "CPU/req, times", "p99, times")
    return Table("Where the gain comes from: list endpoint, closed loop", columns, rows, left=3)


def _layout_table(title: str, members: Mapping[str, Any]) -> Table:
    rows = []
    for name, entry in members.items():
        layout, seen = entry["layout"], entry["processes"]
        rows.append(
            (
                name,
                entry["title"],
                f"{layout['server_processes']} x {layout['server_threads']}",
                _executors(layout),
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


def _executors(layout: Mapping[str, Any]) -> str:
    return f"{layout['workers'] or '?'} x {layout['executors']}" if layout["executors"] else "-"


def _load_table(title: str, shown: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            f"{summary['error_rate']:.2%}" if summary["error_rate"] else "0",
            str(summary["ok"]),
            _with_range(summary["req_s"]),
            _with_range(summary["p50_ms"]),
            _with_range(summary["p95_ms"]),
            _with_range(summary["p99_ms"]),
            _with_range(summary["p999_ms"]),
            number(summary["bytes_received"] / 1e6),
            number(summary["cpu_ms_per_request"]["median"] if summary["cpu_ms_per_request"] else None),
        )
        for name, summary in shown.items()
    )
    columns = (
        "scenario",
        "errors",
        "answers",
        "req/s",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        "p99.9 ms",
        "MB received",
        "CPU ms/req",
    )
    return Table(title, columns, rows)


def _usage_table(title: str, shown: Mapping[str, Any]) -> Table:
    rows = []
    for name, summary in shown.items():
        for part in ("server", "worker"):
            usage = summary[part]
            if not usage["processes"]:
                continue
            rows.append(
                (
                    name,
                    part,
                    str(usage["processes"]),
                    number(usage["cpu_percent"]["avg"]),
                    number(usage["cpu_percent"]["max"]),
                    number(usage["rss_mib"]["avg"]),
                    number(usage["rss_mib"]["max"]),
                    number(usage["pss_mib"]),
                    str(usage["samples"]),
                )
            )
    figures = ("CPU % avg", "CPU % max", "RSS MiB avg", "RSS MiB max", "PSS MiB", "samples")
    columns = ("scenario", "part", "processes", *figures)
    return Table(title, columns, tuple(rows), left=2)


def _ratio_table(title: str, ratios: list[Mapping[str, Any]]) -> Table:
    rows = tuple(
        (
            f"{entry['candidate']} / {entry['baseline']}",
            _ratio(entry, "closed", "req_s"),
            _ratio(entry, "closed", "p95_ms"),
            _ratio(entry, "closed", "cpu_ms_per_request"),
            _ratio(entry, "open", "p50_ms"),
            _ratio(entry, "open", "p95_ms"),
            _ratio(entry, "open", "p99_ms"),
        )
        for entry in ratios
    )
    closed = ("closed: req/s (more is better)", "closed: p95 (less is better)", "closed: CPU/req")
    columns = ("ratio", *closed, "open: p50", "open: p95", "open: p99")
    return Table(title, columns, rows)


def _metrics_table(title: str, metrics: Mapping[str, Any]) -> Table:
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


def _ratio(entry: Mapping[str, Any], mode: str, name: str) -> str:
    return _with_range((entry[mode] or {}).get(name), digits=2)


def _with_range(over_rounds: Mapping[str, Any] | None, digits: int | None = None) -> str:
    if over_rounds is None:
        return "-"

    def shown(value: float) -> str:
        return f"{value:.{digits}f}" if digits is not None else number(value)

    if len(over_rounds["rounds"]) == 1:
        return shown(over_rounds["median"])
    return f"{shown(over_rounds['median'])} ({shown(over_rounds['min'])}-{shown(over_rounds['max'])})"


def number(value: float | None) -> str:
    """A figure at the precision a reader can use."""
    if value is None:
        return "-"
    if value == 0 or abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def headlines(document: Mapping[str, Any]) -> list[str]:
    """One sentence for each comparison: how the one scenario did against the other."""
    sentences: list[str] = []
    for name, section in document.get("studies", {}).items():
        sentences += STUDIES[name].sentences(section)
    for entry in document["comparisons"]:
        parts = []
        closed = (entry["closed"] or {}).get("req_s")
        if closed is not None:
            parts.append(f"{_with_range(closed, digits=2)} times the requests per second in the closed loop")
        cpu = (entry["closed"] or {}).get("cpu_ms_per_request")
        if cpu is not None:
            parts.append(f"{_with_range(cpu, digits=2)} times the processor time per request")
        opened = (entry["open"] or {}).get("p95_ms")
        if opened is not None:
            rate = document["scenarios"][entry["candidate"]]["open"]["rate"]
            parts.append(f"{_with_range(opened, digits=2)} times the p95 latency at {rate} requests/s")
        if parts:
            pair = (_described(document, entry[role]) for role in ("candidate", "baseline"))
            sentences.append(f"{' against '.join(pair)}: {', '.join(parts)}.")
    return sentences


def _described(document: Mapping[str, Any], name: str) -> str:
    return f"{name} ({document['scenarios'][name]['processes']['total']} processes)"
