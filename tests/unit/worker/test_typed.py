"""Typed entrypoints: which annotations count, what is validated, what is refused and in which words."""

from __future__ import annotations

import dataclasses
import datetime
import sys
import typing
from collections.abc import Callable
from types import SimpleNamespace
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import codec
from molt_accel.ipc.frame import Codec
from molt_worker import InvalidInput, typed
from molt_worker.typed import NoCodec

if typing.TYPE_CHECKING:
    from decimal import Decimal


class Query(msgspec.Struct, forbid_unknown_fields=True):
    limit: Annotated[int, msgspec.Meta(ge=1, le=100)]
    sort: Literal["up", "down"] = "up"
    tags: list[str] = []

    def __post_init__(self) -> None:
        if self.tags == ["wrong"]:
            raise ValueError("wrong tags")
        if self.tags == ["refused"]:
            raise InvalidInput("refused tags")
        if self.tags == ["bug"]:
            raise KeyError("bug")


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


def of_query(query: Query) -> Row: ...  # type: ignore[empty-body]
def of_rows(rows: list[Row], more: int = 0) -> dict[str, Point]: ...  # type: ignore[empty-body]
def plain(payload: dict[str, Any]) -> object: ...
def bare(payload): ...  # type: ignore[no-untyped-def]
def unknown(payload: Decimal) -> Query | None: ...  # type: ignore[empty-body]
def nothing() -> None: ...


HERE = sys.modules[__name__]


@pytest.mark.parametrize(
    ("function", "parameter", "result"),
    [
        (of_query, Query, Row),
        (of_rows, list[Row], dict[str, Point]),
        (plain, dict[str, Any], object),
        (bare, None, None),
        (unknown, None, typing.Optional[Query]),  # noqa: UP045
        (nothing, None, None),
    ],
)
def test_the_types_are_those_of_the_first_parameter_and_the_result(
    function: Callable[..., Any], parameter: Any, result: Any
) -> None:
    found = typed.hints(function, HERE)
    assert found[0] == parameter
    assert found[1] == (type(None) if function is nothing else result)


def test_without_annotations_the_source_is_asked() -> None:
    compiled = SimpleNamespace(__name__="of_rows")
    assert typed.hints(compiled, HERE) == (list[Row], dict[str, Point])
    compiled.__name__ = "not_there"
    assert typed.hints(compiled, HERE) == (None, None)


@pytest.mark.parametrize(
    ("hint", "expected"),
    [
        (Query, True), (Point, True), (Row, True), (list[Row], True), (dict[str, Query], True), (Query | None, True),
        (Annotated[Query, "x"], True), (Any, False), (object, False), (None, False), (dict[str, Any], False),
        (list[int], False), (int | None, False), (Own, False), (datetime.date, False),
    ],
)  # fmt: skip
def test_structs_dataclasses_and_typed_dicts_count(hint: Any, expected: bool) -> None:
    assert typed.is_typed(hint) is expected
    assert (typed.decoder(hint, Codec.MSGPACK) is not None) is expected
    assert (typed.encoder(hint, Codec.JSON) is not None) is expected


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
    with pytest.raises(InvalidInput) as caught:
        decoded(Query, value, name)
    assert str(caught.value) == text
    with pytest.raises(InvalidInput) as caught:
        typed.convert(value, Query)
    assert str(caught.value) == text


def test_a_bug_in_the_object_is_no_fault_of_the_input() -> None:
    with pytest.raises(KeyError):
        decoded(Query, {"limit": 1, "tags": ["bug"]})


def test_what_the_sender_chose_is_shown_shortened() -> None:
    with pytest.raises(InvalidInput) as caught:
        decoded(Query, {"limit": 1, "m" * 10_000: 1})
    assert len(str(caught.value)) < 450


def test_bytes_that_are_nothing_are_refused() -> None:
    decode = typed.decoder(Tree, Codec.JSON)
    assert decode is not None
    for data, text in ((b"{", "the payload is not valid json: "), (b"[" * 100_000, "the payload")):
        with pytest.raises(InvalidInput, match=text):
            decode(data)
    with pytest.raises(InvalidInput, match=r"the payload is not valid json: .*recursion"):
        decode(b'{"children":[' * 100_000)


@given(st.binary(max_size=60))
def test_any_bytes_decode_or_are_refused(data: bytes) -> None:
    for name in (Codec.MSGPACK, Codec.JSON):
        for hint in (Query, list[Row], Point, Tree):
            decode = typed.decoder(hint, name)
            assert decode is not None
            try:
                decode(data)
            except (InvalidInput, KeyError):
                continue


@given(st.lists(st.fixed_dictionaries({"name": st.text(), "units": st.integers(-(2**63), 2**64 - 1)})))
def test_typed_results_are_the_bytes_of_their_values(rows: list[Row]) -> None:
    for name in (Codec.MSGPACK, Codec.JSON):
        encode = typed.encoder(list[Row], name)
        assert encode is not None
        assert codec.decode(name, encode(rows)) == rows


def test_results_with_structs_have_a_form_in_msgpack_too() -> None:
    encode = typed.encoder(dict[str, Point], Codec.MSGPACK)
    assert encode is not None
    assert codec.decode("msgpack", encode({"a": Point(1.5)})) == {"a": {"x": 1.5, "when": None}}


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: typed.decoder(Query, Codec.RAW), "codec_in raw has no objects, but the parameter is Query"),
        (lambda: typed.encoder(Row, Codec.RAW), "codec_out raw has no objects, but the result is Row"),
        (lambda: typed.decoder(Holder, Codec.JSON), "the parameter Holder has no codec: it contains Own"),
        (lambda: typed.encoder(list[Holder], Codec.JSON), "has no codec: it contains Own"),
        (lambda: typed.decoder(Query | Point, Codec.JSON), "has no codec"),
    ],
)
def test_a_type_without_a_codec_is_refused_at_the_start(make: Callable[[], object], text: str) -> None:
    with pytest.raises(NoCodec, match=text):
        make()
