"""Counts become what one call costs, on each side."""

from bench.attribution.counters import EVENTS
from bench.attribution.rows import ROWS, Counted, line, table

COUNTED = Counted(
    ROWS[0],
    2000,
    0.5,
    dict.fromkeys(EVENTS, 1000.0) | {"cpu_ms": 3.0},
    dict.fromkeys(EVENTS, 0.0) | {"cpu_ms": 30.0},
)


def test_a_row_has_rate_and_both_sides_of_one_call() -> None:
    assert line(COUNTED) == [
        "one caller, idle machine",
        "4,000",
        *["0.5 / 0"] * (len(EVENTS) - 1),
        "1.5 / 15.0",
    ]


def test_a_row_without_calls_is_no_division_by_zero() -> None:
    none = Counted(ROWS[0], 0, 1.0, dict.fromkeys(EVENTS, 0.0), dict.fromkeys(EVENTS, 0.0))
    assert line(none)[1] == "0"


def test_every_line_of_the_table_has_as_many_cells() -> None:
    lines = table([COUNTED, COUNTED]).splitlines()
    assert len(lines) == 4
    assert {each.count("|") - each.count("\\|") for each in lines} == {len(EVENTS) + 3}


def test_no_two_rows_count_the_same() -> None:
    assert len({(row.peer, row.count, row.clients, row.busy, row.spins) for row in ROWS}) == len(ROWS)
