"""The fake database's settings. Importing this reads them from the environment, and fails if one is wrong."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

_LARGEST: Final = 1_000_000_000
_LARGEST_DELAY_MS: Final = 60_000
_LARGEST_DECODE_US: Final = 1_000_000


class SettingError(ValueError):
    """A setting has a value that is not allowed. The text names setting, value and what is allowed."""


@final
@dataclass(frozen=True)
class FakeDbSettings:
    """What one query of the fake database costs, on top of decoding its rows.

    delay_ms: fixed latency of a query, in milliseconds, slept (no CPU).
    decode_us_per_row: extra CPU time for each decoded row, in microseconds.
    cpu_iters: extra iterations of an integer loop for each request.
    """

    delay_ms: int = 0
    decode_us_per_row: int = 0
    cpu_iters: int = 0


def read_settings(environ: Mapping[str, str]) -> FakeDbSettings:
    """Read the fake database's settings from `environ`. An unset or blank one is 0.

    Raises SettingError if a value is not a whole number inside its range.
    """
    return FakeDbSettings(
        delay_ms=_whole_number(environ, "MOLT_FAKE_DB_DELAY_MS", _LARGEST_DELAY_MS),
        decode_us_per_row=_whole_number(environ, "MOLT_FAKE_DB_DECODE_US_PER_ROW", _LARGEST_DECODE_US),
        cpu_iters=_whole_number(environ, "MOLT_FAKE_DB_CPU_ITERS", _LARGEST),
    )


def _whole_number(environ: Mapping[str, str], name: str, largest: int) -> int:
    text = environ.get(name, "").strip()
    if not text:
        return 0
    # Check the length before int(), which raises an error of its own for very long digit strings.
    if text.isascii() and text.isdigit() and len(text) <= 12 and int(text) <= largest:
        return int(text)
    shown = repr(text if len(text) <= 60 else text[:60] + "...")
    raise SettingError(f"{name}: {shown} is not allowed; allowed: a whole number from 0 to {largest}")


FAKE_DB: Final[FakeDbSettings] = read_settings(os.environ)
