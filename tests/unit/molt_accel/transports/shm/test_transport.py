"""molt_accel.transports.shm.transport: a call's outcome is decided once, by whoever decides it,
and its channel comes back once.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltError,
    MoltProtocolError,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
    WorkerVanished,
    from_wire,
)
from molt_accel.ipc.frame import FrameError
from molt_accel.ipc.messages import (
    PING,
    WORKER_DEFAULT_WAIT,
    CancelChannel,
    Codec,
    Detach,
    Draining,
    Lease,
    Request,
    Response,
)
from molt_accel.ipc.shm._native import Channel, entry_id
from molt_accel.ipc.shm.layout import ChannelState, Failure, Gauge, Outcome, failure_word, with_state
from molt_accel.transports import launcher
from molt_accel.transports.base import PendingCall
from molt_accel.transports.shm import completion
from molt_accel.transports.shm import connection as connections
from molt_accel.transports.shm import transport as shm
from molt_accel.transports.shm.transport import ShmCall, ShmTransport
from tests.support.errors import raised
from tests.support.processes import asleep, wait_until
from tests.support.scripted_pool import PATIENCE_S, FakePool

ids = count(1)


def request(payload: object = None, **fields: Any) -> Request:
    data = codec.encode(Codec.MSGPACK, payload)
    known = {"payload": data, "max_wait_ms": WORKER_DEFAULT_WAIT, "sent_ns": time.monotonic_ns()}
    return Request(next(ids), "echo", **{**known, **fields})


def in_ms(ms: float) -> int:
    return time.monotonic_ns() + int(ms * 1e6)


@pytest.fixture
def transport(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> Iterator[ShmTransport]:
    monkeypatch.setattr(shm, "attach_or_start", lambda *args: fake.attach(*args))
    monkeypatch.setattr(connections, "_QUIET_S", 0.05)  # some tests leave calls behind
    opened = fake.transport()
    opened.start()
    yield opened
    opened.close()


@pytest.fixture
def asked(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """For each time that a worker was looked for, when it may be started at the earliest."""
    asked: list[float] = []

    def attach(config: Config, not_before_s: float = 0.0) -> Any:
        asked.append(not_before_s)
        return fake.serve()

    monkeypatch.setattr(fake, "attach", attach)
    return asked


def submit(transport: ShmTransport, frame: Request | None = None) -> ShmCall:
    pending = transport.submit(frame or request())
    assert isinstance(pending, ShmCall)
    return pending


def lease_next(transport: ShmTransport, kind: type[Channel]) -> None:
    """Have the next request use a channel of another class."""
    connection = transport._connection
    assert connection is not None
    index = connection.channels.free.pop().index
    connection.channels.free.append(kind(connection.arena, index, connection.max_frame_bytes))


def in_calls(transport: ShmTransport) -> int:
    assert transport._connection is not None
    return transport._connection.channels.in_calls


def outcome(pending: PendingCall) -> Any:
    result = pending.result
    if isinstance(result, Response):
        value = codec.decode(result.codec, result.payload)
        return value if result.status and result.status.label == "Ok" else from_wire(result.status, value)  # type: ignore[arg-type]
    assert result is not None
    return result


# -- good ends ----------------------------------------------------------------------------------------------
def test_a_request_is_taken_up_and_its_reply_is_the_outcome(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport, request({"a": 1}))
    assert (pending.done, pending.wait(0), pending.lost) == (False, False, False)
    taken = fake.claim()
    assert (taken.request_id, codec.decode(Codec.MSGPACK, taken.payload)) == (pending.request_id, {"a": 1})
    assert pending.wait(0.01) is False
    fake.reply(taken, "b")
    assert pending.wait(None) is True
    assert outcome(pending) == "b"
    assert (in_calls(transport), fake.states()) == (0, [])
    assert pending.wait(0) is True
    assert not transport.abandon(pending, MoltCancelled("late"))
    assert outcome(pending) == "b"


def test_a_result_is_there_before_its_response_is_made(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    assert (pending.success, pending.result) == (None, None)
    fake.reply(fake.claim(), "b")
    assert pending.wait_until(0) is True
    assert pending.success == (Codec.MSGPACK, codec.encode(Codec.MSGPACK, "b"))
    response = pending.result
    assert isinstance(response, Response)
    assert pending.success == (response.codec, response.payload)
    assert pending.result is response, "made once"


@pytest.mark.parametrize("timeout_s", [None, 0, -1, 0.001, 1e9])
def test_a_wait_for_an_outcome_ends(transport: ShmTransport, fake: FakePool, timeout_s: float | None) -> None:
    pending = submit(transport)
    fake.reply(fake.claim(), 1)
    assert pending.wait(timeout_s) is True
    assert outcome(pending) == 1


def test_requests_larger_than_a_ring_pass_while_one_waits(transport: ShmTransport, fake: FakePool) -> None:
    payload = b"x" * 20_000
    pending = submit(transport, request(payload))
    serving = fake.serving(lambda frame: codec.decode(Codec.MSGPACK, frame.payload)[::-1] + b"!", 1)
    assert pending.wait(PATIENCE_S)
    serving.join()
    assert outcome(pending) == payload + b"!"


def test_an_event_loop_is_called_back(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport, request(b"y" * 20_000))
    called = threading.Event()
    pending.on_done(called.set)
    assert not called.is_set()
    fake.serving(lambda frame: codec.decode(Codec.MSGPACK, frame.payload), 1).join()
    assert called.wait(PATIENCE_S)
    assert outcome(pending) == b"y" * 20_000
    again = threading.Event()
    pending.on_done(again.set)
    assert again.is_set()
    wait_until(lambda: in_calls(transport) == 0)


def test_a_callback_can_be_replaced_while_it_waits(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    first, second = threading.Event(), threading.Event()
    pending.on_done(first.set)
    pending.on_done(second.set)
    fake.reply(fake.claim(), 1)
    assert second.wait(PATIENCE_S)
    assert not first.is_set()


# -- failures -----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("word", "kind", "facts", "executor"),
    [
        (failure_word(Failure.CRASHED, 5, -9), MoltWorkerCrashed, {"signal": 9}, 5),
        (failure_word(Failure.CRASHED, 6, 3), MoltWorkerCrashed, {"exit_code": 3}, 6),
        (failure_word(Failure.TIMED_OUT, 7), MoltTimeout, {"phase": "running"}, 7),
        (failure_word(Failure.STALLED, 8), MoltTimeout, {"phase": "transport"}, 8),
    ],
)
def test_a_failure_is_the_response_that_it_stands_for(
    transport: ShmTransport,
    fake: FakePool,
    word: int,
    kind: type[MoltError],
    facts: dict[str, object],
    executor: int,
) -> None:
    pending = submit(transport)
    fake.claim()
    assert fake.slots[0].fail(word)
    assert pending.wait(PATIENCE_S)
    error = outcome(pending)
    assert (type(error), error.facts) == (kind, facts)
    assert isinstance(pending.result, Response)
    assert pending.result.executor == executor
    assert (in_calls(transport), fake.states()) == (0, [])


def test_a_reply_to_another_request_ends_the_connection(
    transport: ShmTransport, fake: FakePool, caplog: pytest.LogCaptureFixture
) -> None:
    pending = submit(transport)
    fake.reply(fake.claim(), 1, request_id=2**60)
    assert pending.wait(PATIENCE_S)
    error = outcome(pending)
    assert type(error) is MoltProtocolError
    assert error.detail == "the reply is another request's"
    wait_until(lambda: not transport.ready)


def test_bad_states_end_it(transport: ShmTransport, fake: FakePool, caplog: pytest.LogCaptureFixture) -> None:
    pending = submit(transport)
    index = pending.channel.index
    word = fake.arena.word(index)
    assert fake.arena.step(index, word, word + (1 << 32))  # another's generation
    assert pending.wait(PATIENCE_S)
    assert type(outcome(pending)) is MoltProtocolError
    wait_until(lambda: not transport.ready)


@pytest.mark.parametrize("state", [ChannelState.READY, ChannelState.CLAIMED, ChannelState.DONE])
def test_a_channel_that_the_worker_has_taken_away_is_an_unavailable_worker(
    transport: ShmTransport, fake: FakePool, state: ChannelState
) -> None:
    """It takes this client for gone: whether the request ran is not to be known any more."""
    pending = submit(transport)
    if state is not ChannelState.READY:
        taken = fake.claim()
    if state is ChannelState.DONE:
        fake.reply(taken, 1)
    fake.take_away(pending.channel.index)
    assert pending.wait(PATIENCE_S)
    error = outcome(pending)
    assert type(error) is MoltWorkerUnavailable
    assert (error.detail, error.may_have_run) == ("the worker has let go of this client", True)
    assert in_calls(transport) == 0


# -- the end of the connection ------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", ["queued", "claimed", "done", "failed"])
def test_at_the_end_a_call_has_what_is_certain(transport: ShmTransport, fake: FakePool, state: str) -> None:
    pending = submit(transport)
    if state != "queued":
        fake.set(Gauge.SERVING, 1)
        taken = fake.claim()
    if state == "done":
        fake.reply(taken, "in time")
    if state == "failed":
        fake.slots[0].fail(failure_word(Failure.CRASHED, 1, -9))
    connection = transport._connection
    assert connection is not None
    fake.hang_up()
    wait_until(lambda: connection.end_error is not None)
    connection.monitor.join(PATIENCE_S)
    assert pending.wait(PATIENCE_S)
    assert pending.lost is (state == "queued")
    if state == "queued":
        assert pending.result is None
    elif state == "claimed":
        error = outcome(pending)
        assert type(error) is MoltWorkerUnavailable
        assert error.may_have_run
        assert error is not connection.end_error
    elif state == "done":
        assert outcome(pending) == "in time"
    else:
        assert type(outcome(pending)) is MoltWorkerCrashed
    assert ChannelState.READY not in fake.states()
    assert in_calls(transport) == 0


@pytest.mark.parametrize("claimed", [False, True])
def test_closing_cancels_calls_under_way(transport: ShmTransport, fake: FakePool, claimed: bool) -> None:
    pending = submit(transport)
    if claimed:
        fake.claim()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pending.wait, None)
        transport.close()
        assert waiting.result(PATIENCE_S) is True
    error = outcome(pending)
    assert (type(error), error.detail) == (MoltCancelled, "the client was closed")
    assert fake.states() == ([ChannelState.ABANDONED] if claimed else [])
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        transport.submit(request())
    with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
        transport.start()


# -- giving up ----------------------------------------------------------------------------------------------
def test_what_is_queued_is_given_up_and_nobody_runs_it(transport: ShmTransport, fake: FakePool) -> None:
    pending, error = submit(transport), MoltCancelled("enough")
    assert transport.abandon(pending, error)
    assert pending.result is error
    assert fake.states() == []
    assert in_calls(transport) == 0
    assert not transport.abandon(pending, MoltTimeout("later"))
    assert pending.wait(0)
    assert fake.arena.gauge(Gauge.OUTCOMES + Outcome.Cancelled) == 1


def test_what_runs_is_given_up_and_the_worker_told(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    taken = fake.claim()
    assert transport.abandon(pending, MoltCancelled("enough"))
    assert fake.hear() == CancelChannel(pending.channel.index, pending.channel.generation)
    assert fake.states() == [ChannelState.ABANDONED]
    assert in_calls(transport) == 0
    assert fake.reply(taken, 1) is False
    assert fake.states() == []
    assert type(outcome(pending)) is MoltCancelled


def test_what_is_being_killed_is_given_up_without_a_word(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    fake.claim()
    index = pending.channel.index
    word = fake.arena.word(index)
    assert fake.arena.step(index, word, with_state(word, ChannelState.KILLING))
    assert transport.abandon(pending, MoltTimeout("late"))
    transport.close()
    assert fake.heard() == [Detach()]
    assert fake.states() == [ChannelState.KILLING]


@pytest.mark.parametrize("end", ["done", "failed"])
def test_what_has_ended_is_not_given_up_and_its_channel_comes_back_though_nobody_waits(
    transport: ShmTransport, fake: FakePool, end: str
) -> None:
    """Ctrl-C in the middle of a wait: the waiter is gone when it is given up."""
    pending = submit(transport)
    taken = fake.claim()
    if end == "done":
        fake.reply(taken, "in time")
    else:
        fake.slots[0].fail(failure_word(Failure.CRASHED, 1, -9))
    assert not transport.abandon(pending, MoltCancelled("enough"))
    assert outcome(pending) == "in time" if end == "done" else type(outcome(pending)) is MoltWorkerCrashed
    assert (in_calls(transport), fake.states()) == (0, [])


@pytest.mark.parametrize("claimed", [False, True])
def test_a_thread_that_waits_is_woken_and_gives_the_channel_back(
    transport: ShmTransport, fake: FakePool, claimed: bool
) -> None:
    for _ in range(30):
        pending = submit(transport)
        if claimed:
            taken = fake.claim()
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(pending.wait, None)
            assert transport.abandon(pending, MoltCancelled("enough"))
            assert waiting.result(PATIENCE_S) is True
        assert type(outcome(pending)) is MoltCancelled
        if claimed:
            fake.reply(taken)
        assert in_calls(transport) == 0


def test_a_call_given_up_while_its_waiter_is_interrupted_gives_it_back(transport: ShmTransport) -> None:
    """Another thread gives up, and leaves the channel to the waiter, who raises in that moment."""

    class Interrupting(Channel):
        def wait(self, until_ns: int) -> int:
            assert transport.abandon(pending, MoltCancelled("the browser went away"))
            raise KeyboardInterrupt

    lease_next(transport, Interrupting)
    pending = submit(transport)
    with pytest.raises(KeyboardInterrupt):
        pending.wait(None)
    assert not transport.abandon(pending, MoltCancelled("the caller stopped waiting"))
    assert in_calls(transport) == 0


def test_a_given_up_call_of_an_event_loop_is_called_back(
    transport: ShmTransport, fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Because the completion thread is woken for it: it sleeps long, and has looked at the call before."""
    monkeypatch.setattr(completion, "_LOOK_NS", 3600 * 10**9)
    looks, poll = [], ShmCall.poll
    monkeypatch.setattr(ShmCall, "poll", lambda call: looks.append(call) or poll(call))
    pending, called = submit(transport), threading.Event()
    pending.on_done(called.set)
    assert transport._connection is not None
    thread = transport._connection.completion_thread._thread
    assert thread is not None
    wait_until(lambda: looks and asleep(thread))
    assert transport.abandon(pending, MoltCancelled("enough"))
    assert called.wait(PATIENCE_S)
    wait_until(lambda: in_calls(transport) == 0)


def test_giving_up_and_answering_race_for_one_outcome(transport: ShmTransport, fake: FakePool) -> None:
    seen = set()
    for number in range(200):
        pending = submit(transport)
        taken = fake.claim()
        start = threading.Barrier(3)

        def give_up(pending: ShmCall = pending, start: threading.Barrier = start) -> bool:
            start.wait()
            return transport.abandon(pending, MoltCancelled("enough"))

        def wait(pending: ShmCall = pending, start: threading.Barrier = start) -> bool:
            start.wait()
            return pending.wait(None)

        with ThreadPoolExecutor(2) as threads:
            giving_up, waiting = threads.submit(give_up), threads.submit(wait)
            start.wait()
            answered = fake.reply(taken, number)
            given_up = giving_up.result(PATIENCE_S)
            assert waiting.result(PATIENCE_S)
        assert answered is not given_up
        assert (outcome(pending) == number) is answered
        assert in_calls(transport) == 0
        wait_until(lambda: fake.states() == [])
        seen.add(answered)
    assert True in seen


def test_a_call_that_ends_as_it_is_given_up_does_not_take_the_next_one_of_its_channel_with_it(
    transport: ShmTransport, fake: FakePool
) -> None:
    class Late(Channel):
        def give_up(self, only_queued: bool = False, generation: int = 0) -> int:
            ended.result = result
            return super().give_up(only_queued, generation)

    lease_next(transport, Late)
    ended = submit(transport)
    fake.reply(fake.claim(), 1)
    assert ended.wait(None)
    following = submit(transport)
    assert following.channel is ended.channel
    fake.reply(fake.claim(), 2)
    result, ended.result = ended.result, None  # as who gives it up sees it, just before
    assert transport.abandon(ended, MoltCancelled("enough")) is False
    assert ended.result is result
    assert following.wait(None)
    assert outcome(following) == 2


# -- the queue ----------------------------------------------------------------------------------------------
def test_a_deadline_passes_in_the_queue(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport, request(deadline_ns=in_ms(30)))
    assert pending.wait(None)
    error = outcome(pending)
    assert (type(error), error.phase) == (MoltTimeout, "queue")
    assert (in_calls(transport), fake.states()) == (0, [])


def test_a_deadline_is_the_worker_s_to_watch_once_it_runs(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport, request(deadline_ns=in_ms(30)))
    taken = fake.claim()
    assert not pending.wait(0.1)
    fake.reply(taken, "late, but not my business")
    assert pending.wait(PATIENCE_S)
    assert outcome(pending) == "late, but not my business"


def test_a_full_queue_is_busy_at_once(transport: ShmTransport, fake: FakePool) -> None:
    queued = [submit(transport) for _ in range(5)]  # four places, and an idle executor
    error = raised(MoltBusy, transport.submit, request())
    assert (error.detail, error.reason) == ("the queue is full", "queue_full")
    assert fake.arena.gauge(Gauge.OUTCOMES + Outcome.Busy) == 1
    assert in_calls(transport) == len(queued)
    fake.claim()
    with pytest.raises(MoltBusy):  # it has taken one, and is not idle any more
        transport.submit(request())
    fake.slots[0].fail(failure_word(Failure.CRASHED, 1))
    submit(transport)


def test_a_wait_for_a_place_ends_in_time_unless_it_has_one(transport: ShmTransport, fake: FakePool) -> None:
    for _ in range(5):
        submit(transport)
    in_vain, in_time = (submit(transport, request(max_wait_ms=ms)) for ms in (50, 60_000))
    assert in_vain.wait(None)
    assert (type(outcome(in_vain)), outcome(in_vain).detail) == (MoltBusy, "the queue is full")
    fake.reply(fake.claim())
    in_time.look_ns = time.monotonic_ns()  # its time is over, and it has a place
    assert not in_time.wait(0.05)
    assert in_time.look_ns > time.monotonic_ns()
    for _ in range(4):
        fake.reply(fake.claim())
    fake.reply(fake.claim(), "served")
    assert in_time.wait(PATIENCE_S)
    assert outcome(in_time) == "served"


def test_how_many_calls_a_client_may_have_is_limited(transport: ShmTransport, fake: FakePool) -> None:
    fake.set(Gauge.CLIENT_LIMIT, 2)
    first, _ = submit(transport), submit(transport)
    with pytest.raises(MoltBusy, match=r"^as many calls are in flight as may be$"):
        transport.submit(request())
    transport.abandon(first, MoltCancelled("enough"))
    submit(transport)


def test_a_frame_that_is_not_valid_is_not_published(transport: ShmTransport, fake: FakePool) -> None:
    with pytest.raises(FrameError, match=r"^over the frame limit: "):
        transport.submit(request(b"x" * 100_000))
    assert (in_calls(transport), fake.states()) == (0, [])


def test_without_a_free_channel_more_are_leased(transport: ShmTransport, fake: FakePool) -> None:
    calls = [submit(transport, request(max_wait_ms=60_000)) for _ in range(8)]
    assert transport.submit(request()) is None
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(transport.start)
        assert isinstance(fake.hear(), Lease)
        fake.grant()
        with pytest.raises(MoltBusy):
            starting.result(PATIENCE_S)
    with pytest.raises(MoltBusy):
        transport.submit(request())
    assert in_calls(transport) == len(calls)


# -- one connection after the other -------------------------------------------------------------------------------
def test_nothing_is_sent_before_it_has_started(fake: FakePool) -> None:
    opened = fake.transport()
    assert not opened.ready
    assert opened.submit(request()) is None
    assert not opened.abandon(_Foreign(), MoltCancelled("enough"))
    opened.close()


class _Foreign:
    """A call of another transport."""

    request_id = 1
    generation = 1
    done = False
    result = None
    lost = False

    def wait(self, timeout_s: float | None) -> bool:
        return False

    def on_done(self, callback: Callable[[], object]) -> None:
        return


def test_a_draining_worker_is_succeeded_and_its_calls_go_on(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    ping = transport.submit(Request(next(ids), PING))
    assert ping is not None
    taken, old = fake.claim(), fake.sock
    fake.granted = [4, 5]
    fake.tell(Draining())
    wait_until(lambda: not transport.ready)
    assert transport.submit(request()) is None
    transport.start()
    assert fake.sock is not old
    assert submit(transport).connection.number == pending.connection.number + 1
    assert transport.abandon(ping, MoltTimeout("late"))  # though it is not of this connection
    assert not transport.abandon(ping, MoltTimeout("late"))
    fake.reply(taken, "finished")
    assert pending.wait(PATIENCE_S)
    assert outcome(pending) == "finished"
    wait_until(
        lambda: (
            len([connection for connection in transport._connections if connection.end_error is None]) == 1
        )
    )


def test_close_ends_the_calls_of_a_worker_that_drains_too(transport: ShmTransport, fake: FakePool) -> None:
    pending = submit(transport)
    fake.claim()
    fake.tell(Draining())
    wait_until(lambda: not transport.ready)
    transport.start()
    transport.close()
    assert pending.wait(PATIENCE_S)
    assert type(outcome(pending)) is MoltCancelled


@pytest.mark.parametrize("lived_s", [0, 100])
def test_a_worker_that_died_young_is_started_again_a_little_later(
    transport: ShmTransport, fake: FakePool, asked: list[float], lived_s: float
) -> None:
    """Nobody is refused: who starts it waits, or finds it started by somebody else. How long this client knew a pool
    that has lived long does not count."""
    connection = transport._connection
    assert connection is not None
    connection.worker_started_s = time.monotonic() - lived_s
    fake.greet()
    assert connection.greeted.wait(PATIENCE_S)
    fake.hang_up()
    wait_until(lambda: connection.end_error is not None)
    asked.clear()
    transport.start()
    (not_before_s,) = asked
    if lived_s:
        assert not_before_s <= time.monotonic()
    else:
        assert not_before_s == pytest.approx(connection.ended_s + launcher.FIRST_BACKOFF_S)


@pytest.mark.parametrize(("vanishes", "tries"), [(1, 3), (99, 5)])
def test_a_worker_that_vanishes_is_looked_for_again_and_given_up(
    fake: FakePool, asked: list[float], monkeypatch: pytest.MonkeyPatch, vanishes: int, tries: int
) -> None:
    serve = fake.serve

    def vanishing() -> Any:
        if len(asked) <= vanishes:
            raise WorkerVanished("it was started, but does not listen")
        near = serve()
        if len(asked) == vanishes + 1:
            near.shutdown(2)
        return near

    monkeypatch.setattr(fake, "serve", vanishing)
    monkeypatch.setattr(shm, "attach_or_start", fake.attach)
    opened = fake.transport()
    with pytest.raises(WorkerVanished) if vanishes == 99 else contextlib.nullcontext():
        opened.start()
    assert (len(asked), opened.ready) == (tries, vanishes == 1)
    opened.close()


def test_close_does_not_wait_for_a_start_but_ends_it(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go = threading.Event(), threading.Event()

    def attach(config: Config, not_before_s: float) -> Any:
        reached.set()
        assert go.wait(PATIENCE_S)
        return fake.serve()

    monkeypatch.setattr(shm, "attach_or_start", attach)
    opened = fake.transport()
    with ThreadPoolExecutor(1) as threads:
        starting = threads.submit(opened.start)
        assert reached.wait(PATIENCE_S)
        opened.close()
        assert not starting.done()
        go.set()
        with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
            starting.result(PATIENCE_S)
    assert fake.heard() == [Detach()]


def test_many_starts_at_once_make_one_connection(
    fake: FakePool, asked: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "attach_or_start", fake.attach)
    opened = fake.transport()
    with ThreadPoolExecutor(8) as threads:
        for starting in [threads.submit(opened.start) for _ in range(8)]:
            starting.result(PATIENCE_S)
    assert len(asked) == 1
    opened.close()


def test_patience_is_the_worker_s_grace_time_and_some(transport: ShmTransport, fake: FakePool) -> None:
    assert transport.patience_s == pytest.approx(0.05 + 0.25)
    assert fake.transport(grace_ms=2000).patience_s == pytest.approx(2.25)


# -- what would wait for too long ----------------------------------------------------------------------------
def shed(fake: FakePool) -> int:
    """Refused requests, whatever the reason."""
    return sum(fake.arena.gauge(Gauge.SHED + index) for index in range(len(BusyReason)))


@pytest.fixture
def overloaded(transport: ShmTransport, fake: FakePool) -> ShmTransport:
    """The pool's one executor is busy, requests of a minute stand in the queue, and they are being shed."""
    echo = entry_id("echo")
    fake.arena.set_entry("echo", 0, 0)
    submit(transport)
    fake.claim()
    submit(transport)
    fake.arena.learn(echo, 60_000_000_000, False)
    submit(transport)
    fake.arena.set_standing(echo, time.monotonic_ns() | 1, False)
    return transport


def test_what_would_wait_for_too_long_is_refused_and_leaves_nothing(
    overloaded: ShmTransport, fake: FakePool
) -> None:
    error = raised(MoltBusy, overloaded.submit, request())
    assert error.reason == BusyReason.QUEUE_DELAY
    assert (in_calls(overloaded), fake.states().count(ChannelState.READY)) == (3, 2)
    assert (shed(fake), fake.arena.entry(entry_id("echo")).refused) == (1, 1)


def test_before_it_is_published_the_same_is_said_and_counted(
    overloaded: ShmTransport, fake: FakePool
) -> None:
    error = overloaded.refusal("echo", None)
    assert error is not None
    assert error.reason == BusyReason.QUEUE_DELAY
    assert (shed(fake), in_calls(overloaded)) == (1, 3)
    assert overloaded.refusal("unknown", None) is None


def test_what_an_executor_takes_up_meanwhile_runs_and_counts_as_no_refusal(
    overloaded: ShmTransport, fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = overloaded._connection
    assert connection is not None
    decide = connection.admission.refusal

    def taken_up_meanwhile(entry: str, left_ns: int | None, channel: Any = None) -> MoltBusy | None:
        refusal = decide(entry, left_ns, channel)
        word = fake.arena.word(channel.index)
        assert fake.arena.step(channel.index, word, with_state(word, ChannelState.CLAIMED))
        return refusal

    monkeypatch.setattr(connection.admission, "refusal", taken_up_meanwhile)
    assert isinstance(overloaded.submit(request()), ShmCall)
    assert (shed(fake), in_calls(overloaded)) == (0, 4)


def test_an_interrupt_while_it_is_decided_leaves_nothing(
    overloaded: ShmTransport, fake: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = overloaded._connection
    assert connection is not None

    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection.admission, "refusal", interrupted)
    with pytest.raises(KeyboardInterrupt):
        overloaded.submit(request())
    assert (in_calls(overloaded), fake.states().count(ChannelState.READY)) == (3, 2)
