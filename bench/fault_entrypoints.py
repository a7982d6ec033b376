"""Entrypoints that misbehave, for `bench/scripts/run_fault_bench.py`."""

from __future__ import annotations

import collections
import itertools
import time
from pathlib import Path

from molt_worker import export


@export
def echo(payload: object) -> object:
    """Returns what it is given."""
    return payload


@export
def busy_loop(path: str) -> None:
    """Says that it runs by creating a file, then loops in Python."""
    Path(path).touch()
    while True:
        pass


@export
def sleep(path: str) -> None:
    """Says that it runs, then sleeps."""
    Path(path).touch()
    time.sleep(3600)


@export
def stuck_in_c(path: str) -> None:
    """Says that it runs, then loops in C, holding the GIL and never looking for signals."""
    Path(path).touch()
    collections.deque(itertools.repeat(0), maxlen=0)
