"""Draws the charts of a report: latency by size, and distributions of the small call by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.micro.figures import CURVE
from bench.micro.options import CONDITIONS
from bench.micro.payloads import size_name
from bench.micro.peers import of_row

OWN = {"shm": "#d9480f", "ring": "#111111", "stdio": "#f0a070"}
"""This project's colours; the others take theirs from a palette without any of these."""
TICKS = (0, 50, 90, 99, 99.9)


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Writes the charts as one SVG to `path`."""
    # Not at the top: it takes a second, and only the end of a benchmark needs it. The figure is made without
    # pyplot, which would look for a display.
    from matplotlib import colormaps, rc_context
    from matplotlib.figure import Figure

    # The browns and greens after the blues: its oranges and reds would pass for ours.
    palette = [colormaps["tab20"](index) for index in (0, 1, 4, 5, 8, 9, 12, 13, 14, 16, 17, 18, 19)]
    others = [name for name in document["peers"] if name not in OWN]
    colours = OWN | {name: palette[index % len(palette)] for index, name in enumerate(others)}
    small = str(min(int(size) for size in document["options"]["payload_sizes"]))
    shown = {
        condition: words
        for condition, words in CONDITIONS.items()
        if document["latency"].get(condition, {}).get(small)
    }
    # A fixed salt and no date: the same document gives the same file.
    with rc_context({"svg.hashsalt": "micro", "font.size": 9}):
        figure = Figure(figsize=(13, 10), layout="constrained")
        grid = figure.add_gridspec(2, max(1, len(shown)), height_ratios=(1, 1))
        axes = figure.add_subplot(grid[0, :])
        _by_size(axes, document["latency"].get("idle", {}), colours)
        first = None
        for column, (condition, words) in enumerate(shown.items()):
            place = figure.add_subplot(grid[1, column], sharey=first)
            first = first or place
            title = f"{size_name(int(small))}, us by percentile\n{words}"
            _distribution(place, title, document["latency"][condition][small], colours)
        figure.suptitle(f"What one call costs, {document['created_utc']}", fontsize=10)
        figure.savefig(path, format="svg", metadata={"Date": None})


def _style(name: str, colours: Mapping[str, Any]) -> dict[str, Any]:
    peer, raw = of_row(name)
    return {
        "color": colours[peer],
        "label": name,
        "linewidth": 2.5 if peer in OWN else 1.2,
        "linestyle": "--" if raw else "-",
    }


def _by_size(axes: Any, idle: Mapping[str, Any], colours: Mapping[str, Any]) -> None:
    axes.set_title("p50 us by payload size, one caller, an idle machine (less is better)", fontsize=9)
    sizes = [int(size) for size in idle]
    for name in dict.fromkeys(name for figures in idle.values() for name in figures):
        points = [
            (int(size), figures[name]["p50_us"]["median"])
            for size, figures in idle.items()
            if name in figures
        ]
        if points:
            axes.plot(*zip(*points, strict=True), marker="o", markersize=3, **_style(name, colours))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xticks(sizes, [size_name(size) for size in sizes])
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(ncols=1, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _distribution(axes: Any, title: str, peers: Mapping[str, Any], colours: Mapping[str, Any]) -> None:
    axes.set_title(title, fontsize=8)
    for name, figures in peers.items():
        places = [_nines(q) for q in CURVE]
        axes.plot(places, figures["curve_us"], **_style(name, colours))
    axes.set_yscale("log")
    axes.set_xticks([_nines(q) for q in TICKS], [f"{q:g}" for q in TICKS])
    axes.grid(alpha=0.3)


def _nines(q: float) -> float:
    """Where a percentile stands on an axis that gives each further nine as much room."""
    return -math.log10(1 - min(q, 99.95) / 100)
