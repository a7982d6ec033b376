"""Figures of single calls and of goodput."""

import pytest

from bench.cluster.figures import Measured
from tests.bench.support.cluster import goodput, measured


def test_goodput_is_answers_in_time_per_second() -> None:
    run = goodput(3, 2700)
    assert (run.offered_s, run.goodput_s, run.own_s) == (350.0, 270.0, 98.0)
    assert (run.p50_ms, run.client_cores, run.bridges_cores) == (40.0, 0.1, 0.2)
    assert run.p99_ms == pytest.approx(59.6)


def test_ratios_are_taken_within_rounds() -> None:
    made = measured(call=280.0, nats=200.0)
    made.runs = [goodput(1, 1000), goodput(3, 2900), goodput(3, 2000, round_=1), goodput(1, 500, round_=1)]
    over_bare, pools = made.latency_ratio("call", "nats"), made.goodput_ratio(3, 1)
    assert over_bare is not None
    assert pools is not None
    assert over_bare.rounds == (1.4, 1.4)
    assert pools.rounds == (2.9, 4.0)


def test_what_was_not_measured_has_no_ratio() -> None:
    assert Measured().latency_ratio("call", "nats") is None
    assert Measured().goodput_ratio(3, 1) is None
