"""Options and the command line of the benchmark of several hosts."""

import pytest

from bench.cluster.options import PRESETS, Options
from bench.cluster.rows import PLACES, ROWS
from bench.core.command import USAGE
from bench.scripts.run_cluster_bench import main, options_of


def test_without_options_everything_is_measured() -> None:
    options = options_of([])
    assert [row.name for row in options.chosen] == list(ROWS)
    assert options.places() == tuple(PLACES)
    assert options.round_count == PRESETS["default"].rounds
    assert options.goodput


def test_each_row_has_a_place_and_something_to_be_held_against() -> None:
    for row in ROWS.values():
        assert row.place in PLACES
        assert ROWS[row.bare].bare == row.bare
        assert row.place == "local" or ROWS[row.bare].place == row.place


def test_a_part_can_be_asked_for() -> None:
    options = options_of(["--quick", "--rows", "far-call,shm", "--no-goodput", "--rounds", "1"])
    assert [row.name for row in options.chosen] == ["shm", "far-call"]
    assert options.places() == ("local", "namespaces")
    assert options.expected_s() < options_of(["--quick"]).expected_s() < options_of([]).expected_s()
    assert options_of(["--no-calls"]).chosen == ()


def test_the_load_is_counted_in_capacities_of_a_pool() -> None:
    options = Options(executors=3, nap_ms=10.0, load=2.0)
    assert (options.capacity_s, options.rate_s) == (300.0, 600.0)


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--rows", "shm,pipe"], "--rows names pipe"),
        (["--no-calls", "--no-goodput"], "nothing to measure"),
        (["--rounds", "0"], "--rounds is 0"),
        (["--executors", "0"], "--executors is 0"),
        (["--timeout-ms", "5"], "--timeout-ms is 5"),
        (["--delay-ms", "nan"], "--delay-ms is nan"),
        (["--nap-ms", "0"], "--nap-ms is 0"),
        (["--load", "0"], "--load is 0"),
    ],
)
def test_what_makes_no_sense_is_refused(
    words: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == USAGE
    assert problem in capsys.readouterr().err
