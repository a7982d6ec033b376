"""The model of the hand-over: its steps are the table's, what it claims holds, and it finds rules that are left out."""

import os
import re

import pytest

from molt_accel.ipc.shm.layout import CHANNEL_TRANSITIONS, Actor, ChannelState
from tests.proof.model import check

_STEP = re.compile(r"\bstep\(c, (\w+), (\w+), (\w+),")


def _ready_to_search() -> None:
    if missing := check.missing_tools():
        if os.environ.get("CI"):
            pytest.fail(missing)
        pytest.skip(missing)


def test_the_model_takes_the_steps_of_the_table_and_no_others() -> None:
    steps = {
        (ChannelState[before], ChannelState[after], Actor[actor])
        for before, after, actor in _STEP.findall(check.MODEL.read_text())
        if before.isupper()
    }
    assert steps == {(*step, actor) for step, actors in CHANNEL_TRANSITIONS.items() for actor in actors}


@pytest.mark.parametrize("state", ChannelState)
def test_the_model_numbers_states_as_the_table_does(state: ChannelState) -> None:
    assert re.search(rf"^#define {state.name} {int(state)}$", check.MODEL.read_text(), re.M)


@pytest.mark.parametrize("mutation", check.MUTATIONS, ids=lambda each: f"{each.configuration}-{each.flag}")
def test_each_mutation_is_a_flag_of_the_model(mutation: check.Mutation) -> None:
    assert re.search(rf"^#\s*if\w* .*\b{mutation.flag.partition('=')[0]}\b", check.MODEL.read_text(), re.M)


@pytest.mark.sample(1)
@pytest.mark.parametrize("task", check.tasks(quick=True), ids=lambda task: task.name)
def test_configurations_hold_and_mutations_do_not(task: check.Task) -> None:
    _ready_to_search()
    found = check.check(task.defines)
    assert (found.verdict == "holds") is task.holds, f"{found.verdict}: {found.detail}"
