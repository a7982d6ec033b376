"""molt_accel.lenient: values that are not plain, and where one stands that has no form."""

import collections
import datetime
import decimal
import enum
import json
import math
from typing import Any

import numpy
import pytest
from django.core.serializers.json import DjangoJSONEncoder
from django.utils.functional import lazystr
from django.utils.safestring import mark_safe
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import codec, lenient
from molt_accel.codec import EncodeError


class Number(int):
    """A subclass, as libraries of units and of enumerations have them."""


class Share(float):
    """Another."""


class Price(decimal.Decimal):
    """Another."""


class Day(datetime.date):
    """Another."""


class Moment(datetime.datetime):
    """Another, as pandas has one."""


class Span(datetime.timedelta):
    """Another."""


class Colour(enum.StrEnum):
    RED = "red"


VALUES: list[Any] = [
    mark_safe("<b>"), [mark_safe("<b>"), {"a": mark_safe("<i>")}], {mark_safe("key"): 1}, lazystr("later"),
    Number(3), Share(0.5), Colour.RED, {None: 1, True: 2, False: {None: 3}}, {1: 2, 1.5: 3},
    [{None: [mark_safe("x")]}], collections.OrderedDict(a=1), collections.namedtuple("Point", "x y")(1, 2),
    (1, [2]), Price("1.50"), Day(2026, 1, 2), Moment(2026, 1, 2, 3, 4), Moment(2026, 1, 2, 3, tzinfo=datetime.UTC),
    "\ud800", {"\udcff.txt": ["\ud83d", {None: mark_safe("\udc00"), 1: 2.5}]}, lazystr("\ud800"),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_json_is_what_json_response_writes(value: Any) -> None:
    assert json.loads(codec.encode("json", value)) == json.loads(json.dumps(value, cls=DjangoJSONEncoder))


@pytest.mark.parametrize(
    ("value", "plain"), [(numpy.int64(3), 3), (numpy.float32(0.5), 0.5), (numpy.bool_(True), True)], ids=repr
)
def test_a_scalar_of_numpy_is_its_number(value: Any, plain: Any) -> None:
    assert codec.decode("json", codec.encode("json", [value])) == [plain]


def test_what_is_no_number_in_json_is_null() -> None:
    assert codec.encode("json", [math.nan, math.inf]) == b"[null,null]"
    assert codec.encode("json", [math.nan, "\ud800"]) == b'[null,"\\ud800"]'


def test_a_subclass_of_timedelta_is_written_as_a_timedelta() -> None:
    assert codec.encode("json", Span(days=-1, microseconds=5)) == codec.encode(
        "json", datetime.timedelta(days=-1, microseconds=5)
    )


_KEYS = st.recursive(st.integers(0, 9) | st.text(max_size=2), lambda key: st.tuples(key, key), max_leaves=4)


@given(st.dictionaries(_KEYS, st.integers(0, 9)))
def test_tuples_come_back_as_keys(value: dict[Any, int]) -> None:
    assert codec.decode("msgpack", codec.encode("msgpack", value)) == value


@pytest.mark.parametrize(
    ("name", "value", "where"),
    [
        (
            "msgpack",
            {"rows": [1, {datetime.date(2026, 1, 2): object()}]},
            r'at \["rows"\]\[1\]\[datetime.date\(2026, 1, 2\)\], of type object',
        ),
        ("msgpack", [2**64], r"at \[0\], of type int"),
        ("json", {"a": (1, object())}, r'at \["a"\]\[1\], of type object'),
        ("json", {"a": {(1, 2): 3}}, r'at \["a"\], of type dict'),
        ("json", object(), "objects of type object"),
    ],
)
def test_the_part_that_has_no_form_is_named_with_its_place(name: str, value: object, where: str) -> None:
    with pytest.raises(EncodeError, match=f"^can't be encoded as {name}.*{where}"):
        codec.encode(name, value)


@pytest.mark.parametrize("name", ["msgpack", "json"])
def test_a_value_that_contains_itself_is_refused_as_such(name: str) -> None:
    """Its ways double with each level, so they can't all be gone."""
    circle: list[object] = [[]]
    circle += [circle, circle]
    for value in (circle, {"a": [{"b": circle}]}):
        with pytest.raises(EncodeError, match=f"^can't be encoded as {name}, since it contains itself: "):
            codec.encode(name, value)


def test_levels_are_those_of_the_longest_way_down() -> None:
    shared: object = 1
    for _ in range(60):
        shared = [shared, shared]  # 2**60 ways
    values = [1, [], [[], [1, [2]]], [[[1]], []], {"a": ({},)}, shared, [1, [shared], shared]]
    assert [lenient.depth(value) for value in values] == [0, 0, 3, 3, 2, 60, 62]


def test_every_object_has_a_text_that_can_be_encoded() -> None:
    class Sly(str):
        def __str__(self) -> str:
            raise RuntimeError("no text")

    assert [lenient.text_of(each) for each in ("a", 5, "\ud800", Sly("b"))] == ["a", "5", "?", "<Sly>"]
