"""What travels: objects as bytes, one way for all peers that carry bytes, or bytes as they are."""

from __future__ import annotations

import msgpack

END = b""
"""Tells the process that answers to end."""
PACKED, RAW = b"\x00", b"\x01"
"""Tell the process that answers what to do from now on: unpack and pack what comes (as at the start), or send it back
as it is. Each is answered with itself. No payload is one byte long, so the length tells a command from a payload."""


def pack(value: object) -> bytes:
    """The msgpack bytes of a value."""
    return msgpack.packb(value, use_bin_type=True)  # type: ignore[no-any-return]


def unpack(data: object) -> object:
    """The value of msgpack bytes; takes whatever has a buffer."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)
