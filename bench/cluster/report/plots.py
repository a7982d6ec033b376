"""The picture of a report: distributions of a call, and goodput by the number of pools."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from bench.core.plots import bar, log_scale, name_bars, svg

_OWN, _BARE, _OTHERS = "#d9480f", "#111111", ("#4c78a8", "#72b7b2", "#54a24b")
_TICKS = (0, 50, 90, 99, 99.9)


def picture(document: Mapping[str, Any]) -> str:
    """The picture as SVG text."""
    rows = {name: row for name, row in document["rows"].items() if "p50_us" in row}
    pools = (document["goodput"] or {"pools": {}})["pools"]

    def draw(figure: Any) -> None:
        left, middle, right = figure.subplots(1, 3, width_ratios=(1.2, 1.2, 0.8))
        _bars(left, rows)
        _distributions(middle, document["curve_percentiles"], rows)
        _goodput(right, document["goodput"], pools)
        figure.suptitle(f"Several hosts, {document['created_utc']}", fontsize=10)

    return svg(draw, height=4.2, width=14)


def _colours(rows: Mapping[str, Any]) -> dict[str, str]:
    others = [name for name in rows if name.split("-")[-1] in ("ray", "celery", "link")]
    return {
        name: _OTHERS[others.index(name) % len(_OTHERS)]
        if name in others
        else _BARE
        if "nats" in name
        else _OWN
        for name in rows
    }


def _bars(axes: Any, rows: Mapping[str, Any]) -> None:
    colours = _colours(rows)
    for place, (name, row) in enumerate(rows.items()):
        bar(axes, place, row["p50_us"], colours[name], "%.0f")
    axes.set_title("p50 of a call, us (less is better)", fontsize=9)
    if rows:
        log_scale(axes, "x")
    name_bars(axes, list(rows), "us")


def _distributions(axes: Any, percentiles: list[float], rows: Mapping[str, Any]) -> None:
    colours = _colours(rows)
    dashed = {"acall": ":", "far-acall": ":", "nats-uvloop": ":"}
    for name, row in rows.items():
        style = dashed.get(name, "--" if name.startswith("far-") else "-")
        places = [-math.log10(1 - min(q, 99.95) / 100) for q in percentiles]
        axes.plot(places, row["curve_us"], label=name, color=colours[name], linestyle=style, linewidth=1.5)
    axes.set_title("us by percentile, one caller", fontsize=9)
    if rows:
        log_scale(axes, "y")
        axes.legend(fontsize=7, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axes.set_xticks([-math.log10(1 - q / 100) for q in _TICKS], [f"{q:g}" for q in _TICKS])
    axes.grid()


def _goodput(axes: Any, goodput: Mapping[str, Any] | None, pools: Mapping[str, Any]) -> None:
    axes.set_title("answers in time per second, by pools", fontsize=9)
    numbers = [int(each) for each in pools]
    for number, figures in zip(numbers, pools.values(), strict=True):
        own = figures["own_s"]["median"]
        axes.bar(number, own, color=_OWN, width=0.6, label="own host" if number == numbers[0] else None)
        axes.bar(
            number, figures["goodput_s"]["median"] - own, bottom=own, color=_OTHERS[0], width=0.6,
            label="others" if number == numbers[0] else None,
        )  # fmt: skip
    if goodput is not None and numbers:
        axes.plot(
            numbers, [number * goodput["capacity_s"] for number in numbers], color=_BARE, marker="_",
            markersize=24, linestyle="none", label="capacity",
        )  # fmt: skip
        axes.set_xticks(numbers)
        axes.legend(fontsize=7)
