"""The one table of a frame's header: its fields, in the order of the bytes.

`molt_accel.ipc.frame` makes its struct format from it, and `generate` the C struct and the Cython code of the native
core. After a change run `python -m molt_accel.ipc.shm.core.generate`, and give the message's class the attribute.
"""

from __future__ import annotations

import enum
from typing import Final, NamedTuple


class Of(enum.Flag):
    """Which messages have a field."""

    FRAME = 0  #: none: the frame itself has it
    REQUEST = enum.auto()
    RESPONSE = enum.auto()
    BOTH = REQUEST | RESPONSE


class Field(NamedTuple):
    """An unsigned little-endian number of 8, 16, 32 or 64 bits."""

    name: str
    bits: int
    of: Of


FIELDS: Final = (
    Field("version", 8, Of.FRAME),
    Field("kind", 8, Of.FRAME),
    Field("codec", 8, Of.BOTH),
    Field("status", 8, Of.RESPONSE),
    Field("entry_bytes", 16, Of.FRAME),
    Field("flags", 16, Of.RESPONSE),
    Field("request_id", 64, Of.BOTH),
    Field("generation", 32, Of.BOTH),
    Field("payload_bytes", 32, Of.FRAME),
    Field("deadline_ns", 64, Of.REQUEST),
    Field("sent_ns", 64, Of.REQUEST),
    Field("max_wait_ms", 32, Of.REQUEST),
    Field("metadata_bytes", 32, Of.REQUEST),
    Field("queue_depth", 32, Of.BOTH),
    Field("in_flight", 32, Of.BOTH),
    Field("queue_us", 32, Of.RESPONSE),
    Field("decode_us", 32, Of.RESPONSE),
    Field("handler_us", 32, Of.RESPONSE),
    Field("encode_us", 32, Of.RESPONSE),
    Field("exec_us", 32, Of.RESPONSE),
    Field("executor", 32, Of.RESPONSE),
)

#: Of `struct`, for all fields.
FORMAT: Final = "<" + "".join({8: "B", 16: "H", 32: "I", 64: "Q"}[field.bits] for field in FIELDS)
