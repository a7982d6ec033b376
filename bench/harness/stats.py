"""Percentiles and spreads: the few statistics the benchmark reports."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any


def percentile(ordered: Sequence[float], q: float) -> float:
    """The `q`-th percentile (0 to 100) of ascending values, interpolated linearly as k6 and NumPy do.

    Raises ValueError for no values or a `q` outside 0 to 100.
    """
    if not ordered:
        raise ValueError("no values")
    if not 0 <= q <= 100:
        raise ValueError(f"percentile {q} is outside 0 to 100")
    rank = (len(ordered) - 1) * q / 100
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (rank - below)


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of one figure over rounds, with the rounds themselves."""

    median: float
    min: float
    max: float
    rounds: tuple[float, ...]

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file."""
        return {
            "median": rounded(self.median),
            "min": rounded(self.min),
            "max": rounded(self.max),
            "rounds": [rounded(value) for value in self.rounds],
        }


def spread(values: Iterable[float | None]) -> Spread | None:
    """The spread of the values that are there; None if none is."""
    present = tuple(value for value in values if value is not None)
    if not present:
        return None
    return Spread(median(present), min(present), max(present), present)


def rounded(value: float, digits: int = 5) -> float:
    """`value` to `digits` significant digits: more would be noise in a results file."""
    if value == 0 or not math.isfinite(value):
        return value
    return round(value, digits - 1 - math.floor(math.log10(abs(value))))
