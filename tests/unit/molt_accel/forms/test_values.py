"""molt_accel.forms.values: what msgpack has no form for comes back as it was, or is refused with what to send."""

import dataclasses
import datetime
import enum
from decimal import Decimal
from typing import Any, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import msgpack
import msgspec
import pydantic
import pytest
from django.utils.functional import lazystr
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import codec
from molt_accel.codec import DecodeError, EncodeError
from molt_accel.forms import values
from molt_accel.forms.response import Response
from molt_accel.ipc.messages import Codec
from molt_worker.entrypoints import typed

_zones = st.sampled_from([ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York"), ZoneInfo("UTC")])
_offsets = st.builds(
    # Python's `fromisoformat` reads an offset of less than a second as none.
    datetime.timezone,
    st.builds(datetime.timedelta, minutes=st.integers(-1439, 1439)),
)
_scalars = (
    st.dates()
    | st.times()
    | st.datetimes()
    | st.datetimes(timezones=_zones | _offsets, allow_imaginary=False)
    | st.timedeltas()
    | st.decimals(allow_nan=False)
    | st.uuids()
)
_leaves = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary() | _scalars
_values = st.recursive(
    _leaves | st.sets(_scalars | st.text()) | st.frozensets(_scalars | st.frozensets(_scalars)),
    lambda children: st.lists(children) | st.dictionaries(st.text() | _scalars, children),
    max_leaves=15,
)


def sent(value: object) -> Any:
    return codec.decode(Codec.MSGPACK, codec.encode(Codec.MSGPACK, value))


def _shape(value: object) -> object:
    """A value with the types of all of its parts, which `==` doesn't look at; a moment with its offset."""
    if isinstance(value, dict):
        return [(_shape(key), _shape(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [_shape(item) for item in value]
    if isinstance(value, datetime.datetime):
        return (datetime.datetime, value, value.utcoffset(), str(value.tzinfo))
    return (type(value), str(value) if isinstance(value, Decimal) else value)


@given(_values)
def test_values_come_back_as_they_were(value: object) -> None:
    assert _shape(sent(value)) == _shape(value)


def test_an_hour_that_clocks_show_twice_stays_the_one_it_was() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    for fold in (0, 1):
        moment = datetime.datetime(2026, 10, 25, 2, 30, tzinfo=berlin, fold=fold)
        back = sent(moment)
        assert (back.fold, back.tzinfo, back.utcoffset()) == (fold, berlin, moment.utcoffset())


@pytest.mark.parametrize("zone", [b"Nowhere/Else", b"America"])
def test_a_zone_that_is_not_known_here_leaves_the_offset(zone: bytes) -> None:
    data = msgpack.packb(msgpack.ExtType(values.EXT, b"s2026-01-02T03:04:05+09:00[%b]" % zone))
    assert codec.decode(Codec.MSGPACK, data).utcoffset() == datetime.timedelta(hours=9)


class Colour(enum.Enum):
    RED = Decimal("1.5")


@dataclasses.dataclass
class Row:
    price: Decimal
    day: datetime.date


class Item(msgspec.Struct, rename="camel", tag=True):
    unit_price: Decimal
    note: str | msgspec.UnsetType = msgspec.UNSET


class Pair(msgspec.Struct, array_like=True):
    first: UUID
    second: int


class Model(pydantic.BaseModel):
    at: datetime.time


class Typed(TypedDict):
    prices: set[Decimal]


@pytest.mark.parametrize(
    ("value", "back"),
    [
        (Colour.RED, Decimal("1.5")),
        (lazystr("later"), "later"),
        ((1, (Decimal(2),)), [1, [Decimal(2)]]),
        ({(1, Decimal(2)): 3}, {(1, Decimal(2)): 3}),
        (
            Row(Decimal("1.10"), datetime.date(2026, 1, 2)),
            {"price": Decimal("1.10"), "day": datetime.date(2026, 1, 2)},
        ),
        (Item(Decimal(1)), {"type": "Item", "unitPrice": Decimal(1)}),
        ([Pair(UUID(int=1), 2)], [[UUID(int=1), 2]]),
        (Model(at=datetime.time(1, 2)), {"at": datetime.time(1, 2)}),
        ({(1, 2), frozenset([3])}, {(1, 2), frozenset([3])}),
    ],
    ids=str,
)
def test_what_has_parts_comes_as_its_parts(value: object, back: object) -> None:
    assert sent(value) == back


@pytest.mark.parametrize("hint", [Row, Item, Pair, Typed], ids=lambda hint: hint.__name__)
@pytest.mark.parametrize("as_json", [False, True])
def test_a_typed_entrypoint_makes_its_own_of_either_form(hint: Any, as_json: bool) -> None:
    """As values of this library over msgpack, and as texts, as other clients send them."""
    value = {
        Row: Row(Decimal("1.10"), datetime.date(2026, 1, 2)),
        Item: Item(Decimal("1.10")),
        Pair: Pair(UUID(int=7), 2),
        Typed: {"prices": {Decimal("1.5"), Decimal(2)}},
    }[hint]
    decode = typed.decoder(hint, Codec.MSGPACK)
    assert decode is not None
    data = codec.encode(Codec.MSGPACK, value)
    if as_json:
        data = codec.encode(Codec.MSGPACK, msgspec.json.decode(msgspec.json.encode(value)))
    assert decode(data) == value


def test_a_result_with_such_fields_comes_back_with_them() -> None:
    encode = typed.encoder(Row, Codec.MSGPACK)
    row = Row(Decimal("1.10"), datetime.date(2026, 1, 2))
    data = codec.encode(Codec.MSGPACK, row) if encode is None else encode(row)
    assert codec.decode(Codec.MSGPACK, data) == {"price": Decimal("1.10"), "day": datetime.date(2026, 1, 2)}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([Decimal(1), 2**64], r"at \[1\], of type int"),
        (
            {"rows": [1, {"owner": {Row(Decimal(1), datetime.date(2026, 1, 2)).price, object()}}]},
            "a set with a object in it",
        ),
        ({"rows": [1, 2, 3, {"owner": object()}]}, r'at \["rows"\]\[3\]\["owner"\], of type object'),
    ],
    ids=["whole number", "set", "place"],
)
def test_what_has_no_form_is_refused_with_its_place(value: object, why: str) -> None:
    with pytest.raises(EncodeError, match=why):
        codec.encode(Codec.MSGPACK, value)


@given(st.binary(max_size=40))
def test_any_bytes_as_an_extension_give_a_value_or_a_decode_error(data: bytes) -> None:
    packed = msgpack.packb(msgpack.ExtType(values.EXT, data))
    try:
        codec.decode(Codec.MSGPACK, packed)
    except DecodeError as exc:
        assert "of the extension type 77 is not valid" in str(exc)  # noqa: PT017 - either end is right


def test_extensions_of_an_application_stay_what_they_are() -> None:
    assert sent([msgpack.ExtType(5, b"own"), Decimal(1)]) == [msgpack.ExtType(5, b"own"), Decimal(1)]


def test_a_response_comes_back_whole() -> None:
    response = Response("text", 201, {"A": "b"}, "text/plain")
    back = codec.decode(Codec.MSGPACK, values.pack_response(response))
    assert back.parts() == response.parts()
    with pytest.raises(EncodeError, match="Response"):
        codec.encode(Codec.MSGPACK, [response])  # it is an answer, and no part of one


def test_plain_values_are_encoded_as_msgpack_alone_would() -> None:
    plain = {"a": [1, 2.5, "text", b"bytes", None, True], 7: (1, {"deep": []})}
    assert codec.encode(Codec.MSGPACK, plain) == msgpack.packb(plain)
