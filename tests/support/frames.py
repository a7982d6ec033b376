"""Frames that no encoder of the project makes."""

import struct

import msgspec

from molt_accel.ipc.frame import HEADER_BYTES, VERSION, Kind
from molt_accel.ipc.messages import Codec

#: Length prefix and header, field by field as docs/reference/protocol.md has them.
HEAD = struct.Struct("<IBBBBHHQIIQQ10I")


def message_of(payload: bytes) -> bytes:
    """The frame of a control message whose payload may be anything."""
    head = (HEADER_BYTES + len(payload), VERSION, Kind.CONTROL, Codec.MSGPACK, 0, 0, 0, 0, 0, len(payload))
    return HEAD.pack(*head, *(0,) * 12) + payload


def message_saying(**fields: object) -> bytes:
    return message_of(msgspec.msgpack.encode(fields))
