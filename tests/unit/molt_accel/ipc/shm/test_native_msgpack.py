"""The native core's look for msgpack's timestamps."""

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.codec import _TIMESTAMPS
from tests.support.handover import core

BLOCK = 4096
_bytes = st.sampled_from([b"\xff", b"\xd6", b"\xd7", b"\xc7", b"\x0c", b"\x00", b"x" * 100, b"x" * BLOCK])


@given(st.lists(_bytes, max_size=30).map(b"".join))
def test_it_finds_what_a_search_for_each_beginning_finds(data: bytes) -> None:
    assert core.has_timestamp(data) is any(each in data for each in _TIMESTAMPS)


@pytest.mark.parametrize("before", [0, 1, 2, 3, *range(BLOCK - 2, BLOCK + 4), 3 * BLOCK + 1])
@pytest.mark.parametrize("beginning", _TIMESTAMPS)
def test_it_finds_one_wherever_it_begins(before: int, beginning: bytes) -> None:
    for after in (b"", b"x", b"x" * BLOCK):
        data = b"\xff" * before + beginning + after
        assert core.has_timestamp(data)
        assert not core.has_timestamp(data[:-1] if not after else data.replace(beginning, b"\xff"))


@pytest.mark.parametrize("seconds", [0, 2**33, 2**40])
def test_it_finds_what_msgpack_writes(seconds: int) -> None:
    assert core.has_timestamp(msgpack.packb({"at": msgpack.Timestamp(seconds, 7)}))
    assert not core.has_timestamp(msgpack.packb({"at": -1, "rows": [-1.5] * 100}))
