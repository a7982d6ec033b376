"""The types of payloads and results. The worker decodes and validates payloads by them.

They have a module of their own, which is not compiled, because mypyc ignores the options of a Struct.
"""

from __future__ import annotations

from typing import NotRequired, TypeAlias, TypedDict

import msgspec
from msgspec import UNSET, UnsetType

#: A query string gives lists of texts; a program may give single values and numbers.
Value: TypeAlias = str | int | float
Values: TypeAlias = Value | list[Value] | UnsetType


class ListParameters(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A request's parameters, not yet checked. `query.parse_query` checks them."""

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
    """One item. The price is a decimal text. It has a score only if the request searched for words."""

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
    """The page's size and order, and the cursor of the next page (None: there is no next page)."""

    limit: int
    returned: int
    sort: str
    next_cursor: str | None


class Counts(TypedDict):
    """All rows, the rows found, and the found rows by status and by tag."""

    rows: int
    found: int
    by_status: dict[str, int]
    by_tag: dict[str, int]


class Totals(TypedDict):
    """Figures of all items found, not only of those on the page. Money is a decimal text."""

    stock: int
    value: str
    lowest_price: str | None
    highest_price: str | None


class ItemPage(TypedDict):
    """The result of `core.list_items`."""

    items: list[ShownItem]
    page: PageFacts
    counts: Counts
    totals: Totals


class Cost(msgspec.Struct, frozen=True):
    """The payload of `cost.spend` and its like: how many edit distances it computes."""

    iterations: int = 0


class Spent(TypedDict):
    """Their result: iterations done, and the sum of the distances."""

    iterations: int
    total: int
