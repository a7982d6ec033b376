"""molt_accel.transports.shm.loops: event loops that wait for calls by bells of their own."""

import asyncio
import contextlib
import gc
import os
import select
import selectors
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvloop

from molt_accel import codec
from molt_accel.errors import MoltCancelled, MoltError, MoltProtocolError, MoltWorkerUnavailable
from molt_accel.ipc.messages import WORKER_DEFAULT_WAIT, Codec, LeaseBell, Request
from molt_accel.ipc.shm.layout import ChannelState
from molt_accel.transports.shm import completion
from molt_accel.transports.shm import connection as connections
from molt_accel.transports.shm import loops as loops_module
from molt_accel.transports.shm import transport as shm
from molt_accel.transports.shm.connection import Connection
from molt_accel.transports.shm.loops import LoopCalls
from molt_accel.transports.shm.transport import ShmCall, ShmTransport
from tests.support.processes import exit_code, fork, wait_until
from tests.support.scripted_pool import PATIENCE_S, FakePool, MakePool

Loop = asyncio.AbstractEventLoop
HOUR_NS = 3600 * 10**9


@pytest.fixture(autouse=True)
def _no_look_in_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """What isn't rung for is not noticed, so that a missing ring fails a test."""
    monkeypatch.setattr(loops_module, "_LOOK_NS", HOUR_NS)
    monkeypatch.setattr(completion, "_LOOK_NS", HOUR_NS)
    monkeypatch.setattr(connections, "_QUIET_S", 0.05)  # some tests leave calls behind


@pytest.fixture
def fake(make_pool: MakePool) -> FakePool:
    return make_pool(channels=8, capacity=8)


@pytest.fixture
def transport(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShmTransport]:
    monkeypatch.setattr(shm, "attach_or_start", lambda *args: fake.attach(*args))
    opened = fake.transport(spin_us=0)
    opened.start()
    yield opened
    opened.close()


@pytest.fixture
def connection(transport: ShmTransport) -> Connection:
    assert transport._connection is not None
    return transport._connection


@pytest.fixture(params=[asyncio, uvloop])
def new_loop(request: pytest.FixtureRequest) -> Iterator[Callable[[], Loop]]:
    made: list[Loop] = []

    def make() -> Loop:
        made.append(request.param.new_event_loop())
        return made[-1]

    yield make
    for loop in made:
        if not loop.is_closed():
            loop.close()


@pytest.fixture
def loop(new_loop: Callable[[], Loop]) -> Loop:
    return new_loop()


@pytest.fixture
def bell(connection: Connection, fake: FakePool) -> int:
    number, reading = fake.new_bell()
    connection.loops.granted(number, reading)
    return number


def submit(transport: ShmTransport, payload: object = None, **fields: Any) -> ShmCall:
    data = codec.encode(Codec.MSGPACK, payload)
    known = {"payload": data, "max_wait_ms": WORKER_DEFAULT_WAIT, "sent_ns": time.monotonic_ns()}
    pending = transport.submit(Request(time.monotonic_ns(), "echo", **{**known, **fields}))
    assert isinstance(pending, ShmCall)
    return pending


def begin(loop: Loop, call: ShmCall, timeout_s: float | None = None) -> asyncio.Future[None]:
    """Have the loop, which is running, wait for a call."""
    ended = call.ended_in(loop, 0 if timeout_s is None else time.monotonic_ns() + int(timeout_s * 1e9))
    assert ended is not None
    return ended


def value_of(call: ShmCall) -> object:
    assert not isinstance(call.result, MoltError), call.result
    return codec.decode(call.result.codec, call.result.payload)


def calls_of(connection: Connection, loop: Loop) -> LoopCalls:
    found = connection.loops._of[id(loop)]
    assert found is not None
    return found


def run(loop: Loop, work: Any) -> Any:
    return loop.run_until_complete(asyncio.wait_for(work, PATIENCE_S))


def refuse(call: object) -> None:
    """In the place of what starts the completion thread."""
    raise RuntimeError("no more threads")


def completion_threads() -> int:
    return sum(each.name == "molt-completion" for each in threading.enumerate())


# -- what is usual ------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("bell")
def test_the_loop_is_woken_by_the_ring_and_no_thread_stands_in_between(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        for number in range(3):
            call = submit(transport, number)
            ended = begin(loop, call)
            serving = fake.serving(lambda frame: codec.decode(Codec.MSGPACK, frame.payload), 1)
            await ended
            serving.join()
            assert value_of(call) == number
            assert connection.channels.in_calls == 0

    run(loop, work())
    assert completion_threads() == 0


def test_one_turn_takes_all_that_have_ended_and_one_ring_is_enough(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, bell: int
) -> None:
    async def work() -> None:
        calls = [submit(transport, number) for number in range(3)]
        ended = [begin(loop, call) for call in calls]
        assert fake.arena.armed(bell)
        for number in range(3):
            fake.reply(fake.claim(), number)
            assert not fake.arena.armed(bell)  # rings are saved until this one was heard
        reading = calls_of(connection, loop).bell.fd
        assert os.read(reading, 10) == b"\0"
        os.write(fake.bells[bell], b"\0")
        await asyncio.gather(*ended)
        assert [value_of(call) for call in calls] == [0, 1, 2]
        assert fake.arena.armed(bell)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_what_had_ended_before_it_was_waited_for_is_noticed(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        fake.reply(fake.claim(), "early")  # the channel's own doorbell was rung
        ended = begin(loop, call)
        assert ended.done()
        assert value_of(call) == "early"
        assert connection.channels.in_calls == 0

    run(loop, work())


def test_a_ring_that_is_lost_is_made_up_for(
    transport: ShmTransport, fake: FakePool, loop: Loop, bell: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loops_module, "_LOOK_NS", 1_000_000)

    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fake.arena.arm(bell, False)  # as one leaves it who dies before he writes
        fake.reply(fake.claim(), 1)
        await ended
        assert value_of(call) == 1
        assert fake.arena.armed(bell)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_without_calls_there_is_no_timer(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loops_module, "_LOOK_NS", 1_000_000)

    async def work() -> None:
        ended = begin(loop, submit(transport))
        fake.reply(fake.claim(), 1)
        await ended
        while calls_of(connection, loop)._timer is not None:  # the last one is waited out
            await asyncio.sleep(0.001)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_there_is_one_timer_for_all(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        first = begin(loop, submit(transport), 3000.0)
        timer = calls_of(connection, loop)._timer
        second = begin(loop, submit(transport), 3500.0)
        assert calls_of(connection, loop)._timer is timer
        third = begin(loop, submit(transport), 2000.0)
        assert calls_of(connection, loop)._timer is not timer
        for _ in range(3):
            fake.reply(fake.claim(), 1)
        await asyncio.gather(first, second, third)

    run(loop, work())


@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize("timeout_s", [0.0, -1.0, 0.005])
def test_a_wait_ends_when_its_time_is_over_and_the_call_goes_on(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, timeout_s: float
) -> None:
    async def work() -> None:
        call = submit(transport)
        await begin(loop, call, timeout_s)
        assert not call.done
        again = begin(loop, call, 1e9)
        fake.reply(fake.claim(), 2)
        await again
        assert value_of(call) == 2
        assert connection.channels.in_calls == 0

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_a_queued_call_s_deadline_is_kept(transport: ShmTransport, fake: FakePool, loop: Loop) -> None:
    async def work() -> None:
        call = submit(transport, deadline_ns=time.monotonic_ns() + 5_000_000)
        await begin(loop, call)
        assert type(call.result).__name__ == "MoltTimeout"
        assert fake.states() == []

    run(loop, work())


# -- spinning -----------------------------------------------------------------------------------------------
@pytest.mark.usefixtures("bell")
def test_a_glance_comes_first_where_the_loop_waits_for_nothing_else(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    glances: list[ShmCall] = []

    def glance(self: ShmCall) -> bool:
        glances.append(self)
        if len(glances) == 1:
            fake.reply(fake.claim(), 1)
            self.advance(0)
        return self.done

    monkeypatch.setattr(ShmCall, "glance", glance, raising=False)

    async def work() -> None:
        first = submit(transport)
        assert first.ended_in(loop, 0) is None
        assert first.done
        assert connection.channels.in_calls == 0
        second, third = submit(transport), submit(transport)
        ended = [begin(loop, second), begin(loop, third)]
        assert glances == [first, second]
        assert begin(loop, second) is not None  # it is no new one
        for _ in ended:
            fake.reply(fake.claim(), 1)
        await asyncio.gather(*ended[1:])
        assert second.done
        assert glances == [first, second]

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_a_request_left_to_one_that_spins_wakes_a_sleeper_in_the_next_turn(
    transport: ShmTransport, fake: FakePool, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    caught_up: list[Any] = []

    class Late:
        """A channel whose request was left to an executor that spins."""

        def __init__(self, channel: Any) -> None:
            self._channel = channel

        late = True

        def __getattr__(self, name: str) -> Any:
            return getattr(self._channel, name)

        def catch_up(self) -> None:
            caught_up.append(self._channel)

    calls: list[Any] = []
    monkeypatch.setattr(ShmCall, "channel", property(lambda self: Late(calls[0])), raising=False)

    async def work() -> None:
        call = submit(transport)
        calls.append(ChannelOf(call))
        ended = begin(loop, call)
        await asyncio.sleep(0)
        assert caught_up == [calls[0]]
        fake.reply(fake.claim(), 1)
        await ended

    ChannelOf = shm.ChannelCall.channel.__get__
    run(loop, work())


# -- calls that end otherwise -------------------------------------------------------------------------------
@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize("claimed", [False, True])
@pytest.mark.parametrize("elsewhere", [False, True])
def test_a_call_that_is_given_up_ends_its_wait(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    claimed: bool,
    elsewhere: bool,
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        if claimed:
            fake.claim()
        why = MoltCancelled("given up")
        if elsewhere:
            thread = threading.Thread(target=transport.abandon, args=(call, why))
            thread.start()
            await ended
            thread.join()
        else:
            assert transport.abandon(call, why)
            assert ended.done()
        assert call.result is why
        assert fake.states() == ([ChannelState.ABANDONED] if claimed else [])
        assert connection.channels.in_calls == 0
        assert calls_of(connection, loop).count == 0

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_an_answer_that_is_on_its_way_is_not_given_up(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fake.reply(fake.claim(), "just in time")
        ended.cancel()
        assert not transport.abandon(call, MoltCancelled("too late"))
        while connection.channels.in_calls:
            await asyncio.sleep(0)
        assert value_of(call) == "just in time"

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_what_is_scribbled_ends_the_call(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fake.take_away(call.channel.index)
        word = fake.arena.word(call.channel.index)
        fake.arena.step(call.channel.index, word, 0xFF)
        os.write(fake.bells[0], b"x")
        await ended
        assert isinstance(call.result, MoltProtocolError)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_a_bug_ends_its_call_and_no_other(
    transport: ShmTransport,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        bad, good = submit(transport, "bad"), submit(transport, "good")
        real = ShmCall.advance

        def advance(self: ShmCall, until_ns: int) -> None:
            if self is bad:
                raise ValueError("a bug")
            real(self, until_ns)

        monkeypatch.setattr(ShmCall, "advance", advance, raising=False)
        ended = [begin(loop, bad), begin(loop, good)]
        for _ in range(2):
            fake.reply(fake.claim(), 1)
        await asyncio.gather(*ended)
        assert isinstance(bad.result, MoltProtocolError)
        assert value_of(good) == 1

    run(loop, work())
    assert "a call could not be moved on" in caplog.text


# -- bytes that don't fit -----------------------------------------------------------------------------------
@pytest.mark.usefixtures("bell")
def test_a_request_larger_than_a_ring_is_left_to_the_thread(
    transport: ShmTransport, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport, b"x" * 20_000)
        assert call.ended_in(loop, 0) is None
        assert not call.done
        over = loop.create_future()
        call.on_done(lambda: loop.call_soon_threadsafe(over.done() or over.set_result, None))
        assert call.ended_in(loop, 0) is None  # from now on
        serving = fake.serving(lambda frame: len(frame.payload), 1)
        await over
        serving.join()
        assert value_of(call) > 20_000

    run(loop, work())


@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize("timeout_s", [None, PATIENCE_S, 0.01])
def test_a_reply_larger_than_a_ring_is_handed_to_the_thread(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, timeout_s: float | None
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call, timeout_s)
        if timeout_s == 0.01:
            taken = fake.claim()
            await ended
            assert not call.done
            ended = begin(loop, call, None)
            serving = threading.Thread(target=fake.reply, args=(taken, b"y" * 50_000))
            serving.start()
        else:
            serving = fake.serving(lambda frame: b"y" * 50_000, 1)
        await ended
        serving.join()
        assert value_of(call) == b"y" * 50_000
        assert connection.channels.in_calls == 0

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_the_time_is_kept_of_a_call_that_was_handed_over(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call, 0.02)
        calls_of(connection, loop).evict()
        await ended
        assert not call.done
        assert call.callback is not None
        fake.reply(fake.claim(), 1)
        wait_until(lambda: call.done)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_where_no_thread_can_start_the_loop_moves_the_bytes_itself(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        monkeypatch.setattr(calls_of(connection, loop), "_adopt", refuse)
        serving = fake.serving(lambda frame: b"y" * 50_000, 1)
        await ended
        serving.join()
        assert value_of(call) == b"y" * 50_000

    run(loop, work())


# -- bells --------------------------------------------------------------------------------------------------
def test_a_client_asks_for_a_bell_when_a_loop_needs_one(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        assert call.ended_in(loop, 0) is None  # there is none yet
        assert call.ended_in(loop, 0) is None
        fake.reply(fake.claim(), 1)
        assert call.wait(None)
        number = fake.lend_bell()
        wait_until(lambda: connection.loops._free)
        call = submit(transport)
        ended = begin(loop, call)
        assert calls_of(connection, loop).bell.number == number
        fake.reply(fake.claim(), 2)
        await ended
        assert value_of(call) == 2

    run(loop, work())
    transport.close()
    assert [each for each in fake.heard() if isinstance(each, LeaseBell)] == [LeaseBell()]


@pytest.fixture
def asked(connection: Connection, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A 1 for each time that the worker is asked for a bell."""
    times: list[int] = []
    monkeypatch.setattr(connection.loops, "_ask", lambda: times.append(1) or True)
    return times


def test_after_a_refusal_it_does_not_ask_again_at_once(
    connection: Connection, loop: Loop, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert connection.loops.of(loop) is None
    assert connection.loops.of(loop) is None
    assert asked == [1]
    connection.loops.granted(None, None)
    assert connection.loops.of(loop) is None
    assert asked == [1]
    monkeypatch.setattr(loops_module, "_REFUSED_S", 0.0)
    connection.loops.granted(3, None)  # its descriptor was lost on the way
    assert connection.loops.of(loop) is None
    assert asked == [1, 1]


def test_a_worker_that_could_not_be_asked_is_asked_again_later(
    connection: Connection, loop: Loop, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection.loops, "_ask", lambda: bool(asked.append(1)))
    for _ in range(2):
        assert connection.loops.of(loop) is None
    assert asked == [1]
    connection.loops._refused_until_s = time.monotonic()
    assert connection.loops.of(loop) is None
    assert asked == [1, 1]


def test_it_asks_for_no_more_than_it_may_have(
    connection: Connection, fake: FakePool, new_loop: Callable[[], Loop], asked: list[int]
) -> None:
    for _ in range(loops_module._MOST_BELLS):
        connection.loops.granted(*fake.new_bell())
        assert connection.loops.of(new_loop()) is not None
    assert connection.loops.of(new_loop()) is None
    assert asked == []


def test_each_loop_has_its_own(
    transport: ShmTransport, connection: Connection, fake: FakePool, new_loop: Callable[[], Loop]
) -> None:
    for _ in range(2):
        connection.loops.granted(*fake.new_bell())
    began, over = threading.Barrier(3, timeout=PATIENCE_S), []

    def work() -> None:
        loop = new_loop()

        async def wait() -> None:
            call = submit(transport, threading.get_ident())
            ended = begin(loop, call)
            await loop.run_in_executor(None, began.wait)
            await ended
            over.append(value_of(call) == threading.get_ident())
            await loop.shutdown_default_executor()

        run(loop, wait())

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    began.wait()
    for _ in range(2):
        taken = fake.claim()
        fake.reply(taken, codec.decode(Codec.MSGPACK, taken.payload))
    for thread in threads:
        thread.join()
    assert over == [True, True]


@pytest.mark.usefixtures("bell")
def test_a_loop_that_watches_no_descriptors_leaves_it_to_the_thread(
    connection: Connection, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Proactor(asyncio.SelectorEventLoop):
        def add_reader(self, *args: Any) -> None:
            raise NotImplementedError

    with contextlib.closing(Proactor()) as other:
        assert connection.loops.of(other) is None
        assert connection.loops.of(other) is None
        assert len(connection.loops._free) == 1
        # One that comes after it and has its id is another one.
        monkeypatch.setattr(loops_module, "id", lambda _: id(other), raising=False)
        assert connection.loops.of(loop) is not None
        assert connection.loops.of(other) is None


@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize("waiting", [False, True])
def test_the_bell_of_a_closed_loop_is_the_next_one_s(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    new_loop: Callable[[], Loop],
    waiting: bool,
) -> None:
    first, second = new_loop(), new_loop()
    calls: list[ShmCall] = []

    async def leave() -> None:
        calls.append(submit(transport, "left"))
        begin(first, calls[0])
        if not waiting:
            fake.reply(fake.claim(), 1)
            calls[0].loop_calls.look()

    run(first, leave())
    first.close()

    async def work() -> None:
        call = submit(transport, "next")
        ended = begin(second, call)
        for _ in range(1 + waiting):
            taken = fake.claim()
            fake.reply(taken, codec.decode(Codec.MSGPACK, taken.payload))
        await ended
        assert value_of(call) == "next"

    run(second, work())
    wait_until(lambda: connection.channels.in_calls == 0)  # the thread has taken what was left


@pytest.mark.usefixtures("bell")
def test_a_loop_that_is_gone_leaves_its_bell_too(
    connection: Connection, loop: Loop, recwarn: pytest.WarningsRecorder
) -> None:
    def use_one() -> None:
        assert connection.loops.of(asyncio.SelectorEventLoop()) is not None

    use_one()
    gc.collect()
    assert connection.loops.of(loop) is not None


@pytest.mark.usefixtures("bell")
def test_a_call_that_a_closed_loop_has_left_can_be_given_up(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def leave() -> ShmCall:
        call = submit(transport)
        begin(loop, call)
        return call

    call = run(loop, leave())
    loop.close()
    assert transport.abandon(call, MoltCancelled("its task was destroyed"))
    assert connection.channels.in_calls == 0
    assert completion_threads() == 0


# -- executors that have lost their ends ---------------------------------------------------------------------
@pytest.fixture
def lost(fake: FakePool, bell: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """From now on no executor can ring the bell."""
    monkeypatch.setattr(loops_module, "_LOOK_NS", 1_000_000)
    supervisors = os.dup(fake.bells[bell])
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, fake.bells[bell])
    yield
    os.close(null)
    os.close(supervisors)


@pytest.mark.usefixtures("lost")
def test_where_nobody_can_ring_a_thread_waits_for_all_calls_and_later_ones(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    new_loop: Callable[[], Loop],
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        first, second = submit(transport, 1), submit(transport, 2)
        waits = [begin(loop, first), begin(loop, second, 3600.0)]
        fake.reply(fake.claim(), "not rung for")
        await waits[0]
        assert calls_of(connection, loop).count == 0
        fake.reply(fake.claim(), "the thread sees it")
        await waits[1]
        assert [value_of(first), value_of(second)] == ["not rung for", "the thread sees it"]
        later = submit(transport, 3)
        assert later.ended_in(loop, 0) is None
        assert transport.abandon(later, MoltCancelled("over"))

    loop = new_loop()
    run(loop, work())
    assert completion_threads() == 1
    other = new_loop()
    assert connection.loops.of(other) is None  # nor do other loops try
    assert caplog.text.count("os.closerange") == 1
    assert connection.channels.in_calls == 0


def test_after_a_while_bells_are_used_again(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, bell: int
) -> None:
    """What could not be rung was an executor's that may have been replaced since."""

    async def work() -> None:
        calls = connection.loops.of(loop)
        assert calls is not None
        connection.loops._silence.begin()
        call = submit(transport)
        assert call.ended_in(loop, 0) is None
        fake.arena.arm(bell, False)
        connection.loops._silence.until_s = time.monotonic()
        ended = begin(loop, call)
        fake.reply(fake.claim(), "rung")
        await ended
        assert value_of(call) == "rung"

    run(loop, work())
    assert completion_threads() == 0


@pytest.mark.usefixtures("lost")
def test_without_threads_the_loop_looks_in_time(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def work() -> None:
        calls = connection.loops.of(loop)
        assert calls is not None
        monkeypatch.setattr(calls, "_adopt", refuse)
        for number in range(3):
            call = submit(transport)
            ended = begin(loop, call)
            fake.reply(fake.claim(), number)
            await ended
            assert value_of(call) == number

    run(loop, work())
    assert caplog.text == ""


@pytest.mark.usefixtures("bell")
def test_a_closed_loop_s_calls_stay_known_until_a_thread_can_wait_for_them(
    transport: ShmTransport,
    connection: Connection,
    fake: FakePool,
    loop: Loop,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def leave() -> LoopCalls:
        begin(loop, submit(transport))
        return calls_of(connection, loop)

    calls = run(loop, leave())
    loop.close()
    with monkeypatch.context() as patch:
        patch.setattr(calls, "_adopt", refuse)
        connection.loops.sweep()
    assert connection.loops._free == []
    connection.loops.sweep()
    assert connection.loops._free == [calls.bell]
    fake.reply(fake.claim(), 1)
    wait_until(lambda: connection.channels.in_calls == 0)


# -- the end ------------------------------------------------------------------------------------------------
def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


@pytest.mark.usefixtures("bell")
@pytest.mark.parametrize("elsewhere", [False, True])
def test_closing_ends_the_calls_and_closes_the_bell(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, elsewhere: bool
) -> None:
    async def work() -> None:
        call, only_now = submit(transport), submit(transport)
        ended = begin(loop, call)
        fd = calls_of(connection, loop).bell.fd
        if elsewhere:
            await loop.run_in_executor(None, transport.close)
            await loop.shutdown_default_executor()
        else:
            transport.close()
        await ended
        assert isinstance(call.result, MoltCancelled)
        assert not is_open(fd)
        assert only_now.ended_in(loop, 0) is None
        assert only_now.wait(None)
        assert isinstance(only_now.result, MoltCancelled)
        assert connection.channels.in_calls == 0

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_the_worker_s_end_ends_the_calls_and_closes_the_bell(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fake.claim()
        fd = calls_of(connection, loop).bell.fd
        fake.hang_up()
        await ended
        assert isinstance(call.result, MoltWorkerUnavailable)
        while is_open(fd):
            await asyncio.sleep(0.001)

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_a_pipe_that_nobody_can_write_to_is_not_listened_to(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fd = calls_of(connection, loop).bell.fd
        os.close(fake.bells.pop())
        fake.arena.use_bells(())
        while loop.remove_reader(fd):  # the loop's own turn does so
            loop.add_reader(fd, calls_of(connection, loop)._on_bell)
            await asyncio.sleep(0.001)
        assert not ended.done()
        transport.abandon(call, MoltCancelled("over"))

    run(loop, work())


@pytest.mark.usefixtures("bell")
def test_closing_takes_the_calls_of_a_loop_that_does_not_run(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    async def leave() -> tuple[ShmCall, asyncio.Future[None]]:
        call = submit(transport)
        return call, begin(loop, call)

    call, ended = run(loop, leave())
    fd = calls_of(connection, loop).bell.fd
    transport.close()
    wait_until(lambda: call.done and connection.channels.in_calls == 0)
    run(loop, asyncio.wait([ended]))  # it goes on
    assert isinstance(call.result, MoltCancelled)
    wait_until(lambda: run(loop, asyncio.sleep(0)) or not is_open(fd))


@pytest.mark.usefixtures("bell")
def test_closing_closes_the_bells_of_closed_loops_and_those_that_no_loop_has(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop
) -> None:
    free, reading = fake.new_bell()
    connection.loops.granted(free, reading)
    used = connection.loops.of(loop)
    assert used is not None
    fds = [used.bell.fd, *(bell.fd for bell in connection.loops._free)]
    assert all(map(is_open, fds))
    loop.close()
    transport.close()
    assert not any(map(is_open, fds))
    late, reading = fake.new_bell()
    connection.loops.granted(late, reading)
    gc.collect()
    assert not is_open(reading)


def test_a_forked_child_has_no_bell_and_leaves_its_parent_s_selector_alone(
    transport: ShmTransport, connection: Connection, fake: FakePool, bell: int
) -> None:
    loop = asyncio.SelectorEventLoop(selectors.EpollSelector())
    self_pipe = loop._ssock

    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fd = calls_of(connection, loop).bell.fd

        def child() -> None:
            forgotten = not is_open(fd) and connection.loops.of(loop) is None
            transport.abandon(call, MoltCancelled("the child's copy is let go of"))
            woken = os.read(self_pipe.fileno(), 1) if select.select([self_pipe], [], [], 0)[0] else b""
            os._exit(int(not forgotten or woken != b""))

        assert exit_code(fork(child)) == 0
        fake.reply(fake.claim(), "still heard")
        await ended
        assert value_of(call) == "still heard"

    with contextlib.closing(loop):
        run(loop, work())


@pytest.mark.usefixtures("bell")
def test_a_full_pipe_and_a_blocking_one_hold_up_nobody_who_rings(
    transport: ShmTransport, connection: Connection, fake: FakePool, loop: Loop, bell: int
) -> None:
    async def work() -> None:
        call = submit(transport)
        ended = begin(loop, call)
        fd = calls_of(connection, loop).bell.fd
        os.set_blocking(fd, True)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(fake.bells[bell], bytes(4096))
        os.set_blocking(fd, False)
        fake.reply(fake.claim(), 1)
        await ended
        assert value_of(call) == 1

    run(loop, work())
