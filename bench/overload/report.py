"""The simulation's document as tables, as markdown and as a picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.plots import svg
from bench.core.report import markdown_table
from bench.core.tables import Table, number
from bench.overload.study import CURVE_LOADS, LOADS, ROWS, VARIANT_LOADS

EXPLANATION = (
    "Goodput: answers within 250 ms (three service times for those of 500 ms) as a share of what two executors can "
    "answer, in one long run under Poisson arrivals, and behind the slash in the first 6 s of an idle pool that knows "
    "nothing (mean of 8). Loads are times the capacity. Refusals cost nothing here unless a row says so."
)
PICTURE = "Left: goodput by load, requests of 20 ms. Right: waits of answered requests, at three times the capacity."
_COLOURS = {"as it is": "#1b7f5c", "64 places": "#b0b0b0", "CoDel": "#d1731b"}


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """All tables of a document."""
    yield Table(
        "Rules",
        (
            "service time",
            "rule",
            *(f"{load:g} x" for load in LOADS),
            "refused at 0.95 x",
            "p99 wait at 5 x, ms",
        ),
        tuple(
            (
                row.name,
                rule,
                *map(_cell, cells.values()),
                number(cells["0.95"]["refused"], 2),
                _wait(cells["5"]),
            )
            for row in ROWS
            for rule, of_rule in document["rules"].items()
            for cells in (of_rule[row.name],)
        ),
        left=2,
    )
    for load in VARIANT_LOADS:
        yield Table(
            f"Variants of the rule, at {load:g} times the capacity",
            ("variant", *(row.name for row in ROWS)),
            tuple(
                (name, *(_cell(variant["rows"][row.name][f"{load:g}"]) for row in ROWS))
                for name, variant in document["variants"].items()
            ),
        )
    yield Table(
        "Variants of the rule: bursts, and changes",
        (
            "variant",
            "20 calls of 50 ms pass, spread over ms",
            "20 ms become 200 ms: followed after s",
            *(f"p99 wait at 5 x, {row.name}, ms" for row in ROWS[1:3]),
        ),
        tuple(
            (
                name,
                str(variant["burst_ms"]) if variant["burst_ms"] >= 0 else "never",
                number(variant["followed_s"], 1),
                *(_wait(variant["rows"][row.name]["5"]) for row in ROWS[1:3]),
            )
            for name, variant in document["variants"].items()
        ),
    )
    yield Table(
        "Several entrypoints, and callers that come back",
        ("case", "entry", "calls", "answered", "wait p50, ms", "wait p99, ms", "executors busy"),
        tuple(
            (
                case,
                entry,
                str(told["calls"]),
                number(told["answered"], 2),
                number(told["wait_p50_ms"], 0),
                number(told["wait_p99_ms"], 0),
                number(scene["busy"], 2),
            )
            for case, scene in document["scenes"].items()
            for entry, told in scene["sources"].items()
        ),
        left=2,
    )


def _cell(figures: Mapping[str, float]) -> str:
    return f"{figures['goodput']:.2f} / {figures['onset']:.2f}"


def _wait(figures: Mapping[str, float]) -> str:
    return number(figures["wait_p99_ms"], 0)


def markdown(document: Mapping[str, Any], picture: str) -> str:
    """The document as text; `picture` is the file name of the picture beside it."""
    git = document["git"]
    lines = [
        f"# The rule of admission, simulated, {document['created_utc']}",
        "",
        EXPLANATION,
        "",
        f"![{PICTURE}]({picture})",
        "",
    ]
    for table in tables(document):
        lines += markdown_table(table)
    state = ", with changes not committed" if git["dirty"] else ""
    lines += [
        "## How",
        "",
        f"- Commit: {git['commit'] or 'none'}{state}",
        f"- Command: `{document['command']}`",
        f"- {document['simulated_s']:.0f} s for each long run; took {document['elapsed_s']:.0f} s",
    ]
    return "\n".join(lines) + "\n"


def picture(document: Mapping[str, Any]) -> str:
    """Goodput by load, and waits by time, as SVG."""

    def draw(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        for rule, curve in document["curves"].items():
            left.plot(CURVE_LOADS, curve["goodput"], color=_COLOURS[rule], label=rule, linewidth=1.8)
            at, waited = zip(*curve["waits"], strict=True)
            right.plot(at, waited, color=_COLOURS[rule], label=rule, linewidth=1.0)
        left.plot([0, 1, CURVE_LOADS[-1]], [0, 1, 1], color="#e4e4e4", linewidth=1, zorder=0)
        left.set_xlabel("load, times the capacity")
        left.set_ylabel("answers within 250 ms, of the capacity")
        left.legend(frameon=False)
        right.set_xlabel("s since the load of 3 times the capacity began")
        right.set_ylabel("wait of answered requests, ms")
        for axes in (left, right):
            axes.set_ylim(bottom=0)
            axes.grid(True)

    return svg(draw, 3.4)
