"""The report of a results document, and the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.cluster.report.document import KIND
from bench.cluster.report.plots import picture
from bench.cluster.report.tables import tables
from bench.core import report
from bench.core.criteria import criteria_table
from bench.core.report import Report

EXPLANATION = (
    "Figures are medians over interleaved rounds, with the least and the greatest in parentheses; ratios are "
    "taken within each round. Each row has one process that answers. Bare NATS carries bytes as they are; all other "
    "rows carry an object, which is packed and unpacked on both sides. It runs on asyncio's loop, as nats-py does by "
    "itself; nats-uvloop is for comparing what this project adds on uvloop. Local rows are held against bare NATS over "
    "loopback. Goodput: calls come at random times, whether earlier ones have been answered or not; an answer is in "
    "time if it comes within the time limit of when its call was due. Executors sleep, so processors are not what "
    "limits the pools; what they leave is shared by client, bridges and server."
)


def report_of(document: Mapping[str, Any]) -> Report:
    """What the document says."""
    goodput = document["goodput"]
    reasons = [] if goodput is None or goodput["not_run"] is None else [goodput["not_run"]]
    return Report(
        title="Several hosts",
        document=document,
        sentences=tuple(f"Goodput was not measured: {reason}" for reason in reasons),
        explanation=EXPLANATION,
        picture="The median call and its distribution in each row, and answers in time with one to three pools",
        criteria=criteria_table("Criteria", document["criteria"]),
        tables=tuple(tables(document)),
        surroundings={
            name.capitalize(): document[name] for name in ("machine", "tools", "options", "settings")
        }
        | {f"Meanwhile, {name}": values for name, values in document["surroundings"].items()},
    )


def write(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes `cluster_<UTC>.svg`, `.md` and `.json`, and returns them. Raises OSError."""
    return report.write(document, directory, KIND, lambda: picture(document), report_of(document))
