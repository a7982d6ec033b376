"""Times as users give them, in options and settings: numbers of milliseconds, or timedeltas."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

Milliseconds = float | timedelta

NS_PER_US: Final = 1_000
NS_PER_MS: Final = 1_000_000
NS_PER_S: Final = 1_000_000_000
_MOST_MS: Final = 1e12
_MILLISECOND: Final = timedelta(milliseconds=1)


def in_ms(name: str, value: object) -> float:
    """Return a time as milliseconds; `name` is what the errors call it.

    Raises:
        TypeError: it is no int, float or timedelta.
        ValueError: it is below 0, above 10^12 ms, or no number.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, timedelta)):
        raise TypeError(
            f"{name}: {value!r} is not allowed; it must be milliseconds (an int or a float) or a datetime.timedelta"
        )
    number = value / _MILLISECOND if isinstance(value, timedelta) else value
    if not 0 <= number <= _MOST_MS:
        raise ValueError(
            f"{name}: {value!r} is not allowed; it must be 0 or more milliseconds, 10^12 at most"
        )
    return number
