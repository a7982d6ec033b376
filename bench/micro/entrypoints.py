"""What this project's own worker serves in the benchmark: echoes of objects and plain bytes, nothing, and a wait."""

from __future__ import annotations

import fcntl
from pathlib import Path

from molt_worker import export


@export
def echo(value: object) -> object:
    """Returns what it is given; it was unpacked, and is packed again."""
    return value


@export(codec_in="raw", codec_out="raw")
def echo_raw(data: bytes) -> bytes:
    """Returns the bytes that it is given, as they are."""
    return data


@export(codec_out="json")
def empty(_payload: object) -> object:
    """Does nothing; the answer is that of a view, which goes to the browser as it is."""
    return {}


@export
def wait(path: str) -> None:
    """Waits until nobody has the file locked for himself."""
    with Path(path).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
