"""bench.instructions.gate: what is too much, and what is known."""

from pathlib import Path

from bench.instructions import gate

BEFORE = {"pipe": 40_000, "call": 30_000, "run": 20_000}


def test_nothing_is_said_of_what_takes_as_much_or_less() -> None:
    assert gate.excesses(BEFORE, BEFORE) == []
    assert gate.excesses(BEFORE, {**BEFORE, "call": 10_000}) == []
    assert gate.excesses(BEFORE, {**BEFORE, "run": 20_599}) == []


def test_what_takes_more_than_is_allowed_is_named_with_the_figure() -> None:
    (text,) = gate.excesses(BEFORE, {**BEFORE, "run": 20_700})
    assert text == "run: 20,700 instructions, 20,000 are known: +3.5% against pipe, 3% are allowed"


def test_another_build_of_python_that_takes_more_for_everything_is_no_excess() -> None:
    assert gate.excesses(BEFORE, {case: 2 * count for case, count in BEFORE.items()}) == []


def test_counts_are_kept_for_each_interpreter(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    gate.remember("one", BEFORE, path)
    gate.remember("other", {"pipe": 1}, path)
    assert gate.known("one", path) == BEFORE
    assert gate.known("other", path) == {"pipe": 1}
    assert gate.known("a third", path) is None


def test_the_table_has_a_row_for_each_case() -> None:
    rows = gate.table(BEFORE, {**BEFORE, "call": 33_000}).splitlines()
    assert rows[3] == "| call | 33,000 | 0.82 | +10.0% |"
    assert gate.table(None, BEFORE).splitlines()[2] == "| pipe | 40,000 | 1.00 |  |"
