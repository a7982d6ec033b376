"""The tables of a report, made from the results document alone and free of any markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.harness.table import Table
from bench.harness.tables import number
from bench.micro.options import CONDITIONS
from bench.micro.payloads import MIB, size_name
from bench.micro.peers import of_row

REFERENCES = ("ring", "shm", "pipe")
"""The peers that the others are compared with."""
CAVEAT = (
    "On a busy core a fast peer makes thousands of calls between two that the scheduler holds up for "
    "milliseconds, so its p99 may know nothing of them; its mean does."
)
EXPLANATION = (
    "Figures are medians over interleaved rounds, with the least and the greatest in parentheses; ratios are "
    "taken within each round. Every call carries the payload there and back and is made by a process of the "
    "peer's own; what answers takes the object apart and puts it together again. Rows that end in -raw carry bytes "
    "as they are, with nothing packed on either side, and their ratios are to the raw rows. Cores are kept busy by "
    "one process each, pinned to it, of ordinary priority, that only computes; the peers are pinned nowhere. "
    + CAVEAT
)


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the report, in reading order."""
    yield _peers(document)
    sizes = [int(size) for size in document["options"]["payload_sizes"]]
    for condition, words in CONDITIONS.items():
        measured = document["latency"].get(condition, {})
        if measured.get(str(sizes[0])):
            yield _latency(f"One caller, {size_name(sizes[0])}, {words}", measured[str(sizes[0])])
    idle = document["latency"].get("idle", {})
    if len(idle) > 1:
        yield _by_size(idle)
    large = {size: figures for size, figures in idle.items() if int(size) >= MIB and figures}
    if large:
        yield _bandwidth(document, large)
    if document["throughput"]:
        yield _throughput(document, "calls_s", "calls/s")
        yield _throughput(document, "cpu_us_per_call", "processor time of both sides, us/call")
    if document["idle_cpu"]:
        yield _idle(document)
    yield _criteria(document)


def _peers(document: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, entry["title"], entry["carries"], entry["waits"], entry["not_run"] or "yes")
        for name, entry in document["peers"].items()
    )
    return Table("Peers", ("peer", "what", "payload as", "who waits", "ran"), rows, left=5)


def _latency(title: str, peers: Mapping[str, Any]) -> Table:
    references = [name for name in REFERENCES if name in peers]
    against = references[-1:]
    rows = tuple(
        (
            name,
            str(figures["calls"]),
            with_range(figures["p50_us"]),
            with_range(figures["p99_us"]),
            with_range(figures["mean_us"]),
            *(_median(figures["p50_ratio"].get(reference)) for reference in references),
            *(_median(figures["p99_ratio"].get(reference)) for reference in against),
        )
        for name, figures in peers.items()
    )
    ratios = [*(f"p50 / {name}" for name in references), *(f"p99 / {name}" for name in against)]
    return Table(title, ("peer", "calls", "p50 us", "p99 us", "mean us", *ratios), rows)


def _by_size(idle: Mapping[str, Any]) -> Table:
    names = dict.fromkeys(name for figures in idle.values() for name in figures)
    rows = tuple(
        (
            name,
            *(
                f"{number(figures[name]['p50_us']['median'])} / {number(figures[name]['p99_us']['median'])}"
                if name in figures
                else "-"
                for figures in idle.values()
            ),
        )
        for name in names
    )
    columns = ("peer", *(size_name(int(size)) for size in idle))
    return Table("One caller, by size, an idle machine: p50 / p99 us", columns, rows)


def _bandwidth(document: Mapping[str, Any], large: Mapping[str, Any]) -> Table:
    """Bytes as they are first: what it costs to write an object as bytes is no matter of what carries them."""
    names = dict.fromkeys(name for figures in large.values() for name in figures)
    rows = []
    for name in sorted(names, key=lambda name: not of_row(name)[1]):
        peer, raw = of_row(name)
        cells = [name, "as it is" if raw else document["peers"][peer]["carries"]]
        for figures in large.values():
            if name in figures:
                cells += [
                    with_range(figures[name]["mib_s"]),
                    _median(figures[name]["mib_s_ratio"].get("pipe")),
                ]
            else:
                cells += ["-", "-"]
        rows.append(tuple(cells))
    columns = [column for size in large for column in (f"{size_name(int(size))}: MiB/s", "/ pipe")]
    return Table(
        "Payload there and back, an idle machine", ("peer", "payload", *columns), tuple(rows), left=2
    )


def _throughput(document: Mapping[str, Any], figure: str, what: str) -> Table:
    layouts = document["throughput"]
    names = dict.fromkeys(name for figures in layouts.values() for name in figures)
    rows = tuple(
        (
            name,
            *(with_range(figures[name][figure]) if name in figures else "-" for figures in layouts.values()),
        )
        for name in names
    )
    title = f"Several callers, {document['options']['executors']} executors: {what}"
    return Table(title, ("peer", *layouts), rows)


def _idle(document: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, str(entry["processes"]), number(entry["seconds"]), f"{entry['percent']:.3f}")
        for name, entry in document["idle_cpu"].items()
    )
    return Table("Nothing asked: processor time", ("peer", "processes", "s", "% of a core"), rows)


def _criteria(document: Mapping[str, Any]) -> Table:
    words = {True: "reached", False: "NOT REACHED", None: "not measured"}
    rows = tuple(
        (
            entry["name"],
            f"{entry['comparison']} {entry['limit']:g} {entry['unit']}".strip(),
            _judged(entry),
            words[entry["reached"]],
        )
        for entry in document["criteria"]
    )
    return Table("Criteria", ("criterion", "allowed", "measured", ""), rows)


def _judged(entry: Mapping[str, Any]) -> str:
    """The figure as exactly as it was judged: one that seems to be its limit may be on either side of it."""
    if entry["value"] is None:
        return "-"
    value = f"{entry['value']:.4g}"
    over_rounds = entry["spread"]
    if over_rounds is None or len(over_rounds["rounds"]) == 1:
        return value
    return f"{value} ({number(over_rounds['min'])}-{number(over_rounds['max'])})"


def _median(over_rounds: Mapping[str, Any] | None) -> str:
    return "-" if over_rounds is None else number(over_rounds["median"])


def with_range(over_rounds: Mapping[str, Any] | None) -> str:
    """The median with the least and the greatest round."""
    if over_rounds is None:
        return "-"
    if len(over_rounds["rounds"]) == 1:
        return number(over_rounds["median"])
    least, greatest = number(over_rounds["min"]), number(over_rounds["max"])
    return f"{number(over_rounds['median'])} ({least}-{greatest})"
