"""The picture of a report: latency by size, and distributions of the small call by condition."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.plots import log_scale, svg
from bench.micro.options import CONDITIONS
from bench.micro.payloads import size_name
from bench.micro.peers.table import of_row

OWN = {"shm": "#d9480f", "ring": "#111111", "stdio": "#f0a070"}
"""This project's colours; the others take theirs from a palette without any of these."""
TICKS = (0, 50, 90, 99, 99.9)


def picture(document: Mapping[str, Any]) -> str:
    """The picture as SVG text."""
    from matplotlib import colormaps  # not at the top, as in `svg`

    # Browns and greens after the blues; the palette's oranges and reds would pass for this project's own.
    palette = [colormaps["tab20"](index) for index in (0, 1, 4, 5, 8, 9, 12, 13, 14, 16, 17, 18, 19)]
    others = [name for name in document["peers"] if name not in OWN]
    colours = OWN | {name: palette[index % len(palette)] for index, name in enumerate(others)}
    small = str(min(int(size) for size in document["options"]["payload_sizes"]))
    shown = {
        condition: words
        for condition, words in CONDITIONS.items()
        if document["latency"].get(condition, {}).get(small)
    }

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(2, max(1, len(shown)), height_ratios=(1, 1))
        axes = figure.add_subplot(grid[0, :])
        _by_size(axes, document["latency"].get("idle", {}), colours)
        first = None
        for column, (condition, words) in enumerate(shown.items()):
            place = figure.add_subplot(grid[1, column], sharey=first)
            first = first or place
            title = f"{size_name(int(small))}, us by percentile\n{words}"
            percentiles = document["curve_percentiles"]
            _distribution(place, title, percentiles, document["latency"][condition][small], colours)
        figure.suptitle(f"What one call costs, {document['created_utc']}", fontsize=10)

    return svg(draw, height=10, width=13)


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
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=3, **_style(name, colours))
    axes.set_xscale("log", base=2)
    log_scale(axes, "y")
    axes.set_xticks(sizes, [size_name(size) for size in sizes])
    axes.grid()
    if axes.lines:
        axes.legend(ncols=1, fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _distribution(
    axes: Any, title: str, percentiles: Sequence[float], peers: Mapping[str, Any], colours: Mapping[str, Any]
) -> None:
    axes.set_title(title, fontsize=8)
    for name, figures in peers.items():
        axes.plot([_nines(q) for q in percentiles], figures["curve_us"], **_style(name, colours))
    log_scale(axes, "y")
    axes.set_xticks([_nines(q) for q in TICKS], [f"{q:g}" for q in TICKS])
    axes.grid()


def _nines(q: float) -> float:
    """Where a percentile stands on an axis that gives each further nine as much room."""
    return -math.log10(1 - min(q, 99.95) / 100)
