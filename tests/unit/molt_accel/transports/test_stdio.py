"""molt_accel.transports.stdio: the client's end of a worker, with workers that behave in every way a process can."""

import asyncio
import gc
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel import Client
from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltEntryError,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltProtocolError,
    MoltStartFailed,
    MoltTimeout,
    MoltWorkerUnavailable,
)
from molt_accel.ipc.messages import Request
from molt_accel.transports import launcher, stdio
from molt_accel.transports.base import Pending
from molt_accel.transports.connection import ConnectionState
from molt_accel.transports.stdio import StdioTransport
from tests.support.errors import raised
from tests.support.pools import with_worker
from tests.support.processes import closing_all, exit_code, fork, in_thread, wait_for_file, wait_until
from tests.support.scripted_workers import ECHO, worker

Make = Callable[..., Client]

#: A deadline no test reaches unless something hangs.
FAR_MS = 60_000

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork.*:DeprecationWarning")


@pytest.fixture
def make() -> Iterator[Make]:
    with closing_all(
        lambda command, **overrides: Client(transport="stdio", worker_cmd=command, grace_ms=0, **overrides)
    ) as make:
        yield make


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that don't stop are killed soon."""
    monkeypatch.setattr(stdio, "_STOP_S", 0.2)


def connection_of(client: Client) -> stdio._Connection:
    transport = client._transport
    assert isinstance(transport, StdioTransport)
    connection = transport._connection
    assert connection is not None
    return connection


def pid_of(client: Client) -> int:
    return connection_of(client)._process.pid


def failure_of(client: Client, payload: object = None, **options: Any) -> MoltError:
    return raised(MoltError, client.call, "echo", payload, **{"timeout_ms": FAR_MS, **options})


def in_threads(count: int, work: Callable[[int], object]) -> list[object]:
    """What `work` returned, or the MoltError it raised, for each of `count` threads at once."""
    results: list[object] = [None] * count

    def run(number: int) -> None:
        try:
            results[number] = work(number)
        except MoltError as exc:
            results[number] = exc

    threads = [in_thread(run, number) for number in range(count)]
    for thread in threads:
        thread.join(120)
    assert not any(thread.is_alive() for thread in threads)
    return results


# -- answers --------------------------------------------------------------------------------------------
def test_nothing_is_started_before_the_first_call(make: Make, tmp_path: Path) -> None:
    started = tmp_path / "started"
    client = make(worker("open(sys.argv[1], 'w'); echo()", started))
    assert not started.exists()
    assert client.call("echo", 1, timeout_ms=FAR_MS) == 1
    assert started.exists()


def test_many_threads_share_one_worker_and_each_gets_its_own_answers(make: Make) -> None:
    client = make(ECHO)

    def calls(number: int) -> bool:
        return all(client.call("echo", [number, n], timeout_ms=FAR_MS) == [number, n] for n in range(50))

    assert in_threads(8, calls) == [True] * 8
    assert connection_of(client).number == 1


def test_answers_find_their_calls_in_whatever_order_they_come(make: Make) -> None:
    reverse = """
held = []
for request in requests():
    held.append(request)
    if len(held) == 5:
        for request in reversed(held):
            answer(request, decoded(request))
"""
    client = make(worker(reverse))
    assert in_threads(5, lambda n: client.call("echo", n, timeout_ms=FAR_MS)) == [0, 1, 2, 3, 4]


def test_payloads_larger_than_any_pipe_go_both_ways_at_once(make: Make) -> None:
    client = make(ECHO)
    payloads = [os.urandom(3_000_000) for _ in range(4)]
    results = in_threads(4, lambda n: client.call("echo", payloads[n], timeout_ms=FAR_MS) == payloads[n])
    assert results == [True] * 4


def test_a_late_answer_is_dropped_and_the_worker_was_told_to_stop(make: Make) -> None:
    late = """
held = None
for request in requests():
    if isinstance(request, Cancel):
        told = ["cancelled", request.request_id == held.request_id, request.generation]
        answer(held, "too late")
    elif held is None:
        held = request
    else:
        answer(request, told)
"""
    client = with_worker(make(worker(late)))
    assert failure_of(client, timeout_ms=20).facts == {"phase": "transport"}
    assert client.call("echo", timeout_ms=FAR_MS) == ["cancelled", True, 1]


STRAY = {
    "answered twice": "answer(request, 'first'); answer(request, 'second')",
    "for an unknown id": "answer(Request(99, '', generation=1), 'stray'); answer(request, 'first')",
    "of another generation": "answer(request, 'stray', generation=2); answer(request, 'first')",
    "of no generation": "answer(request, 'stray', generation=0); answer(request, 'first')",
    "a notice for the log": "stream.send(BadFrame('why')); answer(request, 'first')",
}


@pytest.mark.parametrize("what", STRAY)
def test_a_stray_answer_reaches_nobody(make: Make, what: str, caplog: pytest.LogCaptureFixture) -> None:
    client = make(worker(f"for request in requests(): {STRAY[what]}"))
    for _ in range(3):
        assert client.call("echo", timeout_ms=FAR_MS) == "first"
    logged = [record.getMessage() for record in caplog.records]
    assert logged == ["the worker could not read a frame: why"] * (3 if "notice" in what else 0)


def test_asyncio_calls_share_the_worker_too(make: Make) -> None:
    client = make(ECHO)

    async def main() -> list[object]:
        return await asyncio.gather(*(client.acall("echo", n, timeout_ms=FAR_MS) for n in range(30)))

    assert asyncio.run(main()) == list(range(30))
    assert connection_of(client).number == 1


# -- a worker that breaks the protocol ------------------------------------------------------------------
BROKEN = {
    "text": ("os.write(1, b'Traceback: something else was printed here')", "over the frame limit"),
    "an empty frame": ("os.write(1, bytes(4))", "zero length"),
    "a request": ("stream.send(Request(1, 'do'))", "unexpected Request from the worker"),
    "a response to nothing": ("stream.send(Response(0))", "unexpected Response from the worker"),
    "a message of a client": (
        "stream.send(Cancel(1, 1))",
        "not a message that is expected here: Invalid value 'Cancel' - at `$.type`",
    ),
    "a message of garbage": (
        "os.write(1, encode(Hello()).replace(b'\\x81', b'\\xc1'))",
        "not a message that is expected here: MessagePack data is malformed",
    ),
}


def test_an_answer_over_this_side_s_limit_costs_its_call_only(make: Make) -> None:
    client = make(
        worker(
            "for request in requests(): answer(request, bytes(10_000) if b'big' in request.payload else 1)"
        ),
        max_frame_bytes=8000,
    )
    assert client.call("echo", "small", timeout_ms=FAR_MS) == 1
    error = failure_of(client, "big")
    assert (type(error), error.detail) == (
        MoltProtocolError,
        "over the frame limit: 10083 bytes, 8000 at most",
    )
    assert client.call("echo", "small", timeout_ms=FAR_MS) == 1
    assert client._transport._made == 1  # type: ignore[attr-defined]


def test_an_answer_that_can_t_be_read_and_is_of_another_connection_ends_all_calls(make: Make) -> None:
    """Also the one whose id it has."""
    client = make(
        worker("for request in requests(): answer(request, bytes(10_000), generation=2)"),
        max_frame_bytes=8000,
    )
    client.start()
    connection = connection_of(client)
    error = failure_of(client, timeout_ms=20_000)
    assert (type(error), error.detail) == (
        MoltProtocolError,
        "over the frame limit: 10083 bytes, 8000 at most",
    )
    wait_until(lambda: connection.end_error is not None)


@pytest.mark.parametrize("what", BROKEN)
def test_a_worker_that_breaks_the_protocol_is_killed_and_the_next_call_has_another(
    make: Make, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "FIRST_BACKOFF_S", 0)
    script, text = BROKEN[what]
    once = f"""
if first_time(sys.argv[1]):
    for request in requests():
        {script}
    time.sleep(1000)
echo()
"""
    client = with_worker(make(worker(once, tmp_path / "done"), max_frame_bytes=8000))
    broken = psutil.Process(pid_of(client))
    error = failure_of(client)
    assert type(error) is MoltProtocolError
    assert text in error.detail
    wait_until(lambda: not broken.is_running())
    assert client.call("echo", 1, timeout_ms=FAR_MS) == 1


def test_a_request_over_the_limit_is_refused_and_the_connection_is_not_touched(make: Make) -> None:
    client = make(ECHO, max_frame_bytes=8000)
    error = failure_of(client, bytes(8000))
    assert (type(error), error.detail) == (MoltInvalidInput, "over the frame limit: 8087 bytes, 8000 at most")
    assert client.call("echo", bytes(7000), timeout_ms=FAR_MS) == bytes(7000)
    assert connection_of(client).number == 1
    assert connection_of(client)._pending == {}


@pytest.mark.parametrize(
    ("entry", "text"), [("", "bad entry name: empty"), ("e" * 256, "bad entry name: 256 bytes, 255 at most")]
)
def test_an_impossible_entry_name_is_refused_at_once(make: Make, entry: str, text: str) -> None:
    assert raised(MoltEntryError, make(ECHO).call, entry, timeout_ms=FAR_MS).detail == text


def test_a_request_over_the_worker_s_own_limit_is_answered_to_its_caller(make: Make) -> None:
    command = f"{sys.executable} -m molt_worker --max-frame-bytes 8000 --log-level error"
    client = make(command, executors=1)
    assert failure_of(client, bytes(8000)).detail == "over the frame limit: 8087 bytes, 8000 at most"
    assert client.call("echo", 1, timeout_ms=FAR_MS) == 1


# -- a worker that goes away ----------------------------------------------------------------------------
GONE = {
    "exits": ("sys.exit(3)", "the worker is gone: it exited with code 3"),
    "exits well": ("sys.exit(0)", "the worker is gone: it exited with code 0"),
    "is killed": ("os.kill(os.getpid(), 9)", "the worker is gone: it was killed by signal 9 (SIGKILL)"),
    "is killed by a signal without a name": (
        "os.kill(os.getpid(), signal.SIGRTMIN + 1)",
        f"the worker is gone: it was killed by signal {signal.SIGRTMIN + 1}",
    ),
    "exits with a notice": (
        "fail_start('no module app'); sys.exit(2)",
        "the worker can't start: no module app",
    ),
    "tears its answer in two": (
        "os.write(1, encode(Response(1))[:50]); sys.exit(4)",
        "the worker is gone: it exited with code 4",
    ),
}


@pytest.mark.parametrize("how", GONE)
@pytest.mark.parametrize("when", ["at once", "with a call in flight"])
def test_a_worker_that_goes_away_is_unavailable_and_says_why(make: Make, how: str, when: str) -> None:
    script, text = GONE[how]
    client = make(worker(f"for request in requests():\n {script}" if "flight" in when else script))
    error = failure_of(client)
    assert type(error) is (MoltStartFailed if "notice" in how else MoltWorkerUnavailable)
    # If it was gone before the request could be written, it is the next start that is refused for now.
    assert re.fullmatch(re.escape(text) + r"( \(the next start is tried in 0\.\d s\))?", error.detail)


@pytest.mark.parametrize(("code", "may_have_run"), [(0, False), (1, True)])
def test_what_a_worker_left_when_it_had_drained_has_not_run(
    make: Make, code: int, may_have_run: bool
) -> None:
    """Only an exit code of 0 says that it has answered all that it read."""
    client = make(worker(f"next(requests()); sys.exit({code})"))
    client.start()
    assert failure_of(client).may_have_run is may_have_run


def test_every_call_in_flight_ends_with_an_error_of_its_own(make: Make) -> None:
    client = make(worker("for n, request in enumerate(requests(), 1):\n if n == 10: os._exit(5)"))
    errors = in_threads(10, lambda _: client.call("echo", timeout_ms=FAR_MS))
    assert {(type(error), str(error)) for error in errors} == {
        (MoltWorkerUnavailable, "the worker is gone: it exited with code 5")
    }
    assert len({id(error) for error in errors}) == 10
    assert len({error.request_id for error in errors if isinstance(error, MoltError)}) == 10


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_closes_its_stdout_and_lives_on_is_given_up_and_killed(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "FIRST_BACKOFF_S", 0)
    script = "if first_time(sys.argv[1]):\n os.close(1)\n time.sleep(1000)\necho()"
    client = with_worker(make(worker(script, tmp_path / "mark")))
    half_dead = psutil.Process(pid_of(client))
    error = failure_of(client)
    assert (type(error), error.detail) == (MoltWorkerUnavailable, "the worker is gone: it closed its stdout")
    assert client.call("echo", 1, timeout_ms=FAR_MS) == 1
    wait_until(lambda: not half_dead.is_running())


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_worker_that_closes_its_stdin_and_lives_on_is_given_up_and_killed(
    make: Make, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calls that it has got fail; one that it can't have got goes to the next worker."""
    monkeypatch.setattr(launcher, "FIRST_BACKOFF_S", 0)
    script = """
if first_time(sys.argv[1]):
    next(requests())
    os.close(0)
    first_time(sys.argv[1] + ".closed")
    time.sleep(1000)
echo()
"""
    mark = tmp_path / "mark"
    client = with_worker(make(worker(script, mark)))
    half_dead = psutil.Process(pid_of(client))

    def calls(number: int) -> object:
        if number:
            wait_until(Path(f"{mark}.closed").exists)
        return client.call("echo", bytes(size if number else 5), timeout_ms=FAR_MS)

    error, answer = in_threads(2, calls)
    assert type(error) is MoltWorkerUnavailable
    assert str(error) == "the worker is gone: it closed its stdin"
    assert answer == bytes(size)
    assert connection_of(client).number == 2
    wait_until(lambda: not half_dead.is_running())


@pytest.mark.usefixtures("impatient")
def test_a_request_that_was_half_read_when_the_worker_stopped_reading_fails(make: Make) -> None:
    error = failure_of(make(worker("os.read(0, 100); os.close(0); time.sleep(1000)")), bytes(3_000_000))
    assert (type(error), error.detail) == (MoltWorkerUnavailable, "the worker is gone: it closed its stdin")


# -- a worker that doesn't read -------------------------------------------------------------------------
DEAF = worker("time.sleep(1000)")


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("size", [10, 3_000_000])
def test_the_deadline_holds_against_a_worker_that_never_reads(make: Make, size: int) -> None:
    client = with_worker(make(DEAF))
    error = failure_of(client, bytes(size), timeout_ms=30)
    assert (type(error), error.facts) == (MoltTimeout, {"phase": "transport"})


@pytest.mark.usefixtures("impatient")
def test_what_waits_for_a_worker_that_never_reads_is_bounded(make: Make) -> None:
    limit = 1_000_000
    client = with_worker(make(DEAF, max_frame_bytes=limit))
    errors = in_threads(20, lambda _: client.call("echo", bytes(900_000), timeout_ms=100))
    kinds = [type(error) for error in errors]
    assert set(kinds) == {MoltTimeout, MoltBusy}
    # One pipe of 1 MiB, and the first frame over the limit.
    assert kinds.count(MoltTimeout) <= 4
    assert connection_of(client)._stream.pending_bytes <= 2 * limit
    assert connection_of(client)._pending == {}


def test_an_idempotent_call_is_tried_again_when_too_much_waits_for_the_worker(make: Make) -> None:
    client = with_worker(make(worker("echo()"), max_frame_bytes=1_000_000))
    os.kill(pid_of(client), signal.SIGSTOP)
    results: list[object] = []
    options = {"timeout_ms": FAR_MS, "idempotent": True, "retries": 12, "retry_backoff_ms": 5}

    def calls() -> None:
        results.extend(in_threads(8, lambda n: len(client.call("echo", bytes(900_000), **options)) + n))

    thread = in_thread(calls)
    wait_until(lambda: connection_of(client)._stream.pending_bytes > 1_000_000)
    os.kill(pid_of(client), signal.SIGCONT)
    thread.join(120)
    assert results == [900_000 + n for n in range(8)]


# -- restarts -------------------------------------------------------------------------------------------
def test_without_a_thread_to_attend_there_is_no_worker(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    client = make(ECHO)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        error = failure_of(client)
    assert (type(error), error.detail) == (
        MoltWorkerUnavailable,
        "can't attend to a worker: can't start new thread",
    )
    assert psutil.Process().children() == []


# -- readiness ------------------------------------------------------------------------------------------
def test_start_waits_for_the_greeting(make: Make, tmp_path: Path) -> None:
    go = tmp_path / "go"
    client = make(worker("echo()", go, before="while not os.path.exists(sys.argv[1]): time.sleep(0.001)"))
    with pytest.raises(MoltWorkerUnavailable, match=r"^the worker was not ready within 0.05 s$"):
        client.start(timeout_ms=50)
    go.touch()
    client.start()
    assert client.call("echo", 1, timeout_ms=FAR_MS) == 1
    assert connection_of(client).number == 1


# -- the end --------------------------------------------------------------------------------------------
def test_close_ends_the_calls_in_flight_as_cancelled(make: Make) -> None:
    client = with_worker(make(worker("for request in requests(): pass")))
    closer = threading.Thread(
        target=lambda: (wait_until(lambda: len(connection_of(client)._pending) == 5), client.close())
    )
    closer.start()
    errors = in_threads(5, lambda _: client.call("echo", timeout_ms=None))
    closer.join()
    assert [(type(error), str(error)) for error in errors] == [(MoltCancelled, "the client was closed")] * 5


def test_close_stops_the_worker_and_may_be_called_again(make: Make) -> None:
    client = with_worker(make(ECHO))
    process = psutil.Process(pid_of(client))
    client.close()
    assert not process.is_running()
    client.close()


@pytest.mark.parametrize("used", [False, True])
def test_a_closed_client_refuses_calls_and_starts_nothing(make: Make, used: bool) -> None:
    client = make(ECHO)
    if used:
        client.start()
    client.close()
    for use in (client.start, client.ping, lambda: client.call("echo")):
        with pytest.raises(MoltClientClosed, match=r"^the client is closed$"):
            use()
    assert psutil.Process().children() == []


@pytest.mark.usefixtures("impatient")
def test_a_worker_that_ignores_the_end_of_its_input_is_killed(make: Make) -> None:
    client = with_worker(make(DEAF))
    process = psutil.Process(pid_of(client))
    client.close()
    assert not process.is_running()


def test_closing_while_others_call_gives_everyone_an_outcome(make: Make) -> None:
    for _ in range(5):
        client = make(ECHO)

        def calls(number: int, client: Client = client) -> object:
            if number == 0:
                wait_until(lambda: client._transport.ready)
                client.close()
                return None
            while True:
                client.call("echo", number, timeout_ms=FAR_MS)

        errors = in_threads(6, calls)[1:]
        outcomes = {(type(error), str(error)) for error in errors}
        assert outcomes <= {
            (MoltCancelled, "the client was closed"),
            (MoltClientClosed, "the client is closed"),
        }


@pytest.mark.usefixtures("impatient")
def test_closing_in_the_middle_of_a_send_does_not_hang(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    client = with_worker(make(ECHO))
    process = psutil.Process(pid_of(client))

    def flush() -> bool:
        client.close()
        return True

    monkeypatch.setattr(connection_of(client)._stream, "flush", flush)
    error = failure_of(client)
    assert (type(error), error.detail) == (MoltCancelled, "the client was closed")
    wait_until(lambda: not process.is_running())


class _Interrupt(BaseException):
    pass


def test_an_interrupt_in_the_middle_of_a_send_never_lets_a_request_be_sent_twice(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A handler raises when the kernel has taken bytes and before that was noted."""
    log = tmp_path / "log"
    script = """
for request in requests():
    if isinstance(request, Request):
        with open(sys.argv[1], "a") as log:
            log.write(decoded(request) + " ")
        answer(request)
"""
    client = with_worker(make(worker(script, log)))
    wire = connection_of(client)._stream.write_fd
    first_pid, write = pid_of(client), os.write

    def interrupted(fd: int, data: Any) -> int:
        written = write(fd, data)
        if fd == wire:
            monkeypatch.setattr(os, "write", write)
            raise _Interrupt
        return written

    monkeypatch.setattr(os, "write", interrupted)
    with pytest.raises(_Interrupt):
        client.call("echo", "interrupted", timeout_ms=FAR_MS)
    assert connection_of(client)._pending == {}
    wait_until(lambda: not client._transport.ready)
    monkeypatch.setattr(launcher, "FIRST_BACKOFF_S", 0)
    client.call("echo", "next", timeout_ms=FAR_MS)
    assert pid_of(client) != first_pid
    assert log.read_text() in ("next ", "interrupted next ")


def test_a_client_that_is_garbage_stops_its_worker() -> None:
    client = with_worker(Client(transport="stdio", worker_cmd=ECHO))
    process = psutil.Process(pid_of(client))
    cycle = [client]
    cycle.append(cycle)  # type: ignore[arg-type]
    del client, cycle
    gc.collect()
    assert not process.is_running()


_EXITS = {
    "falls off its end": ("", 0),
    "exits": ("sys.exit(3)", 3),
    "raises": ("raise LookupError", 1),
    "is gone without a word": ("os._exit(3)", 3),
    "is killed": ("os.kill(os.getpid(), 9)", -9),
}


@pytest.mark.sample(2)
@pytest.mark.parametrize(("ending", "code"), _EXITS.values(), ids=_EXITS)
def test_an_interpreter_s_end_stops_its_worker(ending: str, code: int, tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    script = f"""
import os, sys, threading
from pathlib import Path
from molt_accel import Client
client = Client(transport="stdio", executors=1, log_level="error")
Path(sys.argv[1]).write_text(str(client.ping(timeout_ms=60_000)["pid"]))
threading.Thread(target=lambda: client.call("echo", 1), daemon=True).start()
{ending}
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(pid_file)], capture_output=True, timeout=120, check=False
    )
    pid = int(wait_for_file(pid_file))
    wait_until(lambda: not psutil.pid_exists(pid))
    assert done.returncode == code


# -- fork -----------------------------------------------------------------------------------------------
PIDS = worker("for request in requests(): answer(request, os.getpid())")


def test_a_forked_child_has_a_worker_of_its_own_and_the_parent_keeps_its(make: Make, tmp_path: Path) -> None:
    client = make(PIDS)
    before = client.call("pid", timeout_ms=FAR_MS)
    said = tmp_path / "child"

    def child() -> bool:
        pids = {client.call("pid", timeout_ms=FAR_MS) for _ in range(3)}
        client.close()
        said.write_text(" ".join(map(str, pids)))
        return True

    pid = fork(child)
    assert {client.call("pid", timeout_ms=FAR_MS) for _ in range(20)} == {before}
    assert exit_code(pid) == 0
    (other,) = map(int, said.read_text().split())
    assert other not in (before, os.getpid())
    wait_until(lambda: not psutil.pid_exists(other))
    assert client.call("pid", timeout_ms=FAR_MS) == before


def test_a_child_that_lives_on_does_not_keep_the_parent_s_worker_alive(make: Make) -> None:
    client = with_worker(make(ECHO))
    process = psutil.Process(pid_of(client))
    read_fd, write_fd = os.pipe()

    def child() -> bool:
        os.close(write_fd)
        return os.read(read_fd, 1) == b""

    pid = fork(child)
    try:
        client.close()
        assert not process.is_running()
    finally:
        os.close(write_fd)
        os.close(read_fd)
        assert exit_code(pid) == 0


def test_forking_while_threads_call_hangs_nobody(make: Make) -> None:
    client = with_worker(make(ECHO))
    stop = threading.Event()

    def calls(number: int) -> int:
        count = 0
        while not stop.is_set():
            assert client.call("echo", number, timeout_ms=FAR_MS) == number
            count += 1
        return count

    counts: list[object] = []
    caller = in_thread(lambda: counts.extend(in_threads(4, calls)))

    def child() -> bool:
        answered = client.call("echo", "child", timeout_ms=FAR_MS) == "child"
        client.close()
        return answered

    try:
        codes = [exit_code(fork(child)) for _ in range(4)]
    finally:
        stop.set()
        caller.join(120)
    assert codes == [0] * 4
    assert len(counts) == 4
    assert all(isinstance(count, int) and count > 0 for count in counts)


def test_forking_while_a_worker_is_being_started_leaks_none_of_its_pipes(make: Make) -> None:
    clients = [make(ECHO) for _ in range(3)]
    starters = [threading.Thread(target=client.start) for client in clients]
    read_fd, write_fd = os.pipe()

    def child() -> bool:
        os.close(write_fd)
        return os.read(read_fd, 1) == b""

    children = []
    for starter in starters:
        starter.start()
        children.append(fork(child))
    for starter in starters:
        starter.join()
    processes = [psutil.Process(pid_of(client)) for client in clients]
    for client in clients:
        client.close()
    assert not any(process.is_running() for process in processes)
    os.close(write_fd)
    os.close(read_fd)
    assert [exit_code(pid) for pid in children] == [0] * 3


# -- the transport by itself ----------------------------------------------------------------------------
def test_abandoning_is_accepted_once_and_refused_for_what_has_ended() -> None:
    transport = StdioTransport(Config.load(worker_cmd=worker("for request in requests(): pass")))
    try:
        transport.start()
        pending = transport.submit(Request(5, "echo"))
        error = MoltCancelled("enough")
        assert transport.abandon(pending, error)
        assert not transport.abandon(pending, MoltCancelled("again"))
        assert pending.result is error
        other = transport.submit(Request(6, "echo"))
        assert not transport.abandon(Pending(6), error)  # an earlier connection's, of the same request
        assert other.result is None
    finally:
        transport.close()
    assert not transport.abandon(other, error)
    assert str(other.result) == "the client was closed"


def test_one_that_the_worker_does_not_read_from_has_no_successor_before_its_end() -> None:
    transport = StdioTransport(Config.load(worker_cmd=ECHO))
    try:
        connection = transport._ready_connection()
        assert connection.move_to(ConnectionState.DEAF)
        assert transport._ready_connection() is connection
        assert transport.submit(Request(5, "echo")) is None
    finally:
        transport.close()


def test_the_patience_is_the_grace_time_and_a_little(make: Make) -> None:
    assert StdioTransport(Config(grace_ms=1000)).patience_s == 1.25


def test_a_bug_in_the_receiver_ends_the_calls_in_flight(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = with_worker(make(ECHO))

    def take(item: object) -> None:
        raise LookupError("a bug")

    monkeypatch.setattr(connection_of(client), "_take", take)
    with caplog.at_level(logging.ERROR, "molt_accel"):
        error = failure_of(client)
    assert (type(error), error.detail) == (MoltWorkerUnavailable, "the connection failed: LookupError")
    assert not isinstance(error, MoltInternalError)
    assert [record.getMessage() for record in caplog.records] == [
        "the thread that listens to a worker failed"
    ]
