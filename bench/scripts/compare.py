"""Compares a result of the demo benchmark with a reference, by ratios that were measured within one run each.

    python bench/scripts/compare.py REFERENCE.json NEW.json
    python bench/scripts/compare.py NEW.json                    its criteria only

Times of different machines, or of one on different days, say nothing of each other; ratios of scenarios that took turns
in one run do. A gate fails where the new ratio is worse than the reference by more than the tolerance, and even its
best round is worse than the reference's worst one; so noise doesn't fail it, and a real loss does.

Exit codes: 0 no gate failed; 1 one did; 2 wrong usage, or the results can't be compared.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

KIND = "molt-accel demo benchmark"
TOLERANCE = 0.15
#: A log has no width of its own.
LOG_COLUMNS = 140


class Figure(NamedTuple):
    """A ratio of one run.

    Attributes:
        more: Whether more is better.
        low, high: The least and the greatest of the rounds.
    """

    more: bool
    median: float
    low: float
    high: float


class Gate(NamedTuple):
    """A figure held against its reference."""

    name: str
    reference: Figure
    new: Figure
    tolerance: float

    @property
    def change(self) -> float:
        """How much better it is: 0.1 is 10 % better, -0.1 is 10 % worse."""
        ratio = self.new.median / self.reference.median
        return (ratio if self.new.more else 1 / ratio) - 1

    @property
    def failed(self) -> bool:
        """Worse by more than the tolerance, and in every round worse than every round of the reference."""
        apart = self.new.high < self.reference.low if self.new.more else self.new.low > self.reference.high
        return self.change < -self.tolerance and apart


class Unusable(Exception):
    """A file is no result, or two are of different kinds."""


def read(path: Path) -> dict[str, Any]:
    """A result. Raises Unusable."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise Unusable(f"{path}: can't be read: {exc}") from exc
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise Unusable(f"{path}: is no result of the demo benchmark")
    if document.get("schema_version") != 2:
        raise Unusable(
            f"{path}: has schema_version {document.get('schema_version')}, not 2; run the benchmark anew"
        )
    return document


def _figure(found: Any, *, more: bool) -> Figure | None:
    if isinstance(found, Mapping):
        return Figure(more, found["median"], found["min"], found["max"])
    return Figure(more, found, found, found) if isinstance(found, (int, float)) and found else None


def figures(document: Mapping[str, Any]) -> dict[str, Figure]:
    """The ratios of a result by name."""
    return {name: figure for name, figure in _figures(document) if figure is not None}


def _figures(document: Mapping[str, Any]) -> Iterator[tuple[str, Figure | None]]:
    for entry in document["comparisons"]:
        closed = entry["closed"] or {}
        pair = f"{entry['candidate']}/{entry['baseline']}"
        yield f"{pair}.req_s", _figure(closed.get("req_s"), more=True)
        yield f"{pair}.p99_ms", _figure(closed.get("p99_ms"), more=False)
        yield f"{pair}.cpu", _figure(closed.get("cpu_ms_per_request"), more=False)
    for step in document["ablation"]["steps"]:
        yield f"ablation.{step['after']}/{step['before']}", _figure(step["req_s"], more=True)
    studies = document["studies"]
    if "sweep" in studies:
        for name, ratio in studies["sweep"]["points"][0]["ratio_cpu"].items():
            yield f"sweep.empty_cpu.{name}", _figure(ratio, more=False)
        for name, cost in studies["sweep"]["break_even_ms"].items():
            yield f"sweep.break_even_ms.{name}", _figure(cost, more=False)
    for name, ratio in studies.get("neighbour", {}).get("ratio_p99", {}).items():
        yield f"neighbour.p99.{name}", _figure(ratio, more=True)
    for name, kept in studies.get("goodput", {}).get("kept", {}).items():
        if name == "bounded":  # the others are there to show what happens without it
            yield f"goodput.kept.{name}", _figure(kept, more=True)


def gates(
    reference: Mapping[str, Any], new: Mapping[str, Any], tolerance: float, thresholds: Mapping[str, float]
) -> tuple[list[Gate], list[str]]:
    """The gates of two results, and the figures that the new one lacks.

    Args:
        thresholds: Tolerances by name, or by how a name begins.
    """
    before, after = figures(reference), figures(new)

    def tolerance_of(name: str) -> float:
        fitting = [prefix for prefix in thresholds if name.startswith(prefix)]
        return thresholds[max(fitting, key=len)] if fitting else tolerance

    held = [Gate(name, before[name], after[name], tolerance_of(name)) for name in before if name in after]
    return held, [name for name in before if name not in after]


def _threshold(text: str) -> tuple[str, float]:
    name, equals, value = text.partition("=")
    try:
        share = float(value)
    except ValueError:
        share = -1
    if not name or not equals or not 0 <= share < 1:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not NAME=SHARE with a share from 0 to 1, such as offload/=0.1"
        )
    return name, share


def _text(figure: Figure) -> str:
    return f"{figure.median:.2f} ({figure.low:.2f}-{figure.high:.2f})"


def _rows(held: Sequence[Gate]) -> Iterator[tuple[str, str, str, str, str]]:
    for gate in held:
        verdict = "FAILED" if gate.failed else "ok"
        yield gate.name, _text(gate.reference), _text(gate.new), f"{gate.change:+.0%}", verdict


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="compare.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument(
        "results", nargs="+", type=Path, metavar="JSON", help="the reference and the new result"
    )
    made.add_argument(
        "--tolerance", type=float, default=TOLERANCE, metavar="SHARE",
        help=f"how much worse a ratio may be ({TOLERANCE})",
    )  # fmt: skip
    made.add_argument(
        "--threshold", action="append", type=_threshold, default=[], metavar="NAME=SHARE",
        help="another tolerance for the figures whose names begin so; repeatable",
    )  # fmt: skip
    made.add_argument("--criteria", action="store_true", help="fail where a criterion is not reached, too")
    made.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there as well")
    return made


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables. Returns the exit code."""
    given = parser().parse_args(arguments)
    if len(given.results) > 2 or not 0 <= given.tolerance < 1:
        print("compare.py: give one or two results, and a tolerance from 0 to 1", file=sys.stderr)
        return 2
    try:
        documents = [read(path) for path in given.results]
    except Unusable as exc:
        print(f"compare.py: {exc}", file=sys.stderr)
        return 2
    new = documents[-1]
    tables: list[tuple[str, tuple[str, ...], list[tuple[str, ...]]]] = []
    rows: list[tuple[str, ...]]
    failed = False
    if len(documents) == 2:
        held, missing = gates(documents[0], new, given.tolerance, dict(given.threshold))
        if not held:
            print("compare.py: the results have no figure in common", file=sys.stderr)
            return 2
        failed = any(gate.failed for gate in held)
        rows = [*_rows(held), *((name, "there", "missing", "", "not compared") for name in missing)]
        tables.append(("Against the reference", ("figure", "reference", "new", "better by", ""), rows))
    wanted = [entry for entry in new["criteria"] if entry["reached"] is not None]
    failed = failed or (
        (given.criteria or len(documents) == 1) and not all(entry["reached"] for entry in wanted)
    )
    tables.append(
        ("Criteria of the new result", ("figure", "wanted", "seen", ""), [*map(_criterion, wanted)])
    )
    console = Console(width=None if sys.stdout.isatty() else LOG_COLUMNS)
    for title, columns, rows in tables:
        shown = Table(*columns, title=title, title_justify="left")
        for row in rows:
            shown.add_row(*row)
        console.print(shown)
    if given.markdown is not None:
        given.markdown.write_text("\n".join(_markdown(tables)) + "\n", encoding="utf-8")
    console.print("A gate FAILED." if failed else "No gate failed.")
    return int(failed)


def _criterion(entry: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = (
        f"at least {entry['at_least']:g}"
        if entry["at_least"] is not None
        else f"at most {entry['at_most']:g}"
    )
    seen = entry["seen"]
    figure = _figure(seen, more=True)
    text = str(seen) if figure is None else _text(figure)
    return entry["title"], wanted, text, "reached" if entry["reached"] else "NOT reached"


def _markdown(tables: Sequence[tuple[str, tuple[str, ...], list[tuple[str, ...]]]]) -> Iterator[str]:
    for title, columns, rows in tables:
        yield from (f"## {title}", "", f"| {' | '.join(columns)} |", "|" + ":--|" * len(columns))
        yield from (f"| {' | '.join(row)} |" for row in rows)
        yield ""


if __name__ == "__main__":
    sys.exit(main())
