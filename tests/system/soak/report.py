"""A soak test's result as files: JSON, markdown, and a picture where matplotlib is installed."""

import json
from pathlib import Path
from typing import Any

from tests.system.soak.record import Record


def write(record: Record, folder: Path) -> list[Path]:
    """Write them. Returns what was written."""
    folder.mkdir(parents=True, exist_ok=True)
    document = record.as_dict()
    data, page = folder / "soak.json", folder / "soak.md"
    data.write_text(json.dumps(document, indent=1) + "\n")
    picture = _draw(document, folder / "soak.svg")
    page.write_text(_markdown(document, picture))
    return [data, page, *([picture] if picture else [])]


def _table(head: list[str], rows: list[list[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + "|".join([":--"] + ["--:"] * (len(head) - 1)) + "|"]
    return lines + ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows] + [""]


def _markdown(document: dict[str, Any], picture: Path | None) -> str:
    options = document["options"]
    rate = document["requests"] / max(document["duration_s"], 1e-9)
    verdict = "nothing was wrong" if not document["wrong"] else f"{len(document['wrong'])} things were wrong"
    lines = [
        f"# Soak test: {options['transport']}, {document['duration_s']:.0f} s, {verdict}",
        "",
        f"{document['requests']:,} calls, {rate:,.0f} a second; killed: {options['kill']}.",
        "",
    ]
    lines += [f"- WRONG: {each}" for each in document["wrong"]]
    lines += [f"- {each}" for each in document["notes"]]
    lines += [""] if document["wrong"] or document["notes"] else []
    lines += _table(["outcome", "calls"], [[name, f"{n:,}"] for name, n in document["outcomes"].items()])
    if document["kills"]:
        lines += _table(["killed", "times"], [[name, n] for name, n in document["kills"].items()])
    latency = document["latency_us"]
    lines += _table(
        ["plain calls, us", "first tenth", "last tenth"],
        [[name, latency["first_tenth"][name], latency["last_tenth"][name]] for name in latency["last_tenth"]],
    )
    rows: list[list[object]] = []
    for role, growth in document["growth"].items():
        before, after, slope = growth["rss_mb"]
        fds = growth["fds"]
        rows.append([role, document["processes"][role], before, after, f"{slope:+.2f}", fds[0], fds[1]])
    head = ["each of the role", "processes seen", "MB, 2nd quarter", "MB, last quarter", "MB a minute"]
    lines += _table([*head, "descriptors, 2nd quarter", "last quarter"], rows)
    if picture is not None:
        lines += [f"![Memory and latency over time]({picture.name})", ""]
    return "\n".join(lines)


def _draw(document: dict[str, Any], path: Path) -> Path | None:
    try:
        import matplotlib
    except ImportError:
        return None
    matplotlib.use("agg")
    from matplotlib.figure import Figure

    samples = document["samples"]
    figure = Figure(figsize=(9, 7), layout="constrained")
    memory, latency = figure.subplots(2, 1, sharex=True)
    for role in document["growth"]:
        points = [(each["at_s"], each["rss_mb"][role]) for each in samples if role in each["rss_mb"]]
        memory.plot(*zip(*points, strict=True), label=role)
    memory.set(ylabel="private memory, MB (median of the role)", ylim=(0, None))
    for name in document["latency_us"]["last_tenth"]:
        points = [(each["at_s"], each[name]) for each in samples if each[name]]
        latency.plot(*zip(*points, strict=True), label=name)
    latency.set(xlabel="seconds", ylabel="plain calls, us", yscale="log")
    for axes in (memory, latency):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(path)
    return path
