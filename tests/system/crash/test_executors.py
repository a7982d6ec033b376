"""Executors that die: the crash is reported, the pool is whole again, and nothing is left or lost."""

import contextlib
import os
import signal
from pathlib import Path

import psutil
import pytest

from molt_accel.errors import Status
from molt_accel.ipc.messages import Codec
from tests.support.driver import FORK_HOOK, MakeDriver, MakeModule, dead, deadline, error_of, value_of
from tests.support.processes import wait_for_file, wait_until


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT])
def test_an_executor_killed_from_outside_is_reported_and_replaced(
    make_driver: MakeDriver, tmp_path: Path, number: signal.Signals
) -> None:
    driver = make_driver("--executors", "2")
    before = set(driver.pids())
    marker = tmp_path / "running"
    running = driver.start("announce_and_sleep", str(marker))
    victim = int(wait_for_file(marker))
    os.kill(victim, number)
    status, body = error_of(driver.response(running))
    assert status is Status.INTERNAL_ERROR
    how = f"signal {int(number)} ({number.name})"
    assert body == {
        "error": "MoltWorkerCrashed",
        "detail": f"the executor died while it ran 'announce_and_sleep': {how}",
        "signal": int(number),
    }
    after = set(driver.wait_idle()["executors"]["pids"])
    assert before - after == {victim}
    assert len(after) == 2


def test_an_idle_executor_that_dies_costs_no_request(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2")
    for number in range(10):
        for process in map(psutil.Process, driver.pids()):
            process.kill()
            wait_until(lambda process=process: dead(process))
            assert value_of(driver.call("echo", number)) == number
    assert set(driver.wait_idle()["outcomes"]) == {"Ok"}


@pytest.mark.sample(1)
@pytest.mark.parametrize("size", [0, 100, 1_000_000])  # the last is more than the socket takes at once
def test_a_request_given_to_a_dead_executor_is_given_to_another(make_driver: MakeDriver, size: int) -> None:
    driver = make_driver("--executors", "2", "--log-level", "error")
    payload = b"x" * size
    for _ in range(30):
        for pid in driver.pids():
            # One from before, of which the worker has yet to hear, may be gone.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        frame = driver.call("echo_raw", payload, codec=Codec.RAW)
        assert frame.status is Status.OK, error_of(frame)
        assert frame.payload == payload
        driver.wait_idle()


def test_a_request_that_kills_whoever_reads_it_is_a_crash_and_not_tried_for_ever(
    make_driver: MakeDriver, make_module: MakeModule
) -> None:
    # As the system does it to an executor that takes too much memory: it dies in the middle of reading.
    make_module(
        "frail_executors",
        """
import os, signal
from molt_accel.ipc.stream import FrameStream
from molt_worker import export

read = FrameStream.fill

def read_little(stream):
    got = read(stream)
    if len(stream._parser._buffer) > 1_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
    return got

FrameStream.fill = read_little

@export(codec_in="raw", codec_out="raw")
def size(payload):
    return str(len(payload)).encode()
""",
    )
    driver = make_driver("--exports", "frail_executors", "--log-level", "error")
    frame = driver.call("size", b"x" * 40_000_000, codec=Codec.RAW)
    assert error_of(frame)[1]["error"] == "MoltWorkerCrashed"
    assert driver.ping()["executor_deaths"] == 2
    driver.wait_idle()
    assert driver.call("size", b"xy", codec=Codec.RAW).payload == b"2"


def test_hundreds_of_crashes_leave_no_zombie_and_no_descriptor(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2", "--log-level", "error")
    driver.call("crash", {"exit": 1})
    driver.wait_idle()
    descriptors = driver.descriptors()
    (forkserver,) = driver.children()
    forkserver_descriptors = forkserver.num_fds()
    ids = []
    for number in range(200):
        how = {"signal": 9} if number % 2 else {"exit": 1}
        ids.append(driver.start("crash", how))
        if number % 20 == 19:
            errors = {error_of(driver.response(request_id))[1]["error"] for request_id in ids}
            assert errors == {"MoltWorkerCrashed"}
            ids.clear()
    report = driver.wait_idle()
    assert (report["executor_deaths"], report["executor_starts"]) == (201, 203)
    wait_until(lambda: len(forkserver.children(recursive=True)) == 2)
    assert {child.pid for child in forkserver.children()} == set(report["executors"]["pids"])
    assert driver.children() == [forkserver]
    wait_until(lambda: driver.descriptors() == descriptors)
    assert forkserver.num_fds() == forkserver_descriptors


def test_what_an_executor_started_dies_when_it_crashes(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    marker = tmp_path / "child"
    running = driver.start("spawn_child", str(marker))
    child = psutil.Process(int(wait_for_file(marker)))
    (pid,) = driver.pids()
    os.kill(pid, signal.SIGKILL)
    assert error_of(driver.response(running))[1]["signal"] == 9
    wait_until(lambda: dead(child))


def test_executors_that_die_while_they_start_are_tried_again_ever_more_slowly(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    switch, log = tmp_path / "switch", tmp_path / "starts"
    make_module("dying_exports", FORK_HOOK.format(switch=str(switch), log=str(log), act="os._exit(7)"))
    driver = make_driver("--exports", "dying_exports")
    assert value_of(driver.call("answer")) == 42
    switch.touch()
    assert error_of(driver.call("die"))[1]["exit_code"] == 1
    request_id = driver.start("answer")
    # 0.1 + 0.2 + 0.4 + 0.8 s between the starts: far fewer than a loop without a pause would make.
    wait_until(lambda: driver.ping()["uptime_s"] > 0 and log.exists() and len(log.read_text().split()) >= 4)
    assert driver.ping()["executor_starts"] < 12
    switch.unlink()
    assert value_of(driver.response(request_id)) == 42
    assert driver.wait_idle()["executors"]["idle"] == 1


def test_an_executor_that_hangs_while_it_starts_is_replaced(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    switch, log = tmp_path / "switch", tmp_path / "starts"
    source = FORK_HOOK.format(switch=str(switch), log=str(log), act="import time; time.sleep(1e6)")
    make_module("hanging_executors", source)
    driver = make_driver("--exports", "hanging_executors", "--start-timeout-ms", "1000")
    switch.touch()
    assert error_of(driver.call("die"))[1]["exit_code"] == 1
    wait_for_file(log)
    switch.unlink()
    assert value_of(driver.call("answer")) == 42
    assert driver.wait_idle()["executors"]["idle"] == 1


def test_a_fork_that_fails_costs_one_start_and_nothing_that_runs(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    switch, gate = tmp_path / "switch", tmp_path / "gate"
    make_module(
        "unforkable_exports",
        f"""
import errno, os, time
from molt_worker import export

real_fork = os.fork

def fork():
    if os.path.exists({str(switch)!r}):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
    return real_fork()

os.fork = fork

@export
def hold(path):
    open(path + ".running", "w").write("x")
    while not os.path.exists(path):
        time.sleep(0.001)
    return "held"

@export
def die(payload):
    os._exit(1)
""",
    )
    driver = make_driver("--exports", "unforkable_exports", "--executors", "2")
    held = driver.start("hold", str(gate))
    wait_for_file(f"{gate}.running")
    switch.touch()
    assert error_of(driver.call("die"))[1]["exit_code"] == 1
    driver.wait_log("executor_not_started")
    gate.touch()
    assert value_of(driver.response(held)) == "held"
    assert driver.ping()["executors"]["pids"] != []
    switch.unlink()
    assert driver.wait_idle()["executors"]["idle"] == 2


def test_a_stopped_executor_is_killed_at_deadline_and_grace(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    marker = tmp_path / "running"
    running = driver.start("announce_and_sleep", str(marker), deadline_ns=deadline(1000))
    os.kill(int(wait_for_file(marker)), signal.SIGSTOP)
    assert error_of(driver.response(running))[1]["phase"] == "running"
    (pid,) = driver.wait_idle()["executors"]["pids"]
    os.kill(pid, signal.SIGSTOP)  # an idle one: the request that it gets has a deadline too
    assert error_of(driver.call("echo", 1, deadline_ns=deadline(200)))[1]["phase"] == "running"
    assert value_of(driver.call("echo", 1)) == 1
