"""The tables of a report, made from the results document alone and free of any markup."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from bench.core.tables import Table, number, with_range


def tables(document: Mapping[str, Any]) -> Iterator[Table]:
    """Every table of the report, in reading order."""
    if document["rows"]:
        yield _rows(document)
    for place, words in document["places"].items():
        rows = {name: row for name, row in document["rows"].items() if row["place"] == place}
        if any("p50_us" in row for row in rows.values()):
            yield _calls(_title(document, place, words), rows)
    if document["goodput"] is not None and document["goodput"]["pools"]:
        yield _goodput(document["goodput"])
        yield _outcomes(document["goodput"])


def _title(document: Mapping[str, Any], place: str, words: str) -> str:
    behind = f" of {document['options']['delay_ms']:g} ms each way" if place == "namespaces" else ""
    return f"One call of {document['options']['payload_bytes']} B: {words}{behind}"


def _rows(document: Mapping[str, Any]) -> Table:
    rows = tuple(
        (name, row["title"], row["how"], row["not_run"] or "yes") for name, row in document["rows"].items()
    )
    return Table("Rows", ("row", "what", "how", "ran"), rows, left=4)


def _calls(title: str, rows: Mapping[str, Any]) -> Table:
    callers = next(iter(row["calls_s"] for row in rows.values() if "calls_s" in row))
    made = tuple(
        (
            name,
            row["title"],
            *(with_range(row[figure]) for figure in ("p50_us", "p99_us", "mean_us")),
            *(with_range(row["calls_s"][each]) for each in callers),
            with_range(row["p50_over_bare"]),
        )
        for name, row in rows.items()
        if "p50_us" in row
    )
    columns = (
        *("row", "what", "p50 us", "p99 us", "mean us"),
        *(f"calls/s, {each} {'caller' if each == '1' else 'callers'}" for each in callers),
        "p50 / bare NATS",
    )
    return Table(title, columns, made, left=2)


def _goodput(goodput: Mapping[str, Any]) -> Table:
    rows = tuple(
        (
            pools,
            with_range(figures["offered_s"]),
            with_range(figures["goodput_s"]),
            number(int(pools) * goodput["capacity_s"]),
            with_range(figures["over_one"]),
            with_range(figures["own_s"]),
            *(with_range(figures[each]) for each in ("p50_ms", "p99_ms", "client_cores", "bridges_cores")),
        )
        for pools, figures in goodput["pools"].items()
    )
    columns = (
        "pools", "calls/s", "in time/s", "capacity", "/ one pool", "of them by the own host/s", "p50 ms", "p99 ms",
        "client: cores", "bridges, NATS: cores",
    )  # fmt: skip
    return Table("Goodput with overflow", columns, rows)


def _outcomes(goodput: Mapping[str, Any]) -> Table:
    names = sorted({name for figures in goodput["pools"].values() for name in figures["outcomes"]})
    rows = tuple(
        (pools, *(str(figures["outcomes"].get(name, 0)) for name in names))
        for pools, figures in goodput["pools"].items()
    )
    return Table("How the calls of goodput ended", ("pools", *names), rows)
