"""Entrypoints of several classes, and one with a limit."""

import time
from pathlib import Path

from molt_worker import export
from tests.support.entrypoints import append, wait_for_file


@export
def normal(line: dict[str, str]) -> None:
    append(line)


@export(priority="high")
def high(line: dict[str, str]) -> None:
    append(line)


@export(priority="low")
def low(line: dict[str, str]) -> None:
    append(line)


@export(max_concurrency=1)
def slow(path: str) -> str:
    """As `wait_for_file`."""
    return wait_for_file(path)


@export
def work(task: dict[str, float | str]) -> str:
    """Takes so many seconds, or until the file exists."""
    if path := task.get("path"):
        return wait_for_file(str(path))
    time.sleep(float(task["seconds"]))
    return "done"


@export(max_concurrency=1)
def one_at_a_time(folder: str) -> int:
    """How many run at this moment, itself included: never more than one if the limit holds."""
    mark = Path(folder) / str(time.monotonic_ns())
    mark.touch()
    try:
        time.sleep(0.002)
        return len(list(Path(folder).iterdir()))
    finally:
        mark.unlink()
