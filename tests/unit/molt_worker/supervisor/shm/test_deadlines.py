"""Deadlines and stops: who is late or given up is interrupted, and killed when that did not help."""

import time

import pytest

from molt_accel.errors import Status
from molt_accel.ipc.messages import PING, CancelChannel, Request
from molt_accel.ipc.shm.layout import NEVER, ChannelState, Failure, Gauge, SlotGauge, failure_word, with_state
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Interrupt
from molt_worker.supervisor.shm.deadlines import Stop
from tests.support.handover import core, put, reply, response
from tests.support.shm_testbed import GRACE_MS, Caller, ShmStage, in_ms


def test_a_deadline_is_looked_at_when_it_comes_and_not_before(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take(deadline_ns=(deadline := in_ms(100_000)))
    assert stage.arena.gauge(Gauge.WAKE_NS) == deadline
    assert stage.supervisor._loop._timer_ns <= deadline
    stage.pass_time(50_000)
    assert player.interrupted() == []
    stage.pass_time(100_001)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    assert stage.state(channel) is ChannelState.CLAIMED  # it has the grace time


def test_without_deadlines_there_is_nothing_to_look_at(stage: ShmStage) -> None:
    player, _ = stage.start()
    player.take()
    stage.pass_time(10_000_000)
    assert stage.arena.gauge(Gauge.WAKE_NS) == NEVER
    assert player.interrupted() == []


def test_the_earliest_deadline_counts_whoever_tells_of_it_last(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    for player, ms in ((first, 500_000), (second, 100_000)):
        player.take(caller, caller.channels[player is second], deadline_ns=in_ms(ms))
    assert in_ms(0) < stage.arena.gauge(Gauge.WAKE_NS) <= in_ms(100_000)
    stage.pass_time(100_001)
    assert (first.interrupted(), second.interrupted()) == ([], [StopReason.TIMED_OUT])
    assert in_ms(300_000) < stage.arena.gauge(Gauge.WAKE_NS) <= in_ms(500_000)


def test_a_deadline_that_is_set_during_the_look_is_told_of(stage: ShmStage) -> None:
    """First of all the look is announced, so an executor that begins meanwhile tells, or is seen."""
    first, second = stage.start()
    caller = Caller(stage, 2)
    first.take(caller, caller.channels[0], deadline_ns=in_ms(1000))
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
    stage.supervisor._deadlines.look(time.monotonic_ns())
    assert wakes == [NEVER]
    assert [args[1] == Gauge.WAKE_NS for args in watched.done] == [True, True]
    assert [args[2] == NEVER for args in watched.done] == [True, False]
    stage.turn()
    stage.pass_time(2001)
    assert second.interrupted() == [StopReason.TIMED_OUT]


def test_the_deadline_of_an_earlier_request_does_not_stop_the_next_in_its_slot(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    player.take(caller, caller.channels[0], deadline_ns=in_ms(500))
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


def test_a_deadline_that_is_the_next_request_s_does_not_stop_the_last_one(stage: ShmStage) -> None:
    """The executor goes on to the next one just before the look reads its deadline."""
    player, _ = stage.start()
    caller = Caller(stage, 2)
    player.take(caller, caller.channels[0], deadline_ns=in_ms(50_000))
    watched = stage.watch("slot_gauge")

    def go_on() -> None:
        reply(player.slot, response())
        player.take(caller, caller.channels[1], deadline_ns=in_ms(10_000))

    # Of the slot's two words, the first read says whose request it is, and the second is the deadline.
    watched.just_before["slot_gauge"] = lambda: watched.just_before.update(slot_gauge=go_on)
    stage.supervisor._deadlines.look(in_ms(20_000))
    assert stage.supervisor._deadlines._stops == {}
    stage.supervisor._deadlines.look(in_ms(20_000))
    assert list(stage.supervisor._deadlines._stops) == [caller.channels[1]]


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
    channel = player.take(deadline_ns=in_ms(10))
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    stage.pass_time(GRACE_MS / 2)
    assert (stage.state(channel), player.killed()) == (ChannelState.CLAIMED, False)
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed(), other.killed()) == (ChannelState.KILLING, True, False)
    assert channel.wait(0) == core.TIME  # the outcome comes when it is certainly dead
    player.die()
    assert (channel.wait(0), channel.take()) == (core.OUTCOME, failure_word(Failure.TIMED_OUT, player.number))
    assert stage.outcomes() == {"Timeout": 1}
    assert f"executor_killed executor={player.number} request_id=0000000000000001 entry=echo" in stage.log()


def test_one_that_ends_in_the_grace_time_is_not_killed_nor_is_its_next_request(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = player.take(caller, deadline_ns=in_ms(10))
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    reply(player.slot, response(status=Status.TIMEOUT))
    assert channel.take().status is Status.TIMEOUT
    assert caller.publish(channel.index).index == channel.index
    assert player.claim() == channel.index
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed(), player.interrupted()) == (ChannelState.CLAIMED, False, [])
    assert stage.supervisor._deadlines._stops == {}


def test_one_that_ends_while_it_is_about_to_be_killed_is_not_killed(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take(deadline_ns=in_ms(10))
    stage.pass_time(20)
    watched = stage.watch("step")
    watched.just_before["step"] = lambda: reply(player.slot, response())
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed()) == (ChannelState.DONE, False)
    assert len(watched.done) == 1
    stage.pass_time(2 * GRACE_MS)
    assert stage.supervisor._deadlines._stops == {}


def test_whoever_gives_up_what_is_being_stopped_changes_nothing(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take(deadline_ns=in_ms(10))
    stage.pass_time(20)
    assert channel.give_up() == ChannelState.CLAIMED
    stage.pass_time(GRACE_MS / 2)
    assert player.interrupted() == [StopReason.TIMED_OUT]  # once
    stage.pass_time(GRACE_MS + 100)
    assert (stage.state(channel), player.killed()) == (ChannelState.KILLING, True)
    player.die()
    assert stage.outcomes() == {"Timeout": 1}
    assert channel.clear()


def test_what_a_client_gave_up_is_stopped_and_killed_after_the_grace_time(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = player.take(caller)
    assert channel.give_up() == ChannelState.CLAIMED
    caller.send(CancelChannel(channel.index, channel.generation))
    assert player.interrupted() == [StopReason.CANCELLED]
    caller.send(CancelChannel(channel.index, channel.generation))
    assert player.interrupted() == []
    stage.pass_time(GRACE_MS / 2)
    assert not player.killed()
    stage.pass_time(GRACE_MS + 1)
    assert player.killed()
    player.die()
    assert stage.outcomes() == {"Cancelled": 1}
    assert channel.clear()


def test_a_cancel_that_was_lost_is_made_up_for_by_the_next_one(stage: ShmStage) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channels = [caller.publish(index) for index in caller.channels]
    first.claim()
    second.claim()
    for channel in channels:
        assert channel.give_up() == ChannelState.CLAIMED
    caller.send(CancelChannel(channels[1].index, channels[1].generation))
    assert (first.interrupted(), second.interrupted()) == ([StopReason.CANCELLED], [StopReason.CANCELLED])


def test_a_cancel_that_was_lost_is_noticed_in_a_second(stage: ShmStage) -> None:
    player, _ = stage.start()
    assert player.take(Caller(stage, 1)).give_up() == ChannelState.CLAIMED
    assert player.interrupted() == []
    stage.pass_time(1100)
    assert player.interrupted() == [StopReason.CANCELLED]
    stage.pass_time(1200 + GRACE_MS)
    assert player.killed()


@pytest.mark.parametrize("reused_by", ["the same executor", "another"])
def test_a_channel_used_again_within_the_grace_time_is_left_alone(stage: ShmStage, reused_by: str) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channel = first.take(caller)
    channel.give_up()
    caller.send(CancelChannel(channel.index, channel.generation))
    assert first.interrupted() == [StopReason.CANCELLED]
    assert reply(first.slot, response()) == core.LOST  # it heeds that
    assert stage.state(channel) is ChannelState.IDLE
    player = first if reused_by == "the same executor" else second
    player.take(caller, channel.index)
    claimed = stage.arena.word(channel.index)
    caller.send(CancelChannel(channel.index, channel.generation))  # late, of the last one
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
    caller.send(CancelChannel(channel.index, channel.generation))
    stage.pass_time(GRACE_MS + 100)
    assert stage.arena.word(channel.index) == before
    assert (player.interrupted(), player.killed()) == ([], False)


def test_one_that_closed_its_socket_is_killed_and_the_request_waits_for_its_end(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take(deadline_ns=in_ms(10))
    player.child.sock.close()
    stage.turn()
    assert player.killed()
    stage.pass_time(20)
    stage.pass_time(2 * GRACE_MS)
    assert stage.state(channel) is ChannelState.KILLING
    stage.forkserver.exited(player.number, -9)
    stage.turn()
    assert stage.state(channel) is ChannelState.FAILED


def test_a_stop_and_a_kill_are_for_one_request_of_the_one_in_the_slot(stage: ShmStage) -> None:
    player, other = stage.start()
    deadlines, words = stage.supervisor._deadlines, stage.supervisor.pool.words
    words.claim_of(other.index)[0] = 41
    for slot, serial in ((other.index, 42), (player.index, 41), (player.index, 0), (7, 41), (0xFFFF, 41)):
        deadlines.interrupt(slot, serial, StopReason.CANCELLED)
        deadlines.kill(slot, serial)
    assert [stage.told(each, Interrupt) for each in (player, other)] == [0, 0]
    assert [words.word_of(slot).reason(serial) for slot in (0, 1, 7) for serial in (41, 42)] == [0] * 6
    deadlines.interrupt(other.index, 41, StopReason.CANCELLED)
    assert [stage.told(each, Interrupt) for each in (player, other)] == [0, 1]
    assert [words.word_of(1).reason(serial) for serial in (41, 42)] == [StopReason.CANCELLED, 0]
    assert not player.killed()
    assert not other.killed()
    for _ in range(2):  # the second time it is being killed, and not reaped yet
        deadlines.kill(other.index, 41, entry="work")
    assert [player.killed(), other.killed()] == [False, True]
    assert stage.log().count(f"executor_killed executor={other.number} entry=work") == 1


@pytest.mark.parametrize("before", ["given up", "not begun"])
def test_a_deadline_is_seen_behind_requests_without_one(stage: ShmStage, before: str) -> None:
    first, second = stage.start()
    caller = Caller(stage, 2)
    channel = caller.publish(caller.channels[0])
    first.claim(begin=before == "given up")
    if before == "given up":
        assert channel.give_up() == ChannelState.CLAIMED
    second.take(caller, caller.channels[1], deadline_ns=in_ms(500))
    stage.pass_time(501)
    assert second.interrupted() == [StopReason.TIMED_OUT]


def test_a_stop_is_of_one_claim_of_one_slot_in_one_generation() -> None:
    claimed = 6 << 32 | 3 << 24 | 2 << 8 | ChannelState.CLAIMED
    stop = Stop(claimed, StopReason.CANCELLED, 0)
    assert stop.is_of(claimed)
    for other in (7 << 32 | 3 << 24 | 2 << 8, 6 << 32 | 4 << 24 | 2 << 8, 6 << 32 | 3 << 24 | 1 << 8):
        assert not stop.is_of(other | ChannelState.CLAIMED)
    assert not stop.is_of(with_state(claimed, ChannelState.DONE))


def test_a_word_that_names_no_slot_keeps_no_other_from_its_deadline(stage: ShmStage) -> None:
    player, _ = stage.start()
    scribbler, honest = Caller(stage, 1), Caller(stage, 1)
    player.take(honest, deadline_ns=in_ms(10))
    put(stage.arena, scribbler.channels[0], with_state(1 << 32 | 0xFFFF << 8, ChannelState.CLAIMED))
    stage.supervisor._deadlines.look(in_ms(20))
    assert player.interrupted() == [StopReason.TIMED_OUT]


def test_deadlines_that_somebody_scribbles_do_not_keep_it_busy(stage: ShmStage) -> None:
    player, _ = stage.start()
    now_ns = in_ms(0)
    stage.arena.set_slot_gauge(player.index, SlotGauge.DEADLINE_NS, now_ns + 1)
    stage.supervisor._deadlines.look(now_ns)
    assert stage.arena.gauge(Gauge.WAKE_NS) == now_ns + 1_000_000


def test_a_cancel_that_was_lost_among_pings_is_noticed_at_the_next_ping(stage: ShmStage) -> None:
    player, _ = stage.start()
    player.take().give_up()
    assert player.interrupted() == []
    stage.supervisor.pong(Request(1, PING))
    assert player.interrupted() == [StopReason.CANCELLED]
