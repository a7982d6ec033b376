"""bench.instructions.count: valgrind's counts, if it is there, and what is said if it is not."""

import shutil

import pytest

from bench.instructions import count
from bench.instructions.cases import CASES
from tests.support.errors import raised
from tests.support.views import _project  # noqa: F401


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_the_same_is_counted_each_time_and_nothing_outside_the_marks() -> None:
    """To start the interpreter takes more than 100,000 instructions for each of these rounds."""
    first, second = (count.instructions("ring") for _ in range(2))
    assert abs(first - second) < first / 100
    assert 1_000 < first < 50_000


def test_without_valgrind_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert "apt-get install valgrind" in str(raised(count.CountError, count.instructions, "pipe"))


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_case_that_fails_is_told_with_what_it_said() -> None:
    text = str(raised(count.CountError, count.instructions, "nothing"))
    assert "'nothing' failed" in text
    assert "KeyError" in text


@pytest.mark.usefixtures("_project")
@pytest.mark.parametrize("case", sorted({*CASES} - {"call", "view"}))  # which need a pool
def test_each_case_gives_back_what_it_carried(case: str) -> None:
    step = CASES[case]()
    got = step(7)
    assert getattr(got, "content", getattr(got, "payload", got)) in (7, b"\x07", b"7")


def test_of_some_cases_it_is_told_what_they_take_more_than_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "instructions", lambda case: {"view": 500, "plain_view": 200}.get(case, 1))
    told: list[str] = []
    found = count.all_cases(told.append)
    assert set(found) == {*CASES} - {"plain_view"}
    assert found["view"] == 300
    assert "view: 300" in told
    assert len(told) == len(found)
