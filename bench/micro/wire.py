"""Objects as bytes: one way for all peers that carry bytes, with the options of the project's own codec."""

from __future__ import annotations

import msgpack


def pack(value: object) -> bytes:
    """The msgpack bytes of a value."""
    return msgpack.packb(value, use_bin_type=True)  # type: ignore[no-any-return]


def unpack(data: object) -> object:
    """The value of msgpack bytes; takes whatever has a buffer."""
    return msgpack.unpackb(data, raw=False, strict_map_key=False)
