"""An executor's slot in shared memory: what it takes, what it answers, and what it tells the supervisor."""

import os
import signal
import socket
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import Status
from molt_accel.ipc.frame import Fault, FrameError, FrameParser, Item, encode
from molt_accel.ipc.messages import Codec, Hello, Request
from molt_accel.ipc.shm.layout import (
    NEVER,
    ChannelState,
    Failure,
    Gauge,
    Outcome,
    SlotGauge,
    failure_word,
    serial_of,
    with_state,
)
from molt_worker.processes import shm_endpoint
from molt_worker.processes.commands import FROM_EXECUTOR, Recycle, Wake
from molt_worker.processes.shm_endpoint import ShmEndpoint
from tests.support.handover import (
    RING,
    Running,
    arena_in,
    channel_of,
    core,
    new_memory,
    publish,
    put,
    request,
    response,
    state_on,
)
from tests.support.processes import closing_all, exit_code, fork, wait_for_file, wait_until

NUMBER, SLOT = 7, 1
MAX_BYTES = 1 << 16


class Ends:
    """A endpoint, the supervisor's end of its socket, and a client's channel."""

    def __init__(self, **options: Any) -> None:
        self.memory = new_memory()
        self.arena = arena_in(self.memory)
        self.arena.set_slot_gauge(SLOT, SlotGauge.EPOCH, 3)
        self.arena.set_gauge(Gauge.WAKE_NS, NEVER)
        self.channel = channel_of(self.arena)
        self.supervisor, self._executor = socket.socketpair()
        self.supervisor.setblocking(False)
        config = Config.load(environ={}, **{"max_frame_bytes": MAX_BYTES, "log_level": "warning", **options})
        self.endpoint = ShmEndpoint(self._executor, NUMBER, SLOT, self.arena, config)
        self.endpoint.announce()
        self._parser = FrameParser(messages=FROM_EXECUTOR)
        assert self.told() == [Hello()]

    def told(self) -> list[Item | FrameError]:
        while True:
            try:
                data = self.supervisor.recv(65536)
            except BlockingIOError:
                break
            if not data:
                break
            self._parser.feed(data)
        return self._parser.frames()

    def take(self, **fields: Any) -> Request:
        """Publish a request and have the endpoint take it."""
        assert self.channel.publish(request(**fields), 9, 0) == core.ADMITTED
        got = self.endpoint.receive()
        assert isinstance(got, Request)
        return got

    def outcome(self) -> Any:
        assert self.channel.wait(time.monotonic_ns() + 60_000_000_000) == core.OUTCOME
        got = self.channel.take()
        self.channel.clear()
        return got

    def counted(self) -> dict[str, int]:
        """Requests that were ended in the slot, by outcome."""
        counts = {each.name: self.arena.slot_gauge(SLOT, SlotGauge.OUTCOMES + each) for each in Outcome}
        return {name: count for name, count in counts.items() if count}

    def close(self) -> None:
        self.supervisor.close()
        self._executor.close()


MakeEnds = Callable[..., Ends]


@pytest.fixture
def make_ends() -> Iterator[MakeEnds]:
    with closing_all(Ends) as make:
        yield make


@pytest.fixture
def ends(make_ends: MakeEnds) -> Ends:
    return make_ends()


def test_it_says_in_its_slot_who_it_is_and_that_it_is_ready(ends: Ends) -> None:
    facts = {fact.name: ends.arena.slot_gauge(SLOT, fact) for fact in SlotGauge}
    assert 0 < facts.pop("READY_NS") <= time.monotonic_ns()
    assert {name: value for name, value in facts.items() if value} == {
        "PID": os.getpid(),
        "NUMBER": NUMBER,
        "EPOCH": 3,
    }
    assert ends.arena.slot_state(SLOT) == core.SLOT_IDLE


def test_a_request_is_claimed_in_the_slot_s_name(ends: Ends) -> None:
    got = ends.take(number=77, payload=b"abc")
    assert (got.request_id, got.payload, got.in_flight) == (77, b"abc", 1)
    assert ends.arena.word(0) == ChannelState.CLAIMED | SLOT << 8 | 3 << 24 | 1 << 32
    assert ends.arena.slot_gauge(SLOT, SlotGauge.SERIAL) == serial_of(0, 1)
    assert ends.endpoint.serial == serial_of(0, 1)
    assert ends.told() == []


@pytest.mark.parametrize(
    ("deadline_ns", "wake_ns", "expected"),
    [(0, NEVER, []), (5000, NEVER, [Wake()]), (5000, 5001, [Wake()]), (5000, 5000, []), (5000, 4999, [])],
)
def test_a_near_deadline_is_told(ends: Ends, deadline_ns: int, wake_ns: int, expected: list[Item]) -> None:
    ends.arena.set_gauge(Gauge.WAKE_NS, wake_ns)
    ends.take(deadline_ns=deadline_ns)
    assert ends.arena.slot_gauge(SLOT, SlotGauge.DEADLINE_NS) == deadline_ns
    assert ends.told() == expected


@pytest.mark.parametrize("status", [status for status in Status if status is not Status.OK])
def test_answers_count_and_are_logged(ends: Ends, status: Status, capfd: pytest.CaptureFixture[str]) -> None:
    ends.endpoint.answer(ends.take(number=77), response(77, b"why", status, exec_us=1234))
    assert ends.outcome() == response(77, b"why", status, exec_us=1234)
    assert ends.counted() == {status.label: 1}
    line = capfd.readouterr().err
    assert "warning request request_id=000000000000004d entry=echo" in line
    assert f"status={status.label}" in line
    assert "exec_us=1234" in line


@pytest.mark.parametrize(("level", "lines"), [("warning", 0), ("debug", 1)])
def test_what_went_well_is_logged_only_for_debugging(
    make_ends: MakeEnds, level: str, lines: int, capfd: pytest.CaptureFixture[str]
) -> None:
    ends = make_ends(log_level=level)
    ends.endpoint.answer(ends.take(number=77), response(77))
    assert ends.outcome() == response(77)
    assert ends.counted() == {"Ok": 1}
    assert capfd.readouterr().err.count("debug request ") == lines


@pytest.mark.parametrize("size", [0, 1000, RING, 10 * RING])
def test_answers_of_any_size_are_taken(ends: Ends, size: int) -> None:
    got = ends.take()
    answering = Running(lambda: ends.endpoint.answer(got, response(payload=b"x" * size)))
    assert ends.outcome().payload == b"x" * size
    answering.result()


def test_a_result_over_the_limit_is_replaced_by_an_error(ends: Ends) -> None:
    got = ends.take(number=77, generation=5)
    ends.endpoint.answer(got, response(77, b"x" * MAX_BYTES, generation=5))
    answer = ends.outcome()
    assert (answer.request_id, answer.generation, answer.status) == (77, 5, Status.INTERNAL_ERROR)
    assert codec.decode(Codec.MSGPACK, answer.payload) == {
        "error": "MoltInternalError",
        "detail": f"the result is over the frame limit: {MAX_BYTES + 80} bytes, {MAX_BYTES} at most",
    }
    assert ends.counted() == {"InternalError": 1}


# -- what is no request -----------------------------------------------------------------------------------
def test_a_frame_that_can_not_be_read_is_answered_under_the_id_that_it_claims(ends: Ends) -> None:
    assert ends.channel.publish(request(77, generation=5), 9, 0) == core.ADMITTED
    ends.memory[ends.memory.find(encode(request(77, generation=5))[4:])] = 99  # its version
    error = ends.endpoint.receive()
    assert isinstance(error, FrameError)
    assert (error.fault, error.raw_id) == (Fault.VERSION, 0)
    ends.endpoint.answer(Request(77, ""), response(77, b"", Status.INVALID_INPUT))
    assert ends.outcome().status is Status.INVALID_INPUT


def test_sizes_that_disagree_end_one_request_only(ends: Ends, capfd: pytest.CaptureFixture[str]) -> None:
    assert ends.channel.publish(request(77), 9, 0) == core.ADMITTED
    ends.memory[ends.memory.find(encode(request(77)))] = 200  # its length
    publish(channel_of(ends.arena, 1), 78)
    got = ends.endpoint.receive()
    assert isinstance(got, Request)
    assert got.request_id == 78
    assert ends.outcome() == failure_word(Failure.CORRUPT, NUMBER)
    assert "transfer_failed channel=0" in capfd.readouterr().err


def test_a_request_over_the_limit_ends_it(make_ends: MakeEnds) -> None:
    ends = make_ends(max_frame_bytes=5000)
    assert ends.channel.publish(request(payload=b"x" * 6000), 9, 0) == core.ADMITTED
    taking = Running(ends.endpoint.receive)
    assert ends.outcome() == failure_word(Failure.CORRUPT, NUMBER)
    ends.arena.retire(SLOT)
    assert taking.result() is None


def test_one_that_does_not_send_the_rest_is_given_up(ends: Ends, capfd: pytest.CaptureFixture[str]) -> None:
    """And so is one that doesn't take its reply; `test_native_waiting` has that."""
    assert ends.channel.publish(request(payload=b"x" * 2 * RING), 9, 0) == core.ADMITTED
    taking = Running(ends.endpoint.receive)
    wait_until(lambda: state_on(ends.arena) is ChannelState.FAILED)
    assert ends.outcome() == failure_word(Failure.STALLED, NUMBER)
    ends.arena.retire(SLOT)
    assert taking.result() is None
    assert "the request was not sent on" in capfd.readouterr().err


# -- what was taken away ----------------------------------------------------------------------------------
def test_what_was_given_up_as_it_ran_has_ended(ends: Ends, capfd: pytest.CaptureFixture[str]) -> None:
    got = ends.take()
    assert ends.channel.give_up() == ChannelState.CLAIMED
    ends.endpoint.answer(got, response())
    assert state_on(ends.arena) is ChannelState.IDLE
    assert ends.arena.slot_state(SLOT) == core.SLOT_IDLE
    assert "transfer_failed" not in capfd.readouterr().err
    assert ends.take(number=78).request_id == 78  # and the next one is not hurt


def test_a_request_that_was_given_up_while_it_came_is_ended_and_the_next_taken(ends: Ends) -> None:
    assert ends.channel.publish(request(payload=b"x" * 2 * RING), 9, 0) == core.ADMITTED
    taking = Running(ends.endpoint.receive)
    wait_until(lambda: state_on(ends.arena) is ChannelState.CLAIMED)
    assert ends.channel.give_up() == ChannelState.CLAIMED
    wait_until(ends.channel.clear)
    publish(ends.channel, 78)
    got = taking.result()
    assert isinstance(got, Request)
    assert got.request_id == 78


@pytest.mark.parametrize("when", ["it comes", "it is answered"])
def test_an_executor_that_is_being_killed_does_nothing_more(ends: Ends, when: str, tmp_path: Path) -> None:
    """It must take no other request: the kill is on its way."""
    marker, pause = tmp_path / "marker", signal.pause

    def pause_and_tell() -> None:
        marker.write_text("it waits")
        pause()

    def in_child() -> None:
        signal.pause = pause_and_tell
        got = ends.endpoint.receive()
        assert isinstance(got, Request)
        wait_until(lambda: state_on(ends.arena) is ChannelState.KILLING)
        ends.endpoint.answer(got, response())
        ends.endpoint.receive()

    payload = b"x" * (2 * RING if when == "it comes" else 1)
    assert ends.channel.publish(request(payload=payload), 9, 0) == core.ADMITTED
    pid = fork(in_child)
    wait_until(lambda: state_on(ends.arena) is ChannelState.CLAIMED)
    put(ends.arena, 0, with_state(ends.arena.word(0), ChannelState.KILLING))
    publish(channel_of(ends.arena, 1))
    wait_for_file(marker)
    assert (state_on(ends.arena, 0), state_on(ends.arena, 1)) == (ChannelState.KILLING, ChannelState.READY)
    assert ends.arena.slot_state(SLOT) == core.SLOT_BUSY
    os.kill(pid, signal.SIGKILL)
    assert exit_code(pid) == -signal.SIGKILL


# -- the end ----------------------------------------------------------------------------------------------
def test_one_that_retires_takes_nothing_more(ends: Ends) -> None:
    ends.arena.retire(SLOT)
    publish(ends.channel)
    assert ends.endpoint.receive() is None
    assert state_on(ends.arena) is ChannelState.READY


def test_one_that_has_served_enough_says_so_once_and_goes_on(make_ends: MakeEnds) -> None:
    ends = make_ends(max_requests=3)
    told = []
    for number in range(5):
        ends.endpoint.answer(ends.take(number=number), response(number))
        assert ends.outcome() == response(number)
        told.append(ends.told())
    assert told == [[], [], [Recycle()], [], []]


def test_a_supervisor_that_does_not_read_stops_no_request(make_ends: MakeEnds) -> None:
    ends = make_ends(max_requests=2000)
    for number in range(2100):
        got = ends.take(number=number, deadline_ns=5)
        ends.endpoint.answer(got, response(number))
        assert ends.outcome() == response(number)
    assert 50 < len(told := ends.told()) < 2000
    assert all(message == Wake() for message in told)
    # It was not told that this executor has served enough; now there is room for it.
    got = ends.take()
    ends.endpoint.answer(got, response())
    assert ends.told() == [Recycle()]


def test_without_a_supervisor_it_goes_on_until_it_is_killed(make_ends: MakeEnds) -> None:
    ends = make_ends(max_requests=2)
    ends.supervisor.close()
    for number in range(3):
        ends.endpoint.answer(ends.take(number=number, deadline_ns=5), response(number))
        assert ends.outcome() == response(number)


def test_what_can_not_end_in_time_is_not_begun_while_others_wait(make_ends: MakeEnds) -> None:
    ends = make_ends()
    ends.arena.set_entry("slow", 0, 0)
    for _ in range(200):  # so often that there is hardly any deviation
        ends.arena.learn(core.entry_id("slow"), 60_000_000_000, False)
    soon_ns = time.monotonic_ns() + 30_000_000_000
    channels = [ends.channel, channel_of(ends.arena, 1), channel_of(ends.arena, 2)]
    for number, (channel, deadline_ns) in enumerate(zip(channels, (soon_ns, soon_ns, 0), strict=True), 1):
        channel.publish(request(number, entry="slow", deadline_ns=deadline_ns), 9, 0)
    got = ends.endpoint.receive()
    assert isinstance(got, Request)
    assert got.request_id == 3  # the one without a deadline
    refused = ends.outcome()
    assert refused.status is Status.TIMEOUT
    assert codec.decode(Codec.MSGPACK, refused.payload) == {
        "error": "MoltTimeout",
        "detail": "too little time was left to run it",
        "phase": "queue",
    }
    assert ends.counted() == {"Timeout": 2}


def test_what_can_not_end_in_time_is_begun_if_nobody_else_waits(ends: Ends) -> None:
    """It harms nobody, and else an estimate that was once too high would never be found out."""
    ends.arena.set_entry("slow", 0, 0)
    for _ in range(200):
        ends.arena.learn(core.entry_id("slow"), 60_000_000_000, False)
    assert ends.take(entry="slow", deadline_ns=time.monotonic_ns() + 30_000_000_000).entry == "slow"


def test_what_can_not_end_in_time_is_begun_if_none_of_its_kind_has_ended_for_long(
    make_ends: MakeEnds, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = make_ends()
    ends.arena.set_entry("slow", 0, 0)
    for _ in range(200):
        ends.arena.learn(core.entry_id("slow"), 60_000_000_000, False)
    later_ns = time.monotonic_ns() + 241_000_000_000
    monkeypatch.setattr(shm_endpoint, "time", types.SimpleNamespace(monotonic_ns=lambda: later_ns))
    for number, channel in enumerate((ends.channel, channel_of(ends.arena, 1)), 1):
        channel.publish(request(number, entry="slow", deadline_ns=later_ns + 30_000_000_000), 9, 0)
    got = ends.endpoint.receive()
    assert isinstance(got, Request)
    assert got.request_id == 1


def test_that_it_can_ring_no_event_loop_any_more_is_logged_once(
    ends: Ends, capfd: pytest.CaptureFixture[str]
) -> None:
    lost = os.open(os.devnull, os.O_WRONLY)
    ends.arena.use_bells([lost])
    os.close(lost)
    for number in range(4):
        taken = ends.take()
        ends.channel.aim(0)
        ends.arena.arm(0)
        ends.endpoint.answer(taken, response())
        ends.outcome()
        assert capfd.readouterr().err.count("bells_lost executor=7") == (number == 0)
