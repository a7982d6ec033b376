"""The data path's core: a golden answer, a brute-force twin, and refusals that name row and column."""

import json
import math
import operator
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.molt_worker_app import make_table, table
from demo.molt_worker_app.table import data_summary
from molt_worker import InvalidInput
from tests.demo.demo_strategies import tables

SMALL: dict[str, Any] = {
    "columns": ["region", "units", "price", "paid"],
    "rows": [
        ["north", 2, 1.5, True], ["south", 3, None, True], ["north", 5, 0.1, False], [None, 1, 9, True],
        ["north", 4, 0.2, True],
    ],
}  # fmt: skip


def changed(**parts: Any) -> dict[str, Any]:
    return {**SMALL, **parts}


def figures(**parts: Any) -> dict[Any, Any]:
    """The groups' figures by their keys' values."""
    answer: dict[str, Any] = data_summary(changed(**parts))
    return {tuple(group["key"].values()): group["figures"] for group in answer["groups"]}


def test_golden_answer() -> None:
    asked = changed(
        where=[{"column": "paid", "op": "=", "value": True}],
        group_by=["region"],
        aggregates=[{"op": "count"}, {"op": "sum", "column": "units"}, {"op": "mean", "column": "price"}],
    )
    assert data_summary(asked) == {
        "rows": 5,
        "kept": 4,
        "groups": [
            {"key": {"region": None}, "figures": {"count": 1, "sum(units)": 1, "mean(price)": 9.0}},
            {"key": {"region": "north"}, "figures": {"count": 2, "sum(units)": 6, "mean(price)": 0.85}},
            {"key": {"region": "south"}, "figures": {"count": 1, "sum(units)": 3, "mean(price)": None}},
        ],
    }


def test_without_steps_all_rows_are_counted() -> None:
    assert data_summary(SMALL) == {"rows": 5, "kept": 5, "groups": [{"key": {}, "figures": {"count": 5}}]}
    assert data_summary(changed(rows=[])) == {"rows": 0, "kept": 0, "groups": []}


def test_every_aggregate() -> None:
    asked = [{"op": op, "column": "price"} for op in table.AGGREGATES]
    assert figures(aggregates=asked) == {
        (): {
            "count(price)": 4, "sum(price)": 10.8, "min(price)": 0.1, "max(price)": 9, "mean(price)": 2.7,
            "p95(price)": 9,
        }
    }  # fmt: skip


@pytest.mark.parametrize(
    ("op", "value", "kept"),
    [
        ("=", 3, 1), ("!=", 3, 4), ("<", 3, 2), ("<=", 3, 3), (">", 3, 2), (">=", 3, 3), ("=", 3.0, 1),
        (">", 2.5, 3),
    ],
)  # fmt: skip
def test_every_operator(op: str, value: float, kept: int) -> None:
    assert data_summary(changed(where=[{"column": "units", "op": op, "value": value}]))["kept"] == kept


@pytest.mark.parametrize(
    ("column", "op", "value", "kept"),
    [
        ("region", "=", None, 1), ("region", "!=", None, 4), ("region", "!=", "north", 2),
        ("region", "=", "", 0),
        ("region", ">", "north", 1), ("price", "<", 100, 4), ("paid", "!=", True, 1), ("paid", ">", False, 4),
    ],
)  # fmt: skip
def test_null_text_and_truth(column: str, op: str, value: object, kept: int) -> None:
    assert data_summary(changed(where=[{"column": column, "op": op, "value": value}]))["kept"] == kept


def test_null_and_empty_text_are_different_groups() -> None:
    rows = [["", 1, 1, True], [None, 1, 1, True], ["=", 1, 1, True]]
    assert list(figures(rows=rows, group_by=["region"])) == [(None,), ("",), ("=",)]


@given(st.lists(st.integers(-99, 99), min_size=1), st.randoms(use_true_random=False))
def test_figures_do_not_depend_on_the_order_of_rows(numbers: list[int], rng: Any) -> None:
    values = [number / 7 for number in numbers]
    expected = {
        "count": len(values),
        "sum": math.fsum(values),
        "min": min(values),
        "max": max(values),
        "mean": statistics.fmean(values),
        "p95": sorted(values)[math.ceil(len(values) * 95 / 100) - 1],
    }
    rng.shuffle(values)
    assert {op: table.aggregate_numbers(op, list(values)) for op in table.AGGREGATES} == expected


def test_figures_over_nothing() -> None:
    assert {op: table.aggregate_numbers(op, []) for op in table.AGGREGATES} == {
        "count": 0, "sum": 0, "min": None, "max": None, "mean": None, "p95": None,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (
            None,
            "payload: None is not allowed; allowed: an object of columns, rows, where, group_by, aggregates",
        ),
        ([], "payload: a list of 0 is not allowed"),
        ({}, "columns: None is not allowed; allowed: a list"),
        ({"columns": ["a"]}, "rows: None is not allowed; allowed: a list"),
        (changed(extra=1), "payload: the key 'extra' is not allowed; allowed: columns, rows,"),
        (changed(columns=[]), "columns: an empty list is not allowed; allowed: at least one name"),
        (changed(columns=["a", 1]), "columns[1]: 1 is not allowed; allowed: a text, 1 to 64 long"),
        (changed(columns=["a", ""]), "columns[1]: '' is not allowed"),
        (changed(columns=["a", "a"]), "columns[1]: 'a' repeats a column; allowed: each name once"),
        (changed(columns=["c"] * 101), "columns: 101 entries are not allowed; allowed: at most 100"),
        (changed(rows={}), "rows: a dict of 0 is not allowed; allowed: a list"),
        (changed(rows=[["a", 1, 1, True], "b"]), "rows[1]: 'b' is not allowed; allowed: 4 cells"),
        (changed(rows=[["a", 1, 1, True], ["b"]]), "rows[1]: 1 cells are not allowed; allowed: 4"),
        (changed(where=[1]), "where[0]: 1 is not allowed; allowed: an object of column, op, value"),
        (
            changed(where=[{"column": "size"}]),
            "where[0].column: 'size' is not allowed; allowed: region, units, p",
        ),
        (
            changed(where=[{"column": "units", "op": "~"}]),
            "where[0].op: '~' is not allowed; allowed: =, !=, <, <=",
        ),
        (
            changed(where=[{"column": "units", "op": "="}]),
            "where[0].value: missing; allowed: text, a number, true",
        ),
        (
            changed(where=[{"column": "units", "op": "=", "value": []}]),
            "where[0].value: a list of 0 is not allowed",
        ),
        (
            changed(where=[{"column": "units", "op": "<", "value": None}]),
            "where[0].op: '<' is not allowed with null",
        ),
        (
            changed(where=[{"column": "units", "op": "<", "value": 1e13}]),
            "where[0].value: 10000000000000.0 is not",
        ),
        (
            changed(where=[{"column": "region", "op": "=", "value": 1}]),
            "rows[0].region: 'north' is not allowed; allowed: a number or null",
        ),
        (
            changed(where=[{"column": "units", "op": "=", "value": "x"}]),
            "rows[0].units: 2 is not allowed; allowed: text or null, to compare with text",
        ),
        (
            changed(where=[{"column": "units", "op": "=", "value": True}]),
            "rows[0].units: 2 is not allowed; allowed: true, false or null",
        ),
        (changed(group_by="region"), "group_by: 'region' is not allowed; allowed: a list"),
        (
            changed(group_by=["size"]),
            "group_by[0]: 'size' is not allowed; allowed: region, units, price, paid",
        ),
        (changed(group_by=["region"] * 2), "group_by[1]: 'region' repeats a column"),
        (changed(group_by=["units"]), "rows[0].units: 2 is not allowed; allowed: text or null, to group by"),
        (
            changed(aggregates=[{"op": "mode"}]),
            "aggregates[0].op: 'mode' is not allowed; allowed: count, sum, min,",
        ),
        (
            changed(aggregates=[{"op": "sum"}]),
            "aggregates[0].column: None is not allowed; allowed: region, units,",
        ),
        (
            changed(aggregates=[{"op": "count"}] * 2),
            "aggregates[1]: count is asked for twice; allowed: each figure",
        ),
        (
            changed(aggregates=[{"op": "count"}] * 21),
            "aggregates: 21 entries are not allowed; allowed: at most 20",
        ),
        (
            changed(aggregates=[{"op": "sum", "column": "paid"}]),
            "rows[0].paid: True is not allowed; allowed: a number or null",
        ),
        (
            changed(columns=["n"], rows=[[1], [-(10**13)]], aggregates=[{"op": "sum", "column": "n"}]),
            "rows[1].n: -10000000000000 is not allowed; allowed: a number from -1000000000000 to 1000000000",
        ),
        (
            changed(columns=["n"], rows=[[10**4000]], aggregates=[{"op": "sum", "column": "n"}]),
            "rows[0].n: an integer of 13288 bits is not allowed",
        ),
    ],
)
def test_refusals(payload: object, text: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        data_summary(payload)
    assert str(raised.value).startswith(text)
    assert len(str(raised.value)) < 300


def test_many_columns_are_not_all_listed() -> None:
    columns = [f"{number}{'c' * 60}" for number in range(100)]
    with pytest.raises(InvalidInput) as raised:
        data_summary({"columns": columns, "rows": [], "group_by": ["x"]})
    assert str(raised.value).startswith("group_by[0]: 'x' is not allowed; allowed: 0ccc")
    assert len(str(raised.value)) < 300


def test_too_many_groups_are_refused() -> None:
    rows = [[str(number)] for number in range(10_001)]
    assert len(figures(columns=["name"], rows=rows[:-1], group_by=["name"])) == 10_000
    with pytest.raises(InvalidInput, match=r"group_by: one group too many at rows\[10000\]; allowed: 10000"):
        figures(columns=["name"], rows=rows, group_by=["name"])


def summed_or_refused(payload: object) -> dict[str, Any] | None:
    """The core's answer; None where it refused, in a text of the right form."""
    try:
        return data_summary(payload)
    except InvalidInput as exc:
        text = str(exc)
    assert "allowed" in text
    assert len(text) < 600
    return None


OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt,
    ">=": operator.ge,
}  # fmt: skip
FIGURES: dict[str, Callable[[list[Any]], Any]] = {
    "count": len,
    "sum": math.fsum,
    "min": lambda values: min(values, default=None),
    "max": lambda values: max(values, default=None),
    "mean": lambda values: math.fsum(values) / len(values) if values else None,
    "p95": lambda values: sorted(values)[math.ceil(len(values) * 95 / 100) - 1] if values else None,
}


def _brute_force(asked: dict[str, Any]) -> dict[str, Any]:
    """The same by other means: rows as mappings, comprehensions, a pass over all rows for each group."""
    rows = [dict(zip(asked["columns"], row, strict=True)) for row in asked["rows"]]
    kept = [
        row
        for row in rows
        if all(
            OPERATORS[step["op"]](row[step["column"]], step["value"])
            if None not in (row[step["column"]], step["value"]) or step["op"] in ("=", "!=")
            else False
            for step in asked.get("where", [])
        )
    ]
    names = asked.get("group_by", [])
    keys = {tuple(row[name] for name in names) for row in kept}
    groups = []
    for key in sorted(keys, key=lambda key: [(value is not None, value or "") for value in key]):
        members = [row for row in kept if tuple(row[name] for name in names) == key]
        figures: dict[str, Any] = {}
        for step in asked.get("aggregates", [{"op": "count"}]):
            if "column" not in step:
                figures["count"] = len(members)
                continue
            values = [row[step["column"]] for row in members if row[step["column"]] is not None]
            figures[f"{step['op']}({step['column']})"] = FIGURES[step["op"]](values)
        groups.append({"key": dict(zip(names, key, strict=True)), "figures": figures})
    return {"rows": len(rows), "kept": len(kept), "groups": groups}


@given(tables())
def test_the_answer_is_what_brute_force_finds(asked: dict[str, Any]) -> None:
    answer = summed_or_refused(asked)
    if answer is not None:
        assert answer == _brute_force(asked)


_anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(table._PARTS, _anything)) | _anything)
def test_no_payload_raises_anything_else(payload: object) -> None:
    summed_or_refused(payload)


def test_cancelled_requests_stop_midway(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    class Request:
        checks = 0

        def check(self) -> None:
            self.checks += 1
            if self.checks > 3:
                raise Stopped

    monkeypatch.setattr(table, "current_request", Request)
    request = Request()
    monkeypatch.setattr(table, "current_request", lambda: request)
    with pytest.raises(Stopped):
        data_summary({"columns": ["n"], "rows": [[1]] * 2000})


def _made(*arguments: str) -> bytes:
    return subprocess.run(
        [sys.executable, "-m", "demo.molt_worker_app.make_table", *arguments],
        cwd=make_table.__file__.removesuffix("demo/molt_worker_app/make_table.py"),
        capture_output=True,
        check=True,
        timeout=60,
    ).stdout


def test_the_made_table_has_ten_thousand_rows_and_is_always_the_same() -> None:
    body = _made()
    assert body == _made("--rows", "10000", "--seed", "910")
    made = json.loads(body)
    assert made == make_table.make_table(10_000)
    assert len(made["rows"]) == 10_000
    assert _made("--rows", "5", "--seed", "1") != _made("--rows", "5", "--seed", "2")


def test_golden_answer_for_the_made_table() -> None:
    answer: dict[str, Any] = data_summary(make_table.make_table(10_000))
    assert (answer["rows"], answer["kept"], len(answer["groups"])) == (10_000, 8428, 18)
    assert answer["groups"][0] == {
        "key": {"region": None, "channel": "phone"},
        "figures": {
            "count": 32, "count(discount)": 9, "sum(units)": 285, "min(price)": 19.54, "max(price)": 482.91,
            "mean(price)": 208.61375, "p95(price)": 481.2,
        },
    }  # fmt: skip


def test_a_negative_row_count_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        make_table.main(["--rows", "-1"])
    assert "--rows: -1 is not allowed; allowed: 0 or more" in capsys.readouterr().err
