"""Any order of what clients, executors and the supervisor do, against a plain model of the hand-over.

Payloads are up to several rings long, so that rings wrap, fill and run empty; after each step all words of the arena
must be what the model says, and what arrives must be what was sent.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

if sys.platform != "linux":
    pytest.skip("shared memory is served on Linux only", allow_module_level=True)

from molt_accel.ipc.frame import Frame
from molt_accel.ipc.shm.layout import HELD, SeatFact, State, generation_of, idle_word, with_state
from tests.support.handover import (
    MAX_BYTES,
    RING,
    Running,
    core,
    new_arena,
    reply,
    request,
    response,
)

FUZZING = os.environ.get("MOLT_HYPOTHESIS_PROFILE") == "fuzz"
CHANNELS, SEATS = 4, 2
#: Mostly small; also what fills a ring or streams through it.
sizes = st.integers(0, 300) | st.integers(RING - 100, RING) | st.integers(0, 4 * RING)


@dataclass
class ChannelModel:
    """A channel, its client's part included."""

    native: Any
    state: State = State.IDLE
    generation: int = 0
    seat: int = 0
    incarnation: int = 0
    ticket: int = -1
    number: int = 0  #: of the request
    size: int = 0  #: of its payload
    outcome: Frame | int | None = None  #: what `take` shall give
    open: bool = False  #: the client has not taken, nor given up

    @property
    def word(self) -> int:
        held = self.state not in (State.IDLE, State.READY)
        seat = self.seat << 8 | self.incarnation << 24 if held else 0
        return self.state | seat | self.generation << 32


@dataclass
class SeatModel:
    """An executor's seat."""

    index: int
    native: Any = None
    state: int = 0
    incarnation: int = 0
    channel: int = -1  #: what its executor has claimed
    word: int = 0
    received: bool | None = False  #: None: its bytes didn't move, and all it may do is to end the request


def payload(number: int, size: int) -> bytes:
    """Bytes that no other request or reply has."""
    pattern = b"".join((number * 1000 + at).to_bytes(4, "little") for at in range(64))
    return (pattern * (size // len(pattern) + 1))[:size]


class Handover(RuleBasedStateMachine):
    """The arena and its model, side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.arena = new_arena(CHANNELS, SEATS)
        self.channels = [
            ChannelModel(core.Channel(self.arena, index, MAX_BYTES)) for index in range(CHANNELS)
        ]
        self.seats = [SeatModel(index) for index in range(SEATS)]
        for seat in self.seats:
            self._start(seat)
        self.tickets = 0
        self.numbers = 0

    # -- the model's own -----------------------------------------------------------------------------------

    def _start(self, seat: SeatModel) -> None:
        seat.native = core.Seat(self.arena, seat.index, seat.incarnation)
        seat.native.open()
        seat.state, seat.channel, seat.received = core.SEAT_IDLE, -1, False

    def _queue(self) -> list[int]:
        """Channels with a queued request, in the order of their tickets."""
        ready = [index for index, each in enumerate(self.channels) if each.state is State.READY]
        return sorted(ready, key=lambda index: self.channels[index].ticket)

    def _holds(self, seat: SeatModel) -> bool:
        """Whether what it claimed is still its own."""
        if seat.channel < 0:
            return False
        channel = self.channels[seat.channel]
        return channel.state in HELD and channel.word >> 8 == seat.word >> 8

    def _while_client_moves(self, work: Callable[[], Any], channel: ChannelModel) -> Any:
        """Have an executor move bytes, which takes its client, if that is there."""
        executor = Running(work)
        while executor.thread.is_alive():
            if channel.open:
                channel.native.wait(time.monotonic_ns() + 1_000_000)
            executor.thread.join(0.0001 if channel.open else 60)
        return executor.result()

    # -- clients -------------------------------------------------------------------------------------------

    def _channels_in(self, *states: State) -> list[ChannelModel]:
        return [each for each in self.channels if each.state in states]

    @rule(data=st.data(), size=sizes, places=st.integers(0, 3), waiting=st.integers(0, 2))
    def publish(self, data: st.DataObject, size: int, places: int, waiting: int) -> None:
        idle_ones = self._channels_in(State.IDLE)
        channel = data.draw(st.sampled_from(idle_ones or self.channels))
        self.numbers += 1
        frame = request(self.numbers, payload(self.numbers, size))
        ahead = len(self._queue())
        idle = sum(seat.state == core.SEAT_IDLE for seat in self.seats)
        over = 0 if ahead < places + idle else ahead - places - idle + 1
        verdict = channel.native.publish(frame, places, waiting)
        if channel.state is not State.IDLE:
            assert verdict == core.NOT_IDLE
            channel.open = False  # its bytes are overwritten; a client does so once, and ends its link
            return
        channel.generation += 1
        channel.ticket, self.tickets = self.tickets, self.tickets + 1
        if over > waiting:
            assert verdict == core.BUSY
            return
        assert verdict == (core.WAITING if over else core.ADMITTED)
        assert channel.native.over(places) == over
        channel.state, channel.open, channel.outcome = State.READY, True, None
        channel.number, channel.size = self.numbers, size

    @precondition(lambda self: self._channels_in(*set(State) - {State.IDLE}))
    @rule(data=st.data(), only_queued=st.booleans())
    def give_up(self, data: st.DataObject, only_queued: bool) -> None:
        channel = data.draw(st.sampled_from(self._channels_in(*set(State) - {State.IDLE})))
        assert channel.native.give_up(only_queued) == channel.state
        if channel.state is State.READY:
            channel.state, channel.open = State.IDLE, False
        elif channel.state is State.CLAIMED and not only_queued:
            channel.state, channel.open = State.ABANDONED, False

    @precondition(lambda self: any(each.open for each in self.channels))
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from([each for each in self.channels if each.open]))
        code = channel.native.wait(0)
        assert (code == core.OUTCOME) == (channel.state in (State.DONE, State.FAILED))
        if code == core.OUTCOME:
            assert channel.native.take() == channel.outcome
            channel.state, channel.open = State.IDLE, False
            assert channel.native.clear()

    def _left_behind(self) -> list[ChannelModel]:
        """Channels that nobody waits for any more."""
        return [each for each in self.channels if not each.open and each.state is not State.IDLE]

    @precondition(lambda self: self._left_behind())
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self._left_behind()))
        if channel.state in (State.DONE, State.FAILED):
            channel.state = State.IDLE
        assert channel.native.clear() == (channel.state is State.IDLE)

    # -- executors -----------------------------------------------------------------------------------------

    def _free_seats(self) -> list[SeatModel]:
        return [seat for seat in self.seats if not self._holds(seat)]

    @precondition(lambda self: self._queue() and self._free_seats())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self._free_seats()))
        first = self._queue()[0]
        assert seat.native.next() == core.REQUEST
        assert seat.native.channel == first
        channel = self.channels[first]
        channel.state, channel.seat, channel.incarnation = State.CLAIMED, seat.index, seat.incarnation
        seat.channel, seat.word, seat.state, seat.received = first, channel.word, core.SEAT_BUSY, False

    def _at_work(self, received: bool) -> list[SeatModel]:
        """Seats whose executors can move bytes. One that is being killed is not followed any more."""
        return [
            seat
            for seat in self.seats
            if self._holds(seat)
            and seat.received == received
            and self.channels[seat.channel].state is not State.KILLING
        ]

    @precondition(lambda self: self._at_work(received=False))
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        seat = data.draw(st.sampled_from(self._at_work(received=False)))
        channel = self.channels[seat.channel]
        if not channel.open and channel.state is State.CLAIMED:
            return  # its client has broken the rules, and sends nothing more
        got = self._while_client_moves(lambda: seat.native.receive(MAX_BYTES), channel)
        if isinstance(got, int):
            assert got == core.LOST
            assert channel.state is State.ABANDONED
            seat.received = None
            return
        assert (got.request_id, got.payload) == (channel.number, payload(channel.number, channel.size))
        seat.received = True

    @precondition(lambda self: self._at_work(received=True))
    @rule(data=st.data(), size=sizes)
    def reply(self, data: st.DataObject, size: int) -> None:
        seat = data.draw(st.sampled_from(self._at_work(received=True)))
        channel = self.channels[seat.channel]
        if not channel.open and channel.state is State.CLAIMED:
            return
        answer = response(channel.number, payload(channel.number + 1, size))
        code = self._while_client_moves(lambda: reply(seat.native, answer), channel)
        if channel.state is State.CLAIMED:
            assert code == core.TRANSFERRED
            channel.state, channel.outcome = State.DONE, answer
            seat.state = core.SEAT_IDLE
            return
        assert code == core.LOST
        # One that fits is written before it is seen that nobody wants it, and ends the request.
        if State(self.arena.word(seat.channel) & 0xFF) is State.IDLE:
            channel.state, seat.state = State.IDLE, core.SEAT_IDLE
        else:
            assert size > RING - 200
            seat.received = None

    @precondition(lambda self: self._queue() and self._free_seats())
    @rule(data=st.data(), size=sizes)
    def serve(self, data: st.DataObject, size: int) -> None:
        """As it goes mostly."""
        self.claim(data)
        if self._at_work(received=False):
            self.receive(data)
        if self._at_work(received=True):
            self.reply(data, size)

    @precondition(lambda self: any(seat.channel >= 0 for seat in self.seats))
    @rule(data=st.data(), reason=st.integers(0, 2**64 - 1))
    def fail(self, data: st.DataObject, reason: int) -> None:
        seat = data.draw(st.sampled_from([seat for seat in self.seats if seat.channel >= 0]))
        mine = self._holds(seat)
        channel = self.channels[seat.channel]
        answered = seat.native.fail(reason)
        assert answered == (mine and channel.state is State.CLAIMED)
        if not mine:
            return
        if answered:
            channel.state, channel.outcome = State.FAILED, reason
        elif channel.state is State.ABANDONED:
            channel.state = State.IDLE
        seat.state = core.SEAT_BUSY if channel.state is State.KILLING else core.SEAT_IDLE

    # -- the supervisor ------------------------------------------------------------------------------------

    @precondition(lambda self: self._channels_in(State.CLAIMED, State.ABANDONED))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self._channels_in(State.CLAIMED, State.ABANDONED)))
        assert self.arena.step(channel.native.index, channel.word, with_state(channel.word, State.KILLING))
        channel.state = State.KILLING

    @precondition(lambda self: self._channels_in(*HELD))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """Whatever an executor was at, it is dead and reaped, and another takes its seat."""
        seat = self.seats[data.draw(st.sampled_from(self._channels_in(*HELD))).seat]
        for at, channel in enumerate(self.channels):
            if channel.state in HELD and (channel.seat, channel.incarnation) == (
                seat.index,
                seat.incarnation,
            ):
                abandoned = channel.state is State.ABANDONED
                after = idle_word(channel.word) if abandoned else with_state(channel.word, State.FAILED)
                self.arena.set_failure(at, 77)
                assert self.arena.step(at, channel.word, after)
                channel.state, channel.outcome = State(after & 0xFF), 77
        self.arena.reset_seat(seat.index, SeatFact.OUTCOMES)
        seat.incarnation = (seat.incarnation + 1) & 0xFF
        self._start(seat)

    # -- what must hold ------------------------------------------------------------------------------------

    @invariant()
    def every_word_is_as_the_model_says(self) -> None:
        assert [self.arena.word(index) for index in range(CHANNELS)] == [each.word for each in self.channels]
        assert [self.arena.seat_state(index) for index in range(SEATS)] == [seat.state for seat in self.seats]
        assert self.arena.ready() == len(self._queue())

    @invariant()
    def a_channel_is_held_by_one_executor_at_most_and_an_executor_holds_one(self) -> None:
        held = [
            (each.seat, each.incarnation)
            for each in self.channels
            if generation_of(each.word) and each.state in HELD
        ]
        assert len(held) == len(set(held))


TestHandover = Handover.TestCase
TestHandover.settings = settings(max_examples=5000 if FUZZING else 100, stateful_step_count=50, deadline=None)
