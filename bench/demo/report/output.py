"""The report of a results document, and the files of a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.core import results
from bench.core.criteria import criteria_table
from bench.core.report import Report, markdown
from bench.core.tables import with_range
from bench.demo.report import html
from bench.demo.report.document import KIND
from bench.demo.report.plots import picture
from bench.demo.report.tables import tables
from bench.demo.studies.registry import STUDIES

EXPLANATION = (
    "Figures are medians over interleaved rounds, with the least and the greatest in parentheses. k6, the servers and "
    "the worker share one machine: k6 takes processor time that the servers can't have, so the figures compare the "
    "scenarios with each other and are not what this machine could serve."
)


def report_of(document: Mapping[str, Any]) -> Report:
    """What the document says."""
    configuration = document["configuration"]
    measured = [entry for entry in document["criteria"] if entry["reached"] is not None]
    return Report(
        title="Demo benchmark",
        document=document,
        sentences=tuple(headlines(document)),
        explanation=f"{EXPLANATION} {document['shutdown']['sentence']}",
        picture="Throughput and latency of the scenarios",
        criteria=criteria_table("What it has to show", measured) if measured else None,
        tables=tuple(tables(document)),
        surroundings={
            **{name.capitalize(): document[name] for name in ("machine", "tools", "options")},
            "Fake database": configuration["fake_database"],
            **{f"Settings of {name}": values for name, values in configuration["scenarios"].items()},
            **{
                f"Worker of {name}, by its own account": values
                for name, values in configuration["workers"].items()
            },
            "Client and worker, with defaults": configuration["client"] or "not known",
        },
        logs=document["logs"],
    )


def headlines(document: Mapping[str, Any]) -> Iterator[str]:
    """What the studies say, and one sentence for each comparison: how one scenario did against the other."""
    for name, section in document["studies"].items():
        yield from STUDIES[name].sentences(section)
    for entry in document["comparisons"]:
        scenarios = [document["scenarios"][entry[role]] for role in ("candidate", "baseline")]
        rate = (scenarios[0]["open"] or {}).get("rate")
        parts = [
            f"{with_range(ratio, 2)} times {words}"
            for mode, figure, words in (
                ("closed", "req_s", "the requests per second in the closed loop"),
                ("closed", "cpu_ms_per_request", "the processor time per request"),
                ("open", "p95_ms", f"the p95 latency at {rate} requests/s"),
            )
            if (ratio := (entry[mode] or {}).get(figure)) is not None
        ]
        if parts:
            pair = (
                f"{entry[role]} ({scenario['processes']['total']} processes)"
                for role, scenario in zip(("candidate", "baseline"), scenarios, strict=True)
            )
            yield f"{' against '.join(pair)}: {', '.join(parts)}."


def write(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes `demo_k6_<UTC>.svg`, `.md`, `.html` and `.json`, and returns them. Raises OSError."""
    stem = directory / f"{KIND.prefix}_{results.stamp_of(document)}"
    report = report_of(document)
    return results.write(
        document,
        stem,
        {
            "svg": lambda: picture(document),
            "md": lambda: markdown(report, f"{stem.name}.svg"),
            "html": lambda: html.render(report),
        },
    )
