"""The same programs in Python and compiled: equal results, through a client, of the very same sources."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.programs.sizes import EXPORTS, FULL, QUICK
from molt_accel import Client
from molt_accel.options import CallMetrics

#: What is known of each program's result at the quick size.
KNOWN: dict[str, Callable[[Any], bool]] = {
    "n_body": lambda found: abs(found[0] - found[1]) < 1e-4 < abs(found[0]),  # energy is kept
    "spectral_norm": lambda found: 1.27 < found < 1.2743,
    "fannkuch": lambda found: found == [49, 10],
    "mandelbrot": lambda found: 0.2 < found[0] / 32**2 < 0.5,
    "k_nucleotide": lambda found: sum(found[letter] for letter in "ACGT") == 2000,
    "edit_distance": lambda found: found > 0 and found % 2 == 0,
    "rows": lambda found: sum(total[2] for total in found.values()) == 134,
}


@pytest.mark.slow
@pytest.mark.parametrize("compiled", ["off", "require"])
def test_programs_give_the_right_results_the_same_as_in_process(programs_build: Path, compiled: str) -> None:
    options = {"exports": EXPORTS, "build_dir": programs_build, "executors": 1, "log_level": "error"}
    with Client(compiled=compiled, transport="stdio", **options) as client:
        for name, size in QUICK.items():
            seen: list[CallMetrics] = []
            result = client.call(name, size, timeout_ms=60_000, metrics_hook=seen.append)
            assert seen[0].compiled is (compiled == "require")
            assert KNOWN[name](result), (name, result)
            assert result == getattr(importlib.import_module(f"bench.programs.{name}"), name)(size), name


def test_every_program_has_a_size_to_be_measured_at() -> None:
    assert FULL.keys() == QUICK.keys() == KNOWN.keys()
