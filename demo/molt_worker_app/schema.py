"""What the list endpoint takes and gives. The worker decodes and validates by these types, straight from the bytes.

Not compiled, and so a module of its own: mypyc ignores a Struct's options.
"""

from __future__ import annotations

from typing import NotRequired, TypeAlias, TypedDict

import msgspec
from msgspec import UNSET, UnsetType

#: As a query string has it, which repeats a name for several values, or as a program would say it.
Value: TypeAlias = str | int | float
Values: TypeAlias = Value | list[Value] | UnsetType


class ListParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request's parameters as they came; `query.parse_query` says what they may be."""

    q: Values = UNSET
    user_id: Values = UNSET
    status: Values = UNSET
    tag: Values = UNSET
    min_price: Values = UNSET
    max_price: Values = UNSET
    sort: Values = UNSET
    limit: Values = UNSET
    cursor: Values = UNSET


class ShownItem(TypedDict):
    """One item. Money is a decimal text; the score is there only when something was searched for."""

    id: int
    user_id: int
    sku: str
    name: str
    status: str
    price: str
    stock: int
    rating: float | None
    tags: list[str]
    created: str
    score: NotRequired[int]


class PageFacts(TypedDict):
    """Which page it is, and how to get the next one."""

    limit: int
    returned: int
    sort: str
    next_cursor: str | None


class Counts(TypedDict):
    """Rows that there are, that were found, and how those divide."""

    rows: int
    found: int
    by_status: dict[str, int]
    by_tag: dict[str, int]


class Totals(TypedDict):
    """Of everything found, on whatever page it is."""

    stock: int
    value: str
    lowest_price: str | None
    highest_price: str | None


class ItemPage(TypedDict):
    """The answer."""

    items: list[ShownItem]
    page: PageFacts
    counts: Counts
    totals: Totals


class Cost(msgspec.Struct, frozen=True):
    """What `cost.spend` takes: how much work; nothing is next to none."""

    iterations: int = 0


class Spent(TypedDict):
    """What `cost.spend` gives."""

    iterations: int
    total: int
