"""Draws the picture of a report, as a README shows it: throughput beside p99 latency, by scenario."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.harness.plots import members_of, svg, throughput
from bench.harness.scenarios import GROUPS


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Writes the picture as SVG to `path`."""
    groups = [group for group in GROUPS.values() if members_of(document, group.name)]
    rows = [len(members_of(document, group.name)) for group in groups]

    def figure_of(figure: Any) -> None:
        grid = figure.subplots(len(groups), 2, squeeze=False, height_ratios=[2 + count for count in rows])
        for (left, right), group in zip(grid, groups, strict=True):
            members = members_of(document, group.name)
            throughput(left, members)
            throughput(right, members, "p99_ms")
            right.set_yticks([])
            left.set_title(f"{group.title}, closed loop", fontsize=10, loc="left")
        note = " There were errors: see the report." if document["errors"] else ""
        kinds = "baseline grey, alternatives blue, offload orange"
        figure.suptitle(f"{kinds}; median, least and greatest of the rounds.{note}", fontsize=9)

    path.write_text(
        svg(figure_of, 1.0 + sum(0.9 + 0.27 * count for count in rows), width=10), encoding="utf-8"
    )
