"""What the rule of admission must do and must never do, in a simulated pool that runs it."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.overload.pool import LATE, OK, Call, Pool, Shape
from bench.overload.study import followed
from bench.overload.traffic import (
    Arrivals,
    Clients,
    Service,
    Source,
    bursts,
    changing,
    exponential,
    fixed,
    on_and_off,
    once,
    poisson,
    two_kinds,
)
from molt_accel.overload.admission import INTERVAL_NS
from molt_accel.overload.priority import DELAY_NS, Priority

EXECUTORS = 2
TARGET = 0.1
INTERVAL = INTERVAL_NS / 1e9
NO_REFUSAL = (OK, LATE)

SERVICES = st.one_of(
    st.sampled_from((0.002, 0.02, 0.06, 0.3)).map(fixed),
    st.sampled_from((0.005, 0.05)).map(exponential),
    st.just(two_kinds(0.005, 0.155, 0.1)),
    st.just(changing(fixed(0.01), fixed(0.1), 2.0)),
)
ARRIVALS: st.SearchStrategy[Arrivals | Clients] = st.one_of(
    st.sampled_from((5.0, 40.0, 150.0)).map(poisson),
    st.just(bursts(30, 1.0)),
    st.just(on_and_off(200, 0.5, 0.5)),
    st.builds(Clients, st.integers(1, 30), st.sampled_from((0.0, 0.1)), st.booleans()),
)
SOURCES = st.lists(
    st.builds(
        Source,
        st.sampled_from("abc"),
        SERVICES,
        ARRIVALS,
        st.sampled_from((0.0, 0.25, 1.0)),
        st.sampled_from((None, 1, 2)),
        st.sampled_from(Priority),
    ),
    min_size=1,
    max_size=3,
    unique_by=lambda source: source.name,
)


def under(load: float, mean: float, service: Service | None = None, start: float = 0.0) -> Source:
    """Requests at so many times the capacity."""
    return Source("entry", service or fixed(mean), poisson(load * EXECUTORS / mean, start))


def answered(calls: list[Call], within: float = float("inf")) -> list[Call]:
    return [call for call in calls if call.outcome == OK and call.took <= within]


def by_second(calls: list[Call]) -> dict[int, list[Call]]:
    seconds: dict[int, list[Call]] = {}
    for call in calls:
        seconds.setdefault(int(call.at), []).append(call)
    return seconds


# -- whatever comes ---------------------------------------------------------------------------------------
@settings(deadline=None)
@given(sources=SOURCES, executors=st.integers(1, 4), warm=st.booleans(), seed=st.integers(0, 1000))
def test_nobody_is_refused_whom_an_idle_executor_could_run(
    sources: list[Source], executors: int, warm: bool, seed: int
) -> None:
    calls = Pool(sources, Shape(executors, warm=warm), seed=seed).run(4)
    assert [call for call in calls if call.outcome not in NO_REFUSAL and call.free] == []


@settings(deadline=None)
@given(sources=SOURCES, executors=st.integers(1, 4), seed=st.integers(0, 1000))
def test_limits_hold_and_nobody_waits_for_an_executor_that_is_idle(
    sources: list[Source], executors: int, seed: int
) -> None:
    calls = Pool(sources, Shape(executors), seed=seed).run(4)
    for source in sources:
        ran = [call for call in calls if call.source is source and call.began is not None]
        steps = sorted([(call.began, 1) for call in ran] + [(call.ended, -1) for call in ran])
        running = most = 0
        for _, step in steps:
            running += step
            most = max(most, running)
        assert most <= min(source.limit or executors, executors)
    assert [call for call in calls if call.free and call.waited] == []


# -- waits ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("load", [1.2, 2, 5])
@pytest.mark.parametrize("mean", [0.005, 0.02, 0.06, 0.3])
def test_waits_are_bounded_by_the_target_and_when_a_load_begins_by_what_comes_in_an_interval(
    mean: float, load: float
) -> None:
    calls = answered(Pool([under(load, mean)], Shape(warm=True)).run(20))
    allowed = max(TARGET, mean) + mean
    assert max(call.waited for call in calls) <= allowed + 1.5 * load * (INTERVAL + mean)
    if load >= 2:  # it sheds without end
        assert max(call.waited for call in calls if call.at > 2) <= allowed


@pytest.mark.parametrize("load", [2, 5])
def test_waits_of_requests_that_differ_are_near_the_target(load: float) -> None:
    for service, mean, allowed in ((exponential(0.02), 0.02, 0.5), (two_kinds(0.005, 0.155, 0.1), 0.02, 1.0)):
        calls = answered(Pool([under(load, mean, service)]).run(30))
        waits = sorted(call.waited for call in calls)
        assert waits[len(waits) // 2] <= 1.5 * TARGET
        assert waits[-1] <= allowed


def test_before_anything_is_known_only_the_places_bound_the_queue() -> None:
    calls = Pool([under(5, 0.5)]).run(30)
    assert max(call.waited for call in answered(calls)) <= (64 + EXECUTORS) * 0.5 / EXECUTORS
    assert max(call.waited for call in answered(calls) if call.at > 10) <= 1.0


# -- what is kept -----------------------------------------------------------------------------------------
@pytest.mark.parametrize(("load", "least"), [(2, 0.95), (5, 0.9)])
@pytest.mark.parametrize("mean", [0.005, 0.02, 0.06])
def test_an_idle_pool_that_meets_a_load_keeps_its_goodput(mean: float, load: float, least: float) -> None:
    runs = [Pool([under(load, mean)], seed=seed).run(6) for seed in range(6)]
    good = sum(len(answered(calls, 0.25)) for calls in runs)
    assert good / len(runs) >= least * EXECUTORS / mean * 6


@pytest.mark.parametrize("load", [2, 5])
@pytest.mark.parametrize(
    ("service", "mean", "slack"),
    [(None, 0.005, 0.05), (None, 0.02, 0.1), (None, 0.06, 0.15), (exponential(0.02), 0.02, 0.25)],
)
def test_refusals_are_as_many_in_each_second_and_so_are_answers(
    service: Service | None, mean: float, slack: float, load: float
) -> None:
    """A rule that lets the queue fill again and again has seconds without a refusal, and then without a good answer."""
    calls = Pool([under(load, mean, service)]).run(32)
    seconds = [calls for second, calls in by_second(calls).items() if 1 <= second < 30]
    shares = [sum(call.outcome not in NO_REFUSAL for call in each) / len(each) for each in seconds]
    mean_share = sum(shares) / len(shares)
    assert mean_share == pytest.approx(1 - 1 / load, abs=0.03)
    assert max(abs(share - mean_share) for share in shares) <= slack
    ended = Counter(int(call.ended) for call in answered(calls, 0.25))
    assert min(ended[second] for second in range(1, 30)) >= (1 - slack) * EXECUTORS / mean * 0.9


@pytest.mark.parametrize(("before", "after"), [(0.02, 0.2), (0.2, 0.02), (0.005, 0.05)])
def test_a_change_of_load_is_followed(before: float, after: float) -> None:
    """The rate stays at twice what the slower kind allows."""
    slower = max(before, after)
    source = Source("entry", changing(fixed(before), fixed(after), 5), poisson(2 * EXECUTORS / slower))
    calls = Pool([source]).run(20)
    wanted = min(2 * EXECUTORS / slower, EXECUTORS / after)
    good = [call for call in answered(calls, 0.25 + after) if call.ended >= 10]
    assert len(good) >= 0.9 * wanted * 10
    if after < before:
        assert {call.outcome for call in calls if call.at >= 10} == {OK}


def test_who_sheds_does_not_go_on_when_the_load_is_gone() -> None:
    heavy = Source("entry", fixed(0.02), poisson(5 * EXECUTORS / 0.02, 0, 3))
    light = Source("light", fixed(0.02), poisson(0.5 * EXECUTORS / 0.02))
    calls = Pool([heavy, light]).run(10)
    assert {call.outcome for call in calls if call.at >= 3.3} == {OK}


def test_requests_that_become_slow_are_followed_within_seconds() -> None:
    assert followed(Shape(), 40) <= 2.5


def test_a_burst_passes_whole_soon_after_a_load_is_gone() -> None:
    heavy = Source("entry", fixed(0.05), poisson(5 * EXECUTORS / 0.05, 0, 3))
    burst = Source("entry", fixed(0.05), once(20, 5.0))
    calls = Pool([heavy, burst]).run(8)
    assert [call.outcome for call in calls if call.at >= 5] == [OK] * 20


def test_slow_first_requests_are_soon_forgotten() -> None:
    """Of the first second some wait for long, but none is refused, and then none waits."""
    calls = Pool([under(0.5, 0.02)], Shape(first=1.0)).run(20)
    assert sum(call.outcome != OK for call in calls) <= 30
    assert {call.outcome for call in calls if call.at >= 1.5} == {OK}
    assert max(call.waited for call in calls if call.at >= 2.5) <= 0.1


def test_hardly_anything_is_refused_at_a_load_that_a_pool_can_bear() -> None:
    for service, mean, most in (
        (fixed(0.02), 0.02, 0.0),
        (exponential(0.02), 0.02, 0.01),
        (fixed(0.06), 0.06, 0.03),
    ):
        calls = Pool([under(0.7, mean, service)]).run(60)
        assert sum(call.outcome != OK for call in calls) <= most * len(calls)


# -- bursts -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("over", [0.0, 0.03, 0.06])
def test_a_burst_passes_whole(over: float, warm: bool) -> None:
    times = [over * number / 20 for number in range(20)]
    burst = Source("burst", fixed(0.05), lambda _random: iter(times), deadline=5)
    calls = Pool([burst], Shape(warm=warm)).run(6)
    assert [call.outcome for call in calls] == [OK] * 20


def test_burst_after_burst_passes_whole() -> None:
    calls = Pool([Source("burst", fixed(0.05), bursts(20, 2.0), deadline=5)]).run(60)
    assert {call.outcome for call in calls} == {OK}


# -- deadlines --------------------------------------------------------------------------------------------
def test_hardly_any_work_is_done_for_nobody() -> None:
    for load in (2, 5):
        source = Source("entry", exponential(0.05), poisson(load * EXECUTORS / 0.05), deadline=0.3)
        calls = Pool([source]).run(30)
        ran = [call for call in calls if call.began is not None]
        assert sum(call.outcome == LATE for call in ran) <= 0.05 * len(ran)
        assert sum(call.outcome == LATE for call in calls if call.began is None) <= 0.02 * len(calls)
        assert any(call.outcome == "deadline" for call in calls)


def test_what_could_not_end_in_time_is_told_at_once() -> None:
    calls = Pool([Source("entry", fixed(0.05), once(20), deadline=0.22)], Shape(warm=True)).run(1)
    outcomes = Counter(call.outcome for call in calls)
    assert outcomes == {OK: 8, "deadline": 12}
    assert {call.took for call in calls if call.outcome == "deadline"} == {0.0}


# -- entrypoints that share a pool ------------------------------------------------------------------------
def test_no_class_starves_and_the_higher_one_waits_less() -> None:
    sources = [
        Source(each.value, fixed(0.02), poisson(EXECUTORS / 0.02), priority=each)
        for each in (Priority.HIGH, Priority.NORMAL, Priority.LOW)
    ]
    sources[0] = Source("high", fixed(0.02), poisson(2 * EXECUTORS / 0.02), priority=Priority.HIGH)
    calls = Pool(sources).run(60)
    waits = {}
    for source in sources:
        served = answered([call for call in calls if call.source is source])
        assert {int(call.ended) // 5 for call in served} == set(range(12)), source.name
        waits[source.name] = sorted(call.waited for call in served)[len(served) // 2]
    assert waits["high"] < waits["normal"] < waits["low"] < DELAY_NS[Priority.LOW] / 1e9 + 0.5


def test_a_quick_entry_is_not_left_to_slow_ones() -> None:
    """Both wait for what runs; it is refused no more often than they are."""
    for load, least in ((0.5, 0.97), (2.0, 0.35)):
        quick = Source("quick", fixed(0.001), poisson(100))
        slow = Source("slow", fixed(0.5), poisson(load * EXECUTORS / 0.5))
        calls = [call for call in Pool([quick, slow]).run(60) if call.source is quick]
        assert len(answered(calls)) >= least * len(calls)


def test_a_limit_keeps_an_executor_free() -> None:
    quick = Source("quick", fixed(0.001), poisson(100))
    slow = Source("slow", fixed(0.5), poisson(3 * EXECUTORS / 0.5), limit=1)
    calls = Pool([quick, slow]).run(60)
    quick_ones = [call for call in calls if call.source is quick]
    assert {call.outcome for call in quick_ones} == {OK}
    assert sorted(call.took for call in quick_ones)[int(0.99 * len(quick_ones))] < 0.01
    slow_ones = answered([call for call in calls if call.source is slow])
    assert len(slow_ones) >= 0.95 * 60 / 0.5
    assert {call.outcome for call in calls if call.source is slow} == {OK, "entry_limit"}


def test_those_over_their_limit_are_in_nobody_s_way() -> None:
    quick = Source("quick", fixed(0.02), poisson(0.4 / 0.02), deadline=1.0)
    slow = Source("slow", fixed(0.4), bursts(10, 4.0), limit=1)
    calls = Pool([quick, slow], Shape(warm=True)).run(60)
    assert {call.outcome for call in calls if call.source is quick} == {OK}


# -- callers that come back -------------------------------------------------------------------------------
def test_callers_that_honour_retry_after_get_in_beside_such_that_hammer() -> None:
    patient = Source("patient", fixed(0.1), Clients(24))
    rude = Source("rude", fixed(0.1), Clients(24, honour=False, hammer=0.1))
    calls = Pool([patient, rude]).run(60)
    served = answered([call for call in calls if call.source is patient])
    assert {int(call.ended) // 5 for call in served} == set(range(12))
    assert len(answered(calls)) >= 0.95 * EXECUTORS / 0.1 * 60


def test_callers_that_honour_retry_after_keep_the_pool_busy_and_are_told_whole_seconds() -> None:
    calls = Pool([Source("entry", fixed(0.1), Clients(48))]).run(60)
    refused = [call for call in calls if call.outcome not in NO_REFUSAL]
    assert refused
    # When it begins, nothing is known, and 46 of them are queued: 2.3 s. Later it is the target.
    assert {call.retry_after for call in refused} <= {1, 2, 3, 4, 5, 6}
    assert {call.retry_after for call in refused if call.at > 5} == {1, 2}
    assert len(answered(calls)) >= 0.9 * EXECUTORS / 0.1 * 60


def test_an_estimate_that_was_once_too_high_is_found_out_in_a_pool_that_is_never_idle() -> None:
    """Four requests that are stopped at their deadline, and quick ones of the same entrypoint from then on."""
    busy = Source("busy", exponential(0.02), poisson(5 * EXECUTORS / 0.02))
    once_slow = Source("once slow", changing(fixed(1.0), fixed(0.01), 3.0), poisson(20), deadline=0.3)
    calls = [call for call in Pool([busy, once_slow], Shape()).run(20) if call.source is once_slow]
    assert [call for call in calls if call.outcome == LATE]
    late = [call for call in calls if call.at > 10]
    assert [call for call in late if call.outcome == OK]
    assert Counter(call.outcome for call in late)["deadline"] < len(late) // 10
