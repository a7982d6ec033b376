"""The simulator itself, in cases worked out by hand."""

import pytest

from bench.overload.pool import LATE, OK, Call, Pool, Shape
from bench.overload.rules import CoDel, FirstCome, tuned
from bench.overload.traffic import Clients, Source, fixed, on_and_off, once, poisson
from molt_accel.overload import admission, estimate


def rows(calls: list[Call]) -> list[tuple[float, float, str]]:
    return [(round(call.at, 3), round(call.ended, 3), call.outcome) for call in calls]


def test_two_executors_serve_in_the_order_of_arrival() -> None:
    calls = Pool([Source("a", fixed(0.05), once(5))], rule=FirstCome()).run(1)
    assert [each[1] for each in rows(calls)] == [0.05, 0.05, 0.1, 0.1, 0.15]


def test_a_full_queue_refuses() -> None:
    calls = Pool([Source("a", fixed(0.05), once(5))], rule=FirstCome(1)).run(1)
    assert [each[2] for each in rows(calls)] == ["queue_full", "queue_full", OK, OK, OK]


def test_a_deadline_ends_what_is_queued_and_what_runs() -> None:
    calls = Pool([Source("a", fixed(0.05), once(4), deadline=0.07)], rule=FirstCome()).run(1)
    assert rows(calls) == [(0, 0.05, OK), (0, 0.05, OK), (0, 0.07, LATE), (0, 0.07, LATE)]
    assert [call.began for call in calls] == [0, 0, 0.05, 0.05]
    calls = Pool([Source("a", fixed(0.05), once(4), deadline=0.04)], rule=FirstCome()).run(1)
    assert rows(calls) == [(0, 0.04, LATE)] * 4


def test_refusals_and_first_requests_take_time_of_the_executors() -> None:
    shape = Shape(1, first=1.0, refusal=0.002)
    calls = Pool([Source("a", fixed(0.05), once(5))], shape, FirstCome(1)).run(3)
    assert rows(calls)[3:] == [(0, 1.05, OK), (0, 1.106, OK)]


@pytest.mark.parametrize(("honour", "least", "most"), [(True, 0.9, 2.2), (False, 0.009, 0.011)])
def test_clients_come_back(honour: bool, least: float, most: float) -> None:
    source = Source("a", fixed(10), Clients(3, honour=honour))
    calls = Pool([source], Shape(1), FirstCome(0)).run(5)
    times = sorted(call.at for call in calls)
    assert times[:2] == [0, 0]  # two of three are refused
    assert least <= times[2] <= most


def test_pauses_have_no_arrivals() -> None:
    calls = Pool([Source("a", fixed(0.001), on_and_off(100, 1, 2))]).run(9)
    assert {int(call.at) % 3 for call in calls} == {0}
    assert len(calls) == pytest.approx(300, abs=60)


def test_the_same_seed_is_the_same_run() -> None:
    def run(seed: int) -> list[tuple[float, float, str]]:
        return rows(Pool([Source("a", fixed(0.03), poisson(100))], seed=seed).run(3))

    assert run(1) == run(1) != run(2)


def test_codel_drops_from_a_queue_that_stands_and_more_and_more() -> None:
    calls = Pool([Source("a", fixed(0.02), poisson(200))], rule=CoDel()).run(5)
    dropped = [call.ended for call in calls if call.outcome == "queue_delay"]
    assert dropped[0] > 0.2
    early, late = (sum(at <= each < at + 1 for each in dropped) for at in (0, 4))
    assert early < late


def test_constants_are_changed_for_a_while_only() -> None:
    before = admission.INTERVAL_NS, admission.CALM_NS, estimate.GAIN_SHIFT
    with tuned(interval=0.5, calm=2.0, gain=7):
        assert (admission.INTERVAL_NS, admission.CALM_NS) == (5 * 10**8, 2 * 10**9)
        assert estimate.GAIN_SHIFT == 7
    assert before == (admission.INTERVAL_NS, admission.CALM_NS, estimate.GAIN_SHIFT)
