"""bench.growth.options, as the command line makes them."""

import pytest

from bench.core import BenchError
from bench.growth.options import CLIENTS
from bench.scripts.run_growth_bench import options_of


def test_what_is_left_out_takes_no_time() -> None:
    whole, steps, calls = options_of([]), options_of(["--no-calls"]), options_of(["--no-steps"])
    assert whole.expected_s() == steps.expected_s() + calls.expected_s()
    assert (whole.clients, steps.clients) == (CLIENTS, ())
    assert options_of(["--quick"]).expected_s() < whole.expected_s()


def test_there_are_no_more_clients_than_asked_for() -> None:
    assert options_of(["--most-clients", "17"]).clients == (1, 4, 16)
    assert options_of(["--rounds", "7"]).round_count == 7


@pytest.mark.parametrize("words", ["--no-steps --no-calls", "--rounds 0", "--most-clients 0"])
def test_what_is_not_allowed_is_refused(words: str) -> None:
    with pytest.raises(BenchError):
        options_of(words.split())
