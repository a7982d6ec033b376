"""What this project's own worker serves in the benchmark: one echo for objects, and one for plain bytes."""

from __future__ import annotations

from molt_worker import export


@export
def echo(value: object) -> object:
    """Returns what it is given; it was unpacked, and is packed again."""
    return value


@export(codec_in="raw", codec_out="raw")
def echo_raw(data: bytes) -> bytes:
    """Returns the bytes that it is given, as they are."""
    return data
