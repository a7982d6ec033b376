"""The one table of a frame's header."""

import struct

from molt_accel.ipc.fields import FIELDS, FORMAT


def test_the_header_has_eighty_bytes_and_each_field_its_own() -> None:
    assert (struct.calcsize(FORMAT), FORMAT) == (80, "<BBBBHHQIIQQIIIIIIIIII")
    assert len({field.name for field in FIELDS}) == len(FIELDS) == 21
    at = 0
    for field in FIELDS:
        assert at % field.bits == 0, "a field that is not aligned"
        at += field.bits
