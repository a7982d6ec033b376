"""A table of a report, free of any markup, and how its figures are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Table:
    """A titled table of texts; all columns but the first `left` hold figures."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def number(value: float | None, digits: int | None = None) -> str:
    """A figure with so many digits behind the point; without `digits`, at the precision a reader can use."""
    if value is None:
        return "-"
    if digits is None:
        digits = 0 if value == 0 or abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:.{digits}f}"


def middle(spread: Mapping[str, Any] | None) -> str:
    """The median of a spread."""
    return number(None if spread is None else spread["median"])


def with_range(spread: Mapping[str, Any] | None, digits: int | None = None) -> str:
    """The median of a spread with the least and the greatest round behind it; of one round the figure alone."""
    if spread is None:
        return "-"
    median, least, greatest = (number(spread[name], digits) for name in ("median", "min", "max"))
    return median if len(spread["rounds"]) == 1 else f"{median} ({least}-{greatest})"
