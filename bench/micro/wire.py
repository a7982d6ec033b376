"""What travels: objects as bytes, one way for all peers that carry bytes, or bytes as they are."""

from __future__ import annotations

import msgpack

END = b""
"""Tells who answers to end."""
PACKED, RAW = b"\x00", b"\x01"
"""Tell who answers whether it takes apart and puts together what comes, as at first, or sends it back as it is. Both
are answered with themselves. No payload is as short, so a look at the length tells them apart."""


def pack(value: object) -> bytes:
    """The msgpack bytes of a value."""
    return msgpack.packb(value, use_bin_type=True)  # type: ignore[no-any-return]


def unpack(data: object) -> object:
    """The value of msgpack bytes; takes whatever has a buffer."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)
