"""molt_accel.transports.shm.connection: an attachment to a pool, from what was granted to its end."""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltProtocolError,
    MoltStartFailed,
    MoltWorkerUnavailable,
    Status,
)
from molt_accel.ipc import control
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import (
    PING,
    CancelChannel,
    Detach,
    Draining,
    Lease,
    Recall,
    Request,
    Response,
    Return,
)
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import ChannelState, Gauge, SlotGauge
from molt_accel.transports.connection import ConnectionState
from molt_accel.transports.shm import connection as connections
from molt_accel.transports.shm.channels import BATCH
from molt_accel.transports.shm.connection import Connection
from tests.support.errors import raised
from tests.support.processes import exit_code, fork, wait_until
from tests.support.scripted_pool import PATIENCE_S, FakePool, MakePool

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

REQUEST = Request(1, "echo", b"payload")


@pytest.fixture
def connection(fake: FakePool) -> Connection:
    return fake.connection()


def ping(number: int = 7) -> Request:
    return Request(number, PING)


def pong(number: int = 7) -> Response:
    return Response(number, Status.OK)


def busy(connection: Connection) -> Any:
    channel = connection.channels.lease()
    assert channel is not None
    channel.publish(REQUEST, 4, 0)
    return channel


def ended(connection: Connection) -> bool:
    return connection.end_error is not None and not connection.monitor.is_alive()


# -- attached -----------------------------------------------------------------------------------------------
def test_what_the_worker_granted_is_what_the_connection_goes_by(make_pool: MakePool) -> None:
    fake = make_pool(channels=5, capacity=3)
    fake.set(Gauge.SPIN_NS, 1234)
    fake.set(Gauge.CLIENT_SPINNERS, 2)
    fake.set(Gauge.STARTED_NS, 5_000_000_000)
    connection = fake.connection(max_frame_bytes=50_000)
    assert (connection.max_frame_bytes, connection.max_wait_ms, connection.grace_ms) == (50_000, 0, 50)
    assert (connection.capacity, connection.worker_started_s, connection.number) == (3, 5.0, 1)
    assert (connection.arena.spin_ns, connection.arena.client_spinners) == (1234, 2)
    assert sorted(connection.channels.lease().index for _ in range(5)) == [0, 1, 2, 3, 4]  # type: ignore[union-attr]
    assert connection.open
    assert not connection.closing
    assert fake.connection(max_frame_bytes=200_000).max_frame_bytes == 100_000
    assert fake.connection(spin_us=0).arena.spin_ns == 0
    assert fake.connection(spin_us=7).arena.spin_ns == 7000


def test_its_greeting_says_that_the_worker_is_ready(fake: FakePool, connection: Connection) -> None:
    assert not connection.greeted.is_set()
    fake.greet()
    assert connection.greeted.wait(PATIENCE_S)
    assert connection.was_ready


def test_a_grant_of_nothing_at_first_is_no_refusal(fake: FakePool) -> None:
    fake.granted = []
    connection = fake.connection()
    assert connection.channels.wants_more
    fake.grant(3)
    wait_until(lambda: connection.channels.free)


def test_no_thread_for_it_is_an_unavailable_worker(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    near = fake.serve()
    with monkeypatch.context() as patch, near:
        patch.setattr(threading.Thread, "start", _refuse_thread)
        error = raised(MoltWorkerUnavailable, Connection, Config(transport="shm"), near, 1)
    assert error.detail == "can't attend to a worker: can't start new thread"


def _refuse_thread(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")


# -- pings and cancels --------------------------------------------------------------------------------------
def test_a_ping_goes_by_the_socket_and_its_answer_resolves_it(fake: FakePool, connection: Connection) -> None:
    pending = connection.ping(ping())
    assert pending is not None
    assert fake.hear() == ping()
    fake.tell(pong(8))  # of one that nobody waits for
    fake.tell(pong())
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, Response)
    assert not connection.forget_ping(pending)


def test_a_ping_that_is_forgotten_is_not_answered(fake: FakePool, connection: Connection) -> None:
    pending = connection.ping(ping())
    assert pending is not None
    assert connection.forget_ping(pending)
    assert not connection.forget_ping(pending)
    fake.tell(pong())
    fake.greet()
    assert connection.greeted.wait(PATIENCE_S)
    assert not pending.done


def test_pings_end_with_the_connection_and_later_ones_are_not_sent(fake: FakePool) -> None:
    connection = fake.connection()
    pending = connection.ping(ping())
    assert pending is not None
    fake.hang_up()
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, MoltWorkerUnavailable)
    assert connection.ping(ping()) is None


def test_a_ping_to_a_worker_just_gone_is_not_sent(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = fake.connection()
    monkeypatch.setattr(control, "send", _raise(BrokenPipeError()))
    assert connection.ping(ping()) is None
    assert not connection.open


def _raise(error: BaseException) -> Callable[..., None]:
    def act(*_: object) -> None:
        raise error

    return act


def test_a_worker_that_reads_nothing_is_told_no_more(connection: Connection) -> None:
    with pytest.raises(MoltWorkerUnavailable, match=r"^the worker doesn't listen$"):
        _ping_for_ever(connection)
    connection.cancel(3, 1)  # lost, and that is all
    assert not connection._ask_for_bell()
    assert connection.open


def _ping_for_ever(connection: Connection) -> None:
    for number in range(1, 100_000):
        assert connection.ping(ping(number)) is not None


def test_a_cancel_names_channel_and_generation(fake: FakePool) -> None:
    fake.connection().cancel(3, 9)
    assert fake.hear() == CancelChannel(3, 9)


# -- channels -----------------------------------------------------------------------------------------------
def test_more_channels_are_asked_for_and_used(fake: FakePool) -> None:
    fake.granted = []
    connection = fake.connection()
    with ThreadPoolExecutor(3) as threads:
        asking = [threads.submit(connection.lease_more) for _ in range(3)]
        assert fake.hear() == Lease(BATCH)
        fake.grant(4, 5)
        for each in asking:
            each.result(PATIENCE_S)
    assert connection.channels.free
    connection.close()
    assert fake.heard() == [Detach()]  # one has asked for all


def test_none_left_is_busy_and_not_asked_again_for_a_while(fake: FakePool) -> None:
    fake.granted = []
    connection = fake.connection()
    with ThreadPoolExecutor(1) as threads:
        asking = threads.submit(connection.lease_more)
        fake.hear()
        fake.grant()
        with pytest.raises(MoltBusy, match=r"^the worker has no channel left for this client$"):
            asking.result(PATIENCE_S)
    assert not connection.channels.wants_more
    connection.lease_more()


def test_a_silent_worker_is_not_waited_for_for_ever(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_S", 0.05)
    fake.granted = []
    connection = fake.connection()
    connection.lease_more()
    assert not connection.channels.wants_more


def test_spare_channels_are_given_back_when_asked_for(fake: FakePool, connection: Connection) -> None:
    assert connection.channels.lease() is not None
    fake.tell(Recall(3))
    assert fake.hear() == Return([7, 6, 5])


def test_when_asked_for_channels_it_looks_for_calls_that_closed_loops_have_left(
    fake: FakePool, connection: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[int] = []
    monkeypatch.setattr(connection.loops, "sweep", lambda: swept.append(1))
    fake.tell(Recall(3))
    assert isinstance(fake.hear(), Return)
    assert swept == [1]


# -- the worker's end ---------------------------------------------------------------------------------------
@pytest.mark.parametrize("sign", ["none", "greeting", "serving", "an executor"])
def test_whether_a_request_may_have_run_is_whether_anything_could_run_it(fake: FakePool, sign: str) -> None:
    """Executors serve before the supervisor has told so."""
    connection = fake.connection()
    if sign == "greeting":
        fake.greet()
    elif sign == "serving":
        fake.set(Gauge.SERVING, 1)
    elif sign == "an executor":
        fake.arena.set_slot_gauge(2, SlotGauge.READY_NS, 1)
    fake.hang_up()
    wait_until(lambda: ended(connection))
    assert isinstance(connection.end_error, MoltWorkerUnavailable)
    what = "the worker can't start" if sign == "none" else "the worker is gone"
    assert connection.end_error.detail == f"{what}: its control socket was closed"
    assert isinstance(connection.end_error, MoltStartFailed) is (sign == "none")
    assert connection.end_error.may_have_run is connection.was_ready is (sign != "none")
    assert not connection.open
    assert connection.greeted.is_set()


def test_the_reason_why_a_worker_can_t_start_is_the_connection_s_end(fake: FakePool) -> None:
    connection = fake.connection()
    fake.fail_start("no module named shop")
    fake.hang_up()
    wait_until(lambda: ended(connection))
    assert connection.end_error is not None
    assert connection.end_error.detail == "the worker can't start: no module named shop"
    assert not connection.was_ready


def test_what_a_worker_said_before_it_went_is_heard_though_it_did_not_read_everything(fake: FakePool) -> None:
    """The kernel tells of that first."""
    connection = fake.connection()
    connection.cancel(0, 1)
    fake.fail_start("no module named shop")
    fake.hang_up()
    wait_until(lambda: ended(connection))
    assert connection.end_error is not None
    assert connection.end_error.detail == "the worker can't start: no module named shop"


@pytest.mark.parametrize("message", [Lease(1), Request(1, "echo"), Response(0)])
def test_unexpected_messages_end_it(fake: FakePool, message: Item, caplog: pytest.LogCaptureFixture) -> None:
    connection = fake.connection()
    fake.tell(message)
    wait_until(lambda: ended(connection))
    assert isinstance(connection.end_error, MoltProtocolError)
    assert "the worker broke the protocol: " in caplog.text
    assert fake.hear() is None


def test_a_message_that_is_no_frame_ends_the_connection(fake: FakePool, connection: Connection) -> None:
    assert fake.sock is not None
    fake.sock.send(b"\x04\x00\x00\x00what")
    wait_until(lambda: ended(connection))
    assert isinstance(connection.end_error, MoltProtocolError)


def test_a_bug_of_its_own_ends_it_rather_than_leave_its_calls_waiting(
    fake: FakePool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    connection = fake.connection()
    monkeypatch.setattr(connection.channels, "add", _raise(ZeroDivisionError()))
    fake.grant(1)
    wait_until(lambda: ended(connection))
    assert connection.end_error is not None
    assert connection.end_error.detail == "the connection failed: ZeroDivisionError"
    assert "the thread that listens to a worker failed" in caplog.text


def test_a_drain_with_nothing_under_way_is_left_at_once(fake: FakePool, connection: Connection) -> None:
    fake.tell(Draining())
    assert fake.heard() == [Detach()]
    wait_until(lambda: ended(connection))
    assert (connection.state, connection.open) == (ConnectionState.CLOSED, False)


def test_a_drain_is_left_after_the_last_call_and_the_last_ping(fake: FakePool) -> None:
    connection = fake.connection()
    channel = busy(connection)
    pending = connection.ping(ping())
    assert pending is not None
    fake.hear()
    fake.tell(Draining())
    wait_until(lambda: connection.state is ConnectionState.FINISHING)
    assert not connection.open
    fake.reply(fake.claim())
    assert isinstance(channel.take(), Response)
    connection.channels.give_back(channel)
    connection.call_ended()
    assert not connection.closing
    fake.tell(pong())
    assert fake.heard() == [Detach()]
    assert pending.wait(0)
    assert isinstance(pending.result, Response)


def test_a_ping_that_is_forgotten_is_none_to_wait_for(fake: FakePool, connection: Connection) -> None:
    pending = connection.ping(ping())
    assert pending is not None
    fake.hear()
    fake.tell(Draining())
    wait_until(lambda: connection.state is ConnectionState.FINISHING)
    assert connection.forget_ping(pending)
    assert fake.heard() == [Detach()]


# -- this side's end ----------------------------------------------------------------------------------------
def test_close_tells_the_worker_that_it_has_done_with_its_channels(fake: FakePool) -> None:
    connection = fake.connection()
    connection.close()
    assert fake.heard() == [Detach()]
    assert ended(connection)
    assert isinstance(connection.end_error, MoltCancelled)
    assert connection.channels.lease() is None
    connection.close()


def test_close_waits_for_calls_that_are_about_to_end(fake: FakePool, connection: Connection) -> None:
    channel = busy(connection)
    with ThreadPoolExecutor(1) as threads:
        closing = threads.submit(connection.close)
        wait_until(lambda: connection.closing)
        channel.give_up()
        connection.channels.give_back(channel)
        connection.call_ended()
        closing.result(PATIENCE_S)
    assert fake.heard() == [Detach()]


def test_close_says_nothing_while_a_thread_may_write(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then only its death makes sure."""
    monkeypatch.setattr(connections, "_QUIET_S", 0.05)
    connection = fake.connection()
    busy(connection)
    connection.close()
    assert fake.heard() == []


def test_close_waits_for_who_listens_to_a_doorbell(fake: FakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "_QUIET_S", 0.05)
    connection = fake.connection()

    class Stuck:
        def __init__(self) -> None:
            self.channel = busy(connection)
            self.over = False

        def poll(self) -> int:
            return 0 if self.over else 2**63

    stuck = Stuck()
    connection.completion_thread.add(stuck)
    stuck.channel.give_up()
    connection.channels.give_back(stuck.channel)
    connection.close()
    assert fake.heard() == []
    stuck.over = True
    connection.completion_thread.wake()
    assert connection.completion_thread.quiet(PATIENCE_S)


@pytest.mark.parametrize("end", ["closed", "hung up"])
def test_threads_that_wait_are_woken_by_the_end(fake: FakePool, connection: Connection, end: str) -> None:
    channel = busy(connection)
    with ThreadPoolExecutor(2) as threads:
        waiting = threads.submit(channel.wait, 2**63)
        ending = threads.submit(connection.close if end == "closed" else fake.hang_up)
        assert waiting.result(PATIENCE_S) == arenas.native().CLOSED
        channel.give_up()
        connection.channels.give_back(channel)
        connection.call_ended()
        ending.result(PATIENCE_S)


def test_the_completion_thread_of_a_connection_ends_with_it(fake: FakePool, connection: Connection) -> None:
    completion_thread = connection.completion_thread
    assert connection.completion_thread is completion_thread
    fake.hang_up()
    wait_until(lambda: ended(connection))
    assert completion_thread._stopping
    late = fake.connection()
    fake.hang_up()
    wait_until(lambda: ended(late))
    assert late.completion_thread._stopping


def test_a_connection_whose_memory_can_t_be_trusted_says_that_it_is_done_when_its_last_call_has_ended(
    fake: FakePool, caplog: pytest.LogCaptureFixture
) -> None:
    """Otherwise its channels were kept for as long as the process lives."""
    connection = fake.connection()
    channel = connection.channels.lease()
    assert channel is not None
    connection.fail(MoltProtocolError("channel 3 is in a state that can't be"))
    assert not connection.open
    assert connection.end_error is None
    connection.channels.give_back(channel)
    connection.call_ended()
    wait_until(lambda: ended(connection))
    assert fake.heard() == [Detach()]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]


def test_a_forked_child_lets_go_without_a_word_and_its_copies_touch_nothing(fake: FakePool) -> None:
    connection = fake.connection()
    queued, running = busy(connection), busy(connection)
    fake.claim()

    def child() -> bool:
        connection.forget()
        for channel in (queued, running):
            channel.give_up()
            channel.clear()
            channel.ring()
        connection.channels.wake_all()
        connection.close()
        return connection.state is ConnectionState.FORGOTTEN and not connection.open

    assert exit_code(fork(child)) == 0
    assert sorted(fake.states()) == [ChannelState.READY, ChannelState.CLAIMED]
    assert connection.open
    for channel in (queued, running):
        channel.give_up()
        connection.channels.give_back(channel)
    connection.close()
    assert fake.heard() == [Detach()]


def test_a_pool_that_lives_long_was_started_when_it_says(fake: FakePool) -> None:
    now_ns = time.monotonic_ns()
    fake.set(Gauge.STARTED_NS, now_ns)
    assert fake.connection().worker_started_s == now_ns / 1e9
