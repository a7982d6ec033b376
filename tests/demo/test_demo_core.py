"""The list endpoint's core: golden answers, a brute-force twin, pages, counts, and the database's price."""

import time
from decimal import Decimal
from typing import Any, cast

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from demo.molt_worker_app import core, fake_db
from demo.molt_worker_app.query import make_cursor, parse_query
from demo.molt_worker_app.ranking import score_name, words_of
from demo.molt_worker_app.schema import ListParameters
from demo.molt_worker_app.settings import FakeDbSettings
from demo.molt_worker_app.wire import Item, decode_item
from molt_worker import InvalidInput
from molt_worker.entrypoints import typed
from tests.demo.demo_strategies import good_parameters

CATALOGUE = [decode_item(row) for row in fake_db.ROWS]


def ask(**parameters: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", core.list_items(typed.convert(parameters, ListParameters)))


def ids(answer: dict[str, Any]) -> list[int]:
    return [item["id"] for item in answer["items"]]


def test_golden_answer() -> None:
    assert ask(user_id=7, sort="price", limit=3, status=["active", "sold_out"]) == {
        "items": [
            {
                "id": 979, "user_id": 7, "sku": "SKU-601614", "name": "élan silver basket for the office",
                "status": "active", "price": "3.69", "stock": 186, "rating": None, "tags": ["outdoor"],
                "created": "2024-08-02T17:36:02+00:00",
            },
            {
                "id": 787, "user_id": 7, "sku": "SKU-280532", "name": "silver bright stool for the children",
                "status": "active", "price": "25.29", "stock": 86, "rating": 1.8, "tags": ["eco"],
                "created": "2023-01-23T07:17:34+00:00",
            },
            {
                "id": 884, "user_id": 7, "sku": "SKU-130189",
                "name": "antique nordic blanket for the kitchen", "status": "sold_out",
                "price": "41.47", "stock": 163, "rating": 1.2, "tags": ["clearance", "vintage"],
                "created": "2024-10-05T19:31:10+00:00",
            },
        ],
        "page": {"limit": 3, "returned": 3, "sort": "price", "next_cursor": "MToyNGFiNjYxZTo0MTQ3Ojg4NA"},
        "counts": {
            "rows": 1000,
            "found": 10,
            "by_status": {"active": 8, "draft": 0, "sold_out": 2, "archived": 0},
            "by_tag": {
                "clearance": 4, "eco": 1, "fragile": 0, "gift": 1, "handmade": 0, "imported": 2, "new": 0,
                "outdoor": 2, "premium": 1, "vintage": 1,
            },
        },
        "totals": {"stock": 1267, "value": "164167.03", "lowest_price": "3.69", "highest_price": "594.62"},
    }  # fmt: skip


def test_golden_search_with_a_slip_of_the_pen() -> None:
    answer = ask(q="chiar", tag="eco", limit=2)
    assert [(item["id"], item["name"], item["score"]) for item in answer["items"]] == [
        (436, "crimson matte chair for the hallway", 26),
        (544, "broad scarlet chair for the children", 26),
    ]
    assert (answer["page"]["sort"], answer["counts"]["found"]) == ("relevance", 5)


def test_nothing_found() -> None:
    answer = ask(q="zeppelin")
    assert answer["items"] == []
    assert answer["page"] == {"limit": 20, "returned": 0, "sort": "relevance", "next_cursor": None}
    assert answer["counts"]["found"] == 0
    assert answer["totals"] == {"stock": 0, "value": "0.00", "lowest_price": None, "highest_price": None}


def _brute_force(parameters: dict[str, str]) -> list[Item]:
    """What the core should find, in order, by other means: one expression, decimals, a sort for each key."""
    low = Decimal(parameters.get("min_price", "0"))
    high = Decimal(parameters.get("max_price", "1000000"))
    wanted = words_of(parameters.get("q", ""))
    found = [
        item
        for item in CATALOGUE
        if low <= Decimal(item.price_cents) / 100 <= high
        and parameters.get("user_id", str(item.user_id)) == str(item.user_id)
        and parameters.get("status", item.status) == item.status
        and {*filter(None, [parameters.get("tag")])} <= {*item.tags}
        and (not wanted or score_name(wanted, item.name) > 0)
    ]
    sort = parameters.get("sort", "relevance" if wanted else "-created")
    keys = {
        "relevance": lambda item: -score_name(wanted, item.name),
        "price": lambda item: item.price_cents,
        "rating": lambda item: item.rating_tenths,
        "created": lambda item: item.created,
    }
    found.sort(key=lambda item: item.item_id)
    found.sort(key=keys[sort.removeprefix("-")], reverse=sort.startswith("-"))
    return found


@given(good_parameters)
def test_the_answer_is_what_brute_force_finds(parameters: dict[str, str]) -> None:
    try:
        answer = ask(**parameters)
    except InvalidInput:
        assume(False)
    expected = _brute_force(parameters)
    limit = int(parameters.get("limit", "20"))
    assert ids(answer) == [item.item_id for item in expected[:limit]]
    counts = answer["counts"]
    assert (counts["rows"], counts["found"]) == (1000, len(expected))
    assert sum(counts["by_status"].values()) == len(expected)
    assert counts["by_status"] == {
        status: sum(item.status == status for item in expected) for status in fake_db.STATUSES
    }
    assert counts["by_tag"] == {tag: sum(tag in item.tags for item in expected) for tag in fake_db.TAGS}
    assert sum(counts["by_tag"].values()) == sum(len(item.tags) for item in expected)
    totals = answer["totals"]
    assert totals["stock"] == sum(item.stock for item in expected)
    assert Decimal(totals["value"]) * 100 == sum(item.stock * item.price_cents for item in expected)
    assert (answer["page"]["next_cursor"] is None) == (len(expected) <= limit)


@pytest.mark.parametrize("sort", ["price", "-price", "rating", "-rating", "created", "-created"])
@pytest.mark.parametrize("limit", [1, 37, 100])
def test_a_cursor_walk_visits_every_row_once(sort: str, limit: int) -> None:
    # A single-item walk over everything would take a minute; one user's items show the same.
    scope: dict[str, Any] = {"sort": sort, "limit": limit} | ({"user_id": 18} if limit == 1 else {})
    seen: list[int] = []
    answer = ask(**scope)
    seen += ids(answer)
    while answer["page"]["next_cursor"] is not None:
        answer = ask(**scope, cursor=answer["page"]["next_cursor"])
        assert answer["page"]["returned"] == len(answer["items"]) > 0
        seen += ids(answer)
    assert len(seen) == len(set(seen)) == answer["counts"]["found"]
    assert seen == [item.item_id for item in _brute_force({key: str(value) for key, value in scope.items()})]


@given(good_parameters, st.lists(st.integers(1, 100), min_size=1, max_size=3))
def test_page_sizes_may_change_on_the_way(parameters: dict[str, str], limits: list[int]) -> None:
    seen: list[int] = []
    cursor: dict[str, str] = {}
    for limit in limits:
        try:
            answer = ask(**{**parameters, **cursor, "limit": str(limit)})
        except InvalidInput:
            assume(False)
        seen += ids(answer)
        if answer["page"]["next_cursor"] is None:
            break
        cursor = {"cursor": answer["page"]["next_cursor"]}
    assert seen == [item.item_id for item in _brute_force(parameters)][: len(seen)]


def test_a_cursor_behind_the_end_gives_an_empty_last_page() -> None:
    answer = ask(
        sort="price", cursor=make_cursor(parse_query(ListParameters(sort="price")).fingerprint, 10**9, 1)
    )
    assert (answer["items"], answer["page"]["next_cursor"]) == ([], None)


def test_equal_keys_are_ordered_by_id() -> None:
    answer = ask(sort="-rating", limit=100)
    pairs = [(-(item["rating"] or -1), item["id"]) for item in answer["items"]]
    assert pairs == sorted(pairs)
    assert len({key for key, _ in pairs}) < len(pairs)


def test_the_database_sleeps_its_latency_once(monkeypatch: pytest.MonkeyPatch) -> None:
    naps: list[float] = []
    monkeypatch.setattr(time, "sleep", naps.append)
    assert len(fake_db.fetch_items(fake_db.ROWS, FakeDbSettings(delay_ms=25))) == 1000
    assert naps == [0.025]


def test_every_row_costs_its_cpu_time() -> None:
    started = time.thread_time()
    items = fake_db.fetch_items(fake_db.ROWS[:50], FakeDbSettings(decode_us_per_row=400))
    assert time.thread_time() - started >= 0.020
    assert [item.item_id for item in items] == list(range(1, 51))


def test_iterations_are_run_one_by_one() -> None:
    value = 1
    for _ in range(5000):
        value = (value * 1_103_515_245 + 12_345) % 2**31
    assert fake_db.spin_iterations(5000) == value
    assert fake_db.spin_iterations(0) == 1


def test_settings_change_the_price_and_not_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = ask(q="oak", limit=5)
    monkeypatch.setattr(core, "FAKE_DB", FakeDbSettings(delay_ms=1, decode_us_per_row=1, cpu_iters=10_000))
    assert ask(q="oak", limit=5) == plain


class Stopped(Exception):
    """What a cancelled request's check raises."""


class Impatient:
    """A request that is cancelled after so many checks."""

    def __init__(self, patience: int) -> None:
        self.left = patience

    def check(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Stopped


@pytest.mark.parametrize("module", [fake_db, core])
@pytest.mark.parametrize("patience", [0, 3, 9])
def test_cancelled_requests_stop_midway(monkeypatch: pytest.MonkeyPatch, module: Any, patience: int) -> None:
    monkeypatch.setattr(module, "current_request", lambda: Impatient(patience))
    with pytest.raises(Stopped):
        ask()


def test_iterations_stop_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fake_db, "current_request", lambda: Impatient(2))
    with pytest.raises(Stopped):
        fake_db.spin_iterations(10**9)
