"""Counts become what one call costs, on each side."""

from bench.attribution.counters import EVENTS, READY
from bench.attribution.rows import FIGURES, ROWS, Counted, line, table

COUNTED = Counted(
    ROWS[0],
    2000,
    0.5,
    dict.fromkeys(EVENTS, 1000.0) | {"cpu_ms": 3.0, READY: 7.0},
    dict.fromkeys(EVENTS, 0.0) | {"cpu_ms": 30.0, READY: 0.5},
)


def test_a_row_has_rate_and_both_sides_of_one_call() -> None:
    assert line(COUNTED) == [
        "one caller, idle machine",
        "4,000",
        *["0.5 / 0"] * (len(EVENTS) - 1),
        "1.5 / 15.0",
        "3.5 / 0.25",
        "245.0",  # 0.5 s are 250 us for each of 2000 calls
    ]


def test_sleep_is_told_of_a_lone_caller_only() -> None:
    several = [row for row in ROWS if row.count * row.clients > 1]
    assert several
    for row in several:
        assert line(Counted(row, 10, 1.0, COUNTED.client, COUNTED.worker))[-1] == ""


def test_of_threads_that_have_ended_nobody_knows_how_long_they_waited() -> None:
    for row in ROWS:
        waited = line(Counted(row, 1000, 1.0, COUNTED.client, COUNTED.worker))[-2]
        assert waited == ("- / 0.5" if row.title == "16 threads" else "7 / 0.5")


def test_a_row_without_calls_is_no_division_by_zero() -> None:
    none = Counted(ROWS[0], 0, 1.0, dict.fromkeys(FIGURES, 0.0), dict.fromkeys(FIGURES, 0.0))
    assert line(none)[1] == "0"


def test_every_line_of_the_table_has_as_many_cells() -> None:
    lines = table([COUNTED, COUNTED]).splitlines()
    assert len(lines) == 4
    assert {each.count("|") - each.count("\\|") for each in lines} == {len(FIGURES) + 4}


def test_no_two_rows_count_the_same() -> None:
    assert len({(row.peer, row.count, row.clients, row.busy, row.spins) for row in ROWS}) == len(ROWS)
