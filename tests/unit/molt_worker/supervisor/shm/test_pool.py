"""The pool as shared memory uses it: which executor sits in which slot, and what is done to it there."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from molt_accel.ipc.control import RECYCLE, WAKE, message
from molt_accel.ipc.messages import Hello
from molt_accel.ipc.shm.layout import Outcome, SlotGauge
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes import handles as process
from molt_worker.processes.commands import Interrupt, Kill, Spawn
from molt_worker.supervisor.shm.pool import ShmPool
from tests.support.handover import core, new_arena
from tests.support.scripted_forkserver import FakeForkserver, Stage


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def seen(self) -> list[tuple[Any, ...]]:
        """What it was told since it was asked last."""
        told, self.told = self.told, []
        return told

    def on_exports(self, exports: ExportTable) -> None:
        self.told.append(("exports", len(exports)))

    def on_start_failed(self, why: str) -> None:
        self.told.append(("start failed", why))

    def on_executor_ready(self) -> None:
        self.told.append(("ready",))

    def on_deadline_set(self) -> None:
        self.told.append(("deadline",))

    def on_executor_reaped(self, slot: int, exit_code: int | None) -> None:
        self.told.append(("reaped", slot, exit_code))


class Slots:
    """A pool with its stage, its owner and its arena."""

    def __init__(self, make_stage: Callable[..., Stage], **options: Any) -> None:
        self.owner, self.arena = Owner(), new_arena(slots=8)
        self.stage = make_stage(self._make_pool, **options)
        self.pool: ShmPool = self.stage.pool

    def _make_pool(self, stage: Stage) -> ShmPool:
        return ShmPool(stage.config, stage.loop, stage.sink, stage.counters, self.owner, self.arena)

    def start(self) -> FakeForkserver:
        """All executors are ready."""
        forkserver = self.stage.start()
        for number, child in forkserver.children.items():
            self.arena.set_slot_gauge(child.slot, SlotGauge.NUMBER, number)
            core.Slot(self.arena, child.slot, 0).open()
        self.owner.seen()
        forkserver.told.clear()
        return forkserver

    def turn(self) -> None:
        self.stage.turn()


@pytest.fixture
def slots(make_stage: Callable[..., Stage]) -> Slots:
    return Slots(make_stage)


def test_executors_are_told_of_and_sit_in_the_lowest_slots(slots: Slots) -> None:
    forkserver = slots.stage.start()
    assert slots.owner.seen() == [("exports", 1), ("ready",), ("ready",)]
    assert {number: child.slot for number, child in forkserver.children.items()} == {1: 0, 2: 1}


def test_there_are_as_many_executors_as_slots_at_most(make_stage: Callable[..., Stage]) -> None:
    slots = Slots(make_stage, executors=20)
    forkserver = slots.stage.start()
    assert len(forkserver.children) == 8
    slots.stage.reap(forkserver, 1, 0)
    slots.stage.pass_time(10)
    assert len(forkserver.children) == 9  # as soon as one is free
    assert forkserver.children[9].slot == 0


def test_messages_of_executors_are_passed_on(slots: Slots) -> None:
    forkserver = slots.start()
    forkserver.children[1].send(message(WAKE, number=1))
    slots.turn()
    assert slots.owner.seen() == [("deadline",)]
    forkserver.children[2].send(message(RECYCLE, number=2))
    slots.turn()
    assert any(isinstance(told, Spawn) and told.executor == 3 for told in forkserver.told)
    assert slots.stage.counters.recycled == 1
    assert slots.owner.seen() == []


def test_one_that_says_anything_else_is_killed(slots: Slots) -> None:
    forkserver = slots.start()
    forkserver.children[1].send(Hello())
    slots.turn()
    assert Kill(1) in forkserver.told
    assert "executor_broke_protocol" in slots.stage.log()
    assert slots.owner.seen() == []  # its requests are its own until it is reaped


def test_a_stop_is_for_the_one_in_the_slot_and_for_one_request(slots: Slots) -> None:
    forkserver = slots.start()
    slots.pool._words.claim_of(1)[0] = 41
    slots.pool.stop_request(1, 41, StopReason.CANCELLED)
    slots.pool.stop_request(1, 42, StopReason.CANCELLED)  # another
    slots.pool.stop_request(7, 41, StopReason.CANCELLED)  # nobody's
    slots.turn()
    assert forkserver.told == [Interrupt(2)]
    reasons = [[slots.pool._words.word_of(slot).reason(serial) for serial in (41, 42)] for slot in (0, 1, 7)]
    assert reasons == [[0, 0], [StopReason.CANCELLED, 0], [0, 0]]


def test_a_kill_is_for_the_one_in_the_slot(slots: Slots) -> None:
    forkserver = slots.start()
    slots.pool._words.claim_of(1)[0] = 41
    slots.pool.kill_slot(1, 41, entry="work")
    slots.turn()
    assert [told for told in forkserver.told if isinstance(told, Kill)] == [Kill(2)]
    assert "executor_killed executor=2 entry=work" in slots.stage.log()
    slots.pool.kill_slot(1, 41)  # it is being killed, and not reaped yet
    assert slots.stage.log().count("executor_killed") == 1
    assert slots.pool.claims() == {1: 41}  # it may still write
    slots.stage.reap(forkserver, 2, -9)
    assert slots.pool.claims() == {}


@pytest.mark.parametrize(("slot", "serial"), [(7, 41), (0, 42), (0, 0), (0xFFFF, 41)])
def test_a_kill_of_nobody_kills_nobody(slots: Slots, slot: int, serial: int) -> None:
    forkserver = slots.start()
    slots.pool._words.claim_of(0)[0] = 41
    slots.pool.kill_slot(slot, serial)
    slots.turn()
    assert forkserver.told == []


@pytest.mark.parametrize("code", [0, 3, -signal.SIGKILL])
def test_the_owner_puts_things_right_before_the_slot_is_another_s(slots: Slots, code: int) -> None:
    forkserver = slots.start()
    number_then = []
    slots.owner.on_executor_reaped = lambda slot, exit_code: number_then.append(  # type: ignore[method-assign]
        (slot, exit_code, slots.arena.slot_gauge(slot, SlotGauge.NUMBER), slots.pool._words.left)
    )
    slots.stage.reap(forkserver, 1, code)
    assert number_then == [(0, code, 1, 5)]  # eight slots, two of the pool, one of the successor
    assert slots.arena.slot_gauge(0, SlotGauge.NUMBER) == 0
    assert slots.arena.slot_gauge(0, SlotGauge.EPOCH) == 1
    assert slots.pool._words.left == 6


def test_those_that_died_with_their_forkserver_have_no_exit_code(slots: Slots) -> None:
    forkserver = slots.start()
    forkserver.kill()
    slots.turn()
    assert [each for each in slots.owner.seen() if each[0] == "reaped"] == [
        ("reaped", 0, None),
        ("reaped", 1, None),
    ]


def test_one_that_was_replaced_retires_when_it_likes(slots: Slots) -> None:
    forkserver = slots.start()
    leaving = core.Slot(slots.arena, 0, 0)
    forkserver.children[1].send(message(RECYCLE, number=1))
    slots.turn()
    forkserver.children[3].greet()
    slots.turn()
    assert leaving.next() == core.RETIRE
    assert not any(isinstance(told, Kill) for told in forkserver.told)
    slots.stage.reap(forkserver, 1, 0)
    assert slots.stage.counters.executor_deaths == 0


def test_what_earlier_executors_of_a_slot_served_is_not_the_next_one_s(slots: Slots) -> None:
    forkserver = slots.start()
    executor = slots.pool._executors[1]
    for outcome, count in ((Outcome.Ok, 5), (Outcome.Timeout, 2)):
        slots.arena.set_slot_gauge(0, SlotGauge.OUTCOMES + outcome, count)
    assert slots.pool._served(executor) == 7
    slots.stage.reap(forkserver, 1, -9)
    assert slots.arena.slot_gauge(0, SlotGauge.SERVED_BEFORE) == 7
    slots.arena.set_slot_gauge(0, SlotGauge.OUTCOMES + Outcome.Ok, 6)
    assert slots.pool._served(executor) == 1  # as whoever comes next in the slot


def test_what_is_said_of_it_is_what_the_slots_say(slots: Slots) -> None:
    forkserver = slots.stage.load()
    starting = {"size": 2, "idle": 0, "busy": 0, "starting": 2, "pids": [os.getpid()] * 2}
    assert slots.pool.describe() == starting
    for child in forkserver.children.values():
        child.greet()
        core.Slot(slots.arena, child.slot, 0).open()
    slots.turn()
    assert slots.pool.describe() == {**starting, "idle": 2, "starting": 0}


def test_without_a_descriptor_for_another_executor_it_tries_again_and_loses_no_slot(
    slots: Slots, monkeypatch: pytest.MonkeyPatch
) -> None:
    forkserver = slots.start()
    real = socket.socketpair

    def refuse(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process.socket, "socketpair", refuse)
    slots.stage.reap(forkserver, 1, -9)
    for _ in range(20):
        slots.stage.pass_time(1)
    assert slots.pool._words.left == 7
    assert list(forkserver.children) == [1, 2]
    monkeypatch.setattr(process.socket, "socketpair", real)
    slots.stage.pass_time(1)
    assert forkserver.children[3].slot == 0
