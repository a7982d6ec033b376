"""Criteria: what a benchmark has to show, each a figure that is held against a limit."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from bench.core.statistics import Spread, rounded
from bench.core.tables import Table, with_range

Source = TypeVar("Source")
NEVER = "never"
"""What a figure is that was sought in the whole range measured and not found there; it misses any limit."""
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">=": operator.ge,
}
_VERDICTS = {True: "reached", False: "NOT reached", None: "not measured"}


@dataclass(frozen=True, slots=True)
class Criterion(Generic[Source]):
    """A figure, its limit, and how they are compared (`<`, `<=` or `>=`).

    Attributes:
        name: Identifies the criterion in the results file.
        figure: Finds the figure in what was measured: a spread, a spread's JSON object, a number or `NEVER`; None if it
            was not measured.
    """

    name: str
    title: str
    comparison: str
    limit: float
    figure: Callable[[Source], Spread | Mapping[str, Any] | float | str | None]
    unit: str = ""


def judge(criteria: Iterable[Criterion[Source]], source: Source) -> list[dict[str, Any]]:
    """Each criterion as an object of the results file; `reached` is null where the figure was not measured."""
    judged = []
    for each in criteria:
        found = each.figure(source)
        seen: Any = found.as_json() if isinstance(found, Spread) else found
        median = found.median if isinstance(found, Spread) else seen
        if isinstance(median, Mapping):
            median = median["median"]
        reached = False if seen == NEVER else None
        if isinstance(median, int | float):
            reached = _OPERATORS[each.comparison](median, each.limit)
        judged.append(
            {
                "name": each.name,
                "title": each.title,
                "comparison": each.comparison,
                "limit": each.limit,
                "unit": each.unit,
                "seen": rounded(seen) if isinstance(seen, float) else seen,
                "reached": reached,
            }
        )
    return judged


def criteria_table(title: str, judged: Iterable[Mapping[str, Any]]) -> Table:
    """The table of judged criteria."""
    rows = tuple(
        (
            entry["title"],
            f"{entry['comparison']} {entry['limit']:g} {entry['unit']}".strip(),
            _seen(entry["seen"]),
            _VERDICTS[entry["reached"]],
        )
        for entry in judged
    )
    return Table(title, ("criterion", "wanted", "seen", ""), rows)


def _seen(seen: Any) -> str:
    """The figure as exactly as it was judged: one that looks like its limit may be on either side of it."""
    if seen is None or isinstance(seen, str):
        return seen or "-"
    if not isinstance(seen, Mapping):
        return f"{seen:.4g}"
    behind = with_range(seen).partition(" ")[2]
    return f"{seen['median']:.4g} {behind}".rstrip()
