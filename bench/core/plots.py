"""What all plots share: SVG that is small and the same for the same document, and bars with their range."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from typing import Any

_NUMBER = re.compile(r"-?\d+\.\d{2,}")
_SUPERFLUOUS = (
    (re.compile(r">\s+<"), "><"),
    (re.compile(r'<g id="[^"]*"'), "<g"),
    (re.compile(r' transform="rotate\(-0 [^"]*"'), ""),
    (re.compile(r" \nL "), " "),  # a line goes on to the next point by itself
)


def svg(draw: Callable[[Any], None], height: float, width: float = 8.6) -> str:
    """A figure as SVG text; `draw` gets the matplotlib figure. Sizes in inches.

    The text has no date and fixed names, so the same document gives the same file. Letters are text and not outlines,
    and coordinates have one digit behind the point: a few times smaller, and not to be seen.
    """
    # Not at the top: the import takes a second, and only the end of a benchmark needs it. Without pyplot, which would
    # look for a display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.hashsalt": "bench",
        "svg.fonttype": "none",
        "font.sans-serif": ["DejaVu Sans"],
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": "#e4e4e4",
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, facecolor="white")
    made = _NUMBER.sub(lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), text.getvalue())
    for pattern, instead in _SUPERFLUOUS:
        made = pattern.sub(instead, made)
    return made


def log_scale(axes: Any, *names: str) -> None:
    """Makes axes (`x`, `y`) logarithmic, with plain numbers at full decades and nothing between."""
    for name in names:
        getattr(axes, f"set_{name}scale")("log")
        getattr(axes, f"{name}axis").set_major_formatter("{x:g}")
    axes.minorticks_off()


def reach(spread: Mapping[str, Any]) -> list[list[float]]:
    """Least and greatest of a spread as matplotlib wants them: distances from the median."""
    median = spread["median"]
    return [[median - spread["min"]], [spread["max"] - median]]


def bar(axes: Any, place: float, spread: Mapping[str, Any], colour: str, figure: str, **style: Any) -> None:
    """A horizontal bar to the median, with a line from least to greatest and the figure (a format) behind it."""
    style = {"height": 0.62, "capsize": 3} | style
    bars = axes.barh(place, spread["median"], color=colour, xerr=reach(spread), **style)
    axes.bar_label(bars, fmt=figure, padding=4)


def name_bars(axes: Any, names: list[str], label: str) -> None:
    """Names the bars from top to bottom, and the axis along which they lie."""
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(label)
