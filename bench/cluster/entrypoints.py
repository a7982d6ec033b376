"""What the pools of the benchmark serve: an echo, and one that takes its time without a processor."""

from __future__ import annotations

import os
import time

from molt_worker import export


@export
def echo(value: object) -> object:
    """Returns what it is given; it was unpacked, and is packed again."""
    return value


@export
def nap(ms: float) -> int:
    """Sleeps, and returns the process id of its pool's fork server, which tells pools apart."""
    time.sleep(ms / 1000)
    return os.getppid()
