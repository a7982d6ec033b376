"""Percentiles and spreads."""

import math
import sys

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.core.statistics import percentile, ratio, rounded, spread, spread_json

FINITE = st.floats(min_value=-1e9, max_value=1e9)


@given(st.lists(FINITE, min_size=1, max_size=60), st.floats(min_value=0, max_value=100))
def test_percentile_is_that_of_numpy(values: list[float], q: float) -> None:
    assert percentile(sorted(values), q) == pytest.approx(float(numpy.percentile(values, q)), abs=1e-3)


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


@pytest.mark.parametrize("q", [-0.1, 100.1, math.nan])
def test_percentile_outside_its_range_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="outside 0 to 100"):
        percentile([1.0], q)


def test_spread_leaves_out_what_is_missing_and_keeps_the_rounds() -> None:
    over = spread([3.0, None, 1.0, 2.0])
    assert over is not None
    assert over.as_json() == {"median": 2.0, "min": 1.0, "max": 3.0, "rounds": [3.0, 1.0, 2.0]}


def test_spread_of_nothing_is_none() -> None:
    assert spread([None]) is None
    assert spread_json([None]) is None


def test_ratios_are_taken_within_rounds_that_both_have() -> None:
    """The second round is slower for both: the ratio of the medians would be another one."""
    found = ratio({0: 30, 1: 100, 7: 9}, {0: 10, 1: 50, 2: 1})
    assert found is not None
    assert (found.rounds, found.median) == ((3.0, 2.0), 2.5)


@pytest.mark.parametrize("under", [{}, {1: 5.0}, {0: None}, {0: 0.0}])
def test_a_round_that_only_one_has_gives_no_ratio(under: dict[int, float | None]) -> None:
    assert ratio({0: 30.0}, under) is None
    assert ratio({0: None}, {0: 1.0}) is None


@given(FINITE)
def test_rounding_stays_close(value: float) -> None:
    assert rounded(value) == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize("value", [0.0, math.inf, sys.float_info.max, -sys.float_info.max])
def test_rounding_passes_what_it_cannot_round(value: float) -> None:
    assert rounded(value) == value
