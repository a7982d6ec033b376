"""The binding keeps nothing: neither references nor memory, however often it is called."""

import contextlib
import ctypes
import gc
import mmap
import os
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import pytest

from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.ipc.shm.layout import ChannelState, SlotGauge
from tests.support.handover import (
    MAX_BYTES,
    RING,
    arena_in,
    channel_of,
    core,
    new_arena,
    new_memory,
    publish,
    put,
    reply,
    request,
    response,
    slot_of,
    state_on,
)
from tests.support.processes import exit_code, fork

CALLS = 200_000
#: Less than a byte a call.
GROWTH_BYTES = 150_000
DOORBELL_BYTES = 64


def rss() -> int:
    gc.collect()
    return int(psutil.Process(os.getpid()).memory_info().rss)


class Calls:
    """One way a call can go, to be repeated."""

    def __init__(self) -> None:
        self.arena = new_arena()
        self.channel, self.slot = channel_of(self.arena), slot_of(self.arena)
        self.request = request(7, b"some bytes", "entry", deadline_ns=5, sent_ns=6)
        self.response = response(7, b"other bytes", queue_us=1, exec_us=2)

    def _claim(self) -> Any:
        assert self.channel.publish(self.request, 9, 0) == core.ADMITTED
        assert self.slot.next() == core.REQUEST
        got = self.slot.receive(MAX_BYTES)
        self.slot.begin(SlotGauge.SERIAL, 5, 8)
        return got

    def answered(self) -> None:
        self._claim()
        assert reply(self.slot, self.response) == core.TRANSFERRED
        assert self.channel.wait(0) == core.OUTCOME
        assert self.channel.take().payload == b"other bytes"
        self.channel.clear()

    def failed(self) -> None:
        self._claim()
        assert self.slot.fail(7)
        assert self.channel.take() == 7
        self.channel.clear()

    def given_up(self) -> None:
        self._claim()
        assert self.channel.give_up() == ChannelState.CLAIMED
        assert reply(self.slot, self.response) == core.LOST
        assert self.channel.take() is None
        self.channel.clear()

    def refused(self) -> None:
        assert self.channel.publish(request(entry=""), 9, 0) == core.BAD_FRAME
        assert self.channel.publish(request(entry="\ud800"), 9, 0) == core.BAD_FRAME
        for bad in (None, b"x", request(payload=None), request(number=-1)):  # type: ignore[arg-type]
            try:
                self.channel.publish(bad, 9, 0)
            except (TypeError, AttributeError, OverflowError):
                continue
            raise AssertionError("it was published")

    def corrupt(self) -> None:
        assert self.channel.publish(self.request, 9, 0) == core.ADMITTED
        assert self.slot.next() == core.REQUEST
        try:
            self.slot.receive(10)
        except core.Corrupt:
            assert self.slot.fail(4)
        assert self.channel.take() == 4

    def looked_at(self) -> None:
        arena = self.arena
        arena.histograms(0)
        arena.request_bytes(0, 100)
        arena.word(0), arena.gauge(0), arena.slot_gauge(0, 0), arena.in_use, arena.ready()
        for bad in (arena.word, arena.slot_state, arena.retire):
            try:
                bad(99)
            except IndexError:
                continue
            raise AssertionError("there are not so many")


WAYS = {
    "answered": (Calls.answered, CALLS), "failed": (Calls.failed, CALLS // 4),
    "given up": (Calls.given_up, CALLS // 4), "refused": (Calls.refused, CALLS // 20),
    "corrupt": (Calls.corrupt, CALLS // 10), "looked at": (Calls.looked_at, CALLS // 20),
}  # fmt: skip


@pytest.mark.parametrize(("way", "times"), WAYS.values(), ids=WAYS)
def test_memory_does_not_grow_with_the_number_of_calls(way: Callable[[Calls], None], times: int) -> None:
    calls = Calls()
    for _ in range(times // 10):
        way(calls)
    before = rss()
    for _ in range(times):
        way(calls)
    assert rss() - before < max(GROWTH_BYTES, 64 * 4096)


@pytest.mark.parametrize("way", [way for way, _ in WAYS.values()], ids=WAYS)
def test_no_object_is_kept_or_given_away(way: Callable[[Calls], None]) -> None:
    calls = Calls()
    watched = [None, True, Request, Response, Codec.MSGPACK, calls.request, calls.response, calls.arena]
    watched += [calls.request.payload, calls.response.payload, calls.request.entry, core.Corrupt]
    way(calls)
    calls.channel.clear()
    gc.collect()
    before = [sys.getrefcount(each) for each in watched]
    for _ in range(1000):
        way(calls)
    calls.channel.clear()
    gc.collect()
    after = [sys.getrefcount(each) for each in watched]
    assert [abs(now - then) < 100 for now, then in zip(after, before, strict=True)] == [True] * len(watched)


@pytest.mark.parametrize("way", [way for way, _ in WAYS.values()], ids=WAYS)
def test_no_block_of_python_s_memory_is_left(way: Callable[[Calls], None]) -> None:
    calls = Calls()
    for _ in range(100):
        way(calls)
    gc.collect()
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(2000):
            way(calls)
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert after - before < 2000


@pytest.mark.parametrize("how", ["answered", "failed", "given up", "given up while it runs", "busy"])
def test_a_channel_lets_go_of_the_bytes_of_a_call_when_that_has_ended(how: str) -> None:
    arena = new_arena()
    channel, slot = channel_of(arena, max_bytes=1 << 24), slot_of(arena)
    payload = bytes(1 << 20)  # its end is still to be sent
    before = sys.getrefcount(payload)
    if how == "busy":
        arena.reset_slot(0, 1)
        assert channel.publish(request(payload=payload), 0, 0) == core.BUSY
    else:
        assert channel.publish(request(payload=payload), 9, 0) == core.ADMITTED
    if how != "busy":
        assert sys.getrefcount(payload) == before + 1
    if how == "given up":
        channel.give_up()
    elif how != "busy":
        slot.next()
        if how == "answered":
            reply(slot, response(payload=b"early"))
        elif how == "failed":
            slot.fail(7)
        else:
            channel.give_up()
    channel.take()
    channel.clear()
    assert sys.getrefcount(payload) == before


def test_arenas_that_are_dropped_give_their_memory_back() -> None:
    def make() -> None:
        channels = [channel_of(new_arena(ring_bytes=1 << 16), index) for index in range(4)]
        assert channels[0].publish(request(), 9, 0) == core.ADMITTED

    for _ in range(20):
        make()
    before = rss()
    for _ in range(200):
        make()
    assert rss() - before < 4 << 20  # of 100 MiB


def test_arenas_that_could_not_be_made_let_go_of_the_buffer() -> None:
    memory = bytearray(4096)
    for bad in (
        lambda: core.Arena(memory),
        lambda: core.Arena(memory, 1, 1, 4096),
        lambda: core.ArenaView(memory),
    ):
        with pytest.raises(ValueError, match=r"arena|memory"):
            bad()
    memory += b"can be resized: nobody looks at it any more"


def test_an_arena_keeps_the_memory_that_it_looks_at_and_its_channels_keep_the_arena() -> None:
    memory = mmap.mmap(-1, core.arena_size(1, 1, 4096))
    channel = core.Channel(core.Arena(memory, 1, 1, 4096), 0, 100)
    gc.collect()
    with pytest.raises(BufferError):
        memory.close()
    assert channel.clear()
    del channel
    gc.collect()
    memory.close()


@contextlib.contextmanager
def guarded_memory(size: int) -> Iterator[memoryview]:
    """Memory of this many bytes. The very next byte behind it belongs to pages that nobody may touch."""
    guard = 64 * mmap.PAGESIZE
    inside = -(-size // mmap.PAGESIZE) * mmap.PAGESIZE
    whole = mmap.mmap(-1, inside + guard)
    with memoryview(whole) as view:
        start = ctypes.addressof(ctypes.c_char.from_buffer(whole, inside))
        assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(start), ctypes.c_size_t(guard), 0) == 0
        yield view[inside - size : inside]


@pytest.mark.parametrize("number", [4, 5, 2**32 - 1, 2**32, 2**64 - 1])
def test_a_scribbled_doorbell_s_number_leads_nowhere(number: int) -> None:
    """Not out of the arena, which would end the process, and not to another channel either."""
    size = core.arena_size(4, 2, RING)
    stride = core.arena_size(5, 2, RING) - size
    with guarded_memory(size) as memory:
        arena = arena_in(memory)
        channel, slot = channel_of(arena, 1), slot_of(arena)
        doorbells = [size - (4 - index) * stride for index in range(4)]
        listens = [at + DOORBELL_BYTES for at in doorbells]  # where the number of its doorbell stands
        assert [int.from_bytes(memory[at : at + 8], sys.byteorder) for at in listens] == [0, 1, 2, 3]

        def ring() -> None:
            assert channel.publish(request(), 9, 0) == core.ADMITTED
            memory[listens[1] : listens[1] + 8] = number.to_bytes(8, sys.byteorder)
            assert slot.next() == core.REQUEST
            slot.receive(MAX_BYTES)
            assert reply(slot, response()) == core.TRANSFERRED
            arena.ring_client(1)
            counts = [int.from_bytes(memory[at : at + 8], sys.byteorder) for at in doorbells]
            assert counts == [0, 0, 0, 0]

        assert exit_code(fork(ring)) == 0


def test_there_is_no_channel_slot_or_gauge_beyond_the_last() -> None:
    arena = new_arena(channels=4, slots=2)
    of_channels = (arena.word, arena.ring_client, arena.reset_channel, lambda index: channel_of(arena, index))
    of_slots = (
        arena.slot_state,
        arena.retires,
        arena.retire,
        arena.histograms,
        lambda index: slot_of(arena, index),
    )
    for calls, last in ((of_channels, 3), (of_slots, 1), ((arena.gauge,), 63)):
        for call in calls:
            call(last)
            with pytest.raises(IndexError):
                call(last + 1)


def test_who_gives_up_an_earlier_request_leaves_the_next_alone() -> None:
    arena = new_arena()
    channel = channel_of(arena)
    publish(channel, 1)
    earlier = channel.generation
    assert channel.give_up(False, earlier) == ChannelState.READY
    publish(channel, 2)
    assert channel.give_up(False, earlier) == ChannelState.IDLE
    assert state_on(arena) is ChannelState.READY
    assert channel.give_up(False, channel.generation) == ChannelState.READY


def test_a_reply_is_not_written_to_a_channel_that_was_taken_away() -> None:
    memory = new_memory()
    arena = arena_in(memory)
    channel, slot = channel_of(arena), slot_of(arena)
    publish(channel)
    assert slot.next() == core.REQUEST
    slot.receive(MAX_BYTES)
    put(arena, 0, arena.word(0) + (1 << 32))  # the next request, against the rules
    before = bytes(memory)
    assert reply(slot, response()) == core.LOST
    assert bytes(memory) == before


def test_a_geometry_that_was_scribbled_over_is_put_right() -> None:
    memory = new_memory()
    arena = arena_in(memory)
    before = memory[:40]
    memory[:40] = bytes(40)
    with pytest.raises(ValueError, match="not an arena to attach to"):
        core.ArenaView(memory)
    arena.repair()
    assert memory[:40] == before
    core.ArenaView(memory)
