"""The data path's handler core: filter, group and aggregate a table that the request carries.

A bad payload raises InvalidInput, which names the place ("rows[3].units") and what is allowed there.
"""

from __future__ import annotations

import math
from typing import Final, TypeAlias, final

from molt_worker import InvalidInput, current_request

from .query import show

OPERATORS: Final = ("=", "!=", "<", "<=", ">", ">=")
AGGREGATES: Final = ("count", "sum", "min", "max", "mean", "p95")
LARGEST_NUMBER: Final = 1_000_000_000_000
MOST_ROWS: Final = 1_000_000
MOST_COLUMNS: Final = 100
MOST_GROUPS: Final = 10_000

_PARTS: Final = ("columns", "rows", "where", "group_by", "aggregates")
_MOST_STEPS: Final = 20
_LONGEST_NAME: Final = 64
_LONGEST_LIST: Final = 200
_CHECK_EVERY: Final = 256

Number: TypeAlias = int | float
Row: TypeAlias = list[object]


@final
class Condition:
    """A filter: it keeps the rows for which `cell operator value` is true; the cell is the one in `column`."""

    __slots__ = ("column", "operator", "value")

    def __init__(self, column: int, operator: str, value: object) -> None:
        self.column = column
        self.operator = operator
        self.value = value


@final
class Aggregate:
    """A figure that each group gets. `column` is an index; a count with column -1 counts rows."""

    __slots__ = ("column", "function", "title")

    def __init__(self, function: str, column: int, title: str) -> None:
        self.function = function
        self.column = column
        self.title = title


@final
class Group:
    """The rows that share one key: how many there are, and the numbers for each aggregate."""

    __slots__ = ("key", "numbers", "rows")

    def __init__(self, key: list[str | None], aggregates: int) -> None:
        self.key = key
        self.rows = 0
        self.numbers: list[list[Number]] = [[] for _ in range(aggregates)]


def data_summary(payload: object) -> dict[str, object]:
    """Filter, group and aggregate a table.

    The payload is {"columns": [name, ...], "rows": [[cell, ...], ...], "where": [{"column", "op", "value"},
    ...], "group_by": [name, ...], "aggregates": [{"op", "column"}, ...]}.
    Without "where" every row is kept, without "group_by" all rows form one group, without "aggregates" the rows are
    counted. A row must meet all conditions. A null cell meets only `= null` and `!=` another value; aggregates leave
    it out. p95 is the nearest-rank percentile.

    Raises InvalidInput if the payload has another shape, or a condition, group or aggregate can't use a cell.
    """
    table = _map(payload, "payload", _PARTS)
    columns = _columns(table.get("columns"))
    rows = _rows(table.get("rows"), columns)
    conditions = _conditions(table.get("where", []), columns)
    keys = _group_columns(table.get("group_by", []), columns)
    aggregates = _aggregates(table.get("aggregates", [{"op": "count"}]), columns)

    groups, kept = _collect(rows, columns, conditions, keys, aggregates)
    request = current_request()
    shown: list[dict[str, object]] = []
    for name in sorted(groups):
        request.check()
        shown.append(_present(groups[name], columns, keys, aggregates))
    return {"rows": len(rows), "kept": kept, "groups": shown}


def _collect(
    rows: list[Row],
    columns: list[str],
    conditions: list[Condition],
    keys: list[int],
    aggregates: list[Aggregate],
) -> tuple[dict[tuple[str, ...], Group], int]:
    """Filter and group the rows in one pass. Key texts get a "=" in front, so that null sorts before them."""
    request = current_request()
    groups: dict[tuple[str, ...], Group] = {}
    kept = 0
    for number, row in enumerate(rows):
        if number % _CHECK_EVERY == 0:
            request.check()
        if len(row) != len(columns):
            raise InvalidInput(f"rows[{number}]: {len(row)} cells are not allowed; allowed: {len(columns)}")
        if not _meets(row, number, columns, conditions):
            continue
        kept += 1
        key = _key(row, number, columns, keys)
        name = tuple(["" if text is None else "=" + text for text in key])
        group = groups.get(name)
        if group is None:
            if len(groups) == MOST_GROUPS:
                raise InvalidInput(f"group_by: one group too many at rows[{number}]; allowed: {MOST_GROUPS}")
            group = groups[name] = Group(key, len(aggregates))
        group.rows += 1
        for place, aggregate in enumerate(aggregates):
            if aggregate.column < 0:
                continue
            cell = row[aggregate.column]
            if cell is None:
                continue
            if aggregate.function == "count":
                group.numbers[place].append(1)
            else:
                group.numbers[place].append(_number(cell, number, columns[aggregate.column]))
    return groups, kept


def _meets(row: Row, number: int, columns: list[str], conditions: list[Condition]) -> bool:
    for condition in conditions:
        cell = row[condition.column]
        wanted = condition.value
        if cell is None or wanted is None:
            same = cell is None and wanted is None
            if condition.operator != ("=" if same else "!="):
                return False
        elif isinstance(wanted, str):
            if not isinstance(cell, str):
                raise _bad_cell(cell, number, columns[condition.column], "text or null, to compare with text")
            if not _holds(condition.operator, (cell > wanted) - (cell < wanted)):
                return False
        elif isinstance(wanted, bool):
            if not isinstance(cell, bool):
                raise _bad_cell(cell, number, columns[condition.column], "true, false or null")
            if not _holds(condition.operator, int(cell) - int(wanted)):
                return False
        elif isinstance(wanted, (int, float)):
            value = _number(cell, number, columns[condition.column])
            if not _holds(condition.operator, (value > wanted) - (value < wanted)):
                return False
    return True


def _holds(operator: str, order: int) -> bool:
    if operator == "=":
        return order == 0
    if operator == "!=":
        return order != 0
    if operator == "<":
        return order < 0
    if operator == "<=":
        return order <= 0
    if operator == ">":
        return order > 0
    return order >= 0


def _key(row: Row, number: int, columns: list[str], keys: list[int]) -> list[str | None]:
    key: list[str | None] = []
    for column in keys:
        cell = row[column]
        if cell is None:
            key.append(None)
        elif isinstance(cell, str):
            key.append(cell)
        else:
            raise _bad_cell(cell, number, columns[column], "text or null, to group by")
    return key


def _number(cell: object, number: int, column: str) -> Number:
    # isinstance takes a bool for an int, but true is no number here.
    if isinstance(cell, bool) or not isinstance(cell, (int, float)):
        raise _bad_cell(cell, number, column, "a number or null")
    if not -LARGEST_NUMBER <= cell <= LARGEST_NUMBER:
        raise _bad_cell(cell, number, column, f"a number from -{LARGEST_NUMBER} to {LARGEST_NUMBER}")
    return cell


def _bad_cell(cell: object, number: int, column: str, allowed: str) -> InvalidInput:
    return InvalidInput(f"rows[{number}].{column}: {show(cell)} is not allowed; allowed: {allowed}")


def _present(
    group: Group, columns: list[str], keys: list[int], aggregates: list[Aggregate]
) -> dict[str, object]:
    key: dict[str, object] = {}
    for place, column in enumerate(keys):
        key[columns[column]] = group.key[place]
    figures: dict[str, object] = {}
    for place, aggregate in enumerate(aggregates):
        if aggregate.column < 0:
            figures[aggregate.title] = group.rows
        else:
            figures[aggregate.title] = aggregate_numbers(aggregate.function, group.numbers[place])
    return {"key": key, "figures": figures}


def aggregate_numbers(function: str, numbers: list[Number]) -> Number | None:
    """Return an aggregate of numbers. Of no numbers, count and sum are 0, and the others are None.

    A sum is exact and then rounded once (math.fsum), so it doesn't depend on the order of the rows or on the Python
    version. A sum of whole numbers is a whole number.
    """
    if function == "count":
        return len(numbers)
    if function == "sum":
        return _sum(numbers)
    if not numbers:
        return None
    if function == "mean":
        return _sum(numbers) / len(numbers)
    if function == "min":
        return min(numbers)
    if function == "max":
        return max(numbers)
    # The nearest rank is the ceiling of 0.95 n, counted from 1; whole numbers keep it exact.
    return sorted(numbers)[(95 * len(numbers) + 99) // 100 - 1]


def _sum(numbers: list[Number]) -> Number:
    whole = 0
    for value in numbers:
        if isinstance(value, float):
            return math.fsum(numbers)
        whole += value
    return whole


def _columns(value: object) -> list[str]:
    names: list[str] = []
    for place, name in enumerate(_list(value, "columns", MOST_COLUMNS)):
        if not isinstance(name, str) or not 1 <= len(name) <= _LONGEST_NAME:
            raise InvalidInput(
                f"columns[{place}]: {show(name)} is not allowed; allowed: a text, 1 to {_LONGEST_NAME} long"
            )
        if name in names:
            raise InvalidInput(f"columns[{place}]: {show(name)} repeats a column; allowed: each name once")
        names.append(name)
    if not names:
        raise InvalidInput("columns: an empty list is not allowed; allowed: at least one name")
    return names


def _rows(value: object, columns: list[str]) -> list[Row]:
    rows: list[Row] = []
    for number, row in enumerate(_list(value, "rows", MOST_ROWS)):
        if not isinstance(row, list):
            raise InvalidInput(f"rows[{number}]: {show(row)} is not allowed; allowed: {len(columns)} cells")
        rows.append(row)
    return rows


def _conditions(value: object, columns: list[str]) -> list[Condition]:
    conditions: list[Condition] = []
    for place, step in enumerate(_list(value, "where", _MOST_STEPS)):
        where = f"where[{place}]"
        parts = _map(step, where, ("column", "op", "value"))
        column = _column(parts.get("column"), f"{where}.column", columns)
        operator = _choice(parts.get("op"), f"{where}.op", OPERATORS)
        if "value" not in parts:
            raise InvalidInput(f"{where}.value: missing; allowed: text, a number, true, false or null")
        wanted = parts["value"]
        if wanted is None:
            if operator not in ("=", "!="):
                raise InvalidInput(f"{where}.op: {show(operator)} is not allowed with null; allowed: =, !=")
        elif isinstance(wanted, (int, float)):
            if not -LARGEST_NUMBER <= wanted <= LARGEST_NUMBER:
                raise InvalidInput(
                    f"{where}.value: {show(wanted)} is not allowed;"
                    f" allowed: -{LARGEST_NUMBER} to {LARGEST_NUMBER}"
                )
        elif not isinstance(wanted, str):
            raise InvalidInput(
                f"{where}.value: {show(wanted)} is not allowed; allowed: text, a number, true, false or null"
            )
        conditions.append(Condition(column, operator, wanted))
    return conditions


def _group_columns(value: object, columns: list[str]) -> list[int]:
    keys: list[int] = []
    for place, name in enumerate(_list(value, "group_by", _MOST_STEPS)):
        column = _column(name, f"group_by[{place}]", columns)
        if column in keys:
            raise InvalidInput(f"group_by[{place}]: {show(name)} repeats a column; allowed: each name once")
        keys.append(column)
    return keys


def _aggregates(value: object, columns: list[str]) -> list[Aggregate]:
    aggregates: list[Aggregate] = []
    titles: list[str] = []
    for place, step in enumerate(_list(value, "aggregates", _MOST_STEPS)):
        where = f"aggregates[{place}]"
        parts = _map(step, where, ("op", "column"))
        function = _choice(parts.get("op"), f"{where}.op", AGGREGATES)
        if function == "count" and "column" not in parts:
            aggregate = Aggregate(function, -1, function)
        else:
            column = _column(parts.get("column"), f"{where}.column", columns)
            aggregate = Aggregate(function, column, f"{function}({columns[column]})")
        if aggregate.title in titles:
            raise InvalidInput(f"{where}: {aggregate.title} is asked for twice; allowed: each figure once")
        titles.append(aggregate.title)
        aggregates.append(aggregate)
    return aggregates


def _column(name: object, where: str, columns: list[str]) -> int:
    for column, known in enumerate(columns):
        if name == known:
            return column
    raise InvalidInput(f"{where}: {show(name)} is not allowed; allowed: {_listed(columns)}")


def _choice(value: object, where: str, allowed: tuple[str, ...]) -> str:
    if isinstance(value, str) and value in allowed:
        return value
    raise InvalidInput(f"{where}: {show(value)} is not allowed; allowed: {', '.join(allowed)}")


def _map(value: object, where: str, keys: tuple[str, ...]) -> dict[str, object]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: {show(value)} is not allowed; allowed: an object of {', '.join(keys)}")
    parts: dict[str, object] = {}
    for key, part in value.items():
        if not isinstance(key, str) or key not in keys:
            raise InvalidInput(f"{where}: the key {show(key)} is not allowed; allowed: {', '.join(keys)}")
        parts[key] = part
    return parts


def _list(value: object, where: str, longest: int) -> list[object]:
    if not isinstance(value, list):
        raise InvalidInput(f"{where}: {show(value)} is not allowed; allowed: a list")
    if len(value) > longest:
        raise InvalidInput(f"{where}: {len(value)} entries are not allowed; allowed: at most {longest}")
    return value


def _listed(names: list[str]) -> str:
    text = ", ".join(names)
    return text if len(text) <= _LONGEST_LIST else text[:_LONGEST_LIST] + "..."
