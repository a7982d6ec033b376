"""The audit: requests of the dead and forged ones are ended, and nothing else is touched."""

import signal
import time

import pytest

from molt_accel.ipc.messages import CancelChannel, Detach
from molt_accel.ipc.shm.layout import (
    ChannelState,
    Failure,
    failure_word,
    generation_of,
    serial_of,
    with_state,
)
from molt_worker.entrypoints.request import StopReason
from tests.support.handover import core, put, reply, response
from tests.support.shm_testbed import GRACE_MS, Caller, ShmStage


@pytest.mark.parametrize(
    ("code", "text"), [(-signal.SIGSEGV, "signal 11 (SIGSEGV)"), (3, "exit code 3"), (0, "exit code 0")]
)
def test_a_request_whose_executor_died_has_crashed(stage: ShmStage, code: int, text: str) -> None:
    player, _ = stage.start()
    channel = player.take()
    player.die(code)
    assert channel.wait(0) == core.OUTCOME
    assert channel.take() == failure_word(Failure.CRASHED, player.number, code)
    assert stage.outcomes() == {"WorkerCrashed": 1}
    line = next(line for line in stage.log().splitlines() if "executor_crashed" in line)
    assert f"executor={player.number}" in line
    assert f"the executor died while it ran 'echo': {text}" in line


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize(
    ("state", "after", "outcome"),
    [
        (ChannelState.CLAIMED, ChannelState.FAILED, "WorkerCrashed"),
        (ChannelState.KILLING, ChannelState.FAILED, "WorkerCrashed"),
        (ChannelState.ABANDONED, ChannelState.IDLE, "Cancelled"),
        (ChannelState.DONE, ChannelState.DONE, None),
        (ChannelState.FAILED, ChannelState.FAILED, None),
    ],
)
def test_the_dead_let_go_of_what_they_held_and_of_nothing_else(
    stage: ShmStage, state: ChannelState, after: ChannelState, outcome: str | None, begun: bool
) -> None:
    first, second = stage.start()
    caller = Caller(stage, 4)
    mine, other, queued = [caller.publish(index) for index in caller.channels[:3]]
    first.claim(begin=begun)
    second.claim()
    put(stage.arena, mine.index, with_state(stage.arena.word(mine.index), state))
    before = [stage.arena.word(channel.index) for channel in (other, queued)]
    generation = generation_of(stage.arena.word(mine.index))
    first.die()
    assert stage.state(mine) is after
    assert generation_of(stage.arena.word(mine.index)) == generation
    assert [stage.arena.word(channel.index) for channel in (other, queued)] == before
    assert stage.outcomes() == ({outcome: 1} if outcome else {})


def test_a_claim_that_is_about_to_be_made_is_not_stopped(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 1).publish()
    # It has told of its claim, and was not given a processor to make it.
    stage.supervisor.pool.words.claim_of(player.index)[0] = serial_of(channel.index, channel.generation)
    for after_ms in (1100, 2200, 2200 + GRACE_MS):
        stage.pass_time(after_ms)
    player.claim()
    assert (player.interrupted(), player.killed()) == ([], False)
    assert reply(player.slot, response()) == core.TRANSFERRED
    assert stage.state(channel) is ChannelState.DONE


def test_the_request_that_the_dead_was_about_to_claim_is_left_to_a_faster_one(stage: ShmStage) -> None:
    faster, slower = stage.start()
    channel = faster.take(Caller(stage, 1))
    # It had told of its claim, and died before it could make it.
    claim_of = stage.supervisor.pool.words.claim_of
    claim_of(slower.index)[0] = claim_of(faster.index)[0]
    slower.die()
    assert stage.state(channel) is ChannelState.CLAIMED
    assert reply(faster.slot, response()) == core.TRANSFERRED
    assert stage.state(channel) is ChannelState.DONE


def test_a_request_whose_word_was_forged_ends_with_the_executor_that_has_it(stage: ShmStage) -> None:
    """Which that is, it has told where no client can write."""
    player, _ = stage.start()
    channel = player.take()
    forged = stage.arena.word(channel.index) ^ 1 << 24  # of another epoch
    put(stage.arena, channel.index, forged)
    player.die()
    assert stage.arena.word(channel.index) == with_state(forged, ChannelState.FAILED)
    assert stage.outcomes() == {"WorkerCrashed": 1}


def test_a_client_that_gives_up_while_its_request_is_put_right_gets_its_channel_back(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take()
    stage.watch("step").just_before["step"] = channel.give_up
    player.die()
    assert stage.state(channel) is ChannelState.IDLE
    assert stage.outcomes() == {"Cancelled": 1}


def test_executors_that_died_with_their_forkserver_say_so(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channels = [caller.publish(index) for index in caller.channels]
    first.claim()
    second.claim()
    stage.forkserver.kill()
    stage.turn()
    assert [channel.take() for channel in channels] == [
        failure_word(Failure.FORKSERVER_DIED, player.number) for player in (first, second)
    ]
    assert stage.outcomes() == {"WorkerCrashed": 2}
    assert [stage.arena.slot_state(player.index) for player in (first, second)] == [core.SLOT_FREE] * 2


def test_the_kill_is_the_executor_s_that_made_the_claim(stage: ShmStage) -> None:
    """A word that names nobody who lives or is dying is nobody's: it is put right at once."""
    player, other = stage.start()
    caller = Caller(stage, 4)
    free_slot = stage.arena.slots - 1
    forged = [
        ChannelState.ABANDONED | free_slot << 8 | 1 << 32,
        ChannelState.ABANDONED | 0xFFFF << 8 | 1 << 32,
        ChannelState.ABANDONED | player.index << 8 | 77 << 24 | 1 << 32,  # another epoch
    ]
    for index, word in zip(caller.channels, forged, strict=False):
        put(stage.arena, index, word)
    caller.send(CancelChannel(caller.channels[0], 1))
    stage.pass_time(GRACE_MS + 100)
    assert not player.killed()
    assert not other.killed()
    assert [stage.arena.word(index) & 0xFF for index in caller.channels[:3]] == [ChannelState.IDLE] * 3


def test_an_answer_that_comes_while_the_dead_is_looked_at_stays(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take()
    watched = stage.watch("step")
    watched.just_before["step"] = lambda: reply(player.slot, response())
    player.die()
    assert stage.state(channel) is ChannelState.DONE
    assert stage.outcomes() == {}


def test_another_s_request_that_comes_while_the_dead_is_looked_at_goes_on(stage: ShmStage) -> None:
    player, other = stage.start()
    channel = player.take()
    word = stage.arena.word(channel.index)
    others = with_state(9 << 32 | other.index << 8, ChannelState.CLAIMED)
    watched = stage.watch("step")
    watched.just_before["step"] = lambda: put(stage.arena, channel.index, others)
    player.die()
    assert stage.arena.word(channel.index) == others != word


def test_while_an_executor_has_a_request_the_audit_goes_on_without_clients(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = player.take(caller)
    put(stage.arena, channel.index, with_state(stage.arena.word(channel.index), ChannelState.KILLING))
    caller.close()
    audit, clients = stage.supervisor._audit, stage.supervisor._clients
    assert clients.count == 0
    now_ns = time.monotonic_ns()
    audit.run(now_ns, clients)
    assert audit._due_ns > now_ns
    player.die()
    audit.run(now_ns, clients)
    assert audit._due_ns == 0


def test_a_forged_request_is_ended_behind_channels_that_are_idle_and_as_what_it_is(stage: ShmStage) -> None:
    stage.start()
    caller = Caller(stage, 3)
    forged = with_state(5 << 32, ChannelState.CLAIMED)
    put(stage.arena, caller.channels[2], forged)
    stage.pass_time(1100)
    assert stage.arena.word(caller.channels[2]) == with_state(forged, ChannelState.FAILED)
    assert stage.outcomes() == {"ProtocolError": 1}


def test_the_stop_of_an_earlier_request_is_not_the_outcome_of_the_next(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 1)
    channel = first.take(caller, caller.channels[0])
    word, now_ns = stage.arena.word(channel.index), time.monotonic_ns()
    stage.supervisor._deadlines.stop(channel.index, word, StopReason.TIMED_OUT, now_ns)
    assert reply(first.slot, response()) == core.TRANSFERRED
    channel.take()
    crashing = second.take(caller, caller.channels[0])
    stage.supervisor._audit.end_of_dead(second.index, 3)
    assert crashing.take() == failure_word(Failure.CRASHED, second.number, 3)


def test_a_channel_of_nobody_s_is_repaired_and_whoever_waits_is_rung_for(stage: ShmStage) -> None:
    stage.start()
    Caller(stage, 1)
    leaving = Caller(stage, 1)
    leaving.send(Detach())
    (index,) = leaving.channels
    put(stage.arena, index, 5 << 32 | ChannelState.DONE)
    watched = stage.watch("ring_client")
    stage.supervisor._audit.run(time.monotonic_ns(), stage.supervisor._clients)
    assert stage.arena.word(index) == 5 << 32 | ChannelState.IDLE
    assert watched.done == [("ring_client", index)]


def test_one_that_was_replaced_is_told_again_by_the_audit(
    stage: ShmStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    player, _ = stage.start()
    (executor,) = [each for each in stage.supervisor.pool.living() if each.number == player.number]
    monkeypatch.setattr(stage.supervisor.pool, "replaced", lambda: [executor])
    stage.supervisor._audit.run(time.monotonic_ns(), stage.supervisor._clients)
    assert stage.arena.retires(player.index)


def test_channels_that_are_idle_are_unmarked_and_no_others(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 3)
    given_up, running = caller.publish(caller.channels[0]), caller.publish(caller.channels[1])
    assert given_up.give_up(True) == ChannelState.READY
    assert player.claim() == running.index
    assert [stage.arena.is_marked(index) for index in caller.channels] == [True, True, False]
    stage.pass_time(1001)
    assert [stage.arena.is_marked(index) for index in caller.channels] == [False, True, False]
