"""Parameters: what is accepted, and that every refusal names the parameter, the value and what is allowed."""

import base64
from typing import Any

import pytest
from django.http import QueryDict
from hypothesis import given
from hypothesis import strategies as st

from demo.molt_worker_app.query import LARGEST_PRICE_CENTS, ItemQuery, make_cursor, show
from demo.molt_worker_app.query import parse_query as parse_parameters
from demo.molt_worker_app.schema import ListParameters
from molt_worker import InvalidInput
from molt_worker.entrypoints import typed
from tests.demo.demo_strategies import query_strings


def parameters(query_string: str) -> dict[str, Any]:
    """The payload that the views make of a query string."""
    return dict(QueryDict(query_string).lists())


def parse_query(payload: object) -> ItemQuery:
    """What the worker and the baseline make of a payload."""
    return parse_parameters(typed.convert(payload, ListParameters))


def refusal(payload: object) -> str:
    with pytest.raises(InvalidInput) as raised:
        parse_query(payload)
    return str(raised.value)


def test_defaults() -> None:
    query = parse_query({})
    assert (query.words, query.user_id, query.statuses, query.tags) == ([], 0, [], [])
    assert (query.min_cents, query.max_cents) == (0, LARGEST_PRICE_CENTS)
    assert (query.sort, query.limit, query.after) == ("-created", 20, None)


def test_everything_at_once() -> None:
    text = (
        "q=Oak+CHAIR&user_id=7&status=draft&status=active&tag=new&tag=eco&min_price=1.5&max_price=20&limit=5"
    )
    query = parse_query(parameters(text))
    assert (query.words, query.user_id) == (["oak", "chair"], 7)
    assert (query.statuses, query.tags) == (["active", "draft"], ["eco", "new"])
    assert (query.min_cents, query.max_cents, query.limit, query.sort) == (150, 2000, 5, "relevance")


def test_numbers_may_be_given_as_numbers() -> None:
    asked = parse_query({"user_id": 1, "limit": 3, "min_price": 2.5, "status": "active"})
    assert asked == parse_query(parameters("user_id=1&limit=3&min_price=2.5&status=active"))


def test_an_empty_search_is_no_search() -> None:
    assert parse_query(parameters("q=")) == parse_query(parameters("q=+++")) == parse_query({})


@pytest.mark.parametrize(
    ("query_string", "text"),
    [
        ("colour=red", "the payload: Object contains unknown field `colour`"),
        ("%00=1", r"the payload: Object contains unknown field `\x00`"),
        ("q=a&q=b", "q: 2 values are not allowed; allowed: 1"),
        (
            "q=%21%3F",
            "q: '!?' is not allowed; allowed: 1 to 8 words of letters and digits, at most 100 characters",
        ),
        ("q=" + "a" * 101, f"q: '{'a' * 60}...' is not allowed; allowed: 1 to 8 words"),
        ("q=a+b+c+d+e+f+g+h+i", "q: 'a b c d e f g h i' is not allowed; allowed: 1 to 8 words"),
        ("user_id=0", "user_id: '0' is not allowed; allowed: a whole number from 1 to 999999999"),
        ("user_id=-3", "user_id: '-3' is not allowed"),
        ("user_id=" + "9" * 5000, f"user_id: '{'9' * 60}...' is not allowed"),
        ("status=gone", "status: 'gone' is not allowed; allowed: active, draft, sold_out, archived"),
        ("status=", "status: '' is not allowed"),
        ("tag=Eco", "tag: 'Eco' is not allowed; allowed: 1 to 32 of the letters a-z, digits and hyphens"),
        ("tag=a&tag=b&tag=c&tag=d&tag=e&tag=f", "tag: 6 values are not allowed; allowed: at most 5"),
        (
            "min_price=cheap",
            "min_price: 'cheap' is not allowed; allowed: a price from 0 to 1000000 with at most 2 d",
        ),
        ("min_price=NaN", "min_price: 'NaN' is not allowed"),
        ("max_price=inf", "max_price: 'inf' is not allowed"),
        ("max_price=1e3", "max_price: '1e3' is not allowed"),
        ("max_price=1.999", "max_price: '1.999' is not allowed"),
        ("max_price=1000000.01", "max_price: '1000000.01' is not allowed"),
        ("max_price=%D9%A1", "max_price: '\u0661' is not allowed"),
        (
            "min_price=5&max_price=4.99",
            "min_price: '5' is not allowed; allowed: at most max_price, which is '4.99'",
        ),
        (
            "sort=size",
            "sort: 'size' is not allowed; allowed: relevance, price, -price, rating, -rating, created, -cr",
        ),
        (
            "sort=relevance",
            "sort: 'relevance' is not allowed without q; allowed: price, -price, rating, -rating,",
        ),
        ("limit=0", "limit: '0' is not allowed; allowed: a whole number, 1 to 100"),
        ("limit=101", "limit: '101' is not allowed"),
        ("limit=+5", "limit: ' 5' is not allowed"),
        ("limit=1.0", "limit: '1.0' is not allowed"),
        ("cursor=", "cursor: '' is not allowed; allowed: a next_cursor of this search"),
        ("cursor=%2B%2F%3D", "cursor: '+/=' is not allowed"),
        ("cursor=" + "A" * 101, f"cursor: '{'A' * 60}...' is not allowed"),
        ("cursor=%C3%A9", "cursor: 'é' is not allowed"),
    ],
)
def test_refusals(query_string: str, text: str) -> None:
    refused = refusal(parameters(query_string))
    assert refused.startswith(text)
    assert "allowed: " in refused or refused.startswith("the payload: ")
    assert len(refused) < 300


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (None, "the payload: Expected `object`, got `null`"),
        ([], "the payload: Expected `object`, got `array`"),
        (b"q=1", "the payload: Expected `object`, got `bytes`"),
        ({1: "a"}, "the payload: Expected `str` - at `key` in `$`"),
        ({"limit": True}, "the payload: Expected `int | float | str | array`, got `bool` - at `$.limit`"),
        ({"limit": None}, "the payload: Expected `int | float | str | array`, got `null` - at `$.limit`"),
        ({"limit": []}, "limit: 0 values are not allowed; allowed: 1"),
        ({"limit": {}}, "the payload: Expected `int | float | str | array`, got `object` - at `$.limit`"),
        ({"limit": float("nan")}, "limit: nan is not allowed"),
        ({"limit": 10**5000}, "limit: an integer of 16610 bits is not allowed"),
        ({"limit": -5}, "limit: '-5' is not allowed"),
        ({"q": "\ud800"}, r"q: '\ud800' is not allowed"),
    ],
)
def test_payloads_that_no_query_string_gives_are_refused_too(payload: object, text: str) -> None:
    assert refusal(payload).startswith(text)


def _wrapped(plain: str) -> str:
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def test_a_cursor_comes_back_whatever_its_sign() -> None:
    fingerprint = parse_query({}).fingerprint
    for key, item_id in ((0, 1), (-1735229026, 797), (10**15 - 1, 10**12 - 1)):
        assert parse_query({"cursor": make_cursor(fingerprint, key, item_id)}).after == (key, item_id)


def test_a_cursor_serves_only_the_search_it_came_from_at_any_page_size() -> None:
    cursor = make_cursor(parse_query({"status": "active"}).fingerprint, 1, 1)
    assert parse_query({"status": "active", "limit": 7, "cursor": cursor}).after == (1, 1)
    for other in (
        {},
        {"status": "draft"},
        {"status": "active", "sort": "price"},
        {"status": "active", "q": "oak"},
    ):
        assert "is of another search" in refusal({**other, "cursor": cursor})


@pytest.mark.parametrize(
    "plain",
    ["", "1", "1:00000000:0", "2:00000000:0:1", "1:0000000G:0:1", "1:00000000:--1:1", "1:00000000:1:-1",
     "1:00000000:1:1:1", "1:00000000:" + "9" * 16 + ":1", "1:00000000:\u0661:1", "1:00000000:0:1\n"],
)  # fmt: skip
def test_a_forged_cursor_is_refused(plain: str) -> None:
    assert refusal({"cursor": _wrapped(plain)}).startswith("cursor: ")


def assert_parsed_or_refused(payload: object) -> None:
    try:
        parse_query(payload)
    except InvalidInput as exc:
        text = str(exc)
    else:
        return
    assert "allowed: " in text or text.startswith("the payload: ")
    assert len(text) < 500


@given(query_strings)
def test_no_query_string_raises_anything_else(query_string: str) -> None:
    assert_parsed_or_refused(parameters(query_string))


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_named = st.dictionaries(
    st.sampled_from(("q", "limit", "status", "cursor", "min_price")), _anything, max_size=3
)


@given(_anything | _named)
def test_no_payload_raises_anything_else(payload: object) -> None:
    assert_parsed_or_refused(payload)


def test_shown_values_are_short_and_escaped() -> None:
    assert show("a\0\ud800") == r"'a\x00\ud800'"
    assert show("x" * 61) == repr("x" * 60 + "...")
    assert len(show("\0" * 60)) == 123
    assert show([1] * 9) == "a list of 9"
    assert show(1.5) == "1.5"
