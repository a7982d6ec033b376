"""What words of shared memory mean: the state table, its packing, failure words, histograms."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.errors import MoltError, MoltProtocolError, Status
from molt_accel.ipc import outcomes
from molt_accel.ipc.shm.layout import (
    CHANNEL_TRANSITIONS,
    HELD,
    Actor,
    ChannelState,
    Failure,
    Gauge,
    Outcome,
    SlotGauge,
    bucket_bounds,
    epoch_of,
    failed_executor,
    failure_error,
    failure_word,
    generation_of,
    idle_word,
    quantile,
    serial_of,
    slot_of,
    state_of,
    with_state,
)

words = st.integers(0, 2**64 - 1)


@given(words, st.sampled_from(ChannelState))
def test_a_step_changes_the_state_and_nothing_else(word: int, state: ChannelState) -> None:
    after = with_state(word, state)
    assert state_of(after) is state
    assert (slot_of(after), epoch_of(after), generation_of(after)) == (
        slot_of(word),
        epoch_of(word),
        generation_of(word),
    )
    assert 0 <= after < 2**64


@given(
    st.sampled_from(ChannelState), st.integers(0, 0xFFFF), st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF)
)
def test_a_word_has_all_four_parts(state: ChannelState, slot: int, epoch: int, generation: int) -> None:
    word = state | slot << 8 | epoch << 24 | generation << 32
    assert (state_of(word), slot_of(word), epoch_of(word), generation_of(word)) == (
        state, slot, epoch, generation,
    )  # fmt: skip
    assert idle_word(word) == generation << 32
    assert state_of(idle_word(word)) is ChannelState.IDLE


@pytest.mark.parametrize("low", [7, 77, 255])
def test_a_scribbled_state_is_none_of_them(low: int) -> None:
    state = state_of(5 << 32 | low)
    assert state == low
    assert state not in HELD
    assert state not in list(ChannelState)


def test_each_state_is_reached_and_left() -> None:
    assert (
        {before for before, _ in CHANNEL_TRANSITIONS}
        == {after for _, after in CHANNEL_TRANSITIONS}
        == set(ChannelState)
    )
    assert all(actors for actors in CHANNEL_TRANSITIONS.values())


def test_only_an_executor_or_the_supervisor_has_a_say_over_what_is_held() -> None:
    leaving = {
        step: actors
        for step, actors in CHANNEL_TRANSITIONS.items()
        if step[0] in HELD and step[1] not in HELD
    }
    assert all(Actor.CLIENT not in actors for actors in leaving.values())
    # Once it is being killed, the executor has no say either.
    assert CHANNEL_TRANSITIONS[ChannelState.KILLING, ChannelState.FAILED] == {Actor.SUPERVISOR}
    assert [step for step in CHANNEL_TRANSITIONS if step[0] is ChannelState.KILLING] == [
        (ChannelState.KILLING, ChannelState.FAILED)
    ]


def test_a_request_has_one_outcome() -> None:
    """Every path from READY back to IDLE passes at most one of the outcomes, and nothing is READY twice."""
    after = {state: [step[1] for step in CHANNEL_TRANSITIONS if step[0] is state] for state in ChannelState}

    def paths(state: ChannelState, seen: tuple[ChannelState, ...]) -> list[tuple[ChannelState, ...]]:
        if state is ChannelState.IDLE:
            return [seen]
        assert state not in seen, "a circle that doesn't pass IDLE"
        return [path for step in after[state] for path in paths(step, (*seen, state))]

    every = paths(ChannelState.READY, ())
    assert all(sum(each in (ChannelState.DONE, ChannelState.FAILED) for each in path) <= 1 for path in every)
    assert (
        ChannelState.READY, ChannelState.CLAIMED, ChannelState.ABANDONED, ChannelState.KILLING,
        ChannelState.FAILED,
    ) in every  # fmt: skip


def test_serials_differ_where_channels_or_generations_do_and_fit_a_stop_word() -> None:
    serials = {serial_of(channel, generation) for channel in (0, 1, 4095) for generation in (1, 2, 2**32 - 1)}
    assert len(serials) == 9
    assert all(0 < serial < 2**56 for serial in serials)


def test_facts_have_words_of_their_own() -> None:
    assert max(Gauge) == Gauge.OUTCOMES
    assert Gauge.OUTCOMES + max(Outcome) < 48
    assert max(SlotGauge) == SlotGauge.OUTCOMES
    assert SlotGauge.OUTCOMES + max(Outcome) < 32
    assert (
        SlotGauge.BEGAN_NS == SlotGauge.DEADLINE_NS + 1 == SlotGauge.SERIAL + 2
    )  # `Slot.begin` writes all three


def test_each_status_is_an_outcome() -> None:
    assert {status.label for status in Status} <= set(Outcome.__members__)


# -- failures ---------------------------------------------------------------------------------------------
@given(st.sampled_from(Failure), st.integers(0, 2**24 - 1), st.integers(-(2**31), 2**31 - 1))
def test_a_failure_word_fits_and_names_the_executor(reason: Failure, executor: int, code: int) -> None:
    word = failure_word(reason, executor, code)
    assert 0 <= word < 2**64
    assert failed_executor(word) == executor
    error = failure_error(word, "work")
    if reason is Failure.CRASHED:
        assert error.facts == outcomes.exit_facts(code)


CORRUPT = MoltProtocolError("the worker couldn't read the request from shared memory")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        (failure_word(Failure.CRASHED, 3, -signal.SIGSEGV), outcomes.crashed("work", -signal.SIGSEGV)),
        (failure_word(Failure.CRASHED, 3, 7), outcomes.crashed("work", 7)),
        (failure_word(Failure.FORKSERVER_DIED, 3), outcomes.crashed("work", None)),
        (failure_word(Failure.TIMED_OUT, 3), outcomes.timed_out_running()),
        (failure_word(Failure.STALLED, 3), outcomes.stalled()),
        (failure_word(Failure.CORRUPT, 3), CORRUPT),
        (0xFF, CORRUPT),  # scribbled: an error all the same
    ],
)
def test_a_failure_is_the_error_it_stands_for(word: int, expected: MoltError) -> None:
    error = failure_error(word, "work")
    assert (type(error), error.detail, error.facts) == (type(expected), expected.detail, expected.facts)


# -- histograms -------------------------------------------------------------------------------------------
def test_buckets_lie_side_by_side_and_are_no_wider_than_a_quarter() -> None:
    assert bucket_bounds(0) == (0, 1)
    for bucket in range(127):
        low, high = bucket_bounds(bucket)
        assert bucket_bounds(bucket + 1)[0] == high
        assert high - low <= max(1, low / 4)


@pytest.mark.parametrize(
    ("counts", "share", "value"),
    [
        ([], 0.5, 0.0),
        ([0] * 8, 0.99, 0.0),
        ([0, 0, 4], 0.5, 2.5),
        ([0, 0, 4], 1.0, 3.0),
        ([1, 0, 1], 0.5, 1.0),
        ([0] * 8 + [10], 0.5, 9.0),  # a bucket from 8 to 10
    ],
)
def test_quantiles_are_interpolated_in_their_bucket(counts: list[int], share: float, value: float) -> None:
    assert quantile(counts, share) == value


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=128))
def test_quantiles_lie_in_a_bucket_that_was_hit_and_grow_with_their_share(counts: list[int]) -> None:
    values = [quantile(counts, share) for share in (0.01, 0.5, 0.95, 0.99, 1.0)]
    assert values == sorted(values)
    hit = [bucket for bucket, count in enumerate(counts) if count]
    if hit:
        assert bucket_bounds(hit[0])[0] <= values[0]
        assert values[-1] <= bucket_bounds(hit[-1])[1]
    else:
        assert set(values) == {0.0}
