"""A connection of stdio whose worker the test plays: its pipes are real, but there is no process."""

import contextlib
import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltError,
    MoltProtocolError,
    MoltWorkerUnavailable,
)
from molt_accel.ipc.frame import Fault, FrameError, Item
from molt_accel.ipc.messages import STDIO_FROM_CLIENT, Cancel, Hello, Request, Response
from molt_accel.ipc.stream import FrameStream
from molt_accel.transports import forks, stdio
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending
from molt_accel.transports.connection import ConnectionState
from molt_accel.transports.stdio import StdioTransport, _Connection
from tests.support.processes import in_thread, wait_until

#: More than any pipe holds.
LARGE = bytes(3_000_000)
GRACE_MS = 7000
FAR_S = 60.0


class Worker:
    """A worker's end of the pipes, and what its client sees of its process."""

    def __init__(self) -> None:
        self.read_fd, stdin = os.pipe()
        stdout, self.write_fd = os.pipe()
        os.set_blocking(stdin, False)
        os.set_blocking(stdout, False)
        self.stdin, self.stdout = os.fdopen(stdin, "wb", 0), os.fdopen(stdout, "rb", 0)
        self.stream = FrameStream(self.read_fd, self.write_fd, messages=STDIO_FROM_CLIENT)
        self.pid = 4_000_000
        self.returncode: int | None = None
        self.code: int | None = None  # what it will have exited with, once somebody looks
        self.done: list[object] = []  # "kill", and the time of each wait

    # -- as its client sees it --------------------------------------------------------------------------
    def kill(self) -> None:
        self.done.append("kill")
        self.exit(-9)

    def wait(self, timeout: float | None = None) -> int:
        self.done.append(timeout)
        if self.code is None:
            raise subprocess.TimeoutExpired("worker", timeout or 0)
        self.returncode = self.code
        return self.code

    # -- what it does -----------------------------------------------------------------------------------
    def exit(self, code: int) -> None:
        self.code = code if self.code is None else self.code
        self.close_stdin()
        self.close_stdout()

    def close_stdin(self) -> None:
        fd, self.read_fd = self.read_fd, -1
        if fd >= 0:
            os.close(fd)

    def close_stdout(self) -> None:
        fd, self.write_fd = self.write_fd, -1
        if fd >= 0:
            os.close(fd)

    def heard(self) -> Any:
        """The next frame; None at the end of its stdin."""
        while not (frames := self.stream.frames()):
            if not self.stream.wait_readable(FAR_S):
                raise TimeoutError
            if self.stream.fill() is None:
                return None
        (frame,) = frames
        return frame

    def hears_nothing(self) -> bool:
        return not self.stream.wait_readable(0)

    def say(self, item: Item) -> None:
        self.stream.send(item)

    def serve_until_the_end(self) -> None:
        """Read until its stdin ends, then exit."""
        while self.stream.fill() is not None:
            self.stream.frames()
        self.exit(0)


Make = Callable[..., tuple[_Connection, Worker]]


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Worker]]:
    """The workers that were started."""
    made: list[Worker] = []

    def start(config: Config) -> Worker:
        made.append(Worker())
        return made[-1]

    monkeypatch.setattr(stdio, "start_stdio_worker", start)
    yield made
    for worker in made:
        worker.exit(0)


@pytest.fixture
def make(workers: list[Worker]) -> Iterator[Make]:
    connections: list[_Connection] = []

    def connect(*, greeted: bool = True, **settings: Any) -> tuple[_Connection, Worker]:
        connection = _Connection(Config(**{"grace_ms": GRACE_MS, **settings}), 3)
        connections.append(connection)
        if greeted:
            workers[-1].say(Hello())
            assert connection.greeted.wait(FAR_S)
        return connection, workers[-1]

    yield connect
    for connection, worker in zip(connections, workers, strict=False):
        worker.exit(0)
        connection.receiver.join(FAR_S)
        assert not connection.receiver.is_alive()
        assert worker.stdin.closed
        assert worker.stdout.closed


class Polls:
    """`select.poll`, and what is asked of it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self.fds: set[int] = set()
        self.limited = threading.Event()  # set before a sleep with a limit

    def register(self, fd: int, events: int) -> None:
        self.fds.add(fd)
        self._poll.register(fd, events)

    def unregister(self, fd: int) -> None:
        self.fds.discard(fd)
        self._poll.unregister(fd)

    def poll(self, timeout_ms: float | None) -> list[tuple[int, int]]:
        if timeout_ms is not None:
            self.limited.set()
        return self._poll.poll(timeout_ms)


@pytest.fixture
def polls(monkeypatch: pytest.MonkeyPatch) -> list[Polls]:
    """What the receivers made."""
    made: list[Polls] = []

    def poll() -> Polls:
        made.append(Polls())
        return made[-1]

    # Only stdio's: the worker that the test plays polls, too.
    monkeypatch.setattr(stdio, "select", type("select", (), {"poll": poll, **_POLL_EVENTS}))
    return made


_POLL_EVENTS = {name: getattr(select, name) for name in ("POLLIN", "POLLOUT")}


def is_open(fd: int) -> bool:
    with contextlib.suppress(OSError):
        os.fstat(fd)
        return True
    return False


def ended(pending: Any) -> Any:
    """The outcome of a call."""
    assert pending.wait(FAR_S)
    return pending.result


# -- to send --------------------------------------------------------------------------------------------
def test_requests_and_cancels_are_of_this_connection(make: Make) -> None:
    connection, worker = make()
    pending = connection.submit(Request(5, "echo", generation=99))
    assert worker.heard().generation == 3
    error = MoltCancelled("enough")
    assert not connection.abandon(Pending(5), error)  # of the same request, but another try
    assert connection.abandon(pending, error)
    assert worker.heard() == Cancel(5, 3)
    assert ended(pending) is error
    assert connection._pending == {}
    assert not connection.abandon(pending, MoltCancelled("again"))
    assert pending.result is error
    assert worker.hears_nothing()


@pytest.mark.parametrize("state", [ConnectionState.DEAF, ConnectionState.CLOSING])
def test_one_that_is_not_open_sends_nothing_any_more(make: Make, state: ConnectionState) -> None:
    """By then the receiver may have closed the pipe, and its number be another file's."""
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    assert worker.heard().request_id == 5
    connection.move_to(state)
    assert connection.submit(Request(6, "echo")) is None
    assert connection.abandon(pending, MoltCancelled("enough"))
    assert worker.hears_nothing()
    assert connection._pending == {}


def test_what_is_left_to_write_is_not_written_to_a_pipe_that_may_be_closed(make: Make) -> None:
    connection, worker = make()
    with connection.lock:
        connection.submit(Request(5, "echo", LARGE))
        left = connection._stream.pending_bytes
        assert left
        connection.move_to(ConnectionState.CLOSING)
        assert os.read(worker.read_fd, 1 << 20)  # so that more could be written
        connection._flush()
        assert connection._stream.pending_bytes == left
        assert connection.state is ConnectionState.CLOSING


def test_a_worker_that_reads_no_more_has_not_got_what_is_sent_then(make: Make) -> None:
    connection, worker = make()
    worker.close_stdin()
    assert connection.submit(Request(5, "echo")) is None
    assert connection.state is ConnectionState.DEAF
    assert connection.usable
    assert connection._pending == {}


def test_one_whose_rest_can_t_be_written_is_deaf(make: Make) -> None:
    connection, worker = make()
    with connection.lock:
        connection.submit(Request(5, "echo", LARGE))
        worker.close_stdin()
        connection._flush()
        assert connection.state is ConnectionState.DEAF


def test_so_much_may_wait_and_no_more(make: Make) -> None:
    connection, _ = make(max_frame_bytes=len(LARGE) + 1000)
    with connection.lock:
        assert connection.submit(Request(5, "echo", LARGE)) is not None
        assert connection.submit(Request(6, "echo", LARGE)) is not None
        with pytest.raises(MoltBusy):
            connection.submit(Request(7, "echo"))
        assert list(connection._pending) == [5, 6]


def test_a_request_that_can_t_be_sent_costs_nobody_else(make: Make) -> None:
    connection, worker = make()
    with pytest.raises(FrameError):
        connection.submit(Request(5, ""))
    assert connection._pending == {}
    assert worker.done == []


def test_an_interrupt_in_a_send_kills_the_worker_at_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    connection, worker = make()

    def send(item: Item) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(connection._stream, "send", send)
    with pytest.raises(KeyboardInterrupt):
        connection.submit(Request(5, "echo"))
    assert worker.done[:1] == ["kill"]
    assert connection._pending == {}


def test_a_response_that_can_t_be_read_ends_its_own_call_and_no_other_connection_s(make: Make) -> None:
    connection, _ = make()
    pending, other = connection.submit(Request(5, "echo")), connection.submit(Request(6, "echo"))
    assert pending is not None
    assert other is not None
    connection._take_malformed(FrameError(Fault.TOO_LARGE, "", 5, connection.number))
    assert isinstance(pending.result, MoltProtocolError)
    stray = FrameError(Fault.TOO_LARGE, "", 6, connection.number + 1)
    with pytest.raises(FrameError) as caught:
        connection._take_malformed(stray)
    assert caught.value is stray
    assert (other.result, list(connection._pending)) == (None, [6])


# -- the receiver ---------------------------------------------------------------------------------------
def test_the_receiver_writes_the_rest_and_then_sleeps(make: Make, polls: list[Polls]) -> None:
    connection, worker = make()
    fd = connection._stream.write_fd
    connection.submit(Request(5, "echo", LARGE))
    wait_until(lambda: fd in polls[0].fds)
    assert len(worker.heard().payload) == len(LARGE)
    wait_until(lambda: fd not in polls[0].fds)
    wait_until(lambda: not select.select([connection._wake_r], [], [], 0)[0])
    assert os.get_blocking(connection._wake_w) is False  # who wakes it never waits for it


def test_the_receiver_does_not_watch_a_pipe_that_it_closes(make: Make, polls: list[Polls]) -> None:
    connection, worker = make()
    fd = connection._stream.write_fd
    connection.submit(Request(5, "echo", LARGE))
    wait_until(lambda: fd in polls[0].fds)
    closing = in_thread(connection.close)
    wait_until(lambda: fd not in polls[0].fds)
    worker.serve_until_the_end()
    closing.join(FAR_S)
    assert worker.done == [stdio.SLACK_S, GRACE_MS / 1000 + stdio._STOP_S]


def test_a_deaf_worker_may_still_answer(
    make: Make, polls: list[Polls], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stdio, "SLACK_S", FAR_S)
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    assert worker.heard().request_id == 5
    worker.close_stdin()
    assert connection.submit(Request(6, "echo")) is None
    connection._wake()
    assert polls[0].limited.wait(FAR_S)
    worker.say(Response(5, generation=3))
    assert isinstance(ended(pending), Response)


def test_a_deaf_worker_that_stays_silent_is_given_up(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stdio, "SLACK_S", 0.01)
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    worker.close_stdin()
    connection.submit(Request(6, "echo"))
    connection._wake()
    assert str(ended(pending)) == "the worker is gone: it closed its stdin"


def test_a_worker_that_nobody_listens_to_any_more_is_killed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection, worker = make()

    def take(item: Item) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(connection, "_take", take)
    worker.say(Response(5, generation=3))
    assert connection.over.wait(FAR_S)
    assert worker.done[0] == "kill"  # before it is waited for


# -- the end --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("greeted", "code", "ignored", "state"),
    [
        (True, 0, False, ConnectionState.DRAINED),
        (True, 1, False, ConnectionState.LOST),
        (False, 0, False, ConnectionState.LOST),
        # Then the system reaps children, and Popen says 0 of each.
        (True, 0, True, ConnectionState.LOST),
    ],
)
def test_only_a_worker_that_had_started_and_exits_with_0_has_drained(
    make: Make, greeted: bool, code: int, ignored: bool, state: ConnectionState
) -> None:
    """Else what it left may have run."""
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN if ignored else signal.SIG_DFL)
    try:
        connection, worker = make(greeted=greeted)
        pending = connection.submit(Request(5, "echo"))
        worker.exit(code)
        error = ended(pending)
        assert connection.over.wait(FAR_S)
        assert connection.greeted.is_set()
        connection.receiver.join(FAR_S)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert connection.state is state
    assert connection.end_error is not None
    assert not connection.usable
    assert error is not connection.end_error
    assert error.may_have_run is (greeted and state is ConnectionState.LOST)
    said = "it closed its stdout" if ignored else f"it exited with code {code}"
    assert error.detail.endswith(said)


def test_a_worker_has_its_grace_time_to_stop_and_is_reaped(make: Make) -> None:
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    assert worker.heard()
    worker.close_stdout()
    assert str(ended(pending)) == "the worker is gone: it closed its stdout"
    connection.receiver.join(FAR_S)
    patience_s = GRACE_MS / 1000 + stdio._STOP_S
    assert worker.done == [stdio.SLACK_S, patience_s, "kill", None]


def test_its_descriptors_are_closed_once(make: Make) -> None:
    """What gets their numbers afterwards is somebody else's."""
    connection, worker = make()
    own = {connection._wake_r, connection._wake_w, worker.stdin.fileno(), worker.stdout.fileno()}
    worker.exit(0)
    connection.receiver.join(FAR_S)
    assert not any(map(is_open, own))
    others = [os.open(os.devnull, os.O_RDONLY) for _ in range(6)]
    try:
        assert own & set(others)
        connection._close_pipes()
        connection.close()
        assert all(map(is_open, others))
    finally:
        for fd in others:
            os.close(fd)


def test_closing_ends_the_worker_s_input_and_waits_for_its_end(make: Make) -> None:
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    serving = in_thread(worker.serve_until_the_end)
    connection.close()
    assert not connection.receiver.is_alive()
    assert str(ended(pending)) == "the client was closed"
    assert connection.state is ConnectionState.CLOSED
    assert worker.done == [stdio.SLACK_S, GRACE_MS / 1000 + stdio._STOP_S]
    serving.join(FAR_S)


def test_calls_end_as_cancelled_before_the_worker_does(make: Make) -> None:
    connection, _ = make()
    pending = connection.submit(Request(5, "echo"))
    receiver, connection.receiver = connection.receiver, _Receiver()
    try:
        connection.close()
        assert str(pending.result) == "the client was closed"
    finally:
        connection.receiver = receiver


class _Receiver(threading.Thread):
    """One that never ends."""

    def __init__(self) -> None:
        super().__init__()
        self.joined: list[float | None] = []

    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float | None = None) -> None:
        self.joined.append(timeout)


def test_a_worker_that_does_not_end_when_it_is_closed_is_killed(make: Make) -> None:
    connection, worker = make()
    receiver = connection.receiver
    connection.receiver = stuck = _Receiver()
    try:
        connection.close()
    finally:
        connection.receiver = receiver
    assert stuck.joined == [GRACE_MS / 1000 + 2 * stdio._STOP_S, stdio._STOP_S]
    assert worker.done[0] == "kill"


def test_who_closes_at_an_outcome_is_on_the_receiver_and_does_not_wait_for_it(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    connection, worker = make()
    pending = connection.submit(Request(5, "echo"))
    pending.on_done(connection.close)
    worker.say(Response(5, generation=3))
    assert worker.heard() == Request(5, "echo", generation=3)
    assert worker.heard() is None
    worker.exit(0)
    connection.receiver.join(FAR_S)
    assert connection.state is ConnectionState.CLOSED
    assert caplog.records == []


@pytest.mark.parametrize("what", ["threads", "descriptors"])
def test_a_worker_that_can_t_be_attended_to_is_killed_and_reaped(
    workers: list[Worker], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    def pipe() -> None:
        raise OSError("too many open files")

    started = Worker()
    workers.append(started)
    with monkeypatch.context() as patch:
        patch.setattr(stdio, "start_stdio_worker", lambda config: started)
        patch.setattr(*((threading.Thread, "start", start) if what == "threads" else (os, "pipe", pipe)))
        with pytest.raises(MoltWorkerUnavailable, match="can't attend to a worker"):
            _Connection(Config(), 1)
    assert started.done == ["kill", None]
    assert started.stdin.closed
    assert started.stdout.closed


def test_what_a_child_forgets_is_closed_in_it_and_nobody_waits_for_the_parent_s_threads(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_Connection, "_attend", lambda self: None)  # a child has no receiver
    connection, worker = make(greeted=False)
    own = [connection._wake_r, connection._wake_w]
    held, over = threading.Event(), threading.Event()

    def hold(lock: Any) -> None:
        with lock:
            held.set()
            over.wait(FAR_S)

    holder = in_thread(hold, connection.lock)
    held.wait(FAR_S)
    forgetting = in_thread(connection.forget)
    try:
        forgetting.join(FAR_S)
        assert not forgetting.is_alive()
    finally:
        over.set()
        holder.join(FAR_S)
    assert connection.state is ConnectionState.FORGOTTEN
    assert connection.submit(Request(5, "echo")) is None
    assert worker.stdin.closed
    assert worker.stdout.closed
    assert not any(map(is_open, own))
    assert worker.returncode == 0  # so that nothing here ever waits for it
    assert worker.done == []


# -- the transport --------------------------------------------------------------------------------------
class _Ending:
    """A connection whose end is noted only when somebody waits for it."""

    open = False
    closing = False
    end_error: MoltError | None = None
    state = ConnectionState.DEAF
    was_ready = True
    ended_s = 100.0
    worker_started_s = 0.0

    def __init__(self) -> None:
        self.over = self
        self.waited: list[float] = []

    @property
    def usable(self) -> bool:
        return self.end_error is None

    def wait(self, timeout_s: float) -> bool:
        self.waited.append(timeout_s)
        self.end_error = MoltWorkerUnavailable("gone")
        return True


@pytest.fixture
def transport(workers: list[Worker]) -> Iterator[StdioTransport]:
    made = StdioTransport(Config())
    yield made
    for worker in workers:
        worker.exit(0)
    made.close()


def test_a_start_waits_until_the_worker_before_has_ended(
    transport: StdioTransport, workers: list[Worker]
) -> None:
    transport._connection = ending = _Ending()  # type: ignore[assignment]
    transport.start()
    assert ending.waited == [2 * stdio.SLACK_S]
    assert len(workers) == 1
    assert transport.ready
    transport.start()
    assert len(workers) == 1


def test_a_closed_one_waits_for_nobody(transport: StdioTransport, workers: list[Worker]) -> None:
    transport._connection = ending = _Ending()  # type: ignore[assignment]
    transport._closed = True
    with pytest.raises(MoltClientClosed):
        transport.start()
    assert (ending.waited, workers) == ([], [])
    transport._connection = None


def test_nothing_is_sent_or_abandoned_before_the_start(transport: StdioTransport) -> None:
    assert transport.submit(Request(5, "echo")) is None
    assert transport.abandon(Pending(5), MoltCancelled("enough")) is False


def test_pipes_are_checked_before_a_start_only(
    transport: StdioTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks: list[int] = []
    monkeypatch.setattr(greenlets, "check_for_pipes", lambda: checks.append(1))
    transport.start()
    transport.start()
    assert checks == [1]


def test_closing_waits_for_a_start(transport: StdioTransport, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else its worker would outlive the client for a moment."""
    seen: list[bool] = []

    @contextlib.contextmanager
    def lock() -> Iterator[None]:
        seen.append(transport._closed)
        yield
        seen.append(transport._closed)

    monkeypatch.setattr(forks, "start_lock", lock)
    transport.close()
    assert seen == [False, True]
