"""What the supervisor does about words that no honest process writes, one by one."""

import sys

import pytest

if sys.platform != "linux":
    pytest.skip("there are no shared pools", allow_module_level=True)

from molt_accel.ipc.messages import PING, CancelChannel, Detach, Request
from molt_accel.ipc.shm.layout import (
    NEVER,
    ChannelState,
    Gauge,
    Outcome,
    SlotGauge,
    generation_of,
    idle_word,
    with_state,
)
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.entrypoints.request import StopReason
from tests.support.handover import channel_of, core, put, reply, request, response
from tests.support.shm_testbed import GRACE_MS, Caller, MakeShmStage, ShmStage


@pytest.fixture
def stage(make_shm_stage: MakeShmStage) -> ShmStage:
    return make_shm_stage()


@pytest.mark.parametrize("state", [ChannelState.CLAIMED, ChannelState.ABANDONED, ChannelState.KILLING])
def test_a_forged_claim_does_not_kill_the_executor_it_names(stage: ShmStage, state: ChannelState) -> None:
    player, other = stage.start()
    victim = Caller(stage, 2).publish()
    player.claim()
    claimed = stage.arena.word(victim.index)
    offender = Caller(stage, 2)
    put(stage.arena, offender.channels[0], with_state(claimed, state))
    offender.send(CancelChannel(offender.channels[0], generation_of(claimed)))
    stage.pass_time(1000)
    stage.pass_time(2 * GRACE_MS)
    assert (player.interrupted(), player.killed(), other.killed()) == ([], False, False)
    assert stage.arena.word(victim.index) == claimed
    assert stage.arena.word(offender.channels[0]) & 0xFF in (ChannelState.IDLE, ChannelState.FAILED)
    assert reply(player.slot, response()) == core.TRANSFERRED


def test_one_that_waits_to_be_killed_because_somebody_says_so_is_killed(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    player.claim()
    put(stage.arena, channel.index, with_state(stage.arena.word(channel.index), ChannelState.KILLING))
    stage.pass_time(1000)
    stage.pass_time(2 * GRACE_MS)
    assert player.killed()
    player.die()
    assert stage.state(channel) is ChannelState.FAILED


@pytest.mark.parametrize("state", [ChannelState.IDLE, ChannelState.DONE, 99])
def test_one_whose_request_was_taken_is_stopped_and_its_channel_waits(stage: ShmStage, state: int) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish()
    player.claim()
    put(stage.arena, channel.index, stage.arena.word(channel.index) & ~0xFF | state)
    stage.pass_time(1000)
    assert player.interrupted() == [StopReason.CANCELLED]
    caller.send(Detach())
    assert channel.index in next(iter(stage.supervisor._clients)).channels  # it may still be written to
    stage.pass_time(2 * GRACE_MS)
    assert player.killed()
    player.die()
    stage.pass_time(2 * GRACE_MS)
    assert stage.supervisor._channels.take(1000)[:1] == [0]


def test_a_reply_to_a_request_that_was_taken_away_is_not_written(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    player.claim()
    put(stage.arena, channel.index, idle_word(stage.arena.word(channel.index)))
    next_one = Caller(stage, 0).publish(channel.index)
    assert reply(player.slot, response(payload=b"of the first")) == core.LOST
    assert next_one.wait(0) == core.TIME
    assert stage.supervisor.pool.words.claims() != {}  # until it has given up
    player.slot.fail(7)
    assert stage.supervisor.pool.words.claims() == {}


def test_counts_beyond_all_numbers_stop_neither_the_reaping_nor_the_report(stage: ShmStage) -> None:
    player, _ = stage.start()
    for outcome in Outcome:
        stage.arena.set_slot_gauge(player.index, SlotGauge.OUTCOMES + outcome, NEVER)
        stage.arena.set_gauge(Gauge.OUTCOMES + outcome, NEVER)
    player.die()
    assert stage.supervisor.pool.words.left == stage.arena.slots - 2  # another has taken the place
    assert stage.supervisor.pong(Request(1, PING)).payload


def test_what_only_the_supervisor_writes_is_written_again(stage: ShmStage) -> None:
    stage.start()
    Caller(stage, 3)
    arena = stage.arena
    stage.supervisor.settle()
    wanted = {fact: arena.gauge(fact) for fact in Gauge if fact < Gauge.SHED and fact != Gauge.WAKE_NS}
    for fact in wanted:
        arena.set_gauge(fact, 12345)
    arena.set_in_use(0)
    arena.set_gauge(Gauge.WAKE_NS, 0)
    stage.pass_time(1001)
    assert {fact: arena.gauge(fact) for fact in wanted} == wanted
    assert (arena.in_use, arena.gauge(Gauge.WAKE_NS)) == (3, NEVER)


def test_a_request_whose_mark_is_gone_is_found_by_the_next_audit(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = Caller(stage, 2).publish()
    word = stage.arena.word(channel.index)
    put(stage.arena, channel.index, idle_word(word))
    stage.arena.mend_marks()  # takes it away
    put(stage.arena, channel.index, word)
    assert (stage.arena.queued(), stage.arena.ready()) == ([], 1)
    stage.pass_time(1001)
    assert player.claim() == channel.index


def test_a_free_channel_that_was_scribbled_over_is_not_granted_until_it_is_put_right(stage: ShmStage) -> None:
    stage.start()
    Caller(stage, 2)
    put(stage.arena, 2, 7 << 32 | ChannelState.DONE)
    assert Caller(stage, 2).channels == [3, 4]
    stage.pass_time(2000)
    assert Caller(stage, 1).channels == [2]


SLOW = "slow"


def seem_to_run(stage: ShmStage, slot: int, channel: int) -> None:
    """Have a slot say that it runs an entrypoint with a limit, with no claim of its executor."""
    stage.arena.set_entry(SLOW, DELAY_NS[Priority.NORMAL], 1)
    channel_of(stage.arena, channel).publish(request(1, entry=SLOW), 1000, 0)
    assert core.Slot(stage.arena, slot, stage.arena.slot_gauge(slot, SlotGauge.EPOCH)).next() == core.REQUEST
    assert stage.arena.holds(slot) == core.entry_id(SLOW)


def test_the_place_of_a_slot_that_nobody_has_is_free_again(stage: ShmStage) -> None:
    stage.start()
    caller = Caller(stage, 2)
    seem_to_run(stage, stage.arena.slots - 1, caller.channels[0])
    stage.pass_time(1001)
    assert stage.arena.holds(stage.arena.slots - 1) == 0


def test_the_place_that_an_executor_of_another_entrypoint_seems_to_take_is_free_again(
    stage: ShmStage,
) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    running = caller.publish()
    player.claim()
    seem_to_run(stage, player.index, caller.channels[1])
    stage.pass_time(1001)
    assert stage.arena.holds(player.index) == 0
    assert stage.arena.word(running.index) & 0xFF == ChannelState.CLAIMED
    assert not player.killed()
    assert reply(player.slot, response()) == core.TRANSFERRED


def test_the_place_that_an_executor_takes_stays_taken(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    stage.arena.set_entry(SLOW, DELAY_NS[Priority.NORMAL], 1)
    channel_of(stage.arena, caller.channels[0]).publish(request(1, entry=SLOW), 1000, 0)
    player.claim()
    stage.pass_time(1001)
    assert stage.arena.holds(player.index) == core.entry_id(SLOW)


def test_rows_that_were_scribbled_over_are_written_again_and_those_of_nobody_are_freed(
    stage: ShmStage,
) -> None:
    stage.start()
    Caller(stage, 2)
    rows = stage.arena.entries()
    for row in rows:
        stage.arena.set_entry(row.name, 1, 1)
    for number in range(2000):
        stage.arena.set_entry(f"nobody's {number}", 1, 1)
    stage.pass_time(1001)
    assert [row[:4] for row in stage.arena.entries()] == [row[:4] for row in rows]
