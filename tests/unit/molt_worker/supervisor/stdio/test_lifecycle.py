"""The table of request states: what is possible, and that every request ends exactly once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.ipc import messages
from molt_worker.supervisor.stdio.lifecycle import (
    HELD,
    REQUEST_TRANSITIONS,
    Request,
    RequestEvent,
    RequestState,
)


def advance(state: RequestState, step: RequestEvent) -> RequestState:
    request = Request(messages.Request(1, "echo"), state)
    request.advance(step)
    return request.state


@pytest.mark.parametrize("state", [state for state in RequestState if state is not RequestState.ENDED])
def test_every_state_but_ended_can_end(state: RequestState) -> None:
    assert advance(state, RequestEvent.END) is RequestState.ENDED


@pytest.mark.parametrize("step", RequestEvent)
def test_nothing_follows_the_end(step: RequestEvent) -> None:
    with pytest.raises(ValueError, match=f"^{step.name} is not possible in state ENDED$"):
        advance(RequestState.ENDED, step)


def test_every_state_can_be_reached() -> None:
    reached = {RequestState.ARRIVED}
    for _ in RequestState:
        reached |= {after for (before, _), after in REQUEST_TRANSITIONS.items() if before in reached}
    assert reached == set(RequestState)


def test_an_executor_gets_a_request_only_by_hand_out_and_loses_it_only_by_hand_back_or_the_end() -> None:
    gained = {step for (a, step), b in REQUEST_TRANSITIONS.items() if a not in HELD and b in HELD}
    lost = {step for (a, step), b in REQUEST_TRANSITIONS.items() if a in HELD and b not in HELD}
    assert gained == {RequestEvent.HAND_OUT}
    assert lost == {RequestEvent.HAND_BACK, RequestEvent.END}


@given(st.lists(st.sampled_from(RequestEvent)))
def test_whatever_is_tried_a_request_follows_the_table_and_ends_once(steps: list[RequestEvent]) -> None:
    request = Request(messages.Request(1, "echo"))
    ends = 0
    for step in steps:
        before = request.state
        if (before, step) in REQUEST_TRANSITIONS:
            request.advance(step)
            assert request.state is REQUEST_TRANSITIONS[before, step]
            ends += step is RequestEvent.END
        else:
            with pytest.raises(ValueError, match=f"^{step.name} is not possible in state {before.name}$"):
                request.advance(step)
            assert request.state is before
    assert ends == (request.state is RequestState.ENDED)
