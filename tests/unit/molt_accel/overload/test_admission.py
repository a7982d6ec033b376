"""What becomes of a request, and what is remembered of its entrypoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.errors import BusyReason
from molt_accel.overload.admission import (
    CALM,
    CALM_NS,
    INTERVAL_NS,
    Standing,
    Verdict,
    is_hopeless,
    is_shedding,
    judge,
)
from molt_accel.overload.line import Wait

MS = 1_000_000
TARGET = 100 * MS
NOW = 10**15
LONG, SHORT = Wait(TARGET + 1), Wait(TARGET)
SHED = NOW | 1
TIMES = st.integers(0, 10**12)
WAITS = st.builds(Wait, TIMES, TIMES, TIMES, TIMES)


def decide(
    standing: Standing,
    wait: Wait,
    now: int = NOW,
    usual: int = 0,
    left: int | None = None,
    target: int = TARGET,
) -> Verdict:
    return judge(standing, now, wait, usual, left, target)


# -- the deadline -----------------------------------------------------------------------------------------
def test_one_that_can_not_end_in_time_is_refused_at_once() -> None:
    assert decide(CALM, Wait(5), usual=6, left=10) == (BusyReason.DEADLINE, CALM)
    assert decide(CALM, Wait(5), usual=5, left=10) == (None, CALM)
    assert decide(7, Wait(0, 5), usual=6, left=10, target=0) == (BusyReason.DEADLINE, 7)


def test_one_that_need_not_wait_is_tried_whatever_is_known() -> None:
    assert decide(CALM, Wait(0), usual=100, left=10).reason is None


# -- the target -------------------------------------------------------------------------------------------
def test_a_burst_passes_and_a_queue_that_stands_does_not() -> None:
    first = decide(CALM, LONG)
    assert first == (None, NOW)
    assert decide(NOW, LONG, NOW + INTERVAL_NS - 1) == (None, NOW)
    assert decide(NOW, LONG, NOW + INTERVAL_NS) == (BusyReason.QUEUE_DELAY, (NOW + INTERVAL_NS) | 1)
    assert decide(NOW, SHORT, NOW + INTERVAL_NS) == (None, CALM)


def test_shedding_refuses_long_waits_only_and_ends_after_a_time_without_a_refusal() -> None:
    assert decide(SHED, SHORT, NOW + CALM_NS - 1) == (None, SHED)
    assert decide(SHED, LONG, NOW + CALM_NS - 1).reason is BusyReason.QUEUE_DELAY
    assert decide(SHED, SHORT, NOW + CALM_NS) == (None, CALM)
    assert decide(SHED, LONG, NOW + CALM_NS) == (None, NOW + CALM_NS)  # a new burst


def test_without_a_target_requests_wait_as_long_as_they_like() -> None:
    assert decide(SHED, Wait(10**15), target=0) == (None, CALM)


@pytest.mark.parametrize(
    ("wait", "usual", "over"),
    [
        (Wait(TARGET + 1), 0, True),
        (Wait(500 * MS), 500 * MS, False),
        (Wait(500 * MS + 1), 500 * MS, True),
        (Wait(500 * MS, 0, 0, 500 * MS), 1, False),
        (Wait(500 * MS + 1, 0, 0, 500 * MS), 1, True),
        (Wait(500 * MS, 0, 450 * MS), 1, False),
        (Wait(500 * MS + 1, 0, 450 * MS), 1, True),
        (Wait(0, 500 * MS, 450 * MS, 500 * MS), 1, True),
        (Wait(0, 500 * MS), 500 * MS, False),
    ],
)
def test_long_requests_are_waited_for(wait: Wait, usual: int, over: bool) -> None:
    """Its own kind, the longest before it, and the one that ends first; where it has a limit, its own kind only."""
    assert (decide(SHED, wait, usual=usual).reason is not None) == over


def test_the_reason_names_what_is_waited_for_longer() -> None:
    assert decide(SHED, Wait(2 * TARGET, 3 * TARGET)).reason is BusyReason.ENTRY_LIMIT
    assert decide(SHED, Wait(3 * TARGET, 3 * TARGET)).reason is BusyReason.QUEUE_DELAY


# -- whatever comes ---------------------------------------------------------------------------------------
@given(st.integers(0, 2**63), TIMES, TIMES, st.none() | TIMES, TIMES)
def test_nobody_is_refused_who_need_not_wait(
    standing: Standing, now: int, usual: int, left: int | None, target: int
) -> None:
    assert judge(standing, now, Wait(0), usual, left, target).reason is None


@given(st.lists(st.tuples(st.integers(0, 200 * MS), WAITS), max_size=40), TIMES, TIMES)
def test_the_word_says_when_a_refusal_was_or_since_when_waits_are_long(
    steps: list[tuple[int, Wait]], usual: int, target: int
) -> None:
    standing, now, over_since, refused_at = CALM, NOW, 0, 0
    for pause, wait in steps:
        now += pause
        reason, standing = judge(standing, now, wait, usual, None, target)
        if reason is not None:
            refused_at = now
            assert wait.ns > target
        if is_shedding(standing):
            assert standing == refused_at | 1
            assert now - refused_at < CALM_NS
        elif standing != CALM:
            over_since = over_since or now & ~1
            assert standing == over_since
        if is_shedding(standing) or standing == CALM:
            over_since = 0


def test_what_can_not_end_in_time_is_not_begun_unless_nobody_else_is_queued() -> None:
    assert is_hopeless(10, 9, 1)
    assert not is_hopeless(10, 10, 1)
    assert not is_hopeless(10, 9, 0)


def test_a_trial_need_not_fit_what_is_left_but_its_wait_must() -> None:
    wait, usual = Wait(20 * MS), 500 * MS
    assert judge(CALM, NOW, wait, usual, 30 * MS, 100 * MS).reason is BusyReason.DEADLINE
    assert judge(CALM, NOW, wait, usual, 30 * MS, 100 * MS, trial=True).reason is None
    assert judge(CALM, NOW, wait, usual, 19 * MS, 100 * MS, trial=True).reason is BusyReason.DEADLINE
