"""The payloads of a size: the same objects for every peer."""

from __future__ import annotations

import random

from bench.micro.wire import pack

LARGE_BYTES = 256 * 1024
"""From here on a payload is plain bytes: a small dict around them would cost next to nothing beside the copying."""
KIB = 1024
MIB = 1024 * 1024
SMALLEST = 32
_UNITS = {"": 1, "b": 1, "k": KIB, "kib": KIB, "m": MIB, "mib": MIB}


def payload_of(size: int) -> object:
    """A dict that takes `size` bytes as msgpack, or that many bytes where they are many.

    Raises ValueError below `SMALLEST` bytes.
    """
    if size < SMALLEST:
        raise ValueError(f"{size} bytes are too few for a payload, the least is {SMALLEST}")
    # Not zeros: pages that were never written, or that are compressed, would cost nothing to carry.
    content = random.Random(size).randbytes(size)
    if size >= LARGE_BYTES:
        return content
    rest = size - len(pack({"id": 7, "data": b""}))
    # The length of the data is itself written with one, two or four bytes.
    for length in (rest, rest - 1, rest - 3):
        payload = {"id": 7, "data": content[:length]}
        if len(pack(payload)) == size:
            return payload
    return {"id": 7, "data": content[: rest - 3]}


def parse_size(text: str) -> int:
    """Bytes of a size as a person writes it: ``64``, ``4K``, ``4KiB``, ``1M``. Raises ValueError."""
    lowered = text.strip().lower()
    digits = lowered.rstrip("bikm")
    unit = lowered[len(digits) :]
    if not (digits.isascii() and digits.isdigit()) or unit not in _UNITS:
        raise ValueError(f"{text!r} is no size; write 64, 4KiB or 1MiB")
    return int(digits) * _UNITS[unit]


def size_name(size: int) -> str:
    """A size as a person reads it."""
    for unit, name in ((MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"
