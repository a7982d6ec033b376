"""Percentiles, spreads over rounds and ratios within rounds: the few statistics the benchmarks report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
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
    """Median, least and greatest value of one figure over rounds, with the value of each round."""

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
    """The spread of the values that are not None; None if all are."""
    present = tuple(value for value in values if value is not None)
    if not present:
        return None
    return Spread(median(present), min(present), max(present), present)


def spread_json(values: Iterable[float | None]) -> dict[str, Any] | None:
    """The JSON object of the values' spread; None if there is none."""
    found = spread(values)
    return None if found is None else found.as_json()


def ratio(over: Mapping[int, float | None], under: Mapping[int, float | None]) -> Spread | None:
    """The spread of `over / under` within each round that has both figures; None if no round has both.

    The runs of one round are seconds apart, so a slow spell of the machine touches both and cancels out. Rounds in
    which a figure is missing, or is 0 below the line, are left out.
    """
    both = sorted(over.keys() & under.keys())
    return spread(
        up / down if (up := over[number]) is not None and (down := under[number]) else None for number in both
    )


def rounded(value: float, digits: int = 5) -> float:
    """`value` to `digits` significant digits: more would be noise in a results file."""
    if value == 0 or not math.isfinite(value):
        return value
    try:
        return round(value, digits - 1 - math.floor(math.log10(abs(value))))
    except OverflowError:  # rounded up, it would be more than the largest number that there is
        return value
