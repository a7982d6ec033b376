"""The plots of a report, each an SVG made from the results document alone."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from bench.harness.scenarios import GROUPS

COLOURS = {"baseline": "#7f8c9b", "alternative": "#4f8fc0", "offload": "#d9622b"}
WAYS = {
    "baseline": "#7f8c9b", "alone": "#9aa5b1", "offload": "#e8a33d", "compiled": "#d9622b",
    "bounded": "#d9622b", "unbounded": "#4f8fc0",
}  # fmt: skip
QUANTILES = {"p10": 10, "p25": 25, "p50": 50, "p75": 75, "p90": 90, "p95": 95, "p99": 99, "p999": 99.9}
Draw = Callable[[Any], None]


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
            _bound(throughput, members),
            height=0.7 + 0.32 * len(members),
        )
        yield _plot(
            f"Latency: {group.title}",
            "Latency at each percentile in the closed loop, a line for each scenario, on a logarithmic axis.",
            _bound(_distribution, members),
            height=4.6,
        )
    if document.get("ablation", {}).get("steps"):
        steps = document["ablation"]["steps"]
        yield _plot(
            "Where the gain comes from",
            "How many times the throughput each step gives, against the scenario before it.",
            _bound(_ablation, steps),
            height=0.7 + 0.36 * len(steps),
        )
    studies = document.get("studies", {})
    drawn = {"sweep": _sweep, "neighbour": _neighbour, "goodput": _goodput, "abort": _abort}
    for name, section in studies.items():
        yield _plot(
            section["title"], f"The figures of the table of the study {name}.", _bound(drawn[name], section)
        )
    for name, entry in members_of(document, "list").items():
        series = next((run["usage"].get("series") for run in entry["runs"] if run["mode"] == "closed"), None)
        if (series and entry["role"] == "offload") or (series and name == "baseline-cores"):
            yield _plot(
                f"Processor and memory over time: {name}",
                "Percent of a core and MiB of resident memory, of the server and of the worker, in the first round.",
                _bound(_over_time, series),
                height=2.4,
            )


def members_of(document: Mapping[str, Any], group: str) -> dict[str, Any]:
    """The scenarios of a group."""
    return {name: entry for name, entry in document["scenarios"].items() if entry["group"] == group}


def _bound(draw: Callable[[Any, Any], None], section: Any) -> Draw:
    return lambda axes: draw(axes, section)


def _plot(title: str, text: str, draw: Draw, height: float = 3.6) -> Plot:
    return Plot(title, text, svg(lambda figure: draw(figure.subplots()), height))


def svg(draw: Draw, height: float, width: float = 8.6) -> str:
    """A figure as SVG text, the same for the same document: a fixed salt, no date."""
    # Not at the top: it takes a second, and only the end of a benchmark needs it. Without pyplot, which would look
    # for a display.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.hashsalt": "demo",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
    with rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        draw(figure)
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None}, facecolor="white")
    return text.getvalue()


def reach(over_rounds: Mapping[str, Any]) -> list[list[float]]:
    """Least and greatest as matplotlib wants them: distances from the median."""
    median = over_rounds["median"]
    return [[median - over_rounds["min"]], [over_rounds["max"] - median]]


def throughput(axes: Any, members: Mapping[str, Any], figure: str = "req_s") -> None:
    """A bar for each scenario."""
    for place, entry in enumerate(members.values()):
        found = (entry["closed"] or {}).get(figure)
        if found is None:
            continue
        bars = axes.barh(
            place, found["median"], 0.65, color=COLOURS[entry["role"]], xerr=reach(found), capsize=3
        )
        axes.bar_label(bars, fmt="%.3g", padding=4)
    axes.set_yticks(range(len(members)), [entry["title"] for entry in members.values()])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel(
        "requests per second (more is better)" if figure == "req_s" else "p99, ms (less is better)"
    )


def _distribution(axes: Any, members: Mapping[str, Any]) -> None:
    styles = {"baseline": "--", "alternative": ":", "offload": "-"}
    for entry in members.values():
        found = entry["closed"] or {}
        points = [
            (place, found[f"{name}_ms"]["median"])
            for name, place in QUANTILES.items()
            if found.get(f"{name}_ms")
        ]
        if points:
            axes.plot(
                [100 - place for place, _ in points], [ms for _, ms in points],
                styles[entry["role"]], marker="o", markersize=3, label=entry["title"],
            )  # fmt: skip
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.invert_xaxis()
    axes.set_xticks(
        [100 - place for place in QUANTILES.values()], [f"{place:g}" for place in QUANTILES.values()]
    )
    axes.minorticks_off()
    axes.set_xlabel("percentile of requests")
    axes.set_ylabel("ms")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.figure.legend(loc="outside lower center", fontsize=7, ncols=2)
    axes.grid(alpha=0.3)


def _ablation(axes: Any, steps: list[Mapping[str, Any]]) -> None:
    for place, step in enumerate(steps):
        found = step["req_s"]
        if found is None:
            continue
        bars = axes.barh(place, found["median"], 0.6, color="#d9622b", xerr=reach(found), capsize=3)
        axes.bar_label(bars, fmt="%.2f", padding=4)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_yticks(range(len(steps)), [f"{step['explains']}: {step['title']}" for step in steps])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("times the requests per second of the scenario before")


def _sweep(axes: Any, section: Mapping[str, Any]) -> None:
    points = section["points"]
    # The empty handler has no place on a logarithmic axis: half of the least cost stands for it.
    costs = [point["handler_ms"] or points[1]["handler_ms"] / 2 for point in points]
    for name in points[0]["runs"]:
        rates = [point["runs"][name]["req_s"]["median"] for point in points]
        axes.plot(costs, rates, marker="o", markersize=3, label=name, color=WAYS[name])
        cost = section["break_even_ms"].get(name)
        if cost is not None:
            axes.axvline(cost, color=WAYS[name], linewidth=0.8, linestyle=":")
            axes.annotate(
                f"{name} pays\nfrom {cost:.2g} ms", (cost, min(rates)), fontsize=7, color=WAYS[name]
            )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("CPU of the handler in Python, ms (the least one: an empty handler)")
    axes.set_ylabel("requests per second")
    axes.grid(alpha=0.3)
    axes.legend()


def _neighbour(axes: Any, section: Mapping[str, Any]) -> None:
    width = 0.26
    for place, run in enumerate(section["runs"].values()):
        for index, (name, alpha) in enumerate((("p50", 0.4), ("p95", 0.7), ("p99", 1.0))):
            found = run[f"{name}_ms"]
            if found is None:
                continue
            bars = axes.bar(
                place + (index - 1) * width, found["median"], width, alpha=alpha,
                color=WAYS[list(section["runs"])[place]], yerr=reach(found), capsize=2,
            )  # fmt: skip
            axes.bar_label(bars, fmt="%.3g", fontsize=7, padding=2)
    axes.set_yscale("log")
    axes.set_xticks(range(len(section["runs"])), [f"heavy view: {name}" for name in section["runs"]])
    axes.set_ylabel("latency of the light view, ms: p50, p95, p99")


def _goodput(axes: Any, section: Mapping[str, Any]) -> None:
    shares = [point["share"] for point in section["points"]]
    for name in section["capacity_req_s"]:
        best = section["capacity_req_s"][name]
        found = [point["runs"][name]["goodput_req_s"]["median"] / best for point in section["points"]]
        axes.plot(shares, found, marker="o", markersize=3, label=name, color=WAYS[name])
    axes.plot(
        shares,
        [min(1, share) for share in shares],
        color="black",
        linewidth=0.6,
        linestyle=":",
        label="ideal",
    )
    axes.set_xlabel("offered load / capacity")
    axes.set_ylabel(f"answers within {section['slo_ms']:g} ms / capacity")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend()


def _abort(axes: Any, section: Mapping[str, Any]) -> None:
    figures = {"free_after_ms": "another request is answered after", "cpu_ms_after": "CPU spent for nobody"}
    for place, (name, run) in enumerate(section["runs"].items()):
        for index, figure in enumerate(figures):
            found = run[figure]
            bars = axes.barh(
                index + (place - 0.5) * 0.35, found["median"], 0.33, color=WAYS[name], xerr=reach(found),
                label=name if not index else None, capsize=3,
            )  # fmt: skip
            axes.bar_label(bars, fmt="%.0f", padding=4)
    axes.set_yticks(range(len(figures)), list(figures.values()))
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("ms (less is better)")
    axes.legend()


def _over_time(axes: Any, series: list[list[float]]) -> None:
    seconds = [row[0] for row in series]
    axes.plot(seconds, [row[1] for row in series], color="#7f8c9b", label="server, % of a core")
    axes.plot(seconds, [row[3] for row in series], color="#d9622b", label="worker, % of a core")
    axes.set_ylim(bottom=0)
    axes.set_ylabel("% of a core")
    axes.set_xlabel("seconds")
    memory = axes.twinx()
    memory.plot(
        seconds, [row[2] + row[4] for row in series], color="#4f8fc0", linestyle=":", label="memory, MiB"
    )
    memory.set_ylim(bottom=0)
    memory.set_ylabel("MiB")
    lines = [*axes.get_lines(), *memory.get_lines()]
    axes.legend(lines, [line.get_label() for line in lines], fontsize=7, loc="lower right")
