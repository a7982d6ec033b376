"""The list endpoint's handler core: parse, fetch, filter, rank, sort, page and count.

For the baseline the server process runs `list_items` itself; for the offloaded endpoint the worker runs it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from molt_worker import current_request

from . import fake_db
from .query import ItemQuery, make_cursor, parse_query
from .ranking import score_name
from .schema import Counts, ItemPage, ListParameters, ShownItem, Totals
from .settings import FAKE_DB
from .wire import Item

_CHECK_EVERY: Final = 64
# Greater than any index: bisecting for (key, id, _BEHIND) ends behind the row with this key and id.
_BEHIND: Final = 1 << 62


def list_items(parameters: ListParameters) -> ItemPage:
    """Return the page of items that the parameters ask for, with counts and totals.

    Raises InvalidInput if a parameter is not allowed.
    """
    query = parse_query(parameters)
    items = fake_db.fetch_items(fake_db.ROWS, FAKE_DB)
    fake_db.spin_iterations(FAKE_DB.cpu_iters)
    found, scores = select(items, query)
    order = sort_order(found, scores, query.sort)
    start = 0
    if query.after is not None:
        start = bisect_right(order, (query.after[0], query.after[1], _BEHIND))
    page = order[start : start + query.limit]
    next_cursor: str | None = None
    if page and start + len(page) < len(order):
        last = page[-1]
        next_cursor = make_cursor(query.fingerprint, last[0], last[1])
    return {
        "items": [present(found[index], scores[index], bool(query.words)) for _, _, index in page],
        "page": {"limit": query.limit, "returned": len(page), "sort": query.sort, "next_cursor": next_cursor},
        "counts": count(found, len(items)),
        "totals": total(found),
    }


def select(items: list[Item], query: ItemQuery) -> tuple[list[Item], list[int]]:
    """Return the items that pass every filter, and a list of their search scores (0 without a search)."""
    request = current_request()
    found: list[Item] = []
    scores: list[int] = []
    since_check = 0
    for item in items:
        if since_check == _CHECK_EVERY:
            request.check()
            since_check = 0
        since_check += 1
        if query.user_id and item.user_id != query.user_id:
            continue
        if not query.min_cents <= item.price_cents <= query.max_cents:
            continue
        if query.statuses and item.status not in query.statuses:
            continue
        if not has_tags(item, query.tags):
            continue
        score = 0
        if query.words:
            score = score_name(query.words, item.name)
            if score == 0:
                continue
        found.append(item)
        scores.append(score)
    return found, scores


def has_tags(item: Item, tags: list[str]) -> bool:
    """Whether the item has all of the tags."""
    for tag in tags:  # noqa: SIM110 - a plain loop compiles to one; all() over a generator does not
        if tag not in item.tags:
            return False
    return True


def sort_order(items: list[Item], scores: list[int], sort: str) -> list[tuple[int, int, int]]:
    """Return (sort key, id, index) for each item, in sorted order. The id breaks ties."""
    order: list[tuple[int, int, int]] = []
    for index, item in enumerate(items):
        order.append((sort_key(item, scores[index], sort), item.item_id, index))
    order.sort()
    return order


def sort_key(item: Item, score: int, sort: str) -> int:
    """Return the number to sort by, negated if the greatest comes first. No rating counts as the worst."""
    if sort == "relevance":
        return -score
    if sort == "price":
        return item.price_cents
    if sort == "-price":
        return -item.price_cents
    if sort == "rating":
        return item.rating_tenths
    if sort == "-rating":
        return -item.rating_tenths
    created = int(item.created.timestamp())
    return created if sort == "created" else -created


def count(found: list[Item], rows: int) -> Counts:
    """Count all rows, the rows found, and the found rows by status and by tag."""
    by_status: dict[str, int] = dict.fromkeys(fake_db.STATUSES, 0)
    by_tag: dict[str, int] = dict.fromkeys(fake_db.TAGS, 0)
    for item in found:
        by_status[item.status] += 1
        for tag in item.tags:
            by_tag[tag] += 1
    return {"rows": rows, "found": len(found), "by_status": by_status, "by_tag": by_tag}


def total(found: list[Item]) -> Totals:
    """Return stock, stock value and price range of all items found, not only of those on the page."""
    stock = 0
    value_cents = 0
    lowest = -1
    highest = -1
    for item in found:
        stock += item.stock
        value_cents += item.stock * item.price_cents
        if lowest < 0 or item.price_cents < lowest:
            lowest = item.price_cents
        if item.price_cents > highest:
            highest = item.price_cents
    return {
        "stock": stock,
        "value": money(value_cents),
        "lowest_price": money(lowest) if lowest >= 0 else None,
        "highest_price": money(highest) if highest >= 0 else None,
    }


def present(item: Item, score: int, searching: bool) -> ShownItem:
    """Return an item as the response shows it. It has a score only if the request searched for words."""
    shown: ShownItem = {
        "id": item.item_id,
        "user_id": item.user_id,
        "sku": item.sku,
        "name": item.name,
        "status": item.status,
        "price": money(item.price_cents),
        "stock": item.stock,
        "rating": item.rating_tenths / 10 if item.rating_tenths >= 0 else None,
        "tags": item.tags,
        "created": item.created.isoformat(),
    }
    if searching:
        shown["score"] = score
    return shown


def money(cents: int) -> str:
    """Return cents as a decimal text with two places: 1999 is "19.99"."""
    return f"{cents // 100}.{cents % 100:02d}"
