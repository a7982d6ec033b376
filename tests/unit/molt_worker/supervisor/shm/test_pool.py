"""The pool as shared memory uses it: which executor sits in which seat, and what is done to it there."""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections.abc import Callable
from typing import Any

import pytest

from molt_accel.ipc.control import RECYCLE, WAKE, message
from molt_accel.ipc.frame import HELLO, Frame, Kind
from molt_accel.ipc.shm.layout import Outcome, SeatFact
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes import forkserver as wire
from molt_worker.processes import handles as process
from molt_worker.supervisor.shm.pool import ShmPool
from tests.support.handover import core, new_arena
from tests.support.scripted_forkserver import FakeTemplate, Stage


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


class Seats:
    """A pool with its stage, its owner and its arena."""

    def __init__(self, make_stage: Callable[..., Stage], **options: Any) -> None:
        self.owner, self.arena = Owner(), new_arena(seats=8)
        self.stage = make_stage(self._make_pool, **options)
        self.pool: ShmPool = self.stage.pool

    def _make_pool(self, stage: Stage) -> ShmPool:
        return ShmPool(stage.config, stage.loop, stage.sink, stage.counters, self.owner, self.arena)

    def start(self) -> FakeTemplate:
        """All executors are ready."""
        template = self.stage.start()
        for number, child in template.children.items():
            self.arena.set_seat_fact(child.slot, SeatFact.NUMBER, number)
            core.Seat(self.arena, child.slot, 0).open()
        self.owner.seen()
        template.told.clear()
        return template

    def turn(self) -> None:
        self.stage.turn()


@pytest.fixture
def seats(make_stage: Callable[..., Stage]) -> Seats:
    return Seats(make_stage)


def test_executors_are_told_of_and_sit_in_the_lowest_seats(seats: Seats) -> None:
    template = seats.stage.start()
    assert seats.owner.seen() == [("exports", 1), ("ready",), ("ready",)]
    assert {number: child.slot for number, child in template.children.items()} == {1: 0, 2: 1}


def test_there_are_as_many_executors_as_seats_at_most(make_stage: Callable[..., Stage]) -> None:
    seats = Seats(make_stage, executors=20)
    template = seats.stage.start()
    assert len(template.children) == 8
    seats.stage.reap(template, 1, 0)
    seats.stage.pass_time(10)
    assert len(template.children) == 9  # as soon as one is free
    assert template.children[9].slot == 0


def test_messages_of_executors_are_passed_on(seats: Seats) -> None:
    template = seats.start()
    template.children[1].send(message(WAKE, number=1))
    seats.turn()
    assert seats.owner.seen() == [("deadline",)]
    template.children[2].send(message(RECYCLE, number=2))
    seats.turn()
    assert (wire.SPAWN, 3) in template.told
    assert seats.stage.counters.recycled == 1
    assert seats.owner.seen() == []


def test_one_that_says_anything_else_is_killed(seats: Seats) -> None:
    template = seats.start()
    template.children[1].send(Frame(Kind.CONTROL, 1, HELLO))
    seats.turn()
    assert (wire.KILL, 1) in template.told
    assert "executor_broke_protocol" in seats.stage.log()
    assert seats.owner.seen() == []  # its requests are its own until it is reaped


def test_a_stop_is_for_the_one_in_the_seat_and_for_one_request(seats: Seats) -> None:
    template = seats.start()
    seats.pool._words.claim_of(1)[0] = 41
    seats.pool.stop_request(1, 41, StopReason.CANCELLED)
    seats.pool.stop_request(1, 42, StopReason.CANCELLED)  # another
    seats.pool.stop_request(7, 41, StopReason.CANCELLED)  # nobody's
    seats.turn()
    assert template.told == [(wire.INTERRUPT, 2)]
    reasons = [[seats.pool._words.word_of(slot).reason(serial) for serial in (41, 42)] for slot in (0, 1, 7)]
    assert reasons == [[0, 0], [StopReason.CANCELLED, 0], [0, 0]]


def test_a_kill_is_for_the_one_in_the_seat(seats: Seats) -> None:
    template = seats.start()
    seats.pool._words.claim_of(1)[0] = 41
    seats.pool.kill_seat(1, 41, entry="work")
    seats.turn()
    assert [told for told in template.told if told[0] == wire.KILL] == [(wire.KILL, 2)]
    assert "executor_killed executor=2 entry=work" in seats.stage.log()
    seats.pool.kill_seat(1, 41)  # it is being killed, and not reaped yet
    assert seats.stage.log().count("executor_killed") == 1
    assert seats.pool.claims() == {1: 41}  # it may still write
    seats.stage.reap(template, 2, -9)
    assert seats.pool.claims() == {}


@pytest.mark.parametrize(("slot", "serial"), [(7, 41), (0, 42), (0, 0), (0xFFFF, 41)])
def test_a_kill_of_nobody_kills_nobody(seats: Seats, slot: int, serial: int) -> None:
    template = seats.start()
    seats.pool._words.claim_of(0)[0] = 41
    seats.pool.kill_seat(slot, serial)
    seats.turn()
    assert template.told == []


@pytest.mark.parametrize("code", [0, 3, -signal.SIGKILL])
def test_the_owner_puts_things_right_before_the_seat_is_another_s(seats: Seats, code: int) -> None:
    template = seats.start()
    number_then = []
    seats.owner.on_executor_reaped = lambda slot, exit_code: number_then.append(  # type: ignore[method-assign]
        (slot, exit_code, seats.arena.seat_fact(slot, SeatFact.NUMBER), seats.pool._words.left)
    )
    seats.stage.reap(template, 1, code)
    assert number_then == [(0, code, 1, 5)]  # eight seats, two of the pool, one of the successor
    assert seats.arena.seat_fact(0, SeatFact.NUMBER) == 0
    assert seats.arena.seat_fact(0, SeatFact.INCARNATION) == 1
    assert seats.pool._words.left == 6


def test_those_that_died_with_their_template_have_no_exit_code(seats: Seats) -> None:
    template = seats.start()
    template.kill()
    seats.turn()
    assert [each for each in seats.owner.seen() if each[0] == "reaped"] == [
        ("reaped", 0, None),
        ("reaped", 1, None),
    ]


def test_one_that_was_replaced_retires_when_it_likes(seats: Seats) -> None:
    template = seats.start()
    leaving = core.Seat(seats.arena, 0, 0)
    template.children[1].send(message(RECYCLE, number=1))
    seats.turn()
    template.children[3].greet()
    seats.turn()
    assert leaving.next() == core.RETIRE
    assert wire.KILL not in [command for command, _ in template.told]
    seats.stage.reap(template, 1, 0)
    assert seats.stage.counters.executor_deaths == 0


def test_what_earlier_executors_of_a_seat_served_is_not_the_next_one_s(seats: Seats) -> None:
    template = seats.start()
    executor = seats.pool._executors[1]
    for outcome, count in ((Outcome.Ok, 5), (Outcome.Timeout, 2)):
        seats.arena.set_seat_fact(0, SeatFact.OUTCOMES + outcome, count)
    assert seats.pool._served(executor) == 7
    seats.stage.reap(template, 1, -9)
    assert seats.arena.seat_fact(0, SeatFact.SERVED_BEFORE) == 7
    seats.arena.set_seat_fact(0, SeatFact.OUTCOMES + Outcome.Ok, 6)
    assert seats.pool._served(executor) == 1  # as whoever comes next in the seat


def test_what_is_said_of_it_is_what_the_seats_say(seats: Seats) -> None:
    template = seats.stage.load()
    starting = {"size": 2, "idle": 0, "busy": 0, "starting": 2, "pids": [os.getpid()] * 2}
    assert seats.pool.describe() == starting
    for child in template.children.values():
        child.greet()
        core.Seat(seats.arena, child.slot, 0).open()
    seats.turn()
    assert seats.pool.describe() == {**starting, "idle": 2, "starting": 0}


def test_without_a_descriptor_for_another_executor_it_tries_again_and_loses_no_seat(
    seats: Seats, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = seats.start()
    real = socket.socketpair

    def refuse(*args: Any) -> Any:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(process.socket, "socketpair", refuse)
    seats.stage.reap(template, 1, -9)
    for _ in range(20):
        seats.stage.pass_time(1)
    assert seats.pool._words.left == 7
    assert list(template.children) == [1, 2]
    monkeypatch.setattr(process.socket, "socketpair", real)
    seats.stage.pass_time(1)
    assert template.children[3].slot == 0
