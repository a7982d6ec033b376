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
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bench.core import BenchError
from bench.core.command import USAGE, argument_parser  # after the root is on the path
from bench.core.criteria import criteria_table
from bench.core.progress import console_for
from bench.core.report import markdown_table, show_table
from bench.core.results import read
from bench.core.tables import Table
from bench.demo.report.document import KIND

PROGRAM = "compare.py"
TOLERANCE = 0.15


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
    for cell in studies.get("goodput", {}).get("cells", ()):
        # The others are there to show what happens without offload.
        for share, kept in cell["variants"]["offload"]["kept"].items():
            yield f"goodput.kept.{cell['server']}.{cell['handler_ms']:g}ms.{share}x", _figure(kept, more=True)


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


def _gate_table(held: Sequence[Gate], missing: Sequence[str]) -> Table:
    rows = [
        (
            gate.name,
            _text(gate.reference),
            _text(gate.new),
            f"{gate.change:+.0%}",
            "FAILED" if gate.failed else "ok",
        )
        for gate in held
    ]
    rows += [(name, "there", "missing", "", "not compared") for name in missing]
    return Table("Against the reference", ("figure", "reference", "new", "better by", ""), tuple(rows))


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argument_parser(PROGRAM, __doc__)
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
    tables: list[Table] = []
    failed = False
    try:
        if len(given.results) > 2 or not 0 <= given.tolerance < 1:
            raise BenchError("give one or two results, and a tolerance from 0 to 1")
        documents = [read(path, KIND)[1] for path in given.results]
        if len(documents) == 2:
            held, missing = gates(documents[0], documents[1], given.tolerance, dict(given.threshold))
            if not held:
                raise BenchError("the results have no figure in common")
            failed = any(gate.failed for gate in held)
            tables.append(_gate_table(held, missing))
    except BenchError as error:
        print(f"{PROGRAM}: {error}", file=sys.stderr)
        return USAGE
    judged = [entry for entry in documents[-1]["criteria"] if entry["reached"] is not None]
    if given.criteria or len(documents) == 1:
        failed = failed or not all(entry["reached"] for entry in judged)
    tables.append(criteria_table("Criteria of the new result", judged))
    console = console_for(sys.stdout)
    for table in tables:
        show_table(console, table)
    if given.markdown is not None:
        lines = [line for table in tables for line in markdown_table(table)]
        given.markdown.write_text("\n".join(lines) + "\n", encoding="utf-8")
    console.print("A gate FAILED." if failed else "No gate failed.")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
