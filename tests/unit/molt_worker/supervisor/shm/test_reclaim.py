"""Channels of clients that are gone are ended and granted to others, each once."""

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.messages import PING, Codec, Detach, Lease, Request
from molt_accel.ipc.shm.layout import ChannelState, generation_of, idle_word
from molt_worker.entrypoints.request import StopReason
from tests.support.handover import put, reply, response
from tests.support.shm_testbed import GRACE_MS, Caller, ShmStage, in_ms


def test_what_a_gone_client_had_under_way_is_ended_also_while_its_process_lives(stage: ShmStage) -> None:
    player, other = stage.start()
    caller = Caller(stage, 6)
    running = player.take(caller, caller.channels[0])
    done = other.take(caller, caller.channels[1])
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
    running = player.take(caller, caller.channels[1])
    caller.send(Detach())
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
        caller.send(Lease(5))
    leaving.send(Detach())
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
    channel = player.take(honest, deadline_ns=in_ms(10))
    stage.pass_time(20)
    assert player.interrupted() == [StopReason.TIMED_OUT]
    reply(player.slot, response(status=Status.TIMEOUT))
    assert channel.take().status is Status.TIMEOUT
    assert codec.decode(Codec.MSGPACK, stage.supervisor.pong(Request(1, PING)).payload)["in_flight"] == 0
    scribbler.send(Detach())
    assert [stage.arena.word(index) for index in scribbler.channels] == [5 << 32] * 4
    assert stage.supervisor._channels._free[:4] == scribbler.channels


def test_a_channel_is_free_only_when_no_executor_can_write_to_it_any_more(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 3)
    channel = player.take(caller, caller.channels[1])
    claim = stage.supervisor.pool.words.claim_of(player.index)
    serial = claim[0]
    reply(player.slot, response())
    claim[0] = serial  # it has not looked for another request yet
    caller.send(Detach())
    assert stage.state(channel) is ChannelState.DONE
    put(stage.arena, channel.index, idle_word(stage.arena.word(channel.index)))
    stage.pass_time(20)
    free = stage.supervisor._channels._free
    assert channel.index not in free
    claim[0] = 0
    stage.pass_time(20)
    assert channel.index in free


def test_what_a_gone_client_has_queued_is_ended_first(stage: ShmStage) -> None:
    """Else the executor of a request that is stopped would take it."""
    player, _ = stage.start()
    caller = Caller(stage, 3)
    running = player.take(caller, caller.channels[0])
    queued = caller.publish(caller.channels[2])
    watched = stage.watch("step")
    caller.close()
    assert [channel for _, channel, *_ in watched.done] == [queued.index, running.index]


def test_a_channel_is_reset_before_another_client_gets_it(stage: ShmStage) -> None:
    stage.start()
    caller = Caller(stage, 2)
    watched = stage.watch("reset_channel")
    caller.close()
    stage.supervisor._clients._on_death(next(iter(stage.supervisor._clients)))
    assert sorted(watched.done) == [("reset_channel", index) for index in caller.channels]
