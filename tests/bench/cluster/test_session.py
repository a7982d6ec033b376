"""The order of rows within a round, and what is told of a run."""

import random

from bench.cluster.rows import ROWS
from bench.cluster.session import told, turns
from tests.bench.support.cluster import goodput


def test_rows_that_are_held_against_each_other_take_turns_one_after_another() -> None:
    orders = set()
    for seed in range(20):
        order = [row.name for row in turns(list(ROWS.values()), random.Random(seed))]
        assert sorted(order) == sorted(ROWS)
        for together in (
            {"nats", "nats-uvloop", "call", "acall"},
            {name for name in ROWS if name.startswith("far-")},
        ):
            first = min(order.index(name) for name in together)
            assert set(order[first : first + len(together)]) == together
        orders.add(tuple(order))
    assert len(orders) > 10


def test_a_run_of_goodput_is_told_in_a_line() -> None:
    assert told(goodput(2, 1900)) == "2 pools: 190 answers in time per second (busy 1600, in_time 1900)"
    assert told(goodput(1, 900)).startswith("1 pool: ")
