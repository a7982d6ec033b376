"""Waiting in the native core: who is woken, by what, and that nobody waits for ever whoever dies."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from molt_accel.ipc.shm.layout import NEVER, ChannelState, Gauge, with_state
from tests.support.handover import (
    MAX_BYTES,
    RING,
    Running,
    channel_of,
    claimed,
    core,
    new_arena,
    one_of_each,
    publish,
    put,
    reply,
    request,
    response,
    slot_of,
    state_on,
)
from tests.support.processes import exit_code, fork, wait_until

_MS = 1_000_000


class Interrupted(Exception):
    """What the tests' signal handler raises."""


@pytest.fixture
def interrupts() -> Iterator[list[str]]:
    """SIGUSR2 raises `Interrupted`; SIGUSR1 is only noted here, by name."""
    noted: list[str] = []

    def note(number: int, stack: FrameType | None) -> None:
        noted.append(signal.Signals(number).name)

    def interrupt(number: int, stack: FrameType | None) -> None:
        raise Interrupted

    before = [(number, signal.getsignal(number)) for number in (signal.SIGUSR1, signal.SIGUSR2)]
    signal.signal(signal.SIGUSR1, note)
    signal.signal(signal.SIGUSR2, interrupt)
    yield noted
    for number, handler in before:
        signal.signal(number, handler)


def later(work: Any, seconds: float = 0.02) -> threading.Timer:
    timer = threading.Timer(seconds, work)
    timer.start()
    return timer


def with_each_spin(test: Any) -> Any:
    return pytest.mark.parametrize("spin_ns", [0, 100_000])(test)


def spinning_arena(spin_ns: int, **geometry: int) -> Any:
    arena = new_arena(**geometry)
    arena.spin_ns, arena.client_spinners, arena.executor_spinners = spin_ns, 8, 8
    return arena


# -- how long ---------------------------------------------------------------------------------------------
def test_a_wait_that_shall_not_wait_does_not() -> None:
    channel = channel_of(new_arena())
    publish(channel)
    assert channel.wait(0) == core.TIME


@with_each_spin
def test_a_wait_ends_with_its_time(spin_ns: int) -> None:
    channel = channel_of(spinning_arena(spin_ns))
    publish(channel)
    until_ns = time.monotonic_ns() + 30 * _MS
    assert channel.wait(until_ns) == core.TIME
    assert time.monotonic_ns() >= until_ns
    assert channel.wait(1) == core.TIME  # long past


@with_each_spin
@pytest.mark.parametrize("how", ["reply", "fail"])
def test_a_wait_ends_with_the_outcome(how: str, spin_ns: int) -> None:
    arena = spinning_arena(spin_ns)
    channel, slot = channel_of(arena), slot_of(arena)
    executor = Running(slot.next)
    publish(channel)
    waiting = Running(lambda: channel.wait(NEVER))
    assert executor.result() == core.REQUEST
    if how == "reply":
        slot.receive(MAX_BYTES)
        assert reply(slot, response()) == core.TRANSFERRED
    else:
        assert slot.fail(7)
    assert waiting.result() == core.OUTCOME


@pytest.mark.parametrize("only_queued", [False, True])
def test_a_wait_ends_when_another_thread_gives_the_request_up(only_queued: bool) -> None:
    arena = new_arena()
    channel = channel_of(arena)
    publish(channel)
    waiting = Running(lambda: channel.wait(NEVER))
    assert channel.give_up(only_queued) == ChannelState.READY
    assert waiting.result() == core.OUTCOME
    assert channel.take() is None


def test_a_wait_ends_when_another_thread_gives_up_what_runs() -> None:
    _, channel, _ = claimed()
    waiting = Running(lambda: channel.wait(NEVER))
    assert channel.give_up() == ChannelState.CLAIMED
    assert waiting.result() == core.OUTCOME
    assert (channel.take(), channel.clear()) == (None, False)


@pytest.mark.parametrize("state", [ChannelState.READY, ChannelState.CLAIMED, ChannelState.KILLING])
def test_a_wait_ends_with_the_connection_unless_the_outcome_is_there(state: ChannelState) -> None:
    arena = new_arena()
    channel, done = channel_of(arena, 0), channel_of(arena, 1)
    for each in (channel, done):
        publish(each)
    put(arena, 0, with_state(arena.word(0), state))
    put(arena, 1, with_state(arena.word(1), ChannelState.FAILED))
    waiting = Running(lambda: channel.wait(NEVER))
    arena.close()
    arena.ring_client(0)
    assert waiting.result() == core.CLOSED
    assert done.wait(NEVER) == core.OUTCOME


@pytest.mark.parametrize("outcome", [ChannelState.DONE, ChannelState.FAILED])
def test_who_died_before_it_rang_is_not_waited_for(outcome: ChannelState) -> None:
    """An executor's or the supervisor's last step is seen without its ring, within the bound of a park."""
    arena, channel, _ = claimed()
    waiting = Running(lambda: channel.wait(NEVER))
    put(arena, 0, with_state(arena.word(0), outcome))
    assert waiting.result() == core.OUTCOME


def test_a_request_whose_client_died_before_it_woke_anybody_is_claimed() -> None:
    arena = new_arena()
    channel = channel_of(arena)
    publish(channel)  # marks the channel
    channel.give_up()
    executor = Running(slot_of(arena).next)
    wait_until(lambda: arena.slot_state(0) == core.SLOT_IDLE)
    # What a client does up to its announcement: no executor is told.
    put(arena, 0, 1 << 32 | ChannelState.READY)
    assert executor.result() == core.REQUEST


def test_whoever_sleeps_is_woken_one_at_a_time() -> None:
    arena = new_arena(channels=4, slots=3)
    slots = [slot_of(arena, index) for index in range(3)]
    waiting = [Running(slot.next) for slot in slots]
    for number in range(3):
        publish(channel_of(arena, number), number)
    assert [each.result() for each in waiting] == [core.REQUEST] * 3
    assert sorted(slot.channel for slot in slots) == [0, 1, 2]
    assert not arena.wake_executor()  # nobody sleeps
    assert [arena.slot_state(index) for index in range(3)] == [core.SLOT_BUSY] * 3


def test_a_loop_that_looks_at_a_request_which_is_queued_for_long_wakes_an_executor() -> None:
    arena = new_arena()
    arena.set_gauge(Gauge.CLIENT_LIMIT, 1)
    channels = core.FreeChannels(arena, MAX_BYTES)
    channels.usable, channels.free = 1, [channel_of(arena)]
    call = channels.begin(core.ChannelCall, None, request(1), 9, 0)
    assert isinstance(call, core.ChannelCall)
    now_ns = time.monotonic_ns()
    for later_ms, late in ((0, True), (10, True), (1000, False)):
        assert core.due_calls({call}, arena, now_ns + later_ms * _MS) == []
        assert call.channel.late is late  # whether an executor has still to be woken


def test_one_that_sleeps_retires_at_once_and_leaves_requests_to_others() -> None:
    arena = new_arena()
    leaving, staying = slot_of(arena, 0), slot_of(arena, 1)
    executor = Running(leaving.next)
    arena.retire(0)
    assert executor.result() == core.RETIRE
    publish(channel_of(arena))
    assert leaving.next() == core.RETIRE
    assert staying.next() == core.REQUEST


def test_a_busy_one_retires_when_its_request_has_ended() -> None:
    arena, channel, slot = claimed()
    arena.retire(0)
    slot.receive(MAX_BYTES)
    assert reply(slot, response()) == core.TRANSFERRED
    assert slot.next() == core.RETIRE
    assert channel.wait(NEVER) == core.OUTCOME


# -- bytes that flow --------------------------------------------------------------------------------------
@pytest.mark.parametrize("step", [ChannelState.ABANDONED, ChannelState.KILLING])
@pytest.mark.parametrize("direction", ["request", "reply"])
def test_an_executor_does_not_wait_for_a_request_taken_away(direction: str, step: ChannelState) -> None:
    arena, channel, slot = claimed(b"x" * (3 * RING if direction == "request" else 10))
    if direction == "request":
        moving = Running(lambda: slot.receive(MAX_BYTES))
    else:
        slot.receive(MAX_BYTES)
        moving = Running(lambda: reply(slot, response(payload=b"y" * 3 * RING)))
    if step is ChannelState.ABANDONED:
        assert channel.give_up() == ChannelState.CLAIMED  # which tells the executor
    else:
        put(arena, 0, with_state(arena.word(0), step))
    assert moving.result() == core.LOST
    assert not slot.fail(7)
    assert state_on(arena) is (ChannelState.IDLE if step is ChannelState.ABANDONED else ChannelState.KILLING)
    assert arena.slot_state(0) == (core.SLOT_IDLE if step is ChannelState.ABANDONED else core.SLOT_BUSY)


def test_a_client_that_moves_nothing_on_costs_its_executor_seconds_and_no_more() -> None:
    (_, asking, asked), (_, reading, answering) = claimed(b"x" * 3 * RING), claimed()
    receiving = Running(lambda: asked.receive(MAX_BYTES))  # both at once: it takes as long as it takes
    answering.receive(MAX_BYTES)
    assert reply(answering, response(payload=b"y" * 3 * RING)) == core.STALLED
    assert receiving.result() == core.STALLED
    for channel, slot in ((asking, asked), (reading, answering)):
        assert slot.fail(3)
        assert (channel.wait(0), channel.take()) == (core.OUTCOME, 3)


def test_while_bytes_flow_the_wait_can_end_and_go_on() -> None:
    _, channel, slot = one_of_each()
    payload = os.urandom(40 * RING)
    executor = Running(lambda: (slot.next(), slot.receive(MAX_BYTES), reply(slot, response(payload=payload))))
    assert channel.publish(request(payload=payload), 9, 0) == core.ADMITTED
    turns = 0
    while channel.wait(time.monotonic_ns() + 50_000) == core.TIME:
        turns += 1
    _, got, code = executor.result()
    assert (got.payload == payload, code) == (True, core.TRANSFERRED)
    assert channel.take().payload == payload


# -- one thread for many calls ----------------------------------------------------------------------------
def test_a_redirected_channel_rings_another_s_doorbell() -> None:
    arena = new_arena(channels=4)
    doorbell = channel_of(arena, 3)
    channels = [channel_of(arena, index) for index in range(3)]
    slot = slot_of(arena)
    for channel in channels:
        publish(channel)
        channel.redirect(doorbell)
    for heard in range(3):
        listening = Running(lambda heard=heard: doorbell.listen(heard, NEVER))  # type: ignore[misc]
        slot.next()
        assert slot.fail(heard)
        assert listening.result() == heard + 1
        assert [channel.wait(0) for channel in channels].count(core.OUTCOME) == heard + 1
    assert doorbell.listen(2, NEVER) == 3  # it has rung more often already
    assert doorbell.listen(3, time.monotonic_ns() + _MS) == 3


def test_a_doorbell_can_be_rung_by_its_own_process() -> None:
    doorbell = channel_of(new_arena())
    listening = Running(lambda: doorbell.listen(0, NEVER))
    doorbell.ring()
    assert listening.result() == 1


def test_a_reset_channel_has_its_own_doorbell_again() -> None:
    arena = new_arena()
    channel, doorbell = channel_of(arena, 0), channel_of(arena, 1)
    publish(channel)
    channel.redirect(doorbell)
    channel.give_up()
    arena.reset_channel(0)
    arena.ring_client(0)
    assert (channel.listen(0, 1), doorbell.listen(0, 1)) == (1, 0)


# -- signals ----------------------------------------------------------------------------------------------
def test_a_signal_interrupts_a_wait_which_can_be_taken_up_again(interrupts: list[str]) -> None:
    _, channel, slot = one_of_each()
    publish(channel)
    timer = later(lambda: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(Interrupted):
        channel.wait(NEVER)
    timer.join()
    slot.next()
    slot.fail(7)
    assert (channel.wait(NEVER), channel.take()) == (core.OUTCOME, 7)


def test_a_handler_that_raises_nothing_does_not_end_the_wait(interrupts: list[str]) -> None:
    channel = channel_of(new_arena())
    publish(channel)
    timer = later(lambda: os.kill(os.getpid(), signal.SIGUSR1))
    until_ns = time.monotonic_ns() + 300 * _MS
    assert channel.wait(until_ns) == core.TIME
    timer.join()
    assert time.monotonic_ns() >= until_ns
    assert interrupts == ["SIGUSR1"]


def test_a_signal_that_another_thread_was_sent_is_heeded_too(interrupts: list[str]) -> None:
    """It interrupts no system call of the waiting thread, as one that comes just before it sleeps doesn't either."""
    channel = channel_of(new_arena())
    publish(channel)
    timer = later(lambda: signal.pthread_kill(threading.get_ident(), signal.SIGUSR2))
    with pytest.raises(Interrupted):
        channel.wait(NEVER)
    timer.join()


@pytest.mark.parametrize("where", ["next", "receive", "reply", "listen"])
def test_a_signal_interrupts_every_wait(where: str, interrupts: list[str]) -> None:
    _, channel, slot = one_of_each()
    if where in ("receive", "reply"):
        publish(channel, payload=b"x" * (3 * RING if where == "receive" else 1))
        slot.next()
    if where == "reply":
        slot.receive(MAX_BYTES)
    waits = {
        "next": slot.next,
        "receive": lambda: slot.receive(MAX_BYTES),
        "reply": lambda: reply(slot, response(payload=b"y" * 3 * RING)),
        "listen": lambda: channel.listen(0, NEVER),
    }
    timer = later(lambda: os.kill(os.getpid(), signal.SIGUSR2))
    with pytest.raises(Interrupted):
        waits[where]()
    timer.join()


# -- forks ------------------------------------------------------------------------------------------------
def test_a_child_that_has_let_go_touches_nothing_of_its_parent_s() -> None:
    arena = new_arena()
    arena.set_gauge(Gauge.CAPACITY, 5)
    channel = channel_of(arena)
    publish(channel)

    def in_child() -> bool:
        arena.let_go()
        assert (arena.gauge(Gauge.CAPACITY), arena.word(0), arena.in_use) == (0, 0, 0)
        arena.set_gauge(Gauge.CAPACITY, 6)
        assert channel.give_up() == ChannelState.IDLE
        return arena.gauge(Gauge.CAPACITY) == 6

    assert exit_code(fork(in_child)) == 0
    assert (arena.gauge(Gauge.CAPACITY), state_on(arena)) == (5, ChannelState.READY)


# -- what sleeping costs here -----------------------------------------------------------------------------
def test_the_price_of_a_park_is_measured_by_two_threads() -> None:
    meter = core.ParkMeter()
    other = Running(lambda: meter.run(1, 20))
    price_ns = meter.run(0, 20)
    assert other.result() > 0
    assert 0 < price_ns < 10_000 * _MS
    assert meter.run(0, 0) >= 0


# -- bells --------------------------------------------------------------------------------------------------
@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe2(os.O_NONBLOCK)
    yield ends
    for end in ends:
        with contextlib.suppress(OSError):
            os.close(end)


def _rings(arena: Any) -> None:
    publish(channel := channel_of(arena))
    channel.aim(0)
    arena.ring_client(0)
    channel.give_up()


@pytest.mark.parametrize("instead", ["nothing", "a file", "another pipe"])
def test_nothing_is_written_to_what_has_a_bell_s_number_now(
    pipe: tuple[int, int], instead: str, tmp_path: Path
) -> None:
    """And the client learns of it, once."""
    arena, (reading, writing) = new_arena(), pipe
    arena.use_bells([writing])
    assert arena.arm(0)
    _rings(arena)
    assert os.read(reading, 9) == b"\0"
    other_reading, other_writing = os.pipe2(os.O_NONBLOCK)
    file = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    if instead == "nothing":
        os.close(writing)
    else:
        os.dup2(file if instead == "a file" else other_writing, writing)
    assert arena.arm(0)
    for _ in range(3):
        _rings(arena)
        assert not arena.armed(0)
    assert not arena.arm(0)
    assert arena.armed(0)
    assert arena.arm(0)
    assert os.fstat(file).st_size == 0
    with pytest.raises(BlockingIOError):
        os.read(other_reading, 1)
    for fd in (other_reading, other_writing, file):
        os.close(fd)


def test_one_that_can_ring_does_not_take_back_what_one_that_can_t_has_said(pipe: tuple[int, int]) -> None:
    arena, (reading, writing) = new_arena(), pipe
    lost = os.dup(writing)
    arena.use_bells([lost])
    os.close(lost)
    arena.arm(0)
    _rings(arena)
    arena.use_bells([writing])
    _rings(arena)
    with pytest.raises(BlockingIOError):
        os.read(reading, 1)
    assert not arena.arm(0)
