"""Every method of the binding, with its ends and errors: no reference, memory or buffer is kept or given away.

As a program, `python -m tests.proof.native.test_binding EXTENSION TIMES`, it does the same with a binding that was
built with
AddressSanitizer; `sanitize.py` runs it.
"""

import contextlib
import gc
import importlib.util
import os
import signal
import sys
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.processes import in_thread

if __name__ == "__main__":  # before anybody imports another
    spec = importlib.util.spec_from_file_location("molt_accel.ipc.shm._native", sys.argv[1])
    assert spec is not None
    assert spec.loader is not None
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
    import molt_accel.ipc.shm

    molt_accel.ipc.shm._native = sys.modules[spec.name]

from molt_accel.ipc.frame import PREFIX_BYTES, Kind, encode
from molt_accel.ipc.messages import Request, Response
from molt_accel.ipc.shm.layout import ChannelState, Gauge
from tests.support.handover import (
    MAX_BYTES,
    PATIENCE_S,
    Running,
    channel_of,
    core,
    new_memory,
    publish,
    put,
    reply,
    request,
    response,
    slot_of,
)

CLASSES = ("ArenaView", "Arena", "Channel", "Slot", "ParkMeter")
BIG = 10_000  #: bytes; more than a ring


class Stage:
    """An arena with a channel and a slot, and objects whose references are counted."""

    def __init__(self) -> None:
        self.memory = new_memory()
        self.arena = core.Arena(self.memory, 4, 2, 4096)
        self.arena.set_in_use(4)
        self.view = core.ArenaView(self.memory)
        self.channel, self.other, self.slot = (
            channel_of(self.arena),
            channel_of(self.arena, 1),
            slot_of(self.arena),
        )
        self.payload, self.big = b"some bytes of a payload", bytes(BIG)
        self.request, self.response = request(7, self.payload), response(7, self.payload)
        self.large = response(7, self.big)
        self.meter = core.ParkMeter()

    @property
    def watched(self) -> list[object]:
        """What must be referred to as often after an operation as before."""
        own = [self.arena, self.view, self.channel, self.other, self.slot, self.memory, self.meter]
        return [
            *own, self.payload, self.big, self.request, self.response, self.large, Request, Response,
            core.Corrupt, None,
        ]  # fmt: skip

    def claimed(self, frame: Request | None = None) -> None:
        assert self.channel.publish(frame or self.request, 9, 0) == core.ADMITTED
        assert self.slot.next() == core.REQUEST

    def free(self) -> None:
        """Make the channel IDLE, whatever it was."""
        put(self.arena, 0, self.arena.word(0) & ~0xFF)
        assert self.channel.clear()


def raises(error: type[BaseException], work: Callable[..., object], *arguments: object) -> None:
    """As pytest.raises, which keeps more than what is measured here."""
    try:
        work(*arguments)
    except error:
        return
    raise AssertionError(f"no {error.__name__}")


class _Interrupt(Exception):
    pass


def _interrupted(work: Callable[[], object]) -> None:
    """Call it with a signal on its way whose handler raises."""

    def handler(*_: object) -> None:
        raise _Interrupt

    old = signal.signal(signal.SIGALRM, handler)
    try:
        with contextlib.suppress(_Interrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.001)  # once: a second one would be raised out of here
            work()
            raise AssertionError("nothing was raised")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def _later() -> int:
    return time.monotonic_ns() + int(PATIENCE_S * 1e9)


# -- the operations: Class.method, and after a colon how it ends ---------------------------------------------------
def _construct(s: Stage) -> None:
    assert core.Arena(s.memory).channels == 4
    for bad in (b"x" * 10_000, bytearray(10)):
        raises((ValueError, BufferError), core.Arena, bad)  # type: ignore[arg-type]
    raises(ValueError, core.Arena, s.memory, 1, 1, 4096)
    raises(ValueError, core.Arena, s.memory, 0xFFFF, 1, 4096)
    raises(ValueError, core.ArenaView, b"short")
    raises(TypeError, core.ArenaView, 3)
    raises(OverflowError, core.Arena, s.memory, -1)


def _look(s: Stage) -> None:
    for arena in (s.arena, s.view):
        assert (arena.channels, arena.slots, arena.ring_bytes, arena.in_use) == (4, 2, 4096, 4)
        arena.gauge(3), arena.slot_gauge(1, 3), arena.slot_state(1), arena.histograms(1), arena.word(2)
        assert arena.request_bytes(0, 100_000).__len__() == 4096
        assert arena.ready() == 0
        assert arena.entries() == arena.running() == arena.queued() == []
        assert arena.queued(7, 1) == []
        arena.open_slots()
        assert (arena.is_marked(2), arena.with_requests(2**64 - 1)) == (False, [])
        raises(IndexError, arena.is_marked, 99)
        raises(OverflowError, arena.with_requests, -1)
        assert arena.entry(7) is None
        for method in (arena.slot_state, arena.histograms, arena.word):
            raises(IndexError, method, 99)
        raises(IndexError, arena.slot_gauge, 99, 0)
        raises(IndexError, arena.request_bytes, 99, 1)
        raises(OverflowError, arena.gauge, -1)
        raises(IndexError, arena.gauge, core.GAUGES)
        raises(IndexError, arena.slot_gauge, 1, core.SLOT_GAUGES)


def _store(s: Stage) -> None:
    arena = s.arena
    (
        arena.set_gauge(40, 2**64 - 1), arena.add_counter(40, 2), arena.set_slot_gauge(1, 1, 2**63),
        arena.set_cpus(0, False), arena.set_in_use(4),
    )  # fmt: skip
    arena.spin_ns, arena.client_spinners, arena.executor_spinners = 0, 0, 0
    assert not arena.step(3, 5, 6)
    arena.set_failure(3, 2**63), arena.ring_client(3), arena.reset_channel(3), arena.wake_executor()
    arena.reset_slot(1, 8), arena.retire(1), arena.reset_slot(1, 99)
    for bad in (
        lambda: arena.set_slot_gauge(9, 0, 0), lambda: arena.step(9, 0, 0), lambda: arena.set_failure(9, 0),
        lambda: arena.ring_client(9), lambda: arena.reset_channel(9), lambda: arena.reset_slot(9, 0),
        lambda: arena.retire(9),
    ):  # fmt: skip
        raises(IndexError, bad)
    arena.repair()
    assert not arena.retires(1)
    arena.set_entry("echo", 5, 0), arena.learn(core.entry_id("echo"), 70, True), arena.learn_of(3)
    arena.set_standing(core.entry_id("echo"), 5, True), arena.set_standing(1, 1, True)
    for view in (arena, s.view):
        row = view.entry(core.entry_id("echo"))
        assert (row.name, row.delay_ns, len(view.entries())) == ("echo", 5, 1)
    arena.keep_entries({core.entry_id("echo")}), arena.keep_entries(())
    assert arena.entries() == []
    assert arena.holds(0) == 0
    assert arena.entry_of(3) == 0
    arena.let_go_of(0, 5)
    arena.executors, arena.target_ns = 0, 2**63
    assert (arena.executors, arena.target_ns) == (0, 2**63)
    for bad in (
        lambda: arena.holds(9), lambda: arena.let_go_of(9, 1), lambda: arena.entry_of(9), lambda: arena.learn_of(9),
    ):  # fmt: skip
        raises(IndexError, bad)
    raises(TypeError, arena.set_entry, None, 0, 0)
    raises(TypeError, arena.keep_entries, None)
    raises(TypeError, core.entry_id, 3)
    raises(IndexError, arena.retires, 9)
    raises(OverflowError, arena.set_gauge, 0, 2**64)
    raises(TypeError, arena.set_gauge, 0, "1")


def _let_go(s: Stage) -> None:
    memory = new_memory()
    arena = core.Arena(memory, 4, 2, 4096)
    arena.let_go(), arena.close()
    assert arena.word(0) == 0
    del arena
    memory.close()


def _undecided(s: Stage) -> None:
    s.arena.set_entry("echo", 0, 1)
    s.arena.learn(core.entry_id("echo"), 100, False)
    s.arena.target_ns, s.arena.executors = 1, 1
    s.arena.next_turn(0)
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    assert s.other.publish(s.request, 9, 0) == core.UNDECIDED
    assert s.arena.queued(s.other.turn, 1) == [core.entry_id("echo")]
    assert s.arena.with_requests(9) == [(0, s.arena.word(0)), (1, s.arena.word(1))]
    assert s.arena.mend_marks() == 0
    s.other.announce()
    assert s.slot.next() == core.REQUEST
    assert s.arena.running()[0][:2] == (core.entry_id("echo"), 0)
    assert (s.slot.usual[:2], s.arena.open_slots()) == ((100, 50), [0])
    assert s.slot.fail(3)
    assert s.channel.take() == 3
    assert s.other.give_up(True) == ChannelState.READY
    assert s.channel.clear()
    assert s.other.clear()
    assert s.arena.mend_marks() == 0
    s.arena.keep_entries(())


def _new_channel(s: Stage) -> None:
    assert core.Channel(s.arena, 2, 5).index == 2
    raises(IndexError, core.Channel, s.arena, 99, 5)
    raises(TypeError, core.Channel, None, 0, 5)
    raises(TypeError, core.Channel, s.view, 0, 5)


def _published(s: Stage) -> None:
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    assert s.channel.publish(s.request, 9, 0) == core.NOT_IDLE
    assert s.other.publish(s.request, 0, 1) == core.WAITING
    assert s.other.excess(0) == 1
    assert s.other.give_up(True) == ChannelState.READY
    assert s.other.publish(s.request, 0, 0) == core.BUSY
    assert s.channel.give_up() == ChannelState.READY
    assert s.channel.take() is None
    assert s.channel.clear()
    assert s.other.clear()
    assert s.channel.excess(9) == 0


def _not_published(s: Stage) -> None:
    assert s.channel.publish(request(entry="\ud800"), 9, 0) == core.BAD_FRAME
    assert s.channel.publish(request(entry="e" * 256), 9, 0) == core.BAD_FRAME
    assert channel_of(s.arena, 0, 10).publish(s.request, 9, 0) == core.BAD_FRAME
    for bad in (None, 3, request(payload=None), request(entry=None), request(number=-1)):  # type: ignore[arg-type]
        raises((TypeError, AttributeError, OverflowError), s.channel.publish, bad, 9, 0)  # type: ignore[arg-type]


def _answered(s: Stage) -> None:
    s.claimed()
    assert s.slot.receive(MAX_BYTES).payload == s.payload
    assert not s.slot.begin(0, 0, 1)
    assert (s.slot.channel, s.slot.serial, s.slot.word) == (0, s.channel.generation, s.arena.word(0))
    assert reply(s.slot, s.response) == core.TRANSFERRED
    assert s.channel.wait(_later()) == core.OUTCOME
    assert s.arena.word(0) & 0xFF == ChannelState.DONE
    assert s.channel.take().payload == s.payload
    assert s.channel.clear()


def _large(s: Stage) -> None:
    def serve() -> None:
        assert s.slot.next() == core.REQUEST
        assert s.slot.receive(MAX_BYTES).payload == s.big
        assert reply(s.slot, s.large) == core.TRANSFERRED

    serving = Running(serve)
    publish(s.channel, 7, s.big)
    assert s.channel.wait(_later()) == core.OUTCOME
    assert s.channel.take().payload == s.big
    assert s.channel.clear()
    serving.result()


def _failed(s: Stage) -> None:
    s.claimed()
    assert s.slot.fail(7)
    assert not s.slot.fail(7)
    assert s.channel.take() == 7
    assert s.channel.clear()


def _lost(s: Stage) -> None:
    s.claimed(request(7, s.big))
    assert s.channel.give_up() == ChannelState.CLAIMED
    assert s.slot.receive(MAX_BYTES) == core.LOST
    assert reply(s.slot, s.large) == core.LOST
    assert not s.channel.clear()
    s.slot.fail(1)
    assert s.channel.clear()


def _refused(s: Stage) -> None:
    s.claimed()
    raises(core.Corrupt, s.slot.receive, 10)
    assert s.slot.reply(s.response, 10, 16) == core.BAD_FRAME
    raises(TypeError, s.slot.reply, None, 10, 16)
    raises(AttributeError, s.slot.reply, 3, 10, 16)
    assert s.slot.fail(1)
    assert s.channel.take() == 1
    assert s.channel.clear()


def _no_frame(s: Stage) -> None:
    s.claimed()
    s.memory[s.memory.find(encode(s.request)) + PREFIX_BYTES + 6] = 0x80  # a flag that no request has
    assert isinstance(s.slot.receive(MAX_BYTES), bytes)
    assert s.slot.fail(1)
    assert s.channel.take() == 1
    assert s.channel.clear()


def _no_response(s: Stage) -> None:
    s.claimed()
    assert reply(s.slot, s.response) == core.TRANSFERRED
    s.memory[s.memory.find(encode(s.response)) + PREFIX_BYTES + 1] = Kind.REQUEST
    raises(core.Corrupt, s.channel.take)
    s.free()


def _cut_short(s: Stage) -> None:
    s.claimed()
    put(s.arena, 0, (s.arena.word(0) & ~0xFF) | ChannelState.DONE)  # with no reply at all
    raises(core.Corrupt, s.channel.take)
    s.free()


def _another_s(s: Stage) -> None:
    s.claimed()
    put(s.arena, 0, s.arena.word(0) + (1 << 32))
    raises(core.Corrupt, s.channel.take)
    raises(core.Corrupt, s.channel.wait, _later())
    s.free()


def _waits(s: Stage) -> None:
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    assert s.channel.wait(0) == core.TIME
    assert s.channel.wait(1) == core.TIME
    seen = s.channel.listen(2**64 - 1, 0)
    s.channel.ring()
    assert s.channel.listen(seen, _later()) == seen + 1
    s.channel.redirect(s.other)
    raises(TypeError, s.channel.redirect, None)
    assert s.channel.give_up() == ChannelState.READY
    assert s.channel.clear()


def _bells(s: Stage) -> None:
    reading, writing = os.pipe2(os.O_NONBLOCK)
    lost = os.dup(writing)
    raises(OSError, s.arena.use_bells, [-1])
    s.arena.use_bells([lost, writing])
    os.close(lost)
    raises(IndexError, s.arena.use_bells, range(core.BELLS + 1))
    raises(TypeError, s.arena.use_bells, None)
    for bad in (s.arena.arm, s.arena.armed):
        raises(IndexError, bad, core.BELLS)
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    assert not s.channel.flows
    s.channel.aim(1)
    s.arena.arm(1)
    assert s.arena.armed(1)
    s.arena.ring_client(0)
    assert not s.arena.armed(1)
    s.arena.ring_client(0)
    assert os.read(reading, 9) == b"\0"
    assert s.arena.arm(0)
    s.channel.aim(0)
    s.arena.ring_client(0)  # this process can't any more
    assert not s.arena.armed(0)
    assert not s.arena.arm(0)
    assert s.arena.arm(0)
    assert s.channel.give_up() == ChannelState.READY
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    assert type(s.slot.take(BIG, 0, 1, True)) is Request
    assert s.slot.reply(s.response, BIG, 0) in (core.TRANSFERRED, core.BELLS_LOST)  # once
    assert type(s.channel.take()) is Response
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    if s.channel.late:
        s.channel.catch_up()
    assert not s.channel.late
    s.arena.use_bells(())
    os.close(reading)
    os.close(writing)
    assert s.channel.give_up() == ChannelState.READY
    assert s.channel.clear()


def _looks_of_a_loop(s: Stage) -> None:
    s.arena.set_gauge(Gauge.CLIENT_LIMIT, 4)
    channels = core.FreeChannels(s.arena, BIG)
    channels.usable, channels.free = 1, [s.channel]
    call = channels.begin(core.ChannelCall, s, s.request, 9, 0)
    assert isinstance(call, core.ChannelCall)
    assert channels.begin(core.ChannelCall, s, s.request, 9, 0) is None
    call.look_ns = 2**63
    assert core.due_calls({call}, s.arena, 0) == []
    assert core.due_calls([call], s.arena, 2**63) == [call]
    assert core.next_time_ns({call}) == 2**63
    call.until_ns = 5
    assert core.next_time_ns({call}) == 5
    assert core.next_time_ns(()) == 2**64 - 1
    assert not call.glance()
    raises(TypeError, core.due_calls, [3], s.arena, 0)
    raises(TypeError, core.next_time_ns, [3])
    assert s.channel.give_up() == ChannelState.READY
    assert core.due_calls((call,), s.arena, 0) == [call]
    call.release()
    assert channels.free == [s.channel]


def _taken_in_one_step(s: Stage) -> None:
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    got = s.slot.take(BIG, 0, 1, True)
    assert type(got) is Request
    assert got.payload == s.payload
    assert not s.slot.remarks
    assert s.slot.fail(7)
    assert s.channel.take() == 7


def _closed(s: Stage) -> None:
    arena = core.Arena(s.memory)
    channel = channel_of(arena, 2)
    assert channel.publish(s.request, 9, 0) == core.ADMITTED
    arena.close()
    assert channel.wait(_later()) == core.CLOSED
    assert channel.give_up() == ChannelState.READY
    assert channel.clear()


def _signals(s: Stage) -> None:
    assert s.channel.publish(s.request, 9, 0) == core.ADMITTED
    _interrupted(lambda: s.channel.wait(_later()))
    _interrupted(lambda: s.channel.listen(s.channel.listen(2**64 - 1, 0), _later()))
    assert s.channel.give_up() == ChannelState.READY
    assert s.channel.clear()
    _interrupted(s.slot.next)
    s.claimed(request(7, s.big))
    _interrupted(lambda: s.slot.receive(MAX_BYTES))
    _interrupted(lambda: reply(s.slot, s.large))
    assert s.slot.fail(1)
    assert s.channel.take() == 1
    assert s.channel.clear()


def _slots(s: Stage) -> None:
    raises(IndexError, core.Slot, s.arena, 99, 0)
    raises(TypeError, core.Slot, None, 0, 0)
    claim = bytearray(8)
    for bad in (b"readonly", bytearray(7), 3):
        raises((BufferError, ValueError, TypeError), core.Slot, s.arena, 1, 0, bad)  # type: ignore[arg-type]
    slot = core.Slot(s.arena, 1, 300, claim)
    slot.open()
    s.arena.retire(1)
    assert slot.next() == core.RETIRE
    s.arena.reset_slot(1, 0)
    del slot
    claim += b"can be resized: nobody holds it"


def _meter(s: Stage) -> None:
    meter = core.ParkMeter()
    other = in_thread(meter.run, 1, 3)
    meter.run(0, 3)
    other.join(PATIENCE_S)
    assert s.meter.run(0, 0) >= 0


def _module(s: Stage) -> None:
    assert core.arena_size(4, 2, 4096) == len(s.memory)
    raises(ValueError, core.arena_size, 0, 0, 0)
    raises(OverflowError, core.arena_size, -1, 0, 0)


OPERATIONS: dict[str, Callable[[Stage], None]] = {
    name.strip("_"): work
    for name, work in list(globals().items())
    if callable(work) and getattr(work, "__annotations__", {}).get("s") is Stage
}


def run_all(times: int) -> None:
    """Every operation so many times."""
    stage = Stage()
    for _ in range(times):
        for work in OPERATIONS.values():
            work(stage)


@pytest.mark.parametrize("work", OPERATIONS.values(), ids=OPERATIONS)
def test_no_operation_keeps_or_gives_away_a_reference_or_memory(work: Callable[[Stage], None]) -> None:
    stage, times = Stage(), 20 if work in (_signals, _meter, _large) else 200
    for _ in range(10):
        work(stage)
    watched = stage.watched
    gc.collect()
    tracemalloc.start()
    try:
        work(stage)
        counts, (size, _) = [sys.getrefcount(each) for each in watched], tracemalloc.get_traced_memory()
        for _ in range(times):
            work(stage)
        gc.collect()
        grown = tracemalloc.get_traced_memory()[0] - size
    finally:
        tracemalloc.stop()
    kept = [now - then for now, then in zip([sys.getrefcount(each) for each in watched], counts, strict=True)]
    # Others refer to None and to classes too; nobody as often as there were calls.
    assert all(abs(count) < times // 2 for count in kept), kept
    assert kept[:12] == [0] * 12
    assert grown < 8 * times + 1500


def test_no_operation_leaves_the_arena_s_memory_held() -> None:
    stage = Stage()
    for work in OPERATIONS.values():
        work(stage)
    memory = stage.memory
    del stage, work
    gc.collect()
    memory.close()  # BufferError, if anything still looks at it


def test_every_method_of_the_binding_is_among_the_operations() -> None:
    text = Path(__file__).read_text()
    public = {
        name for each in CLASSES for name in vars(getattr(core, each)) if not name.startswith("_")
    }  # fmt: skip
    assert public - {name for name in public if f".{name}" in text} == set()


if __name__ == "__main__":
    assert core.__file__ == sys.argv[1]
    run_all(int(sys.argv[2]))
