"""molt_accel.durations: what a time may be given as."""

from __future__ import annotations

from datetime import timedelta

import pytest

from molt_accel.durations import in_ms
from tests.support.errors import raised


@pytest.mark.parametrize(
    ("value", "ms"), [(0, 0), (250, 250), (0.5, 0.5), (timedelta(seconds=2, microseconds=1), 2000.001)]
)
def test_a_time_is_milliseconds_or_a_timedelta(value: object, ms: float) -> None:
    assert in_ms("t", value) == ms


@pytest.mark.parametrize("value", ["5", b"5", None, True, [5], 5j])
def test_what_is_no_time_is_a_type_error(value: object) -> None:
    text = f"t: {value!r} is not allowed; it must be milliseconds (an int or a float) or a datetime.timedelta"
    assert str(raised(TypeError, in_ms, "t", value)) == text


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), 1e13, timedelta(-1)])
def test_a_time_that_can_not_be_is_a_value_error(value: object) -> None:
    text = f"t: {value!r} is not allowed; it must be 0 or more milliseconds, 10^12 at most"
    assert str(raised(ValueError, in_ms, "t", value)) == text
