"""The plots of a report and the picture of a README, each an SVG made from the results document alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

from bench.core.plots import bar, log_scale, name_bars, svg
from bench.demo.report.tables import members_of
from bench.demo.scenarios import GROUPS
from bench.demo.studies.registry import STUDIES

COLOURS = {"baseline": "#7f8c9b", "alternative": "#4f8fc0", "offload": "#d9622b"}
STYLES = {"baseline": "--", "alternative": ":", "offload": "-"}
PERCENTILES = {"p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
THROUGHPUT = ("req_s", "requests per second (more is better)")
SLOWEST = ("p99_ms", "p99, ms (less is better)")


class Plot(NamedTuple):
    """A drawing, and what it shows, for those who don't see it."""

    title: str
    text: str
    svg: str


def plots(document: Mapping[str, Any]) -> Iterator[Plot]:
    """Every plot that the document has figures for, in reading order."""
    for group in GROUPS.values():
        members = members_of(document, group.name)
        if not members:
            continue
        yield _plot(
            f"Throughput: {group.title}",
            "Requests per second in the closed loop: median of the rounds, least and greatest as a line.",
            partial(_bars, members=members, what=THROUGHPUT),
            height=0.7 + 0.32 * len(members),
        )
        yield _plot(
            f"Latency: {group.title}",
            "Latency at each percentile in the closed loop, a line for each scenario, on a logarithmic axis.",
            partial(_distribution, members=members),
            height=4.6,
        )
    if steps := document["ablation"]["steps"]:
        yield _plot(
            "Where the gain comes from",
            "How many times the throughput each step gives, against the scenario before it.",
            partial(_ablation, steps=steps),
            height=0.7 + 0.36 * len(steps),
        )
    for name, section in document["studies"].items():
        text = f"The figures of the table of the study {name}."
        study = STUDIES[name]
        drawn = svg(partial(study.plot, section=section), study.plot_height(section))
        yield Plot(section["title"], text, drawn)
    for name, entry in members_of(document, "list").items():
        if entry["series"]:
            yield _plot(
                f"Processor and memory over time: {name}",
                "Percent of a core and MiB of resident memory, of the server and of the worker, in the first round.",
                partial(_over_time, series=entry["series"]),
                height=2.4,
            )


def picture(document: Mapping[str, Any]) -> str:
    """The picture as SVG text: throughput beside p99 latency, by scenario."""
    groups = [group for group in GROUPS.values() if members_of(document, group.name)]
    rows = [len(members_of(document, group.name)) for group in groups]

    def draw(figure: Any) -> None:
        grid = figure.subplots(len(groups), 2, squeeze=False, height_ratios=[2 + count for count in rows])
        for (left, right), group in zip(grid, groups, strict=True):
            members = members_of(document, group.name)
            _bars(left, members, THROUGHPUT)
            _bars(right, members, SLOWEST)
            right.set_yticks([])
            left.set_title(f"{group.title}, closed loop", fontsize=10, loc="left")
        note = " There were errors: see the report." if document["errors"] else ""
        kinds = "baseline grey, alternatives blue, offload orange"
        figure.suptitle(f"{kinds}; median, least and greatest of the rounds.{note}", fontsize=9)

    return svg(draw, 1.0 + sum(0.9 + 0.27 * count for count in rows), width=10)


def _plot(title: str, text: str, draw: Callable[[Any], None], height: float = 3.6) -> Plot:
    return Plot(title, text, svg(lambda figure: draw(figure.subplots()), height))


def _bars(axes: Any, members: Mapping[str, Any], what: tuple[str, str]) -> None:
    figure, label = what
    for place, entry in enumerate(members.values()):
        if found := (entry["closed"] or {}).get(figure):
            bar(axes, place, found, COLOURS[entry["role"]], "%.3g")
    name_bars(axes, [entry["title"] for entry in members.values()], label)


def _distribution(axes: Any, members: Mapping[str, Any]) -> None:
    for entry in members.values():
        found = entry["closed"] or {}
        points = [
            (100 - place, spread["median"])
            for name, place in PERCENTILES.items()
            if (spread := found.get(f"{name}_ms"))
        ]
        if points:
            style = {"linestyle": STYLES[entry["role"]], "marker": "o", "markersize": 3}
            axes.plot(*zip(*points, strict=True), label=entry["title"], **style)
    log_scale(axes, "x", "y")
    axes.invert_xaxis()
    places = PERCENTILES.values()
    axes.set_xticks([100 - place for place in places], [f"{place:g}" for place in places])
    axes.set_xlabel("percentile of requests")
    axes.set_ylabel("ms")
    axes.figure.legend(loc="outside lower center", fontsize=7, ncols=2)
    axes.grid()


def _ablation(axes: Any, steps: list[Mapping[str, Any]]) -> None:
    for place, step in enumerate(steps):
        if step["req_s"] is not None:
            bar(axes, place, step["req_s"], COLOURS["offload"], "%.2f")
    axes.axvline(1, color="black", linewidth=0.8)
    names = [f"{step['explains']}: {step['title']}" for step in steps]
    name_bars(axes, names, "times the requests per second of the scenario before")


def _over_time(axes: Any, series: list[list[float]]) -> None:
    seconds = [row[0] for row in series]
    for column, part, role in ((1, "server", "baseline"), (3, "worker", "offload")):
        label = f"{part}, % of a core"
        axes.plot(seconds, [row[column] for row in series], color=COLOURS[role], label=label)
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of a core")
    axes.set_xlabel("seconds")
    memory = axes.twinx()
    both = [row[2] + row[4] for row in series]
    memory.plot(seconds, both, color=COLOURS["alternative"], linestyle=":", label="memory, MiB")
    memory.set_ylim(bottom=0)
    memory.set_ylabel("MiB")
    lines = [*axes.get_lines(), *memory.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="lower right")
