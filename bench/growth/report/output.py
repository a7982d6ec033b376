"""The report of a results document, its picture, and the files of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core import report
from bench.core.plots import log_scale, reach, svg
from bench.core.report import Report
from bench.core.tables import Table, number, with_range
from bench.growth.report.document import KIND

EXPLANATION = (
    "Steps are those of the native core alone, in one process, without waking anybody: nanoseconds are medians, "
    "instructions are exact (by valgrind). One channel of every 32 has had a request, as if each client called one at "
    "a time. Calls go to one pool. The median and the 99th percentile are those of one process that calls while "
    "the others are attached and idle; calls/s are those of all processes at once, one call at a time each. Figures of "
    "calls are medians over rounds, with the least and the greatest in parentheses; numbers of processes follow each "
    "other and are not interleaved, since a process that has come stays."
)
_COLOURS = {"publish": "#4c78a8", "look": "#54a24b", "call": "#d9480f"}


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the report, in reading order."""
    steps = document["steps"]
    if steps:
        channels = list(next(iter(steps.values()))["channels"])
        yield Table(
            "Steps of the native core: ns, instructions",
            ("step", "what", *(f"{each} channels" for each in channels)),
            tuple(
                (name, step["what"], *map(_cost, step["channels"].values())) for name, step in steps.items()
            ),
            left=2,
        )
    if document["calls"]:
        yield Table(
            "Calls by client processes",
            ("processes", "p50 us", "p99 us", "calls/s, all at once"),
            tuple(
                (count, *(with_range(figures[each]) for each in ("p50_us", "p99_us", "calls_s")))
                for count, figures in document["calls"].items()
            ),
        )


def _cost(cost: Mapping[str, Any]) -> str:
    return f"{number(cost['ns'])}, {number(cost['instructions'], 0)}"


def report_of(document: Mapping[str, Any]) -> Report:
    """What the document says."""
    return Report(
        title="Growth",
        document=document,
        sentences=(),
        explanation=EXPLANATION,
        picture="Nanoseconds of steps by granted channels, and calls per second by client processes",
        criteria=None,
        tables=tuple(tables(document)),
        surroundings={
            name.capitalize(): document[name] for name in ("machine", "tools", "options", "settings")
        },
    )


def picture(document: Mapping[str, Any]) -> str:
    """The picture as SVG text."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for name, step in document["steps"].items():
            channels = list(map(int, step["channels"]))
            ns = [cost["ns"] for cost in step["channels"].values()]
            left.plot(channels, ns, marker="o", color=_COLOURS[name], label=name)
            left.set_xticks(channels, step["channels"])
        left.set_title("ns of a step, by channels granted", fontsize=9)
        if document["steps"]:
            log_scale(left, "x", "y")
            left.set_xticks(channels, list(map(str, channels)))
            left.legend(frameon=False)
        for place, figures in enumerate(document["calls"].values()):
            right.bar(
                place,
                figures["calls_s"]["median"],
                yerr=reach(figures["calls_s"]),
                color=_COLOURS["call"],
                width=0.6,
                capsize=3,
            )
        right.set_xticks(range(len(document["calls"])), list(document["calls"]))
        right.set_title("calls/s, by client processes", fontsize=9)
        for axes in (left, right):
            axes.grid(True)
            axes.set_axisbelow(True)

    return svg(draw, height=3.4)


def write(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes `growth_<UTC>.svg`, `.md` and `.json`, and returns them. Raises OSError."""
    return report.write(document, directory, KIND, lambda: picture(document), report_of(document))
