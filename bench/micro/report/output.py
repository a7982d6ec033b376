"""The report of a results document, and the files of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.core import report
from bench.core.criteria import criteria_table
from bench.core.report import Report
from bench.micro.report.document import KIND
from bench.micro.report.plots import picture
from bench.micro.report.tables import tables

EXPLANATION = (
    "Figures are medians over interleaved rounds, with the least and the greatest in parentheses; ratios are "
    "taken within each round, and in tables held against the reference whose other side is in the same kind of "
    "session: shm and pipe-own in one of its own, shm-same and pipe in the caller's. "
    "Every call carries the payload there and back and is made by a process of the "
    "peer's own; the process that answers takes the object apart and puts it together again. Rows that end in -raw "
    "carry bytes as they are, with nothing packed on either side, and their ratios are to the raw rows. Cores are kept "
    "busy by one process each, pinned to it, of ordinary priority, that only computes; the peers are pinned nowhere. "
    "On a busy core a fast peer makes thousands of calls between two that the scheduler holds up for milliseconds, so "
    "its p99 may know nothing of them; its mean does."
)


def report_of(document: Mapping[str, Any]) -> Report:
    """What the document says."""
    return Report(
        title="What one call costs",
        document=document,
        sentences=(),
        explanation=EXPLANATION,
        picture="Latency by size, distributions under each condition, and calls per second by callers in flight",
        criteria=criteria_table("Criteria", document["criteria"]),
        tables=tuple(tables(document)),
        surroundings={
            name.capitalize(): document[name] for name in ("machine", "tools", "options", "settings")
        }
        | {f"Meanwhile, {name}": values for name, values in document["surroundings"].items()},
    )


def write(document: Mapping[str, Any], directory: Path) -> list[Path]:
    """Writes `micro_<UTC>.svg`, `.md` and `.json`, and returns them. Raises OSError."""
    return report.write(document, directory, KIND, lambda: picture(document), report_of(document))
