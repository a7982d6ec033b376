"""The supervisor of a shared-memory pool: it takes the steps that neither client nor executor can."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

if sys.platform != "linux":
    pytest.skip("shared memory is served on Linux only", allow_module_level=True)

from molt_accel import codec
from molt_accel.errors import AlreadyServed, Status
from molt_accel.ipc import control
from molt_accel.ipc.frame import CANCEL, HELLO, PING, Codec, Frame, Kind
from molt_accel.ipc.shm.attach import ANSWER_S
from molt_accel.ipc.shm.layout import (
    NEVER,
    ChannelState,
    Failure,
    Gauge,
    Outcome,
    SlotGauge,
    failure_word,
    generation_of,
    serial_of,
    with_state,
)
from molt_worker.entrypoints.request import StopReason
from molt_worker.supervisor.shm import supervisor as shm_supervisor
from tests.conftest import exit_code, fork, wait_for_file
from tests.support.handover import core, put, reply, response
from tests.support.shm_testbed import GRACE_MS, Caller, ShmStage

_MS = 1_000_000
MakeShmStage = Callable[..., ShmStage]


@pytest.fixture
def stage(make_shm_stage: MakeShmStage) -> ShmStage:
    return make_shm_stage()


def in_ms(ms: float) -> int:
    return time.monotonic_ns() + int(ms * _MS)


def outcomes(stage: ShmStage) -> dict[str, int]:
    """Outcomes that no executor decided."""
    counts = {outcome.name: stage.arena.gauge(Gauge.OUTCOMES + outcome) for outcome in Outcome}
    return {name: count for name, count in counts.items() if count}


def drain(stage: ShmStage) -> None:
    """What SIGTERM does; and its clients have all the time to leave."""
    stage.supervisor._draining = True
    stage.supervisor._on_drain()
    stage.supervisor._drained_ns = NEVER


# -- deadlines --------------------------------------------------------------------------------------------


def test_a_deadline_is_looked_at_when_it_comes_and_not_before(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish(deadline_ns=(deadline := in_ms(100_000)))
    player.claim()
    stage.turn()
    assert stage.arena.gauge(Gauge.WAKE_NS) == deadline
    assert stage.supervisor._loop._timer_ns <= deadline
    stage.pass_time(50_000)
    assert player.interrupted() == []
    stage.pass_time(100_001)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    assert stage.state(channel) is ChannelState.CLAIMED  # it has the grace time


def test_without_deadlines_there_is_nothing_to_look_at(stage: ShmStage) -> None:
    player, _ = stage.start()
    Caller(stage, 2).publish()
    player.claim()
    stage.pass_time(10_000_000)
    assert stage.arena.gauge(Gauge.WAKE_NS) == NEVER
    assert player.interrupted() == []


def test_the_earliest_deadline_counts_whoever_tells_of_it_last(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    for player, ms in ((first, 500_000), (second, 100_000)):
        caller.publish(caller.channels[player is second], deadline_ns=in_ms(ms))
        player.claim()
        stage.turn()
    assert in_ms(0) < stage.arena.gauge(Gauge.WAKE_NS) <= in_ms(100_000)
    stage.pass_time(100_001)
    assert (first.interrupted(), second.interrupted()) == ([], [StopReason.TIMED_OUT])
    assert in_ms(300_000) < stage.arena.gauge(Gauge.WAKE_NS) <= in_ms(500_000)


def test_a_deadline_that_is_set_during_the_look_is_told_of(stage: ShmStage) -> None:
    """First of all the look is announced, so an executor that begins meanwhile tells, or is seen."""
    first, second = stage.start()
    caller = Caller(stage, 2)
    caller.publish(caller.channels[0], deadline_ns=in_ms(1000))
    first.claim()
    stage.turn()
    watched = stage.watch("set_gauge")
    caller.publish(caller.channels[1], deadline_ns=in_ms(2000))
    wakes = []

    def begin_after_the_last_store() -> None:
        second.claim()
        wakes.append(stage.arena.gauge(Gauge.WAKE_NS))

    # Between the two stores of WAKE_NS: NEVER, and the earliest deadline that was found.
    watched.just_before["set_gauge"] = lambda: watched.just_before.update(
        set_gauge=begin_after_the_last_store
    )
    stage.supervisor._look_at_deadlines(time.monotonic_ns())
    assert wakes == [NEVER]
    assert [args[1] == Gauge.WAKE_NS for args in watched.done] == [True, True]
    assert [args[2] == NEVER for args in watched.done] == [True, False]
    stage.turn()
    stage.pass_time(2001)
    assert second.interrupted() == [StopReason.TIMED_OUT]


def test_the_deadline_of_an_earlier_request_does_not_stop_the_next_in_its_slot(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    caller.publish(caller.channels[0], deadline_ns=in_ms(500))
    player.claim()
    reply(player.slot, response())
    caller.publish(caller.channels[1], deadline_ns=in_ms(60_000))
    player.claim(begin=False)  # it still comes: the facts are the last one's
    stage.pass_time(1000)
    assert player.interrupted() == []
    player.begin(in_ms(60_000))
    stage.pass_time(2000)
    assert player.interrupted() == []
    stage.pass_time(61_000)
    assert player.interrupted() == [StopReason.TIMED_OUT]


def test_a_request_whose_deadline_came_while_it_came_is_stopped_when_it_begins(stage: ShmStage) -> None:
    player, _ = stage.start()
    Caller(stage, 2).publish(deadline_ns=in_ms(1))
    player.claim(begin=False)
    stage.pass_time(1000)
    assert player.interrupted() == []
    player.begin(in_ms(-1))
    stage.turn()  # it has told
    assert player.interrupted() == [StopReason.TIMED_OUT]


def test_whatever_does_not_stop_in_the_grace_time_is_killed_and_has_timed_out(stage: ShmStage) -> None:
    player, other = stage.start()
    channel = Caller(stage, 2).publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    stage.pass_time(GRACE_MS / 2)
    assert (stage.state(channel), player.killed()) == (ChannelState.CLAIMED, False)
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed(), other.killed()) == (ChannelState.KILLING, True, False)
    assert channel.wait(0) == core.TIME  # the outcome comes when it is certainly dead
    player.die()
    assert (channel.wait(0), channel.take()) == (core.OUTCOME, failure_word(Failure.TIMED_OUT, player.number))
    assert outcomes(stage) == {"Timeout": 1}
    assert f"executor_killed executor={player.number} request_id=0000000000000001 entry=echo" in stage.log()


def test_one_that_ends_in_the_grace_time_is_not_killed_nor_is_its_next_request(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    reply(player.slot, response(status=Status.TIMEOUT))
    assert channel.take().status is Status.TIMEOUT
    assert caller.publish(channel.index).index == channel.index
    assert player.claim() == channel.index
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed(), player.interrupted()) == (ChannelState.CLAIMED, False, [])
    assert stage.supervisor._stops == {}


def test_one_that_ends_while_it_is_about_to_be_killed_is_not_killed(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    stage.pass_time(20)
    watched = stage.watch("step")
    watched.just_before["step"] = lambda: reply(player.slot, response())
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed()) == (ChannelState.DONE, False)
    assert len(watched.done) == 1
    stage.pass_time(2 * GRACE_MS)
    assert stage.supervisor._stops == {}


def test_whoever_gives_up_what_is_being_stopped_changes_nothing(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    stage.pass_time(20)
    assert channel.give_up() == ChannelState.CLAIMED
    stage.pass_time(GRACE_MS / 2)
    assert player.interrupted() == [StopReason.TIMED_OUT]  # once
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed()) == (ChannelState.KILLING, True)
    player.die()
    assert outcomes(stage) == {"Timeout": 1}
    assert channel.clear()


# -- cancels ----------------------------------------------------------------------------------------------


def test_what_a_client_gave_up_is_stopped_and_killed_after_the_grace_time(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish()
    player.claim()
    assert channel.give_up() == ChannelState.CLAIMED
    caller.send(CANCEL, number=channel.index, generation=channel.generation)
    assert player.interrupted() == [StopReason.CANCELLED]
    caller.send(CANCEL, number=channel.index, generation=channel.generation)
    assert player.interrupted() == []
    stage.pass_time(GRACE_MS / 2)
    assert not player.killed()
    stage.pass_time(GRACE_MS + 1)
    assert player.killed()
    player.die()
    assert outcomes(stage) == {"Cancelled": 1}
    assert channel.clear()


def test_a_cancel_that_was_lost_is_made_up_for_by_the_next_one(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channels = [caller.publish(index) for index in caller.channels]
    first.claim()
    second.claim()
    for channel in channels:
        assert channel.give_up() == ChannelState.CLAIMED
    caller.send(CANCEL, number=channels[1].index, generation=channels[1].generation)
    assert (first.interrupted(), second.interrupted()) == ([StopReason.CANCELLED], [StopReason.CANCELLED])


def test_a_cancel_that_was_lost_is_noticed_in_a_second(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 1).publish()
    player.claim()
    assert channel.give_up() == ChannelState.CLAIMED
    assert player.interrupted() == []
    stage.pass_time(1100)
    assert player.interrupted() == [StopReason.CANCELLED]
    stage.pass_time(1200 + GRACE_MS)
    assert player.killed()


@pytest.mark.parametrize("reused_by", ["the same executor", "another"])
def test_a_channel_that_is_used_again_while_the_grace_time_of_the_last_request_runs_is_left_alone(
    stage: ShmStage, reused_by: str
) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish()
    first.claim()
    channel.give_up()
    caller.send(CANCEL, number=channel.index, generation=channel.generation)
    assert first.interrupted() == [StopReason.CANCELLED]
    assert reply(first.slot, response()) == core.LOST  # it heeds that
    assert stage.state(channel) is ChannelState.IDLE
    player = first if reused_by == "the same executor" else second
    caller.publish(channel.index)
    player.claim()
    claimed = stage.arena.word(channel.index)
    caller.send(CANCEL, number=channel.index, generation=channel.generation)  # late, of the last one
    stage.pass_time(GRACE_MS + 100)
    assert stage.arena.word(channel.index) == claimed
    assert (player.interrupted(), player.killed()) == ([], False)


@pytest.mark.parametrize(
    "state", [ChannelState.IDLE, ChannelState.READY, ChannelState.CLAIMED, ChannelState.DONE]
)
def test_a_cancel_of_what_was_not_given_up_does_nothing(stage: ShmStage, state: ChannelState) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish()
    if state is ChannelState.IDLE:
        channel.give_up()
    elif state is not ChannelState.READY:
        player.claim()
    if state is ChannelState.DONE:
        reply(player.slot, response())
    before = stage.arena.word(channel.index)
    caller.send(CANCEL, number=channel.index, generation=channel.generation)
    stage.pass_time(GRACE_MS + 100)
    assert stage.arena.word(channel.index) == before
    assert (player.interrupted(), player.killed()) == ([], False)


# -- deaths -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "text"), [(-signal.SIGSEGV, "signal 11 (SIGSEGV)"), (3, "exit code 3"), (0, "exit code 0")]
)
def test_a_request_whose_executor_died_has_crashed(stage: ShmStage, code: int, text: str) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    player.claim()
    player.die(code)
    assert channel.wait(0) == core.OUTCOME
    assert channel.take() == failure_word(Failure.CRASHED, player.number, code)
    assert outcomes(stage) == {"WorkerCrashed": 1}
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
    assert outcomes(stage) == ({outcome: 1} if outcome else {})


def test_a_claim_that_is_about_to_be_made_is_not_stopped(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 1).publish()
    # It has told of its claim, and was not given a processor to make it.
    stage.supervisor._pool._words.claim_of(player.index)[0] = serial_of(channel.index, channel.generation)
    for after_ms in (1100, 2200, 2200 + GRACE_MS):
        stage.pass_time(after_ms)
    player.claim()
    assert (player.interrupted(), player.killed()) == ([], False)
    assert reply(player.slot, response()) == core.TRANSFERRED
    assert stage.state(channel) is ChannelState.DONE


def test_the_request_that_the_dead_was_about_to_claim_is_left_to_the_one_that_was_faster(
    stage: ShmStage,
) -> None:
    faster, slower = stage.start()
    channel = Caller(stage, 1).publish()
    faster.claim()
    # It had told of its claim, and died before it could make it.
    claim_of = stage.supervisor._pool._words.claim_of
    claim_of(slower.index)[0] = claim_of(faster.index)[0]
    slower.die()
    assert stage.state(channel) is ChannelState.CLAIMED
    assert reply(faster.slot, response()) == core.TRANSFERRED
    assert stage.state(channel) is ChannelState.DONE


def test_a_request_whose_word_was_forged_ends_with_the_executor_that_has_it(stage: ShmStage) -> None:
    """Which that is, it has told where no client can write."""
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    player.claim()
    forged = stage.arena.word(channel.index) ^ 1 << 24  # of another epoch
    put(stage.arena, channel.index, forged)
    player.die()
    assert stage.arena.word(channel.index) == with_state(forged, ChannelState.FAILED)
    assert outcomes(stage) == {"WorkerCrashed": 1}


def test_a_slot_is_given_to_another_epoch_after_everything_was_put_right(stage: ShmStage) -> None:
    player, _ = stage.start()
    Caller(stage, 2).publish()
    player.claim()
    watched = stage.watch(
        "set_failure", "step", "ring_client", "reset_slot", "set_slot_gauge", "wake_executor"
    )
    slot = player.index
    player.die()
    names = [name for name, *_ in watched.done]
    assert names == ["set_failure", "step", "ring_client", "reset_slot", "set_slot_gauge", "set_slot_gauge"]
    assert stage.arena.slot_gauge(slot, SlotGauge.EPOCH) == 1
    assert stage.arena.slot_state(slot) == core.SLOT_FREE
    (successor,) = stage.play_those_that_start()
    assert successor.number == 3
    assert successor.index != slot  # it was asked for before the other was reaped


def test_epochs_go_round(stage: ShmStage) -> None:
    player, _ = stage.start()
    stage.arena.set_slot_gauge(player.index, SlotGauge.EPOCH, 255)
    player.die()
    assert stage.arena.slot_gauge(player.index, SlotGauge.EPOCH) == 0


def test_after_a_death_somebody_is_woken_for_what_is_queued_but_not_the_dead(stage: ShmStage) -> None:
    """The one that died may have been woken for it; and may still stand there as if it slept."""
    player, _ = stage.start()
    Caller(stage, 2).publish()
    watched = stage.watch("reset_slot", "wake_executor")
    player.die()
    assert watched.done == [("reset_slot", player.index, SlotGauge.OUTCOMES), ("wake_executor",)]


def test_where_nothing_is_queued_nobody_is_woken(stage: ShmStage) -> None:
    player, _ = stage.start()
    watched = stage.watch("wake_executor")
    player.die()
    assert watched.done == []


def test_a_client_that_gives_up_while_its_request_is_put_right_gets_its_channel_back(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    player.claim()
    watched = stage.watch("step")
    watched.just_before["step"] = channel.give_up
    player.die()
    assert stage.state(channel) is ChannelState.IDLE
    assert outcomes(stage) == {"Cancelled": 1}


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
    assert outcomes(stage) == {"WorkerCrashed": 2}
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
    caller.send(CANCEL, number=caller.channels[0], generation=1)
    stage.pass_time(GRACE_MS + 100)
    assert not player.killed()
    assert not other.killed()
    assert [stage.arena.word(index) & 0xFF for index in caller.channels[:3]] == [ChannelState.IDLE] * 3


def test_one_that_closed_its_socket_is_being_killed_and_the_request_waits_for_its_end(
    stage: ShmStage,
) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    player.child.sock.close()
    stage.turn()
    assert player.killed()
    stage.pass_time(20)
    stage.pass_time(2 * GRACE_MS)
    assert stage.state(channel) is ChannelState.KILLING
    stage.forkserver.exited(player.number, -9)
    stage.turn()
    assert stage.state(channel) is ChannelState.FAILED


# -- clients that are gone --------------------------------------------------------------------------------


def test_what_a_gone_client_had_under_way_is_ended_also_while_its_process_lives(stage: ShmStage) -> None:
    player, other = stage.start()
    caller = Caller(stage, 6)
    running = caller.publish(caller.channels[0])
    player.claim()
    done = caller.publish(caller.channels[1])
    other.claim()
    reply(other.slot, response())
    queued = caller.publish(caller.channels[2])
    caller.close()
    assert [stage.state(channel) for channel in (running, queued, done)] == [
        ChannelState.ABANDONED,
        ChannelState.IDLE,
        ChannelState.IDLE,
    ]
    assert player.interrupted() == [StopReason.CANCELLED]
    stage.pass_time(GRACE_MS + 1)
    assert player.killed()
    player.die()
    assert stage.state(running) is ChannelState.IDLE or stage.state(running) is ChannelState.FAILED
    stage.pass_time(GRACE_MS + 100)
    assert stage.supervisor._channels.take(99)[0] == 6  # this process could still touch the others


def test_channels_of_one_that_said_it_is_done_are_free_when_they_are_idle(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 3)
    running = caller.publish(caller.channels[1])
    player.claim()
    caller.send(control.DETACH)
    assert stage.supervisor._channels._free[:3] == [0, 2, 3]
    reply(player.slot, response())
    stage.pass_time(20)
    assert stage.supervisor._channels._free[:4] == [0, 1, 2, 3]
    assert generation_of(stage.arena.word(running.index)) == 1


def test_freed_channels_are_granted_once_to_whoever_waits(stage: ShmStage) -> None:
    """Granting one has the supervisor look for freed channels again, in the middle of freeing them."""
    stage.start()
    total = stage.supervisor._channels.count
    leaving = Caller(stage, total - 2)
    waiting = [Caller(stage, 1), Caller(stage, 1)]
    for caller in waiting:
        caller.send(control.LEASE, number=5)
    leaving.send(control.DETACH)
    got = [index for caller in waiting for index in Caller.granted(caller.received())]
    assert len(got) == len(set(got))
    rest = stage.supervisor._channels.take(total)
    held = [index for caller in waiting for index in caller.channels]
    assert sorted(got + rest + held) == list(range(total))


def test_words_that_can_not_be_hurt_nobody_else_and_go_with_their_client(stage: ShmStage) -> None:
    player, _ = stage.start()
    scribbler, honest = Caller(stage, 4), Caller(stage, 2)
    for index, low in zip(scribbler.channels, (7, 77, 200, 255), strict=True):
        put(stage.arena, index, 5 << 32 | low)
    channel = honest.publish(deadline_ns=in_ms(10))
    player.claim()
    stage.turn()
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    reply(player.slot, response(status=Status.TIMEOUT))
    assert channel.take().status is Status.TIMEOUT
    ping = stage.supervisor.pong(Frame(Kind.REQUEST, 1, PING))
    assert codec.decode(Codec.MSGPACK, ping.payload)["in_flight"] == 0
    scribbler.send(control.DETACH)
    assert [stage.arena.word(index) for index in scribbler.channels] == [5 << 32] * 4
    assert stage.supervisor._channels._free[:4] == scribbler.channels


def test_a_claim_that_no_executor_made_does_not_keep_a_worker_from_stopping(stage: ShmStage) -> None:
    stage.start()
    scribbler = Caller(stage, 2)
    put(stage.arena, scribbler.channels[0], ChannelState.CLAIMED | (stage.arena.slots - 1) << 8 | 5 << 32)
    put(stage.arena, scribbler.channels[1], 5 << 32 | 99)
    drain(stage)
    scribbler.send(control.DETACH)
    assert stage.supervisor._finished()


def test_whoever_waits_for_channels_is_told_in_time_that_there_are_none(stage: ShmStage) -> None:
    """Also if who should give some back has been stopped, and never answers."""
    stage.start()
    total = stage.supervisor._channels.count
    Caller(stage, total - 1)
    waiting = Caller(stage, 1)
    waiting.send(control.LEASE, number=5)
    assert waiting.received() == []
    patience_ms = shm_supervisor._RECALL_NS / _MS
    assert patience_ms < ANSWER_S * 1000 / 2
    assert stage.supervisor._loop._timer_ns <= in_ms(patience_ms)
    stage.pass_time(0)
    assert waiting.received() == []
    stage.pass_time(patience_ms + 1)
    assert waiting.received() == [(control.GRANT, {"channels": []})]


def test_channels_are_looked_at_once_they_are_granted(stage: ShmStage) -> None:
    stage.start()
    assert stage.arena.in_use == 0
    first = Caller(stage, 3)
    assert stage.arena.in_use == 3
    second = Caller(stage, 2)
    assert stage.arena.in_use == 5
    for caller in (first, second):
        caller.send(control.DETACH)
    assert stage.arena.in_use == 5  # never fewer: an executor may be looking
    assert Caller(stage, 1).channels == [0]


def test_one_of_several_clients_may_not_fill_the_queue(stage: ShmStage) -> None:
    stage.start()
    total = stage.supervisor._channels.count
    assert stage.arena.gauge(Gauge.CLIENT_LIMIT) == total
    first = Caller(stage, 1)
    assert (stage.arena.gauge(Gauge.CLIENT_LIMIT), stage.arena.gauge(Gauge.CLIENTS)) == (total, 1)
    Caller(stage, 0, observer=True)
    assert (stage.arena.gauge(Gauge.CLIENT_LIMIT), stage.arena.gauge(Gauge.CLIENTS)) == (total, 1)
    Caller(stage, 1)
    assert (stage.arena.gauge(Gauge.CLIENT_LIMIT), stage.arena.gauge(Gauge.CLIENTS)) == (2 + 6, 2)
    first.send(control.DETACH)
    assert (stage.arena.gauge(Gauge.CLIENT_LIMIT), stage.arena.gauge(Gauge.CLIENTS)) == (total, 1)


# -- start and stop ---------------------------------------------------------------------------------------


def test_clients_are_greeted_when_an_executor_is_ready_or_when_they_come_later(stage: ShmStage) -> None:
    early = Caller(stage, 1)
    assert [entry for entry, _ in early.heard] == [control.GRANT]
    assert stage.arena.gauge(Gauge.SERVING) == 0
    stage.start()
    assert early.received() == [(HELLO, 0)]  # once, though there are two executors
    assert stage.arena.gauge(Gauge.SERVING) == 1
    assert [entry for entry, _ in Caller(stage, 1).heard] == [control.GRANT, HELLO]


def test_a_pool_that_can_not_start_tells_who_is_there_and_ends(stage: ShmStage) -> None:
    caller = Caller(stage, 1)
    stage.supervisor.on_start_failed("no module")
    assert caller.received() == [
        ("RESPONSE", {"error": "MoltStartFailed", "detail": "no module", "code": "start_failed"}),
    ]
    assert stage.supervisor._finished()


def test_a_pool_that_nobody_came_to_yet_stays_to_say_why_it_can_not_start(
    make_shm_stage: MakeShmStage,
) -> None:
    stage = make_shm_stage(linger=True)
    stage.supervisor.on_start_failed("no module")
    assert not stage.supervisor._finished()
    heard = Caller(stage, 1).heard
    what = "the worker can't start: no module"
    assert [payload for _, payload in heard] == [
        {"error": "MoltStartFailed", "detail": what, "code": "start_failed"}
    ]
    stage.pass_time(3000)
    assert stage.supervisor._finished()


def test_a_drained_pool_takes_nobody_and_ends_with_what_it_has(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish()
    player.claim()
    drain(stage)
    assert caller.received() == [(control.DRAINING, 0)]
    assert stage.arena.gauge(Gauge.SERVING) == 2
    assert not os.path.exists(stage.supervisor._path)
    with pytest.raises(FileNotFoundError):
        Caller(stage, 1)
    reply(player.slot, response())
    assert not stage.supervisor._finished()  # its client may be about to publish, before it has heard
    caller.send(control.DETACH)
    assert stage.supervisor._finished()
    assert channel.index == 0


def test_a_request_that_is_published_while_the_pool_drains_is_served(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    drain(stage)
    channel = caller.publish()
    stage.supervisor._drained_ns = 0
    assert not stage.supervisor._finished()
    player.claim()
    assert not stage.supervisor._finished()
    reply(player.slot, response())
    assert stage.supervisor._finished()  # the reply is there to be taken
    assert channel.take() == response()


@pytest.mark.parametrize(("linger", "ends"), [(True, True), (False, False)])
def test_a_pool_that_clients_started_ends_some_time_after_the_last_has_left(
    make_shm_stage: MakeShmStage, linger: bool, ends: bool
) -> None:
    stage = make_shm_stage(linger=linger, linger_ms=120_000)
    stage.start()
    for _ in range(2):
        caller = Caller(stage, 1)
        stage.pass_time(60_000)
        assert not stage.supervisor._finished()
        caller.send(control.DETACH)
        stage.pass_time(60_000)
        assert not stage.supervisor._finished()
    stage.pass_time(121_000)
    assert stage.supervisor._finished() == ends


def test_a_pool_that_nobody_comes_to_ends(make_shm_stage: MakeShmStage) -> None:
    stage = make_shm_stage(linger=True)
    stage.supervisor._on_start()
    stage.pass_time(10_000)
    assert not stage.supervisor._finished()
    stage.pass_time(31_000)
    assert stage.supervisor._finished()
    assert "worker_left_alone" in stage.log()


def test_a_name_has_one_worker(stage: ShmStage, make_shm_stage: MakeShmStage) -> None:
    before = set(os.listdir("/proc/self/fd"))
    with pytest.raises(AlreadyServed) as caught:
        shm_supervisor.ShmSupervisor(stage.config, stage.sink, linger=False)
    assert caught.value.detail == "another worker serves the pool 'pool' already"
    # The other one's event loop has a descriptor of its own where the system's poll is one.
    assert set(os.listdir("/proc/self/fd")) == before
    other = make_shm_stage(worker_name="other")
    assert Caller(other, 1).channels == [0]


def test_what_a_killed_worker_left_is_replaced(make_shm_stage: MakeShmStage, tmp_path: Any) -> None:
    marker = tmp_path / "marker"

    def serve() -> None:
        make_shm_stage()
        marker.write_text("here")
        signal.pause()

    pid = fork(serve)
    wait_for_file(marker)
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL
    stage = make_shm_stage()
    assert os.path.exists(stage.supervisor._path)
    assert Caller(stage, 1).channels == [0]


def test_what_it_says_of_itself(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 4)
    for index in caller.channels[:2]:
        caller.publish(index)
    player.claim()
    control.send(caller.sock, Frame(Kind.REQUEST, 77, PING))
    stage.turn()
    ((entry, report),) = caller.received()
    assert entry == "RESPONSE"
    assert {name: report[name] for name in ("transport", "name", "pid", "ready", "exports")} == {
        "transport": "shm",
        "name": "pool",
        "pid": os.getpid(),
        "ready": True,
        "exports": ["echo"],
    }
    assert report["executors"] == {"size": 2, "idle": 1, "busy": 1, "starting": 0, "pids": [os.getpid()] * 2}
    assert {
        name: report[name] for name in ("queue_depth", "max_queue", "in_flight", "clients", "outcomes")
    } == {
        "queue_depth": 1,
        "max_queue": 8,
        "in_flight": 1,
        "clients": 1,
        "outcomes": {},
    }


def test_outcomes_are_those_of_all_executors_and_its_own(stage: ShmStage) -> None:
    for player in stage.start():
        stage.arena.set_slot_gauge(player.index, SlotGauge.OUTCOMES + Outcome.Ok, 5)
    stage.arena.add_counter(Gauge.OUTCOMES + Outcome.Ok, 1)
    stage.arena.add_counter(Gauge.OUTCOMES + Outcome.Busy, 2)
    assert stage.supervisor._outcomes() == {"Ok": 11, "Busy": 2}


def test_facts_follow_what_happens(stage: ShmStage) -> None:
    player, _ = stage.start()
    player.die()
    stage.play_those_that_start()
    stage.supervisor._after_turn()
    facts = {
        fact.name: stage.arena.gauge(fact)
        for fact in (
            Gauge.EXECUTOR_STARTS,
            Gauge.EXECUTOR_DEATHS,
            Gauge.RECYCLED,
            Gauge.FORKSERVER_PID,
            Gauge.CAPACITY,
        )
    }
    assert facts == {
        "EXECUTOR_STARTS": 3,
        "EXECUTOR_DEATHS": 1,
        "RECYCLED": 0,
        "FORKSERVER_PID": os.getpid(),
        "CAPACITY": 8,
    }
