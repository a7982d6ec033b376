"""How large the programs are run: `QUICK` to compare results, `FULL` to measure (tenths of a second in Python)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

EXPORTS: Final = str(Path(__file__).with_name("molt_exports.json"))
QUICK: Final = {
    "n_body": 200,
    "spectral_norm": 20,
    "fannkuch": 6,
    "mandelbrot": 32,
    "k_nucleotide": 2000,
    "edit_distance": 12,
    "rows": 400,
}
FULL: Final = {
    "n_body": 10_000,
    "spectral_norm": 100,
    "fannkuch": 8,
    "mandelbrot": 160,
    "k_nucleotide": 60_000,
    "edit_distance": 60,
    "rows": 20_000,
}
