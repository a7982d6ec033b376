"""Holds counted instructions against those that are known: what adds more than `ALLOWED` fails, with the figure.

Counts of another build of Python or of another library differ. So what is held against what is known is not a count but
its ratio to that of `pipe`, counted in the same moment.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final

#: The most that a case may take in addition, as a share.
ALLOWED: Final = 0.03
#: What the others are held against.
REFERENCE: Final = "pipe"
KNOWN: Final = Path(__file__).with_name("known.json")

Counts = Mapping[str, int]


def known(where: str, path: Path = KNOWN) -> Counts | None:
    """Return what is known of an interpreter and processor (`count.here`); None: nothing is."""
    counts: Counts | None = json.loads(path.read_text()).get(where)
    return counts


def remember(where: str, counts: Counts, path: Path = KNOWN) -> None:
    """Put counts in the place of those that are known."""
    table = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**table, where: dict(counts)}, indent=2, sort_keys=True) + "\n")


def change(case: str, before: Counts, now: Counts) -> float:
    """By what share a case takes more than before, both as ratios to the reference."""
    return (now[case] / now[REFERENCE]) / (before[case] / before[REFERENCE]) - 1


def excesses(before: Counts, now: Counts) -> list[str]:
    """What takes more than is allowed, one sentence for each."""
    return [
        f"{case}: {now[case]:,} instructions, {before[case]:,} are known: {added:+.1%} against {REFERENCE}, "
        f"{ALLOWED:.0%} are allowed"
        for case in before
        if case != REFERENCE and case in now and (added := change(case, before, now)) > ALLOWED
    ]


def table(before: Counts | None, now: Counts) -> str:
    """A table in Markdown."""
    rows = ["| case | instructions | of pipe | change |", "|:--|--:|--:|--:|"]
    for case, count in now.items():
        changed = f"{change(case, before, now):+.1%}" if before and case in before else ""
        rows.append(f"| {case} | {count:,} | {count / now[REFERENCE]:.2f} | {changed} |")
    return "\n".join(rows)
