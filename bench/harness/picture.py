"""Draws the chart of a report: throughput of the closed loop beside latency of the open loop, by group."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.scenarios import GROUPS

COLOURS = {"baseline": "#7f8c9b", "offload": "#d9622b"}
SHADES = {"p50": 0.45, "p95": 0.7, "p99": 1.0}


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Writes the chart as SVG to `path`."""
    # Not at the top: it takes a second, and only the end of a benchmark needs it. The figure is made without
    # pyplot, which would look for a display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    groups = [group for group in GROUPS.values() if _members(document, group.name)]
    # A fixed salt and no date: the same document gives the same file.
    with rc_context({"svg.hashsalt": "demo", "font.size": 9}):
        figure = Figure(figsize=(11, 0.9 + 3.3 * len(groups)), layout="constrained")
        grid = figure.subplots(len(groups), 2, squeeze=False)
        for row, group in zip(grid, groups, strict=True):
            members = _members(document, group.name)
            _throughput(row[0], group.title, members)
            _latency(row[1], group.title, members)
        note = "  There were errors: see the report." if document["errors"] else ""
        figure.suptitle(f"Demo benchmark, {document['created_utc']}.{note}", fontsize=10)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _members(document: Mapping[str, Any], group: str) -> dict[str, Any]:
    return {name: entry for name, entry in document["scenarios"].items() if entry["group"] == group}


def _labels(members: Mapping[str, Any]) -> list[str]:
    return [f"{name}\n({entry['processes']['total']} processes)" for name, entry in members.items()]


def _throughput(axes: Any, title: str, members: Mapping[str, Any]) -> None:
    axes.set_title(f"{title}\nrequests/s, closed loop (more is better)", fontsize=9)
    places = range(len(members))
    for place, entry in zip(places, members.values(), strict=True):
        figures = (entry["closed"] or {}).get("req_s")
        if figures is None:
            continue
        median = figures["median"]
        reach = [[median - figures["min"]], [figures["max"] - median]]
        bars = axes.bar(place, median, 0.6, color=COLOURS[entry["role"]], yerr=reach, capsize=4)
        axes.bar_label(bars, fmt="%.0f", padding=3)
    axes.set_xticks(list(places), _labels(members))
    axes.margins(y=0.15)


def _latency(axes: Any, title: str, members: Mapping[str, Any]) -> None:
    rates = {(entry.get("open") or {}).get("rate") for entry in members.values()} - {None}
    at = f" at {rates.pop()}/s" if rates else ""
    axes.set_title(f"{title}\nlatency ms, open loop{at}: p50, p95, p99 (less is better)", fontsize=9)
    width = 0.26
    for place, entry in enumerate(members.values()):
        for index, (name, shade) in enumerate(SHADES.items()):
            figures = (entry.get("open") or {}).get(f"{name}_ms")
            if figures is None:
                continue
            median = figures["median"]
            reach = [[median - figures["min"]], [figures["max"] - median]]
            style = {"color": COLOURS[entry["role"]], "alpha": shade, "capsize": 2}
            bars = axes.bar(place + (index - 1) * width, median, width, yerr=reach, **style)
            axes.bar_label(bars, fmt="%.3g", padding=2, fontsize=7)
    axes.set_xticks(list(range(len(members))), _labels(members))
    axes.margins(y=0.15)
