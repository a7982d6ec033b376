"""The tables of a report, made from the results document alone and free of any markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.statistics import ratio, spread_json
from bench.core.tables import Table, middle, number, with_range
from bench.micro.options import CONDITIONS, LAYOUTS
from bench.micro.payloads import MIB, size_name
from bench.micro.peers.table import REFERENCES, VIEWS, like, of_row, row
from bench.micro.report.figures import LATENCIES

Figures = Mapping[str, Any]


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the report, in reading order."""
    yield _peers(document)
    sizes = [int(size) for size in document["options"]["payload_sizes"]]
    for condition, words in CONDITIONS.items():
        measured = document["latency"].get(condition, {})
        if measured.get(str(sizes[0])):
            small = measured[str(sizes[0])]
            yield _latency(f"One caller, {size_name(sizes[0])}, {words}", small)
            yield _usage(f"One caller, {size_name(sizes[0])}, {words}: what a call took", small)
    idle = document["latency"].get("idle", {})
    if len(idle) > 1:
        yield _by_size(idle)
    large = {size: figures for size, figures in idle.items() if int(size) >= MIB and figures}
    if large:
        yield _bandwidth(document, large)
    if document["throughput"]:
        for kind, words in (("thread", "threads and processes"), ("task", "tasks of one event loop")):
            layouts = {layout.name: layout for layout in LAYOUTS if layout.kind == kind}
            found = {name: document["throughput"][name] for name in layouts if name in document["throughput"]}
            if found:
                title = f"Several callers, {document['options']['executors']} executors, {words}"
                yield _throughput(f"{title}: calls/s", found, "calls_s")
                yield _throughput(f"{title}: processor time of both sides, us/call", found, "cpu_us_per_call")
                yield _throughput(f"{title}: processors' time that nobody had, %", found, "idle_percent")
    views = {name: idle[str(sizes[0])][name] for name in VIEWS if name in idle.get(str(sizes[0]), {})}
    if views:
        yield _views(views)
    if document["idle_cpu"]:
        yield _idle(document)


def _peers(document: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, entry["title"], entry["carries"], entry["waits"], entry["not_run"] or "yes")
        for name, entry in document["peers"].items()
    )
    return Table("Peers", ("peer", "what", "payload as", "who waits", "ran"), rows, left=5)


def _latency(title: str, peers: Mapping[str, Any]) -> Table:
    """Each figure beside the reference of the same kind of session."""
    references = [name for name in REFERENCES if any(like(name, peer) in peers for peer in peers)]
    columns = [(name, "p50_us") for name in references]
    columns += [("pipe", figure) for figure in LATENCIES[1:] if "pipe" in references]
    rows = tuple(
        (
            name,
            str(figures["calls"]),
            *(with_range(figures[figure]) for figure in LATENCIES),
            *(_ratio(name, peers, figure, like(reference, name)) for reference, figure in columns),
        )
        for name, figures in peers.items()
    )
    ratios = [f"{figure.removesuffix('_us')} / {name}" for name, figure in columns]
    return Table(title, ("peer", "calls", "p50 us", "p99 us", "mean us", *ratios), rows)


def _usage(title: str, peers: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            with_range(figures["cpu_us_per_call"]),
            with_range(figures["own_cpu_us_per_call"]),
            with_range(figures["idle_percent"]),
        )
        for name, figures in peers.items()
    )
    columns = ("peer", "processor us, both sides", "caller's part", "machine idle, %")
    return Table(title, columns, rows)


def _views(views: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            name,
            with_range(figures["own_cpu_us_per_call"]),
            _ratio(name, views, "own_cpu_us_per_call", "view"),
            with_range(figures["cpu_us_per_call"]),
            _ratio(name, views, "cpu_us_per_call", "view"),
        )
        for name, figures in views.items()
        if figures["cpu_us_per_call"]
    )
    columns = ("request to", "server's process, us", "/ view", "with the worker, us", "/ view")
    return Table("A Django request to an empty view: processor time", columns, rows)


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
    """Bytes as they are come first: what it costs to write an object as bytes is no matter of what carries them."""
    names = dict.fromkeys(name for figures in large.values() for name in figures)
    rows = []
    for name in sorted(names, key=lambda name: not of_row(name)[1]):
        peer, raw = of_row(name)
        cells = [name, "as it is" if raw else document["peers"][peer]["carries"]]
        for size, figures in large.items():
            rounds = figures[name]["mean_us"]["rounds"] if name in figures else ()
            cells.append(with_range(spread_json(int(size) / MIB / (us / 1e6) for us in rounds)))
            cells.append(_ratio("pipe", figures, "mean_us", name))
        rows.append(tuple(cells))
    columns = [column for size in large for column in (f"{size_name(int(size))}: MiB/s", "/ pipe")]
    return Table(
        "Payload there and back, an idle machine", ("peer", "payload", *columns), tuple(rows), left=2
    )


def _throughput(title: str, layouts: Mapping[str, Any], figure: str) -> Table:
    names = dict.fromkeys(name for figures in layouts.values() for name in figures)
    rows = tuple(
        (
            name,
            *(with_range(figures[name][figure]) if name in figures else "-" for figures in layouts.values()),
        )
        for name in names
    )
    return Table(title, ("peer", *layouts), rows)


def _idle(document: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, str(entry["processes"]), number(entry["seconds"]), f"{entry['percent']:.3f}")
        for name, entry in document["idle_cpu"].items()
    )
    return Table("Nothing asked: processor time", ("peer", "processes", "s", "% of a core"), rows)


def _ratio(over: str, peers: Mapping[str, Figures], figure: str, under: str) -> str:
    """How many times one peer's figure another's is, within each round; that of raw rows to raw rows."""
    raw = of_row(over)[1] or of_row(under)[1]
    pair = [peers.get(row(of_row(name)[0], raw)) for name in (over, under)]
    if pair[0] is None or pair[1] is None:
        return "-"
    rounds = [_by_round(figures, figure) for figures in pair if figures is not None]
    found = ratio(*rounds)
    return middle(found.as_json() if found is not None else None)


def _by_round(figures: Figures, figure: str) -> dict[int, float]:
    """A figure by the number of its round: not every peer takes part in each."""
    return dict(zip(figures["in_rounds"], figures[figure]["rounds"], strict=True)) if figures[figure] else {}
