"""The picture of a report: latency by size, distributions of the small call by condition, and rates by callers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.core.plots import log_scale, svg
from bench.micro.options import CONDITIONS, LAYOUTS
from bench.micro.payloads import size_name
from bench.micro.peers.table import VIEWS, of_row

OWN = {
    "shm": "#d9480f", "shm-same": "#f08c00", "shm-io": "#862e9c", "shm-same-io": "#cc5de8", "acall": "#c2255c",
    "acall-uvloop": "#e599b0", "shm-park": "#5c940d", "shm-same-park": "#94d82d", "ring": "#111111", "stdio": "#f0a070",
}  # fmt: skip
"""This project's colours; the others take theirs from a palette without any of these."""
TICKS = (0, 50, 90, 99, 99.9)
COLUMNS = 3
FONT = 10


def picture(document: Mapping[str, Any]) -> str:
    """The picture as SVG text."""
    from matplotlib import colormaps  # not at the top, as in `svg`

    # Browns and greens after the blues; the palette's oranges and reds would pass for this project's own.
    palette = [colormaps["tab20"](index) for index in (0, 1, 4, 5, 8, 9, 12, 13, 14, 16, 17, 18, 19)]
    others = [name for name in document["peers"] if name not in OWN and name not in VIEWS]
    colours = OWN | {name: palette[index % len(palette)] for index, name in enumerate(others)}
    small = str(min(int(size) for size in document["options"]["payload_sizes"]))
    shown = {
        condition: words
        for condition, words in CONDITIONS.items()
        if document["latency"].get(condition, {}).get(small)
    }
    # One place more: the rates.
    lines = math.ceil((len(shown) + 1) / COLUMNS)

    def draw(figure: Any) -> None:
        grid = figure.add_gridspec(1 + lines, COLUMNS)
        places = (grid[1 + number // COLUMNS, number % COLUMNS] for number in range(lines * COLUMNS))
        _by_size(figure.add_subplot(grid[0, :]), document["latency"].get("idle", {}), colours)
        first = None
        for condition, words in shown.items():
            axes = figure.add_subplot(next(places), sharey=first)
            first = first or axes
            title = f"{size_name(int(small))}, us by percentile:\n{words}"
            percentiles = document["curve_percentiles"]
            _distribution(axes, title, percentiles, document["latency"][condition][small], colours)
        _rates(figure.add_subplot(next(places)), document["throughput"], colours)
        figure.suptitle(f"What one call costs, {document['created_utc']}", fontsize=FONT + 2)

    return svg(draw, height=5 * (1 + lines), width=15)


def _style(name: str, colours: Mapping[str, Any]) -> dict[str, Any]:
    peer, raw = of_row(name)
    return {
        "color": colours[peer],
        "label": name,
        "linewidth": 2.5 if peer in OWN else 1.2,
        "linestyle": "--" if raw else "-",
    }


def _by_size(axes: Any, idle: Mapping[str, Any], colours: Mapping[str, Any]) -> None:
    axes.set_title("p50 us by payload size, one caller, an idle machine (less is better)", fontsize=FONT)
    sizes = [int(size) for size in idle]
    for name in dict.fromkeys(name for figures in idle.values() for name in figures if name not in VIEWS):
        points = [
            (int(size), figures[name]["p50_us"]["median"])
            for size, figures in idle.items()
            if name in figures
        ]
        if points:
            marker = "o" if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), marker=marker, markersize=4, **_style(name, colours))
    axes.set_xscale("log", base=2)
    log_scale(axes, "y")
    axes.set_xticks(sizes, [size_name(size) for size in sizes])
    axes.grid()
    if axes.lines:
        axes.legend(ncols=2, fontsize=FONT - 1, loc="center left", bbox_to_anchor=(1.0, 0.5))


def _distribution(
    axes: Any, title: str, percentiles: Sequence[float], peers: Mapping[str, Any], colours: Mapping[str, Any]
) -> None:
    axes.set_title(title, fontsize=FONT)
    for name, figures in peers.items():
        if name in VIEWS:
            continue
        axes.plot([_nines(q) for q in percentiles], figures["curve_us"], **_style(name, colours))
    log_scale(axes, "y")
    axes.set_xticks([_nines(q) for q in TICKS], [f"{q:g}" for q in TICKS])
    axes.grid()


def _nines(q: float) -> float:
    """Where a percentile stands on an axis that gives each further nine as much room."""
    return -math.log10(1 - min(q, 99.95) / 100)


def _rates(axes: Any, throughput: Mapping[str, Any], colours: Mapping[str, Any]) -> None:
    """Calls per second of one client process by its callers. A name stands at the end of its line."""
    axes.set_title("thousand calls/s by threads or tasks that call at once\n(more is better)", fontsize=FONT)
    for name, points in _lines(throughput).items():
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, **_style(name, colours))
        axes.annotate(
            name,
            points[-1],
            xytext=(4, -3),
            textcoords="offset points",
            fontsize=FONT - 1,
            color=colours[name],
        )
    axes.set_xscale("log", base=2)
    ticks = sorted({layout.callers for layout in LAYOUTS})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.set_ylim(bottom=0)
    axes.margins(x=0.2)
    axes.grid()


def _lines(throughput: Mapping[str, Any]) -> dict[str, list[tuple[int, float]]]:
    lines: dict[str, list[tuple[int, float]]] = {}
    for layout in LAYOUTS:
        if layout.clients == 1:
            for name, figures in throughput.get(layout.name, {}).items():
                if figures["calls_s"]:
                    lines.setdefault(name, []).append((layout.callers, figures["calls_s"]["median"] / 1000))
    return lines
