"""How a worker ends: SIGTERM drains, SIGINT stops, the end of its input stops, and nobody stays behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.frame import FrameParser, encode
from molt_accel.ipc.messages import STDIO_FROM_WORKER, Codec, Hello, Request, Response, StartFailed
from tests.support.driver import Driver, MakeDriver, MakeModule, error_of, value_of
from tests.support.processes import wait_for_file, wait_until


def test_sigterm_finishes_what_is_in_refuses_more_and_exits(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    gate = tmp_path / "gate"
    running = driver.start("wait_for_file", str(gate))
    queued = [driver.start("echo", number) for number in range(5)]
    driver.ping()
    driver.signal(signal.SIGTERM)
    driver.wait_log("worker_draining requests=6")
    assert error_of(driver.call("echo", "too late"))[0] in (Status.BUSY, Status.INTERNAL_ERROR)
    assert driver.ping()["ready"] is True
    gate.touch()
    assert value_of(driver.response(running)) == "released"
    assert [value_of(driver.response(request_id)) for request_id in queued] == list(range(5))
    assert driver.wait() == 0


def test_a_sigterm_for_all_its_processes_drains_too(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--executors", "2")
    gate = tmp_path / "gate"
    running = driver.start("wait_for_file", str(gate))
    wait_for_file(f"{gate}.running")
    for process in psutil.Process(driver.pid).children(recursive=True):
        process.terminate()
    driver.signal(signal.SIGTERM)
    driver.wait_log("worker_draining requests=1")
    gate.touch()
    assert value_of(driver.response(running)) == "released"
    assert driver.wait() == 0


def test_sigterm_without_work_exits_at_once(make_driver: MakeDriver) -> None:
    driver = make_driver()
    driver.signal(signal.SIGTERM)
    assert driver.wait() == 0


@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["int", "terms"])
def test_sigint_or_a_second_sigterm_ends_running_and_queued_requests(
    make_driver: MakeDriver, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    driver = make_driver("--grace-ms", "20000")
    marker = tmp_path / "running"
    running = driver.start("clean_up", str(marker))
    queued = driver.start("echo", 1)
    wait_for_file(marker)
    driver.ping()  # so the queued one has been read
    *drains, last = signals
    for number in drains:
        driver.signal(number)
        driver.wait_log("worker_draining")
    driver.signal(last)
    details = {error_of(driver.response(request_id))[1]["detail"] for request_id in (running, queued)}
    assert details == {"the worker was told to stop"}
    assert driver.wait() == 0
    assert not marker.exists()


@pytest.mark.parametrize("entry", ["announce_and_sleep", "never_stops", "stuck_in_c", "spawn_child"])
def test_when_its_input_ends_the_worker_and_all_it_started_are_gone(
    make_driver: MakeDriver, tmp_path: Path, entry: str
) -> None:
    driver = make_driver("--executors", "2")
    marker = tmp_path / "running"
    running = driver.start(entry, str(marker))
    driver.start("sleep", 1e6)
    queued = driver.start("echo", 1)
    wait_for_file(marker)
    driver.remember_descendants()
    driver.end_input()
    frames = {frame.request_id: frame for frame in driver.drain() if isinstance(frame, Response)}
    assert error_of(frames[running])[1]["detail"] == "the client is gone"
    assert error_of(frames[queued])[0] is Status.CANCELLED
    assert driver.wait() == 0


def test_input_that_ends_within_a_frame_is_as_good_as_ended(make_driver: MakeDriver) -> None:
    driver = make_driver()
    driver.send_bytes(encode(driver.request("echo", "x" * 100))[:-1])
    driver.end_input()
    assert driver.drain() == []
    assert driver.wait() == 0


def test_a_worker_that_is_told_to_stop_while_it_imports_stops(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    marker = tmp_path / "importing"
    make_module("hanging_exports", f"import time; open({str(marker)!r}, 'w').write('x'); time.sleep(1e6)")
    driver = make_driver("--exports", "hanging_exports", ready=False)
    queued = driver.start("echo", 1)
    wait_for_file(marker)
    driver.ping()  # so the queued one has been read
    driver.signal(signal.SIGINT)
    assert error_of(driver.response(queued))[1]["detail"] == "the worker was told to stop"
    assert driver.wait() == 0


def test_exports_that_can_t_be_imported_are_code_2_a_notice_and_a_traceback_in_the_log(
    make_driver: MakeDriver, make_module: MakeModule
) -> None:
    make_module("broken_exports", "raise RuntimeError('first\\nsecond')")
    driver = make_driver("--exports", "broken_exports", "--log-level", "error", ready=False)
    notice = driver.take(StartFailed)
    what = "broken_exports: can't import broken_exports: RuntimeError: first\nsecond"
    assert notice.error == {"error": "MoltStartFailed", "detail": what, "code": "start_failed"}
    assert driver.drain() == []
    assert driver.wait() == 2
    failed, stopped = driver.log().splitlines()
    assert " molt-worker error import_failed traceback=" in failed
    assert "broken_exports.py" in failed
    assert " molt-worker error start_failed error=" in stopped


def test_an_import_that_takes_too_long_is_given_up(make_driver: MakeDriver, make_module: MakeModule) -> None:
    make_module("hanging_exports", "import time; time.sleep(1e6)")
    driver = make_driver("--exports", "hanging_exports", "--start-timeout-ms", "500", ready=False)
    body = error_of(driver.response(driver.start("echo", 1)))[1]
    assert body["error"] == "MoltStartFailed"
    assert body["detail"] == "the worker can't start: importing the exports took longer than 500 ms"
    assert driver.wait() == 2


def test_a_reader_closed_while_requests_run_stops_the_worker(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--executors", "2")
    marker = tmp_path / "running"
    driver.start("announce_and_sleep", str(marker))
    for _ in range(5):
        driver.start("sleep", 1e6)
    wait_for_file(marker)
    driver.ping()
    assert driver.process.stdout is not None
    driver.process.stdout.close()
    driver.signal(signal.SIGINT)  # what it has to say now reaches nobody
    assert driver.wait() == 0


def test_a_stdout_that_takes_nothing_for_whatever_reason_ends_the_worker(make_driver: MakeDriver) -> None:
    with open("/dev/full", "wb") as full:
        driver = make_driver(stdout=full, ready=False)
        assert driver.process.wait(30) == 0
    assert "supervisor_bug" not in driver.log()


def test_responses_nobody_reads_are_bounded_in_memory_and_go_on_when_read(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2", "--max-queue", "50", "--log-level", "error")
    size = 256 * 1024
    assert driver.stream is not None
    stream = driver.stream
    ids = []
    blocked = False
    for _ in range(400):
        request = driver.request("big", size)
        ids.append(request.request_id)
        stream.send(request)  # reads nothing
    wait_until(lambda: _unchanged(driver), 60)
    before = driver.rss()
    for _ in range(4000):
        request = driver.request("big", size)
        ids.append(request.request_id)
        stream.send(request)
        blocked = blocked or stream.pending_bytes > 0
    assert blocked  # it stopped reading requests
    wait_until(lambda: _unchanged(driver), 60)
    assert driver.rss() - before < 30 * 1024 * 1024
    ids.append(driver.start("echo", "the last one"))  # reads while it sends
    statuses = [driver.response(request_id).status for request_id in ids]
    assert set(statuses) == {Status.OK, Status.BUSY}
    assert value_of(driver.call("echo", "still here")) == "still here"


def _unchanged(driver: Driver) -> bool:
    """Whether the supervisor has come to rest: it uses no processor time for a while."""
    process = psutil.Process(driver.pid)
    before = process.cpu_times()
    try:
        driver.process.wait(0.3)
    except subprocess.TimeoutExpired:
        return process.cpu_times() == before
    raise AssertionError("the worker is gone")


def test_frames_can_come_from_a_regular_file_and_go_to_one(tmp_path: Path) -> None:
    requests, responses = tmp_path / "requests", tmp_path / "responses"
    frames = [Request(number, "echo", codec.encode("msgpack", number)) for number in range(1, 30)]
    ping = Request(1000, "__ping__", codec.encode("msgpack", None))
    requests.write_bytes(b"".join(map(encode, [*frames, ping])))
    with requests.open("rb") as stdin, responses.open("wb") as stdout:
        done = subprocess.run(
            [sys.executable, "-m", "molt_worker", "--stdio", "--executors", "1"],
            stdin=stdin,
            stdout=stdout,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0
    parser = FrameParser(messages=STDIO_FROM_WORKER)
    parser.feed(responses.read_bytes())
    answers: dict[int, Response] = {}
    for frame in parser.frames():
        if frame != Hello():
            assert isinstance(frame, Response)
            assert frame.request_id not in answers
            answers[frame.request_id] = frame
    assert set(answers) == {*range(1, 30), 1000}
    assert value_of(answers[1000])["exports"] is not None
    # The file ends at once, so the client is gone before most were run: each has its one outcome.
    assert {frame.status for frame in answers.values()} <= {Status.OK, Status.CANCELLED}


def test_the_terminal_s_or_parent_s_descriptors_are_left_as_they_were(make_driver: MakeDriver) -> None:
    ours, theirs = os.pipe()
    out_read, out_write = os.pipe()
    try:
        driver = make_driver(stdin=ours, stdout=out_write, ready=False)
        wait_until(lambda: not os.get_blocking(ours))
        os.close(theirs)
        theirs = -1
        assert driver.wait() == 0
        assert os.get_blocking(ours) is True
        assert os.get_blocking(out_write) is True
    finally:
        for fd in (ours, theirs, out_read, out_write):
            if fd >= 0:
                os.close(fd)


@pytest.mark.parametrize("closed", ["2>&-", "2>&- 3<&-"])
def test_a_worker_without_stderr_works(closed: str) -> None:
    request = encode(Request(5, "echo", codec.encode("msgpack", "hi")))
    command = f"exec {sys.executable} -m molt_worker --stdio --executors 1 {closed}"
    process = subprocess.Popen(["sh", "-c", command], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    parser = FrameParser(messages=STDIO_FROM_WORKER)
    seen: list[object] = []
    try:
        process.stdin.write(request)
        process.stdin.flush()
        while len(seen) < 2:
            data = os.read(process.stdout.fileno(), 65536)
            assert data, "the worker ended early"
            parser.feed(data)
            seen += parser.frames()
        process.stdin.close()
        assert process.wait(30) == 0
    finally:
        process.stdout.close()
        process.kill()
        process.wait()
    hello, answer = seen
    assert hello == Hello()
    assert isinstance(answer, Response)
    assert codec.decode(Codec.MSGPACK, answer.payload) == "hi"
