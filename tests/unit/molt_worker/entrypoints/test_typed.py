"""Typed entrypoints: which annotations count, what is validated, what is refused and in which words."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import decimal
import enum
import functools
import re
import typing
import uuid
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, TypedDict, TypeVar

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import codec
from molt_accel.forms import values as values_form
from molt_accel.ipc.messages import Codec
from molt_worker import InvalidInput
from molt_worker.entrypoints import typed
from molt_worker.entrypoints.typed import NoCodec
from tests.support.errors import raised

if typing.TYPE_CHECKING:
    from decimal import Decimal


#: What a class raises because of a mistake in its own code.
BUGS: dict[str, type[Exception]] = {
    "KeyError": KeyError,
    "TypeError": TypeError,
    "RecursionError": RecursionError,
    "OverflowError": OverflowError,
}


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)]
    sort: Literal["up", "down"] = "up"
    tags: list[str] = []

    def __post_init__(self) -> None:
        if self.tags == ["wrong"]:
            raise ValueError("wrong tags")
        if self.tags == ["refused"]:
            raise InvalidInput("refused tags")
        for tag in self.tags:
            if tag in BUGS:
                raise BUGS[tag](tag)


@dataclasses.dataclass
class Point:
    x: float
    when: datetime.date | None = None


class Row(TypedDict):
    name: str
    units: int


class Tree(msgspec.Struct):
    children: list[Tree] = []


class Own:
    pass


class Holder(msgspec.Struct):
    own: Own


Item = TypeVar("Item")


class Page(msgspec.Struct, Generic[Item]):
    items: list[Item]


class Loose(TypedDict):
    """Fields that may hold anything, in the two ways to say so."""

    data: object
    more: NotRequired[set[Any]]


def _fail() -> int:
    raise ValueError("not of the input")


class Failing(msgspec.Struct):
    made: int = msgspec.field(default_factory=_fail)


SpecialQuery = NewType("SpecialQuery", Query)
BoundToQuery = TypeVar("BoundToQuery", bound=Query)


class Searcher:
    """An object that can be called, with annotations that are not those of the call."""

    index: Query

    def __call__(self, point: Point) -> Row: ...  # type: ignore[empty-body]
    def search(self, point: Point) -> Row: ...  # type: ignore[empty-body]

    @classmethod
    def of_class(cls, point: Point) -> Row: ...  # type: ignore[empty-body]
    @staticmethod
    def static(point: Point) -> Row: ...  # type: ignore[empty-body]


ORIGIN = Point(0)


def of_query(query: Query) -> Row: ...  # type: ignore[empty-body]
def of_rows(rows: list[Row], more: int = 0) -> dict[str, Point]: ...  # type: ignore[empty-body]
def plain(payload: dict[str, Any]) -> object: ...
def bare(payload): ...  # type: ignore[no-untyped-def]
def nested(rows: list["Row"]) -> Page["Row"]: ...  # type: ignore[empty-body] # noqa: UP037
def only_second(payload, point: Point = ORIGIN) -> None: ...  # type: ignore[no-untyped-def]
def only_keyword(payload=None, *, point: Point = ORIGIN) -> None: ...  # type: ignore[no-untyped-def]
def no_place(*, point: Point) -> None: ...
def any_number(*points: Point) -> None: ...
def second_of_two(limit: int, point: Point) -> None: ...
def result_for_checkers(payload: Query) -> Decimal: ...  # type: ignore[empty-body]
def parameter_for_checkers(payload: Decimal) -> Query: ...  # type: ignore[empty-body]
def nested_for_checkers(payload: list[Decimal]) -> Query: ...  # type: ignore[empty-body]
def nothing() -> None: ...


@functools.wraps(of_query)
def wrapping(*args: Any, **kwargs: Any) -> Any: ...


def outside(*args: Any, **kwargs: Any) -> Any: ...


@pytest.mark.parametrize(
    ("function", "parameter", "result"),
    [
        (of_query, Query, Row),
        (of_rows, list[Row], dict[str, Point]),
        (plain, dict[str, Any], object),
        (bare, None, None),
        (nested, list[Row], Page[Row]),
        (only_second, None, type(None)),
        (only_keyword, None, type(None)),
        (no_place, None, type(None)),
        (any_number, Point, type(None)),
        (result_for_checkers, Query, None),
        (nothing, None, type(None)),
        (wrapping, Query, Row),
        (outside, Any, Any),
        (functools.partial(second_of_two, 1), Point, type(None)),
        (Searcher(), Point, Row),
        (Searcher().search, Point, Row),
        (Searcher.of_class, Point, Row),
        (Searcher.static, Point, Row),
        (len, None, None),
        (dict, None, None),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_the_types_are_those_of_a_call(function: Callable[..., Any], parameter: Any, result: Any) -> None:
    assert typed.hints(function, __name__) == (parameter, result)


@pytest.mark.parametrize("function", [parameter_for_checkers, nested_for_checkers])
def test_a_type_that_only_type_checkers_see_does_not_go_unchecked(function: Callable[..., Any]) -> None:
    error = raised(NoCodec, typed.hints, function, __name__)
    assert "Decimal can't be evaluated: NameError: name 'Decimal' is not defined" in str(error).replace(
        "list[Decimal]", "Decimal"
    )
    assert "TYPE_CHECKING" in str(error)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Query, True), (Point, True), (Row, True), (list[Row], True), (dict[str, Query], True), (Query | None, True),
        (Annotated[Query, "x"], True), (Any, False), (object, False), (None, False), (dict[str, Any], False),
        (list[int], False), (int | None, False), (Own, False), (datetime.date, False),
        (Page[int], True), (SpecialQuery, True), (BoundToQuery, True), (Item, False), (list[SpecialQuery | None], True),
        (Literal["Query"], False), (Annotated[int, Query], False), (Callable[[Query], None], False),
    ],
)  # fmt: skip
def test_structs_dataclasses_and_typed_dicts_count(hint: Any, expected: bool) -> None:
    assert typed.is_typed(hint) is expected
    assert (typed.decoder(hint, Codec.MSGPACK) is not None) is expected
    assert (typed.encoder(hint, Codec.MSGPACK) is not None) is (expected and hint is not Point)


def sent(hint: Any, result: Any) -> Any:
    """A result of this type as the caller gets it: by an encoder of its own, or by the codec."""
    encode = typed.encoder(hint, Codec.MSGPACK) or functools.partial(codec.encode, Codec.MSGPACK)
    return codec.decode(Codec.MSGPACK, encode(result))


def decoded(hint: Any, value: Any, name: Codec = Codec.MSGPACK) -> Any:
    decode = typed.decoder(hint, name)
    assert decode is not None
    return decode(codec.encode(name, value))


@pytest.mark.parametrize("name", [Codec.MSGPACK, Codec.JSON])
def test_a_payload_becomes_the_object(name: Codec) -> None:
    assert decoded(Query, {"limit": 3, "tags": ["a"]}, name) == Query(3, "up", ["a"])
    assert decoded(Point, {"x": 1, "when": "2024-02-29"}, name) == Point(1.0, datetime.date(2024, 2, 29))
    assert decoded(list[Row], [{"name": "a", "units": 1}], name) == [{"name": "a", "units": 1}]
    assert decoded(Tree, {"children": [{}]}, name) == Tree([Tree()])
    assert decoded(Loose, {"data": [1, {"a": None}]}, name) == {"data": [1, {"a": None}]}


@pytest.mark.parametrize("name", [Codec.MSGPACK, Codec.JSON])
@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"limit": "3"}, "the payload: Expected `int`, got `str` - at `$.limit`"),
        ({"limit": 0}, "the payload: Expected `int` >= 1 - at `$.limit`"),
        ({}, "the payload: Object missing required field `limit`"),
        ({"limit": 1, "tags": ["a", 2]}, "the payload: Expected `str`, got `int` - at `$.tags[1]`"),
        ({"limit": 1, "more": 1}, "the payload: Object contains unknown field `more`"),
        ({"limit": 1, "sort": "sideways"}, "the payload: Invalid enum value 'sideways' - at `$.sort`"),
        ({"limit": 1, "tags": ["wrong"]}, "the payload: wrong tags"),
        ({"limit": 1, "tags": ["refused"]}, "the payload: refused tags"),
        ([1], "the payload: Expected `object`, got `array`"),
    ],
)
def test_a_violation_names_the_field(name: Codec, value: Any, text: str) -> None:
    assert str(raised(InvalidInput, decoded, Query, value, name)) == text
    assert str(raised(InvalidInput, typed.convert, value, Query)) == text


@pytest.mark.parametrize("name", [Codec.MSGPACK, Codec.JSON])
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_in_the_object_is_no_fault_of_the_input(name: Codec, bug: str) -> None:
    for wrong in (
        lambda: decoded(Query, {"limit": 1, "tags": [bug]}, name),
        lambda: typed.convert({"limit": 1, "tags": [bug]}, Query),
        lambda: decoded(list[Query], [{"limit": 1, "tags": [bug]}], name),
    ):
        with pytest.raises(BUGS[bug]) as caught:
            wrong()
        assert caught.type is BUGS[bug]


def test_a_default_that_fails_is_no_fault_of_the_input() -> None:
    with pytest.raises(ValueError, match="not of the input") as caught:
        decoded(Failing, {})
    assert caught.type is ValueError
    assert decoded(Failing, {"made": 1}) == Failing(1)


def test_what_the_sender_chose_is_shown_shortened_and_harmless() -> None:
    assert len(str(raised(InvalidInput, decoded, Query, {"limit": 1, "m" * 10_000: 1}))) < 450
    with pytest.raises(InvalidInput, match=r"unknown field `a\\n\\x1b`$"):
        decoded(Query, {"limit": 1, "a\n\x1b": 1})


NOT_DECODABLE: list[tuple[Any, Codec, bytes, str]] = [
    (Tree, Codec.JSON, b"", "the payload is not valid json: Input data was truncated"),
    (Tree, Codec.JSON, b"{", "the payload is not valid json: Input data was truncated"),
    (Tree, Codec.JSON, b"[" * 100_000, "the payload: Expected `object`, got `array`"),
    (Tree, Codec.JSON, b'{"children":[' * 100_000, "the payload is not valid json: maximum recursion depth"),
    (
        Row,
        Codec.JSON,
        b'{"name":"\xff"}',
        "the payload is not valid json: ",
    ),
    (
        Row,
        Codec.MSGPACK,
        b"\x81\xa4name\xa1\xff",
        "the payload is not valid msgpack: ",
    ),
    (Row, Codec.MSGPACK, b"\xc1", "the payload is not valid msgpack: MessagePack data is malformed"),
    (Loose, Codec.JSON, b'{"data":1,"more":[[]]}', "hashable"),
    (Loose, Codec.MSGPACK, b"\x82\xa4data\x01\xa4more\x91\x80", "hashable"),
]


@pytest.mark.parametrize(
    ("hint", "name", "data", "text"), NOT_DECODABLE, ids=[str(row[2][:20]) for row in NOT_DECODABLE]
)
def test_bytes_that_are_nothing_are_refused(hint: Any, name: Codec, data: bytes, text: str) -> None:
    decode = typed.decoder(hint, name)
    assert decode is not None
    error = raised(InvalidInput, decode, data)
    assert text in str(error)
    assert str(error).startswith("the payload")


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Kitchen(msgspec.Struct):
    """A field of each kind."""

    whole: int = 0
    real: float = 0.0
    text: str = ""
    data: bytes = b""
    flag: bool | None = None
    either: int | str | None = None
    colour: Colour = Colour.RED
    choice: Literal["a", 1, None] = None
    when: datetime.datetime | None = None
    day: datetime.date | None = None
    clock: datetime.time | None = None
    span: datetime.timedelta | None = None
    money: decimal.Decimal = decimal.Decimal(0)
    key: uuid.UUID | None = None
    many: list[Point] = []
    few: tuple[int, str] | None = None
    unique: set[int | str] = set()
    loose: set[Any] = set()
    by_name: dict[str, Row] = {}
    by_number: dict[int, Any] = {}
    raw: msgspec.Raw = msgspec.Raw()
    anything: object = None


#: Values of any kind, among them those that its fields take.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["red", "a", "2024-02-29", "12:30:00Z", "2024-02-29T12:30:00Z", "P1D", "1e9999", "NaN"])
    | st.uuids().map(str),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["x", "name", "units", "1", "when"]) | st.text(max_size=3), inner)
    ),
    max_leaves=8,
)
FIELDS = [*Kitchen.__struct_fields__, "unknown"]
payloads = st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
#: Bytes, numbers as names, and what can be in a set of anything, are not the same in values as in codecs.
plain_payloads = st.dictionaries(
    st.sampled_from([name for name in FIELDS if name not in ("raw", "data", "loose", "by_number")]),
    values,
    max_size=4,
)


@given(
    payloads.map(msgspec.msgpack.encode) | payloads.map(msgspec.json.encode) | st.binary(max_size=60),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=2),
)
def test_whatever_comes_is_decoded_or_refused(data: bytes, changes: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, byte in changes:
        if damaged:
            damaged[place % len(damaged)] = byte
    for name in (Codec.MSGPACK, Codec.JSON):
        for hint in (Kitchen, list[Kitchen], Query, Point, Tree, Loose):
            decode = typed.decoder(hint, name)
            assert decode is not None
            with contextlib.suppress(InvalidInput):
                decode(bytes(damaged))


@pytest.mark.parametrize("hint", [Kitchen, list[Kitchen], Query])
@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"\xd4\x00\x00\x00", "unpack(b) received extra data"),
        (b"\xd4\x80\x00", "the extension type -128 is reserved"),
        (
            b"\xd4" + bytes([values_form.EXT]) + b"?",
            f"a value of the extension type {values_form.EXT} is not valid",
        ),
    ],
    ids=["extra", "reserved", "own"],
)
def test_an_extension_that_has_no_value_is_bad_input(hint: Any, data: bytes, why: str) -> None:
    decode = typed.decoder(hint, Codec.MSGPACK)
    assert decode is not None
    with pytest.raises(InvalidInput, match=re.escape(why)):
        decode(data)


def outcome(of: Callable[[], Any]) -> tuple[bool, object]:
    """The value, as text for what isn't equal to itself; or that it was refused."""
    try:
        return True, repr(of())
    except InvalidInput:
        return False, None


@given(plain_payloads)
def test_a_payload_gives_what_msgspec_says_of_its_value(payload: dict[str, Any]) -> None:
    for name, module in ((Codec.MSGPACK, msgspec.msgpack), (Codec.JSON, msgspec.json)):
        decode = typed.decoder(Kitchen, name)
        assert decode is not None
        data = module.encode(payload)
        value = module.decode(data)  # type: ignore[attr-defined]
        assert outcome(lambda: decode(data)) == outcome(  # noqa: B023
            lambda: typed.convert(value, Kitchen)  # noqa: B023
        )


@given(st.lists(st.fixed_dictionaries({"name": st.text(), "units": st.integers(-(2**63), 2**64 - 1)})))
def test_typed_results_are_the_bytes_of_their_values(rows: list[Row]) -> None:
    encode = typed.encoder(list[Row], Codec.MSGPACK)
    assert encode is not None
    assert encode(rows) == codec.encode(Codec.MSGPACK, rows)


def test_results_with_structs_have_a_form_in_msgpack_too() -> None:
    assert sent(dict[str, Query], {"a": Query(1)}) == {"a": {"limit": 1, "sort": "up", "tags": []}}
    day = datetime.date(2026, 1, 2)
    assert sent(dict[str, Point], {"a": Point(1.5, day)}) == {"a": {"x": 1.5, "when": day}}


@pytest.mark.parametrize("hint", [Query | Point, Iterable[Row], Holder, Query | bytes])
def test_results_may_be_of_types_that_can_t_be_decoded(hint: Any) -> None:
    assert sent(hint, Query(1)) == {"limit": 1, "sort": "up", "tags": []}


def test_results_in_json_need_nothing_else_than_the_codec() -> None:
    assert typed.encoder(Query | bytes, Codec.JSON) is None
    assert codec.encode(Codec.JSON, Query(1)) == b'{"limit":1,"sort":"up","tags":[]}'
    assert codec.encode(Codec.JSON, b"[1]") == b"[1]"  # text that is there already


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: typed.decoder(Query, Codec.RAW), "codec_in raw has no objects, but the parameter is Query"),
        (lambda: typed.encoder(Row, Codec.RAW), "codec_out raw has no objects, but the result is Row"),
        (lambda: typed.decoder(Holder, Codec.JSON), "the parameter Holder can't be decoded: it contains Own"),
        (lambda: typed.decoder(list[Page[Holder]], Codec.JSON), "it contains Own"),
        (lambda: typed.decoder(Iterable[Row], Codec.JSON), "it contains Iterable"),
        (lambda: typed.decoder(Query | Point, Codec.JSON), "can't be decoded: Type unions may not"),
    ],
)
def test_a_type_without_a_codec_is_refused_at_the_start(make: Callable[[], object], text: str) -> None:
    with pytest.raises(NoCodec, match=text) as caught:
        make()
    assert "\n" not in str(caught.value)
