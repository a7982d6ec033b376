"""molt_accel.codec: objects to bytes and back, and errors for everything else."""

import dataclasses
import datetime
import enum
import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import codec
from molt_accel.codec import DecodeError, EncodeError
from molt_accel.errors import NoSharedMemory
from molt_accel.ipc.messages import Codec
from molt_accel.ipc.shm.arena import native
from tests.support.errors import raised

_integers = st.integers(-(2**63), 2**64 - 1)
_scalars = st.none() | st.booleans() | _integers | st.text() | st.floats(allow_nan=False)
msgpack_values = st.recursive(
    _scalars | st.binary(),
    lambda children: st.lists(children) | st.dictionaries(st.text() | st.integers(0, 99), children),
    max_leaves=20,
)
json_values = st.recursive(
    st.none() | st.booleans() | _integers | st.text() | st.floats(-1e300, 1e300),
    lambda children: st.lists(children) | st.dictionaries(st.text(), children),
    max_leaves=20,
)


@given(msgpack_values)
def test_msgpack_round_trip(value: object) -> None:
    assert codec.decode("msgpack", codec.encode("msgpack", value)) == value


@given(json_values)
def test_json_round_trip(value: object) -> None:
    assert codec.decode("json", codec.encode("json", value)) == value


@given(st.binary())
def test_raw_round_trip(value: bytes) -> None:
    assert codec.decode("raw", codec.encode("raw", value)) == value


@given(st.sampled_from(Codec), st.binary(max_size=200))
def test_decoding_any_bytes_gives_a_value_or_a_decode_error(which: Codec, data: bytes) -> None:
    try:
        codec.decode(which, data)
    except DecodeError as exc:
        assert str(exc).startswith(f"not valid {which.label}: ")  # noqa: PT017 - either end is right


@given(msgpack_values, st.data())
def test_decoding_damaged_msgpack_gives_a_value_or_a_decode_error(value: object, data: st.DataObject) -> None:
    packed = bytearray(msgpack.packb(value))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        codec.decode(Codec.MSGPACK, packed)
    except DecodeError as exc:
        assert str(exc).startswith("not valid msgpack: ")  # noqa: PT017 - either end is right


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
@pytest.mark.parametrize("name", ["json", "raw"])
def test_bytes_pass_through_json_and_raw_as_they_are(name: str, wrap: Any) -> None:
    encoded = codec.encode(name, wrap(b'{ "a":1 }'))
    assert encoded == b'{ "a":1 }'
    assert type(encoded) is bytes


@pytest.mark.parametrize("wrap", [bytes, bytearray, memoryview])
def test_any_bytes_like_can_be_decoded(wrap: Any) -> None:
    assert codec.decode("msgpack", wrap(b"\x01")) == 1
    assert codec.decode("json", wrap(b"1")) == 1
    raw = codec.decode("raw", wrap(b"1"))
    assert (raw, type(raw)) == (b"1", bytes)


class _Strange:
    pass


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("msgpack", _Strange()), ("msgpack", {_Strange()}), ("msgpack", 2**64), ("msgpack", "\ud800"),
        ("msgpack", {"deep": [datetime.timedelta]}), ("json", _Strange()),
        ("json", {(1, 2): 3}), ("raw", "text"), ("raw", None), ("raw", 5),
    ],
)  # fmt: skip
def test_what_a_codec_has_no_form_for_is_an_encode_error(name: str, value: object) -> None:
    with pytest.raises(EncodeError, match=f"^can't be encoded as {name}( at .*)?: "):
        codec.encode(name, value)


def test_a_failed_encoding_leaves_nothing_behind_for_the_next() -> None:
    with pytest.raises(EncodeError):
        codec.encode("msgpack", ["some", "values", _Strange()])
    assert codec.encode("msgpack", [1]) == b"\x91\x01"


def test_a_value_may_encode_another_in_the_middle_of_being_encoded() -> None:
    class Nesting(dict[str, object]):
        def items(self) -> Any:
            assert codec.encode("msgpack", ["inner"]) == b"\x91\xa5inner"
            with pytest.raises(EncodeError):
                codec.encode("msgpack", ["inner", _Strange()])
            return super().items()

    for _ in range(2):
        assert codec.encode("msgpack", ["outer", Nesting(a=1), 2]) == b"\x93\xa5outer\x81\xa1a\x01\x02"


def test_threads_encode_at_once() -> None:
    class Slow(dict[str, object]):
        def items(self) -> Any:
            time.sleep(0.001)  # another thread's turn
            return super().items()

    def encode_many(number: int) -> bool:
        value = {"number": number, "slow": Slow(text=str(number) * 50)}
        expected = msgpack.packb({**value, "slow": dict(value["slow"])})
        return all(codec.encode("msgpack", value) == expected for _ in range(20))

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(encode_many, range(8)))


def test_nothing_large_is_kept_from_one_encoding_to_the_next() -> None:
    codec.encode("msgpack", b"small")
    kept = len(codec._packers)
    assert kept >= 1
    codec.encode("msgpack", b"x" * 1_000_000)
    assert len(codec._packers) == kept - 1
    for _ in range(100):
        codec.encode("msgpack", b"small")
    assert len(codec._packers) == max(1, kept - 1)


@pytest.mark.parametrize("name", ["pickle", None, 1, True])
def test_an_unknown_codec_neither_encodes_nor_decodes(name: Any) -> None:
    for use in (codec.encode, codec.decode):
        with pytest.raises(ValueError, match=r"^unknown codec "):
            use(name, b"")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("msgpack", b""), ("msgpack", b"\xc1"), ("msgpack", b"\x01\x02"), ("msgpack", b"\xa5ab"),
        ("msgpack", b"\xdd\xff\xff\xff\xff"), ("msgpack", b"\x81\x80\x01"), ("msgpack", b"\xa1\xff"),
        ("msgpack", b"\x91" * 10_000), ("msgpack", b"\xc7\x01\xff\x00"), ("json", b""), ("json", b"{"),
        ("json", b"1 2"), ("json", b'"\xff"'), ("json", b"[" * 10_000), ("json", b"NaN"),
    ],
)  # fmt: skip
def test_invalid_bytes_are_a_decode_error_that_names_the_codec(name: str, data: bytes) -> None:
    with pytest.raises(DecodeError, match=f"^not valid {name}: .+"):
        codec.decode(name, data)


@pytest.mark.parametrize(
    "value",
    [
        msgpack.Timestamp(1, 2),
        msgpack.Timestamp(2**33, 3),
        msgpack.Timestamp(2**40, 4),
        b"\xd6\xff",
        [b"\xc7\x0c\xff"],
    ],
)
def test_timestamps_keep_their_nanoseconds(value: object) -> None:
    assert codec.decode("msgpack", msgpack.packb([value])) == [value]


def test_the_native_core_looks_for_timestamps_and_without_it_python_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def missing() -> None:
        raise NoSharedMemory("not here")

    if sys.platform == "linux":
        assert codec._timestamp_finder() is native().has_timestamp
    monkeypatch.setattr(codec, "native", missing)
    codec._timestamp_finder.cache_clear()
    try:
        for value in (msgpack.Timestamp(2**40, 4), -1, [b"\xff\xd6", -1.5]):
            assert codec.decode("msgpack", msgpack.packb([value])) == [value]
    finally:
        codec._timestamp_finder.cache_clear()


def test_what_is_nested_deeply_is_decoded() -> None:
    depth = 500
    assert codec.decode("msgpack", b"\x91" * depth + b"\x01") == json.loads("[" * depth + "1" + "]" * depth)


def test_msgpack_keeps_text_bytes_and_integer_keys_apart() -> None:
    value = {"text": "t", "bytes": b"b", 7: [None, True]}
    assert codec.decode("msgpack", codec.encode("msgpack", value)) == value


def test_json_has_forms_for_dataclasses_dates_and_enums() -> None:
    class Colour(enum.Enum):
        RED = "red"

    @dataclasses.dataclass
    class Row:
        day: datetime.date
        colour: Colour

    assert codec.encode("json", Row(datetime.date(2024, 2, 29), Colour.RED)) == (
        b'{"day":"2024-02-29","colour":"red"}'
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_writes_null_for_numbers_it_has_no_form_for(value: float) -> None:
    assert codec.encode("json", value) == b"null"


@pytest.mark.parametrize("which", Codec)
def test_a_codec_is_found_by_its_name_and_by_itself(which: Codec) -> None:
    assert codec.parse(which.label) is which
    assert codec.parse(which) is which


@pytest.mark.parametrize("name", ["pickle", "", "MSGPACK", None, 1, b"json", ["json"], True])
def test_an_unknown_codec_is_named_with_what_is_allowed(name: Any) -> None:
    error = raised(ValueError, codec.parse, name)
    assert str(error) == f"unknown codec {name!r}; allowed: msgpack, json, raw"
