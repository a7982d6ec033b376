"""Parses and validates the parameters of a list request, and makes the cursor that continues it.

A bad parameter raises InvalidInput, which names the parameter, the value and what is allowed. No content of
`ListParameters` raises anything else.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib
from dataclasses import dataclass
from typing import Final, final

from msgspec import UNSET

from molt_worker import InvalidInput

from .fake_db import STATUSES
from .ranking import words_of
from .schema import ListParameters

PARAMETERS: Final = ListParameters.__struct_fields__
SORTS: Final = ("relevance", "price", "-price", "rating", "-rating", "created", "-created")
DEFAULT_LIMIT: Final = 20
LARGEST_LIMIT: Final = 100
LARGEST_PRICE_CENTS: Final = 100_000_000

_LONGEST_SEARCH: Final = 100
_MOST_WORDS: Final = 8
_MOST_VALUES: Final = 5
_LONGEST_CURSOR: Final = 100
_LONGEST_SHOWN: Final = 60
_LARGEST_SHOWN: Final = 10**30
_LARGEST_NUMBER: Final = 10**15
_REPEATABLE: Final = ("status", "tag")

_PRICE: Final = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,2}))?")
_TAG: Final = re.compile(r"[a-z0-9-]{1,32}")
_USER: Final = re.compile(r"[0-9]{1,9}")
_LIMIT: Final = re.compile(r"[0-9]{1,4}")
_CURSOR: Final = re.compile(r"1:([0-9a-f]{8}):(-?[0-9]{1,15}):([0-9]{1,12})")


@final
@dataclass(frozen=True)
class ItemQuery:
    """A validated list request.

    Prices are in cents. `user_id` 0 selects all users. `after` is the sort key and id of the last row seen.
    """

    words: list[str]
    user_id: int
    statuses: list[str]
    tags: list[str]
    min_cents: int
    max_cents: int
    sort: str
    limit: int
    fingerprint: str
    after: tuple[int, int] | None


def parse_query(parameters: ListParameters) -> ItemQuery:
    """Parse a request's parameters into an ItemQuery.

    Raises InvalidInput if a parameter is repeated or not allowed.
    """
    given = _parameters(parameters)
    words = _search_words(_single(given, "q"))
    user_id = _user(_single(given, "user_id"))
    statuses = _statuses(given.get("status", []))
    tags = _tags(given.get("tag", []))
    min_cents = _price("min_price", _single(given, "min_price"), 0)
    max_cents = _price("max_price", _single(given, "max_price"), LARGEST_PRICE_CENTS)
    if min_cents > max_cents:
        raise InvalidInput(
            f"min_price: {show(given['min_price'][0])} is not allowed; allowed: at most max_price,"
            f" which is {show(given['max_price'][0]) if 'max_price' in given else LARGEST_PRICE_CENTS // 100}"
        )
    sort = _sort(_single(given, "sort"), bool(words))
    fingerprint = _fingerprint(words, user_id, statuses, tags, min_cents, max_cents, sort)
    return ItemQuery(
        words=words,
        user_id=user_id,
        statuses=statuses,
        tags=tags,
        min_cents=min_cents,
        max_cents=max_cents,
        sort=sort,
        limit=_limit(_single(given, "limit")),
        fingerprint=fingerprint,
        after=_cursor(_single(given, "cursor"), fingerprint),
    )


def make_cursor(fingerprint: str, key: int, item_id: int) -> str:
    """Return the opaque cursor that continues a query after the row with this sort key and id."""
    plain = f"1:{fingerprint}:{key}:{item_id}"
    return base64.urlsafe_b64encode(plain.encode("ascii")).decode("ascii").rstrip("=")


def show(value: object) -> str:
    """Return `value` as an error text quotes it: escaped, and always short."""
    if isinstance(value, str):
        text = repr(value if len(value) <= _LONGEST_SHOWN else value[:_LONGEST_SHOWN] + "...")
        # An escape may be ten times as long as the character that it stands for, so cut again.
        return text if len(text) <= 2 * _LONGEST_SHOWN else text[: 2 * _LONGEST_SHOWN] + "..."
    if isinstance(value, (list, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    # repr() raises an error of its own for a huge integer, so the size is shown instead.
    if isinstance(value, int) and not -_LARGEST_SHOWN <= value <= _LARGEST_SHOWN:
        return f"an integer of {value.bit_length()} bits"
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)
    return f"a {type(value).__name__}"


def _parameters(parameters: ListParameters) -> dict[str, list[str]]:
    given: dict[str, list[str]] = {}
    for name in PARAMETERS:
        value = getattr(parameters, name)
        if value is UNSET:
            continue
        values = value if isinstance(value, list) else [value]
        if name not in _REPEATABLE and len(values) != 1:
            raise InvalidInput(f"{name}: {len(values)} values are not allowed; allowed: 1")
        if len(values) > _MOST_VALUES:
            raise InvalidInput(
                f"{name}: {len(values)} values are not allowed; allowed: at most {_MOST_VALUES}"
            )
        given[name] = [_as_text(name, each) for each in values]
    return given


def _as_text(name: str, value: object) -> str:
    if isinstance(value, str):
        return value
    # int and float need a branch each: mypyc makes one branch for both a float, and a huge integer overflows it.
    if isinstance(value, int) and not isinstance(value, bool) and -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
        return str(value)
    if isinstance(value, float) and -_LARGEST_NUMBER < value < _LARGEST_NUMBER:
        return str(value)
    raise InvalidInput(f"{name}: {show(value)} is not allowed; allowed: text or a number")


def _single(given: dict[str, list[str]], name: str) -> str | None:
    values = given.get(name)
    return None if values is None else values[0]


def _search_words(text: str | None) -> list[str]:
    # An empty search form sends q=, which means no search.
    if text is None or not text.strip():
        return []
    words = words_of(text)
    if len(text) > _LONGEST_SEARCH or not 1 <= len(words) <= _MOST_WORDS:
        raise InvalidInput(
            f"q: {show(text)} is not allowed; allowed: 1 to {_MOST_WORDS} words of letters and digits,"
            f" at most {_LONGEST_SEARCH} characters"
        )
    return words


def _user(text: str | None) -> int:
    if text is None:
        return 0
    if _USER.fullmatch(text) and int(text) > 0:
        return int(text)
    raise InvalidInput(f"user_id: {show(text)} is not allowed; allowed: a whole number from 1 to 999999999")


def _statuses(values: list[str]) -> list[str]:
    for value in values:
        if value not in STATUSES:
            raise InvalidInput(f"status: {show(value)} is not allowed; allowed: {', '.join(STATUSES)}")
    return sorted(set(values))


def _tags(values: list[str]) -> list[str]:
    for value in values:
        if not _TAG.fullmatch(value):
            raise InvalidInput(
                f"tag: {show(value)} is not allowed; allowed: 1 to 32 of the letters a-z, digits and hyphens"
            )
    return sorted(set(values))


def _price(name: str, text: str | None, default: int) -> int:
    if text is None:
        return default
    match = _PRICE.fullmatch(text)
    if match is not None:
        cents = int(match[1]) * 100 + int((match[2] or "0").ljust(2, "0"))
        if cents <= LARGEST_PRICE_CENTS:
            return cents
    raise InvalidInput(
        f"{name}: {show(text)} is not allowed; allowed: a price from 0 to {LARGEST_PRICE_CENTS // 100}"
        " with at most 2 decimals"
    )


def _sort(text: str | None, searching: bool) -> str:
    if text is None:
        return "relevance" if searching else "-created"
    if text not in SORTS:
        raise InvalidInput(f"sort: {show(text)} is not allowed; allowed: {', '.join(SORTS)}")
    if text == "relevance" and not searching:
        raise InvalidInput("sort: 'relevance' is not allowed without q; allowed: " + ", ".join(SORTS[1:]))
    return text


def _limit(text: str | None) -> int:
    if text is None:
        return DEFAULT_LIMIT
    if _LIMIT.fullmatch(text) and 1 <= int(text) <= LARGEST_LIMIT:
        return int(text)
    raise InvalidInput(f"limit: {show(text)} is not allowed; allowed: a whole number, 1 to {LARGEST_LIMIT}")


def _fingerprint(
    words: list[str],
    user_id: int,
    statuses: list[str],
    tags: list[str],
    min_cents: int,
    max_cents: int,
    sort: str,
) -> str:
    """Return a hash of filters and order, 8 hexadecimal digits. The page size may change, so it isn't in it."""
    plain = repr((words, user_id, statuses, tags, min_cents, max_cents, sort))
    return f"{zlib.crc32(plain.encode('utf-8', 'backslashreplace')):08x}"


def _cursor(text: str | None, fingerprint: str) -> tuple[int, int] | None:
    if text is None:
        return None
    match = _CURSOR.fullmatch(_unwrap(text))
    if match is None:
        raise InvalidInput(f"cursor: {show(text)} is not allowed; allowed: a next_cursor of this search")
    if match[1] != fingerprint:
        raise InvalidInput(
            f"cursor: {show(text)} is of another search; allowed: a next_cursor of this search"
        )
    return int(match[2]), int(match[3])


def _unwrap(text: str) -> str:
    """Return the plain text inside a cursor, or "" if `text` is no cursor."""
    if len(text) > _LONGEST_CURSOR or not text.isascii():
        return ""
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return ""
    return plain.decode("latin-1")
