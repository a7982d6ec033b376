"""What is learnt of how long an entrypoint runs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.overload.estimate import GAIN_SHIFT, TRIAL_MEANS, TRIAL_NS, WARM_UP, Estimate, is_due

TIMES = st.integers(0, 10**13)


def taught(*times: int) -> Estimate:
    estimate = Estimate()
    for each in times:
        estimate.learn(each)
    return estimate


def test_nothing_is_known_at_first() -> None:
    nothing = Estimate()
    assert (nothing.mean_ns, nothing.left_ns(70), nothing.least_ns()) == (0, 0, 0)


def test_the_first_samples_replace_what_was() -> None:
    assert taught(900).mean_ns == 900
    assert (taught(900, 100).mean_ns, taught(900, 100).deviation_ns) == (100, 50)
    assert WARM_UP == 2


def test_the_next_ones_count_for_more_than_later_ones() -> None:
    """The third by half, and so on down to a sixteenth."""
    moved = []
    for samples in (2, 4, 8, 16, 32, 1000):
        estimate = Estimate(0, 0, samples)
        estimate.learn(1600)
        moved.append((estimate.mean_ns, estimate.deviation_ns))
    assert moved == [(each, each) for each in (800, 400, 200, 100, 100, 100)]
    assert GAIN_SHIFT == 4


def test_one_that_was_stopped_counts_only_if_it_has_run_longer_than_usual() -> None:
    estimate = taught(100, 100)
    for took in (10, 100):
        estimate.learn(took, stopped=True)
    assert (estimate.mean_ns, estimate.samples) == (100, 2)
    estimate.learn(300, stopped=True)
    assert (estimate.mean_ns, estimate.samples) == (200, 3)


def test_what_is_left_of_one_that_runs() -> None:
    estimate = Estimate(100, 30, 9)
    assert [estimate.left_ns(ran) for ran in (0, 99, 100, 5000)] == [100, 1, 30, 30]


def test_hardly_any_takes_less_than_two_deviations_under_the_mean() -> None:
    assert (Estimate(100, 30, 9).least_ns(), Estimate(100, 60, 9).least_ns()) == (40, 0)


@given(st.lists(TIMES, min_size=1, max_size=60))
def test_the_mean_is_never_outside_of_what_was_seen(times: list[int]) -> None:
    """Rounding goes down, so by as many as there were samples at most."""
    estimate = taught(*times)
    assert min(times) - len(times) <= estimate.mean_ns <= max(times)
    assert 0 <= estimate.deviation_ns <= max(times)


@given(TIMES, TIMES, st.integers(0, 100))
def test_it_follows_a_change_of_load(before: int, after: int, samples: int) -> None:
    estimate = Estimate(before, 0, samples)
    for _ in range(60):
        estimate.learn(after)
    assert abs(estimate.mean_ns - after) <= abs(before - after) // 30 + 20


@pytest.mark.parametrize(
    ("mean_ns", "after_ns"), [(0, TRIAL_NS), (1000, TRIAL_NS), (TRIAL_NS, TRIAL_MEANS * TRIAL_NS)]
)
def test_one_of_which_nothing_was_learnt_for_long_is_due_for_a_trial(mean_ns: int, after_ns: int) -> None:
    assert not is_due(mean_ns, 5, 5 + after_ns)
    assert is_due(mean_ns, 5, 6 + after_ns)
