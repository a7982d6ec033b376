"""Any order of what clients, executors and the supervisor do, against a plain model of the hand-over.

Payloads are up to several rings long, so that rings wrap, fill and run empty; after each step all words of the arena
must be what the model says, and what arrives must be what was sent.
"""

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

from molt_accel.ipc.messages import Response
from molt_accel.ipc.shm.layout import HELD, ChannelState, SlotGauge, generation_of, idle_word, with_state
from tests.support.handover import MAX_BYTES, RING, Running, core, new_arena, reply, request, response

FUZZING = os.environ.get("MOLT_HYPOTHESIS_PROFILE") == "fuzz"
CHANNELS, SLOTS = 4, 2
#: Mostly small; also what fills a ring or streams through it.
sizes = st.integers(0, 300) | st.integers(RING - 100, RING) | st.integers(0, 4 * RING)


@dataclass
class ChannelModel:
    """A channel, its client's part included."""

    native: Any
    state: ChannelState = ChannelState.IDLE
    generation: int = 0
    slot: int = 0
    epoch: int = 0
    ticket: int = -1
    number: int = 0  #: of the request
    size: int = 0  #: of its payload
    outcome: Response | int | None = None  #: what `take` shall give
    open: bool = False  #: the client has not taken, nor given up

    @property
    def word(self) -> int:
        held = self.state not in (ChannelState.IDLE, ChannelState.READY)
        slot = self.slot << 8 | self.epoch << 24 if held else 0
        return self.state | slot | self.generation << 32


@dataclass
class SlotModel:
    """An executor's slot."""

    index: int
    native: Any = None
    state: int = 0
    epoch: int = 0
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
        self.arena = new_arena(CHANNELS, SLOTS)
        self.channels = [
            ChannelModel(core.Channel(self.arena, index, MAX_BYTES)) for index in range(CHANNELS)
        ]
        self.slots = [SlotModel(index) for index in range(SLOTS)]
        for slot in self.slots:
            self._start(slot)
        self.tickets = 0
        self.numbers = 0

    # -- the model's own -----------------------------------------------------------------------------------
    def _start(self, slot: SlotModel) -> None:
        slot.native = core.Slot(self.arena, slot.index, slot.epoch)
        slot.native.open()
        slot.state, slot.channel, slot.received = core.SLOT_IDLE, -1, False

    def _queue(self) -> list[int]:
        """Channels with a queued request, in the order of their tickets."""
        ready = [index for index, each in enumerate(self.channels) if each.state is ChannelState.READY]
        return sorted(ready, key=lambda index: self.channels[index].ticket)

    def _holds(self, slot: SlotModel) -> bool:
        """Whether what it claimed is still its own."""
        if slot.channel < 0:
            return False
        channel = self.channels[slot.channel]
        return channel.state in HELD and channel.word >> 8 == slot.word >> 8

    def _while_client_moves(self, work: Callable[[], Any], channel: ChannelModel) -> Any:
        """Have an executor move bytes, which takes its client, if that is there."""
        executor = Running(work)
        while executor.thread.is_alive():
            if channel.open:
                channel.native.wait(time.monotonic_ns() + 1_000_000)
            executor.thread.join(0.0001 if channel.open else 60)
        return executor.result()

    # -- clients -------------------------------------------------------------------------------------------
    def _channels_in(self, *states: ChannelState) -> list[ChannelModel]:
        return [each for each in self.channels if each.state in states]

    @rule(data=st.data(), size=sizes, capacity=st.integers(0, 3), waiting=st.integers(0, 2))
    def publish(self, data: st.DataObject, size: int, capacity: int, waiting: int) -> None:
        channel = data.draw(st.sampled_from(self._channels_in(ChannelState.IDLE) or self.channels))
        self.numbers += 1
        frame = request(self.numbers, payload(self.numbers, size))
        ahead = len(self._queue())
        idle = sum(slot.state == core.SLOT_IDLE for slot in self.slots)
        over = 0 if ahead < capacity + idle else ahead - capacity - idle + 1
        verdict = channel.native.publish(frame, capacity, waiting)
        if channel.state is not ChannelState.IDLE:
            assert verdict == core.NOT_IDLE
            channel.open = False  # its bytes are overwritten; a client does so once, and ends its connection
            return
        channel.generation += 1
        channel.ticket, self.tickets = self.tickets, self.tickets + 1
        if over > waiting:
            assert verdict == core.BUSY
            return
        assert verdict == (core.WAITING if over else core.ADMITTED)
        assert channel.native.excess(capacity) == over
        channel.state, channel.open, channel.outcome = ChannelState.READY, True, None
        channel.number, channel.size = self.numbers, size

    @precondition(lambda self: self._channels_in(*set(ChannelState) - {ChannelState.IDLE}))
    @rule(data=st.data(), only_queued=st.booleans())
    def give_up(self, data: st.DataObject, only_queued: bool) -> None:
        channel = data.draw(st.sampled_from(self._channels_in(*set(ChannelState) - {ChannelState.IDLE})))
        assert channel.native.give_up(only_queued) == channel.state
        if channel.state is ChannelState.READY:
            channel.state, channel.open = ChannelState.IDLE, False
        elif channel.state is ChannelState.CLAIMED and not only_queued:
            channel.state, channel.open = ChannelState.ABANDONED, False

    @precondition(lambda self: any(each.open for each in self.channels))
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from([each for each in self.channels if each.open]))
        code = channel.native.wait(0)
        assert (code == core.OUTCOME) == (channel.state in (ChannelState.DONE, ChannelState.FAILED))
        if code == core.OUTCOME:
            assert channel.native.take() == channel.outcome
            channel.state, channel.open = ChannelState.IDLE, False
            assert channel.native.clear()

    def _left_behind(self) -> list[ChannelModel]:
        """Channels that nobody waits for any more."""
        return [each for each in self.channels if not each.open and each.state is not ChannelState.IDLE]

    @precondition(lambda self: self._left_behind())
    @rule(data=st.data())
    def clear(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self._left_behind()))
        if channel.state in (ChannelState.DONE, ChannelState.FAILED):
            channel.state = ChannelState.IDLE
        assert channel.native.clear() == (channel.state is ChannelState.IDLE)

    # -- executors -----------------------------------------------------------------------------------------
    def _free_slots(self) -> list[SlotModel]:
        return [slot for slot in self.slots if not self._holds(slot)]

    @precondition(lambda self: self._queue() and self._free_slots())
    @rule(data=st.data())
    def claim(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self._free_slots()))
        first = self._queue()[0]
        assert slot.native.next() == core.REQUEST
        assert slot.native.channel == first
        channel = self.channels[first]
        channel.state, channel.slot, channel.epoch = ChannelState.CLAIMED, slot.index, slot.epoch
        slot.channel, slot.word, slot.state, slot.received = first, channel.word, core.SLOT_BUSY, False

    def _at_work(self, received: bool) -> list[SlotModel]:
        """Slots whose executors can move bytes. One that is being killed is not followed any more."""
        return [
            slot
            for slot in self.slots
            if self._holds(slot)
            and slot.received == received
            and self.channels[slot.channel].state is not ChannelState.KILLING
        ]

    @precondition(lambda self: self._at_work(received=False))
    @rule(data=st.data())
    def receive(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(self._at_work(received=False)))
        channel = self.channels[slot.channel]
        if not channel.open and channel.state is ChannelState.CLAIMED:
            return  # its client has broken the rules, and sends nothing more
        got = self._while_client_moves(lambda: slot.native.receive(MAX_BYTES), channel)
        if isinstance(got, int):
            assert got == core.LOST
            assert channel.state is ChannelState.ABANDONED
            slot.received = None
            return
        assert (got.request_id, got.payload) == (channel.number, payload(channel.number, channel.size))
        slot.received = True

    @precondition(lambda self: self._at_work(received=True))
    @rule(data=st.data(), size=sizes)
    def reply(self, data: st.DataObject, size: int) -> None:
        slot = data.draw(st.sampled_from(self._at_work(received=True)))
        channel = self.channels[slot.channel]
        if not channel.open and channel.state is ChannelState.CLAIMED:
            return
        answer = response(channel.number, payload(channel.number + 1, size))
        code = self._while_client_moves(lambda: reply(slot.native, answer), channel)
        if channel.state is ChannelState.CLAIMED:
            assert code == core.TRANSFERRED
            channel.state, channel.outcome = ChannelState.DONE, answer
            slot.state = core.SLOT_IDLE
            return
        assert code == core.LOST
        # One that fits is written before it is seen that nobody wants it, and ends the request.
        if ChannelState(self.arena.word(slot.channel) & 0xFF) is ChannelState.IDLE:
            channel.state, slot.state = ChannelState.IDLE, core.SLOT_IDLE
        else:
            assert size > RING - 200
            slot.received = None

    @precondition(lambda self: self._queue() and self._free_slots())
    @rule(data=st.data(), size=sizes)
    def serve(self, data: st.DataObject, size: int) -> None:
        """As it goes mostly."""
        self.claim(data)
        if self._at_work(received=False):
            self.receive(data)
        if self._at_work(received=True):
            self.reply(data, size)

    @precondition(lambda self: any(slot.channel >= 0 for slot in self.slots))
    @rule(data=st.data(), reason=st.integers(0, 2**64 - 1))
    def fail(self, data: st.DataObject, reason: int) -> None:
        slot = data.draw(st.sampled_from([slot for slot in self.slots if slot.channel >= 0]))
        mine = self._holds(slot)
        channel = self.channels[slot.channel]
        answered = slot.native.fail(reason)
        assert answered == (mine and channel.state is ChannelState.CLAIMED)
        if not mine:
            return
        if answered:
            channel.state, channel.outcome = ChannelState.FAILED, reason
        elif channel.state is ChannelState.ABANDONED:
            channel.state = ChannelState.IDLE
        slot.state = core.SLOT_BUSY if channel.state is ChannelState.KILLING else core.SLOT_IDLE

    # -- the supervisor ------------------------------------------------------------------------------------
    @precondition(lambda self: self._channels_in(ChannelState.CLAIMED, ChannelState.ABANDONED))
    @rule(data=st.data())
    def kill(self, data: st.DataObject) -> None:
        channel = data.draw(st.sampled_from(self._channels_in(ChannelState.CLAIMED, ChannelState.ABANDONED)))
        assert self.arena.step(
            channel.native.index, channel.word, with_state(channel.word, ChannelState.KILLING)
        )
        channel.state = ChannelState.KILLING

    @precondition(lambda self: self._channels_in(*HELD))
    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """Whatever an executor was at, it is dead and reaped, and another takes its slot."""
        slot = self.slots[data.draw(st.sampled_from(self._channels_in(*HELD))).slot]
        for at, channel in enumerate(self.channels):
            if channel.state in HELD and (channel.slot, channel.epoch) == (slot.index, slot.epoch):
                abandoned = channel.state is ChannelState.ABANDONED
                after = (
                    idle_word(channel.word) if abandoned else with_state(channel.word, ChannelState.FAILED)
                )
                self.arena.set_failure(at, 77)
                assert self.arena.step(at, channel.word, after)
                channel.state, channel.outcome = ChannelState(after & 0xFF), 77
        self.arena.reset_slot(slot.index, SlotGauge.OUTCOMES)
        slot.epoch = (slot.epoch + 1) & 0xFF
        self._start(slot)

    # -- what must hold ------------------------------------------------------------------------------------
    @invariant()
    def every_word_is_as_the_model_says(self) -> None:
        assert [self.arena.word(index) for index in range(CHANNELS)] == [each.word for each in self.channels]
        assert [self.arena.slot_state(index) for index in range(SLOTS)] == [slot.state for slot in self.slots]
        assert self.arena.ready() == len(self._queue())

    @invariant()
    def a_channel_is_held_by_one_executor_at_most_and_an_executor_holds_one(self) -> None:
        held = [
            (each.slot, each.epoch)
            for each in self.channels
            if generation_of(each.word) and each.state in HELD
        ]
        assert len(held) == len(set(held))


TestHandover = Handover.TestCase
TestHandover.settings = settings(max_examples=5000 if FUZZING else 100, stateful_step_count=50, deadline=None)
