"""The supervisor of a shared-memory pool: start and stop, its clients, and what it says of itself."""

import os
from pathlib import Path

import pytest

from molt_accel import codec
from molt_accel.errors import MoltStartFailed, Status, WorkerVanished
from molt_accel.ipc.messages import (
    PING,
    Attach,
    Attached,
    Codec,
    Detach,
    Draining,
    Grant,
    Hello,
    Lease,
    Refused,
    Reloading,
    Request,
    Response,
    StartFailed,
)
from molt_accel.ipc.shm.attach import ANSWER_S
from molt_accel.ipc.shm.layout import NEVER, ChannelState, Gauge, Outcome, SlotGauge
from molt_accel.version import __version__
from molt_worker.processes.commands import Sources
from molt_worker.processes.sources import stamp
from molt_worker.supervisor.shm import clients
from tests.support.handover import put, reply, response
from tests.support.shm_testbed import Caller, MakeShmStage, ShmStage, in_ms

_MS = 1_000_000


def drain(stage: ShmStage) -> None:
    """What SIGTERM does; and its clients have all the time to leave."""
    stage.supervisor._worker.draining = True
    stage.supervisor.drain()
    stage.supervisor._drained_ns = NEVER


def test_a_claim_that_no_executor_made_does_not_keep_a_worker_from_stopping(stage: ShmStage) -> None:
    stage.start()
    scribbler = Caller(stage, 2)
    put(stage.arena, scribbler.channels[0], ChannelState.CLAIMED | (stage.arena.slots - 1) << 8 | 5 << 32)
    put(stage.arena, scribbler.channels[1], 5 << 32 | 99)
    drain(stage)
    scribbler.send(Detach())
    assert stage.supervisor.finished()


def test_whoever_waits_for_channels_is_told_in_time_that_there_are_none(stage: ShmStage) -> None:
    """Also if who should give some back has been stopped, and never answers."""
    stage.start()
    Caller(stage, stage.supervisor._channels.count - 1)
    waiting = Caller(stage, 1)
    waiting.send(Lease(5))
    assert waiting.received() == []
    patience_ms = clients._RECALL_NS / _MS
    assert patience_ms < ANSWER_S * 1000 / 2
    assert stage.supervisor._loop._timer_ns <= in_ms(patience_ms)
    stage.pass_time(0)
    assert waiting.received() == []
    stage.pass_time(patience_ms + 1)
    assert waiting.received() == [Grant([])]


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
    first.send(Detach())
    assert (stage.arena.gauge(Gauge.CLIENT_LIMIT), stage.arena.gauge(Gauge.CLIENTS)) == (total, 1)


def test_clients_are_greeted_when_an_executor_is_ready_or_when_they_come_later(stage: ShmStage) -> None:
    early = Caller(stage, 1)
    assert [type(message) for message in early.heard] == [Attached]
    assert stage.arena.gauge(Gauge.SERVING) == 0
    stage.start()
    assert early.received() == [Hello()]  # once, though there are two executors
    assert stage.arena.gauge(Gauge.SERVING) == 1
    assert [type(message) for message in Caller(stage, 1).heard] == [Attached, Hello]


@pytest.mark.parametrize("linger", [False, True])
def test_a_pool_that_can_not_start_tells_who_is_there_and_ends(
    make_shm_stage: MakeShmStage, linger: bool
) -> None:
    stage = make_shm_stage(linger=linger)
    caller = Caller(stage, 1)
    stage.supervisor.on_start_failed(MoltStartFailed("no module"))
    assert caller.received() == [
        StartFailed({"error": "MoltStartFailed", "detail": "no module", "code": "start_failed"})
    ]
    assert stage.supervisor.finished()


def test_a_pool_that_nobody_came_to_yet_stays_to_say_why_it_can_t_start(make_shm_stage: MakeShmStage) -> None:
    stage = make_shm_stage(linger=True)
    stage.supervisor.on_start_failed(MoltStartFailed("no module"))
    assert not stage.supervisor.finished()
    why = {"error": "MoltStartFailed", "detail": "the worker can't start: no module", "code": "start_failed"}
    assert Caller(stage, 1).heard == [Refused(why)]
    stage.pass_time(3000)
    assert stage.supervisor.finished()


def test_a_drained_pool_takes_nobody_and_ends_with_what_it_has(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    channel = player.take(caller)
    drain(stage)
    assert caller.received() == [Draining()]
    assert stage.arena.gauge(Gauge.SERVING) == 2
    assert not os.path.exists(stage.supervisor._name.path)
    with pytest.raises(FileNotFoundError):
        Caller(stage, 1)
    reply(player.slot, response())
    assert not stage.supervisor.finished()  # its client may be about to publish, before it has heard
    caller.send(Detach())
    assert stage.supervisor.finished()
    assert channel.index == 0


def test_a_request_that_is_published_while_the_pool_drains_is_served(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 2)
    drain(stage)
    channel = caller.publish()
    stage.supervisor._drained_ns = 0
    assert not stage.supervisor.finished()
    player.claim()
    assert not stage.supervisor.finished()
    reply(player.slot, response())
    assert stage.supervisor.finished()  # the reply is there to be taken
    assert channel.take() == response()


@pytest.mark.parametrize(("linger", "ends"), [(True, True), (False, False)])
def test_a_pool_of_clients_ends_after_them(make_shm_stage: MakeShmStage, linger: bool, ends: bool) -> None:
    stage = make_shm_stage(linger=linger, linger_ms=120_000)
    stage.start()
    for _ in range(2):
        caller = Caller(stage, 1)
        stage.pass_time(60_000)
        assert not stage.supervisor.finished()
        caller.send(Detach())
        stage.pass_time(60_000)
        assert not stage.supervisor.finished()
    stage.pass_time(121_000)
    assert stage.supervisor.finished() == ends


def test_a_pool_of_nested_clients_only_stays_until_it_can_serve_them(make_shm_stage: MakeShmStage) -> None:
    """An import may take longer than they may stay attached without a call."""
    stage = make_shm_stage(linger=True, linger_ms=0)
    Caller(stage, 1, nested=True)
    for passed_ms in (10_000, 20_000, 30_000):
        stage.pass_time(passed_ms)
        assert not stage.supervisor.finished()
    stage.start()
    stage.pass_time(40_000)
    assert stage.supervisor.finished()  # they could have called


def test_a_pool_that_nobody_comes_to_ends(make_shm_stage: MakeShmStage) -> None:
    stage = make_shm_stage(linger=True)
    stage.pass_time(10_000)
    assert not stage.supervisor.finished()
    stage.pass_time(31_000)
    assert stage.supervisor.finished()
    assert "worker_left_alone" in stage.log()


def with_source(make_shm_stage: MakeShmStage, folder: Path) -> tuple[ShmStage, Path]:
    """A pool that a client started, and the source that its exports were read from."""
    stage = make_shm_stage(linger=True)
    source = folder / "app.py"
    source.touch()
    stage.start()
    stage.forkserver.report(Sources([(str(source), stamp(str(source)))]))
    stage.turn()
    return stage, source


def test_a_pool_of_outdated_code_makes_way_for_a_newcomer_or_reloads_while_it_has_others(
    make_shm_stage: MakeShmStage, tmp_path: Path
) -> None:
    stage, source = with_source(make_shm_stage, tmp_path)
    first = Caller(stage, 1)
    os.utime(source, ns=(1, 1))
    Caller(stage, 0, observer=True)  # needs no newer code
    assert len(stage.forkservers) == 1
    second = Caller(stage, 1)
    assert [type(message) for message in second.heard] == [Reloading]
    assert len(stage.forkservers) == 2
    assert not stage.supervisor.finished()
    stage.forkserver.report(Sources([(str(source), 2)]))  # it has been changed again
    stage.turn()
    second.close()
    first.send(Detach())
    assert Caller(stage, 1).heard == [None]
    assert stage.supervisor.finished()
    assert stage.log().count("worker_outdated") == 1


def test_a_newcomer_waits_for_newer_code_until_its_time_is_over(
    make_shm_stage: MakeShmStage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, source = with_source(make_shm_stage, tmp_path)
    Caller(stage, 1)
    os.utime(source, ns=(1, 1))
    newcomer = Caller(stage, 1)
    supervisor = stage.supervisor
    (asking,) = supervisor._clients.asking
    with monkeypatch.context() as patch:  # newer code serves, and is outdated itself: the worker stops
        patch.setattr(supervisor, "_older_code_serves", lambda: False)
        patch.setattr(supervisor, "make_way", lambda: True)
        supervisor._answer_asking(asking.answer_ns - 1)
    supervisor._answer_asking(asking.answer_ns - 1)
    assert (supervisor._clients.asking, asking.attached) == ([asking], False)
    supervisor._answer_asking(asking.answer_ns)
    assert supervisor._clients.asking == []
    (refused,) = newcomer.received()
    assert isinstance(refused, Refused)


def test_whoever_asks_a_pool_that_drains_is_sent_to_its_successor(stage: ShmStage) -> None:
    stage.start()
    caller = Caller(stage, 1)
    (client,) = stage.supervisor._clients
    client.asked = asked = Attach(__version__, False, 1)  # it waits for newer code
    stage.supervisor._worker.draining = True
    stage.supervisor.drain()
    assert stage.supervisor._clients.asking == []
    assert [type(message) for message in caller.received()] == [Draining, Refused]
    assert isinstance(stage.supervisor.refusal(asked), WorkerVanished)


def test_until_newer_code_is_imported_the_older_serves_however_busy_it_is(stage: ShmStage) -> None:
    players = stage.start()
    caller = Caller(stage, 2)
    for player, index in zip(players, caller.channels, strict=True):
        player.take(caller, index)
    stage.supervisor.pool.start_forkserver()
    assert stage.supervisor.reload_ms()


def test_what_it_says_of_itself(stage: ShmStage) -> None:
    player, _ = stage.start()
    caller = Caller(stage, 4)
    for index in caller.channels[:2]:
        caller.publish(index)
    player.claim()
    caller.send(Request(77, PING))
    (answer,) = caller.received()
    assert isinstance(answer, Response)
    assert (answer.request_id, answer.status) == (77, Status.OK)
    report = codec.decode(Codec.MSGPACK, answer.payload)
    assert {name: report[name] for name in ("transport", "name", "pid", "ready", "exports")} == {
        "transport": "shm", "name": "pool", "pid": os.getpid(), "ready": True, "exports": ["echo"],
    }  # fmt: skip
    assert report["executors"] == {"size": 2, "idle": 1, "busy": 1, "starting": 0, "pids": [os.getpid()] * 2}
    assert {
        name: report[name] for name in ("queue_depth", "max_queue", "in_flight", "clients", "outcomes")
    } == {"queue_depth": 1, "max_queue": 8, "in_flight": 1, "clients": 1, "outcomes": {}}


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
    stage.supervisor.settle()
    facts = {
        fact.name: stage.arena.gauge(fact)
        for fact in (
            Gauge.EXECUTOR_STARTS, Gauge.EXECUTOR_DEATHS, Gauge.RECYCLED, Gauge.FORKSERVER_PID,
            Gauge.CAPACITY,
        )
    }  # fmt: skip
    assert facts == {
        "EXECUTOR_STARTS": 3, "EXECUTOR_DEATHS": 1, "RECYCLED": 0, "FORKSERVER_PID": os.getpid(),
        "CAPACITY": 8,
    }  # fmt: skip


def test_one_that_says_anything_unexpected_is_killed(stage: ShmStage) -> None:
    player, _ = stage.start()
    channel = player.take(Caller(stage, 1))
    player.child.greet()
    assert player.killed()
    assert "executor_broke_protocol" in stage.log()
    assert stage.state(channel) is ChannelState.CLAIMED  # its request is its own until it is reaped


def test_an_error_before_the_wait_costs_that_turn(stage: ShmStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage.supervisor, "_counters", None)
    stage.supervisor.settle()
    assert "supervisor_bug" in stage.log()
    stage.forget_log()
