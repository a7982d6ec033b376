"""Fork server, supervisor or client killed or stopped: each call has one outcome, and nobody stays behind."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltBusy, MoltError, MoltTimeout, MoltWorkerUnavailable
from molt_accel.errors import Status
from tests.support import ROOT
from tests.support import driver as driver_module
from tests.support.driver import MakeDriver, MakeModule, dead, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.sample(1)


def family(pid: int) -> list[psutil.Process]:
    """A process and all its descendants."""
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives any more."""
    return all(dead(process) for process in processes)


def test_a_killed_forkserver_is_replaced_what_ran_is_answered(
    make_driver: MakeDriver, tmp_path: Path
) -> None:
    driver = make_driver("--executors", "2")
    marker = tmp_path / "running"
    running = driver.start("announce_and_sleep", str(marker))
    wait_for_file(marker)
    other = driver.start("wait_for_file", str(tmp_path / "gate"))
    wait_for_file(tmp_path / "gate.running")
    old = family(driver.children()[0].pid)
    os.kill(old[0].pid, signal.SIGKILL)
    status, body = error_of(driver.response(running))
    assert status is Status.INTERNAL_ERROR
    assert body["error"] == "MoltWorkerCrashed"
    assert driver.response(other).status is Status.INTERNAL_ERROR
    assert value_of(driver.call("echo", "again")) == "again"
    assert {process.pid for process in old}.isdisjoint(driver.wait_idle()["executors"]["pids"])
    wait_until(lambda: gone(old))
    assert "forkserver_died" in driver.log()


def test_a_forkserver_that_is_killed_again_and_again_leaves_nothing_open(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2")
    descriptors = driver.descriptors()
    for number in range(8):
        (forkserver,) = driver.children()
        if number % 2:
            os.kill(driver.pids()[0], signal.SIGKILL)  # with an executor that has just died
        forkserver.kill()
        wait_until(lambda forkserver=forkserver: forkserver not in driver.children())
        driver.wait_idle()
    assert value_of(driver.call("echo", 1)) == 1
    wait_until(lambda: driver.descriptors() == descriptors)
    assert len(driver.children()) == 1


def test_a_forkserver_killed_while_a_reload_runs_is_made_good_by_the_reload(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    source = "from molt_worker import export\n@export\ndef version(payload): return {version}\n"
    make_module("slow_reload", source.format(version=1))
    driver = make_driver("--exports", "slow_reload")
    (old,) = driver.children()
    wait = f"import os, time\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.001)\n"
    make_module("slow_reload", wait + source.format(version=2))
    driver.signal(signal.SIGHUP)
    wait_until(lambda: len(driver.children()) == 2)
    old.kill()
    driver.wait_log("forkserver_died")
    gate.touch()
    assert value_of(driver.call("version")) == 2
    driver.wait_idle()
    wait_until(lambda: len(driver.children()) == 1)


def test_forkservers_that_die_with_their_first_executor_are_not_started_in_a_tight_loop(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    make_module(
        "suicidal_exports",
        f"""
import os, signal
from molt_worker import export

open({str(starts)!r}, "a").write("start\\n")
os.register_at_fork(before=lambda: os.kill(os.getpid(), signal.SIGKILL))

@export
def answer(payload):
    return 42
""",
    )
    driver = make_driver("--exports", "suicidal_exports", ready=False)
    wait_until(lambda: starts.exists() and len(starts.read_text().split()) >= 4)
    uptime_s = driver.ping()["uptime_s"]
    assert len(starts.read_text().split()) <= 4 + uptime_s * 3
    assert uptime_s >= 0.5  # 0.2 + 0.4 s between the second and the fourth


@pytest.mark.parametrize("threads", [1, 8])
def test_a_killed_supervisor_under_load_costs_each_call_one_outcome_and_the_next_has_a_new_worker(
    make_client: MakeClient, threads: int
) -> None:
    client = with_worker(make_client(max_queue=1000))
    stop = threading.Event()
    outcomes: Counter[str] = Counter()
    calls = [0] * threads

    def work(index: int) -> None:
        while not stop.is_set():
            calls[index] += 1
            try:
                assert client.call("echo", index) == index
                outcomes["Ok"] += 1
            except MoltWorkerUnavailable:
                outcomes["unavailable"] += 1

    workers = [in_thread(work, index) for index in range(threads)]
    killed: list[psutil.Process] = []
    try:
        for _ in range(3):
            wait_until(lambda: _answers(client), 60)
            old = family(client.ping(timeout_ms=60_000)["pid"])
            killed += old
            os.kill(old[0].pid, signal.SIGKILL)
            wait_until(lambda old=old: gone(old))
    finally:
        stop.set()
        for worker in workers:
            worker.join(60)
    assert not any(worker.is_alive() for worker in workers)
    assert sum(calls) == outcomes.total()
    assert wait_until(lambda: _answers(client), 60)
    assert gone(killed)


def _answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", "new") == "new")
    except MoltWorkerUnavailable:
        return False


def test_a_killed_supervisor_leaves_no_process_though_stuck(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--executors", "2")
    markers = [tmp_path / "a", tmp_path / "b"]
    driver.start("never_stops", str(markers[0]))
    driver.start("stuck_in_c", str(markers[1]))
    for marker in markers:
        wait_for_file(marker)
    processes = family(driver.pid)
    assert len(processes) == 4
    os.kill(driver.pid, signal.SIGKILL)
    assert driver.wait() == -9
    wait_until(lambda: gone(processes))


CLIENT = """
import sys, threading
from molt_accel import Client

client = Client(transport={transport!r}, exports="tests.support.entrypoints", executors=2, log_level="error")
client.start()

def work():
    while True:
        client.call("echo", 1)

for _ in range(4):
    threading.Thread(target=work, daemon=True).start()
open({path!r}, "w").write(str(client.ping()["pid"]))
client.call("never_stops", {path!r} + ".running")
"""


def test_a_client_killed_under_load_takes_its_worker_along(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "worker"
    source = CLIENT.format(transport=transport, path=str(path))
    process = subprocess.Popen([sys.executable, "-c", source], cwd=ROOT)
    try:
        worker = int(wait_for_file(path))
        wait_for_file(f"{path}.running")
        processes = family(worker)
        assert len(processes) == 4
    finally:
        process.kill()
        process.wait()
    wait_until(lambda: gone(processes))


def test_a_client_that_exits_without_a_close_takes_its_worker_along(transport: str, tmp_path: Path) -> None:
    path = tmp_path / "worker"
    source = (
        "from molt_accel import Client\n"
        f"client = Client(transport={transport!r}, exports='tests.support.entrypoints', executors=2)\n"
        f"client.start(); open({str(path)!r}, 'w').write(str(client.ping()['pid']))\n"
        "client.call('echo', 1)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    worker = int(wait_for_file(path))
    assert (done.returncode, done.stdout) == (0, "")
    assert "Traceback" not in done.stderr
    # A worker of its own is waited for; a pool leaves by itself, soon after its last client.
    assert transport == "shm" or not psutil.pid_exists(worker)
    wait_until(lambda: not psutil.pid_exists(worker))


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
def test_a_stopped_supervisor_holds_no_call_beyond_its_deadline(make_client: MakeClient) -> None:
    """Over stdio every request goes through it. In shared memory none does: tests of pools say what holds there."""
    client = with_worker(make_client(max_frame_bytes=200_000))
    worker = client.ping()["pid"]
    os.kill(worker, signal.SIGSTOP)
    try:
        started = time.monotonic()
        assert raised(MoltTimeout, client.call, "echo", 1, timeout_ms=200).phase == "transport"
        assert time.monotonic() - started >= 0.2
        outcomes: Counter[str] = Counter()
        for _ in range(30):  # more than the pipe takes: nothing may block on it
            try:
                client.call("echo_raw", b"x" * 190_000, codec="raw", timeout_ms=1)
            except MoltError as exc:
                outcomes[type(exc).__name__] += 1
        assert set(outcomes) == {MoltTimeout.__name__, MoltBusy.__name__}
        assert outcomes.total() == 30
    finally:
        os.kill(worker, signal.SIGCONT)
    assert client.call("echo", "goes on", timeout_ms=60_000, idempotent=True, retries=20) == "goes on"
    assert client.ping(timeout_ms=60_000)["pid"] == worker


@pytest.mark.parametrize("transport", ["stdio"], indirect=True)
def test_a_stopped_supervisor_can_be_closed(make_client: MakeClient) -> None:
    client = with_worker(make_client(grace_ms=0))
    processes = family(client.ping()["pid"])
    os.kill(processes[0].pid, signal.SIGSTOP)
    client.close()
    wait_until(lambda: gone(processes))


#: A worker whose fork servers may be silent for a second only.
_IMPATIENT = """
import sys
from molt_worker.processes import pool
from molt_worker.cli.main import main

pool._STALL_NS = 1_000_000_000
sys.exit(main())
"""


def test_a_stopped_forkserver_that_is_asked_for_an_executor_is_replaced(
    make_driver: MakeDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "COMMAND", [sys.executable, "-c", _IMPATIENT, "--stdio"])
    driver = make_driver()
    (forkserver,) = driver.children()
    (pid,) = driver.pids()
    forkserver.suspend()
    os.kill(pid, signal.SIGKILL)
    assert value_of(driver.call("echo", 1)) == 1
    assert dead(forkserver)
    assert "the fork server does not answer" in driver.log()
    assert driver.wait_idle()["executors"]["pids"] != [pid]


def test_a_stopped_forkserver_holds_no_request(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2")
    (forkserver,) = driver.children()
    forkserver.suspend()
    try:
        late = driver.call("sleep", 1e6, deadline_ns=time.monotonic_ns() + 300_000_000)
        assert error_of(late)[1]["phase"] == "running"
        assert value_of(driver.call("echo", 1)) == 1
    finally:
        forkserver.resume()
    assert driver.wait_idle()["executors"]["idle"] == 2
