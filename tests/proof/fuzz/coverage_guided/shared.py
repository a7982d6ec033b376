"""Fuzz targets of what reads shared memory: whatever stands there, it is read as what it is, or not believed."""

import functools
import json
import mmap
import os
import tempfile
import time
from typing import Any
from unittest import mock

from molt_accel.ipc.frame import PREFIX_BYTES, FrameError, Item, decode
from molt_accel.ipc.messages import Request, Response
from molt_accel.ipc.shm.layout import Gauge, SlotGauge
from molt_worker.cli import status_view
from molt_worker.cli.observer import PoolPlace
from molt_worker.processes import pool as pool_module
from molt_worker.supervisor.shm import snapshot, spinning
from tests.proof.fuzz.coverage_guided.taking import Bytes
from tests.support.handover import arena_in, channel_of, core, new_memory, reply, request, response, slot_of
from tests.support.scripted_forkserver import FakeForkserver
from tests.support.shm_testbed import Caller, ShmStage

_CHANNELS, _SLOTS, _RING = 2, 2, 4096
_STRIDE = core.arena_size(2, _SLOTS, _RING) - core.arena_size(1, _SLOTS, _RING)  #: from channel to channel
#: Size prefix, header and an entry of one byte: the shortest request.
_SHORTEST = PREFIX_BYTES + 81


class _HandedOver:
    """An arena with one channel, in whose rings the bytes stand that an input says."""

    def __init__(self) -> None:
        self.memory = new_memory(1, 1, _RING)
        self.arena = arena_in(self.memory, 1, 1, _RING)
        self.channel = channel_of(self.arena)
        self.slot = slot_of(self.arena)

    def put(self, rings_from_end: int, data: bytes) -> None:
        """Replace what was written to a ring."""
        at = len(self.memory) - rings_from_end * _RING
        self.memory[at : at + len(data)] = data

    def publish(self, size: int) -> None:
        """A request of so many bytes."""
        frame = request(payload=bytes(size - _SHORTEST), entry="e")
        assert self.channel.publish(frame, 9, 0) == core.ADMITTED
        assert self.slot.next() == core.REQUEST


_handed_over = functools.cache(_HandedOver)


def _judge(data: bytes) -> Item | None:
    """What frame.py says of bytes behind a length prefix; None if they are no frame of just that size."""
    size = int.from_bytes(data[:PREFIX_BYTES], "little")
    if size > len(data) - PREFIX_BYTES:
        return None
    try:
        return decode(data[PREFIX_BYTES : PREFIX_BYTES + size])
    except FrameError:
        return None


def requests(data: bytes) -> None:
    """The core reads a request as frame.py does, and takes no other bytes for one."""
    data = data[:_RING].ljust(_SHORTEST, b"\0")
    there = _handed_over()
    there.publish(len(data))
    there.put(2, data)
    try:
        got = there.slot.receive(len(data) - PREFIX_BYTES)
    except core.Corrupt:
        got = None
    expected = _judge(data)
    if type(got) is Request:
        assert isinstance(expected, Request)
        expected.queue_depth, expected.in_flight = 0, 1  # the core's to say
        assert got == expected
    else:
        assert not isinstance(expected, Request), (got, expected)
        assert got is None or type(got) is bytes
    assert there.slot.fail(7)
    assert there.channel.wait(0) == core.OUTCOME
    assert there.channel.take() == 7


def replies(data: bytes) -> None:
    """The core reads a reply as frame.py does, and takes no other bytes for one."""
    data = data[:_RING].ljust(_SHORTEST, b"\0")
    there = _handed_over()
    there.publish(_SHORTEST)
    there.slot.receive(_SHORTEST)
    assert reply(there.slot, response(payload=bytes(len(data) - _SHORTEST + 1))) == core.TRANSFERRED
    there.put(1, data)
    assert there.channel.wait(0) == core.OUTCOME
    try:
        got = there.channel.take()
    except core.Corrupt:
        got = None
    expected = _judge(data)
    whole = expected is not None and int.from_bytes(data[:PREFIX_BYTES], "little") == len(data) - PREFIX_BYTES
    if whole and isinstance(expected, Response):
        assert got == expected
    else:
        assert got is None
    assert there.channel.clear()


_PLACE = PoolPlace("pool", "directory", "path")


@functools.cache
def _looked_at() -> tuple[mmap.mmap, bytes, Any, Any]:
    memory = new_memory(_CHANNELS, _SLOTS, _RING)
    return memory, memory[:], arena_in(memory, _CHANNELS, _SLOTS, _RING), core.ArenaView(memory)


def snapshots(data: bytes) -> None:
    """A pool's picture can be taken and shown, whatever its words say."""
    memory, clean, arena, view = _looked_at()
    taken = Bytes(data)
    for channel in range(_CHANNELS):  # what it believes to be running
        asked = taken.some(taken.number(1))
        at = len(memory) - (_CHANNELS - 1 - channel) * _STRIDE - 2 * _RING
        memory[at : at + len(asked)] = asked
    _scribble(taken, arena, memory, len(memory) - 2 * _RING)
    before = snapshot.take(view, processes=False)
    now = snapshot.take(view, processes=False)
    json.dumps(now.as_dict())
    assert status_view.as_text(_PLACE, now).replace("\n", "").isprintable()
    if now.taken_ns > before.taken_ns:
        status_view.facts(_PLACE, now, before)
    memory[:] = clean


def _scribble(taken: Bytes, arena: Any, memory: mmap.mmap, end: int) -> None:
    """Store what a hostile client might, most of it not quite impossible, in the first bytes of an arena."""
    arena.set_in_use(arena.channels)
    while taken:
        which, index, width = taken.number(1), taken.number(1), 1 + taken.number(1) % 8
        value = taken.number(width)
        if which < 128:
            channel = index % arena.channels
            likely = (
                value & 7 | (value >> 3 & 3) << 8 | (value >> 5 & 1) << 24 | (value >> 6 & 0xFFFFFFFF) << 32
            )
            arena.step(channel, arena.word(channel), likely if which < 112 else value)
        elif which < 192:
            arena.set_slot_gauge(index % arena.slots, list(SlotGauge)[which % len(SlotGauge)], value)
        elif which < 224:
            arena.set_gauge(list(Gauge)[index % len(Gauge)], value)
        else:  # anywhere but in the geometry, which is read once
            at = 64 + (index << 8 | which) % (end - 64 - 8)
            memory[at : at + 8] = value.to_bytes(8, "little")


class _Supervised:
    """A supervisor with two executors that the fuzzer plays, and the memory that clients share with it."""

    def __init__(self) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="molt-fuzz-")
        self.forkservers: list[FakeForkserver] = []

        def make_forkserver(*args: Any) -> FakeForkserver:
            self.forkservers.append(FakeForkserver(*args))
            return self.forkservers[-1]

        limits = spinning.SpinLimits(0, 0, 0, 1, False)
        with (
            mock.patch.dict(os.environ, MOLT_RUNTIME_DIR=self._directory.name),
            mock.patch.object(pool_module.ForkserverHandle, "start", make_forkserver),
            mock.patch.object(spinning, "measure", return_value=limits),
        ):
            self.stage = ShmStage(arena_mb=1, log_level="error")
            self.stage.forkservers = self.forkservers
            self.stage.start()
            Caller(self.stage, 12)
        self.stage.sink._threshold = 100  # it has much to tell
        self.supervisor: Any = self.stage.supervisor
        self.memory = mmap.mmap(self.supervisor._arena_fd, 0)
        arena = self.supervisor._ledger.arena
        rings = arena.channels * (2 * arena.ring_bytes)
        self.words = len(self.memory) - rings  # all of them are before this, as is the first channel
        self.clean = self.memory[: self.words]

    def close(self) -> None:
        """Let go of sockets and memory."""
        self.stage.close()
        self.memory.close()
        self._directory.cleanup()


_supervised = functools.cache(_Supervised)


def supervision(data: bytes) -> None:
    """The supervisor looks at everything, whatever the words say, and nothing of it raises."""
    there = _supervised()
    supervisor, taken = there.supervisor, Bytes(data)
    kills = taken.number(1)
    _scribble(taken, supervisor._ledger.arena, there.memory, there.words)
    with (
        mock.patch.object(supervisor._deadlines, "kill", return_value=bool(kills & 1)),
        mock.patch.object(supervisor._deadlines, "interrupt"),
    ):
        now_ns = time.monotonic_ns()
        supervisor._deadlines.look(now_ns)
        there.stage.look_at_stops(now_ns + (1 << 50 if kills & 2 else 0))
        supervisor.on_cancel()
        there.stage.look_at_stops(now_ns + (1 << 50))
        supervisor._audit.end_of_dead(kills >> 2 & 3, -9 if kills & 16 else None)
        supervisor._reclaim(now_ns)
        supervisor._audit.run(now_ns, supervisor._clients)
        supervisor.settle()
        supervisor.finished()
        assert supervisor.pong(Request(1, "__ping__")).payload
        supervisor.on_timers(now_ns)
    supervisor._deadlines._stops.clear()
    supervisor._audit._orphans.clear()
    there.memory[: there.words] = there.clean
    assert os.fstat(supervisor._arena_fd).st_size == len(there.memory)


def release() -> None:
    """Let go of what is kept between inputs."""
    if _supervised.cache_info().currsize:
        _supervised().close()
        _supervised.cache_clear()
