"""Deadlines hold whatever the entrypoint does, and work that is too late never starts."""

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltBusy, MoltTimeout
from molt_accel.errors import Status
from tests.support.driver import STOPPED, MakeDriver, MakeModule, dead, deadline, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import wait_for_file, wait_until

RUNNING = {"error": "MoltTimeout", "detail": "the deadline passed while the request ran", "phase": "running"}
QUEUE = {"error": "MoltTimeout", "detail": "the deadline passed in the queue", "phase": "queue"}


@pytest.mark.sample(3)
@pytest.mark.parametrize(("entry", "survives"), [*STOPPED, ("spawn_child", False)])
def test_a_deadline_ends_a_request_whatever_it_does(
    make_driver: MakeDriver, tmp_path: Path, entry: str, survives: bool
) -> None:
    driver = make_driver("--grace-ms", "20000" if survives else "100")
    (pid,) = driver.pids()
    marker = tmp_path / "running"
    request_id = driver.start(entry, str(marker), deadline_ns=deadline(1000))
    wait_for_file(marker)
    frame = driver.response(request_id)
    assert error_of(frame) == (Status.TIMEOUT, RUNNING)
    assert frame.executor == 1
    assert value_of(driver.call("echo", "next")) == "next"
    assert (driver.pids() == [pid]) is survives


def one_executor(make_client: MakeClient, grace_ms: int) -> tuple[Client, int]:
    """A client whose worker has one executor, and that one's pid."""
    client = with_worker(make_client(executors=1, grace_ms=grace_ms))
    return client, client.call("pid", timeout_ms=60_000)


@pytest.mark.sample(4)
@pytest.mark.parametrize(("entry", "survives"), [*STOPPED, ("spawn_child", False)])
def test_a_call_s_deadline_holds_whatever_the_entrypoint_does(
    make_client: MakeClient, tmp_path: Path, entry: str, survives: bool
) -> None:
    client, pid = one_executor(make_client, 20_000 if survives else 100)
    marker = tmp_path / "running"
    error = raised(MoltTimeout, client.call, entry, str(marker), timeout_ms=1000)
    assert (error.phase, error.detail) == ("running", RUNNING["detail"])
    assert marker.exists() is (entry != "clean_up")
    assert (client.call("pid", timeout_ms=60_000) == pid) is survives
    assert client.ping()["outcomes"] == {"Ok": 2, "Timeout": 1}


SLOW_TO_IMPORT = """
import pathlib, time
begun = pathlib.Path(__file__).with_name("begun")
if not begun.exists():
    begun.touch()
    time.sleep(1e6)
VALUE = "whole"
"""


@pytest.mark.sample(1)
def test_an_executor_of_an_interrupted_import_serves_no_more(make_client: MakeClient, tmp_path: Path) -> None:
    (tmp_path / "slow_to_import.py").write_text(SLOW_TO_IMPORT)
    client, pid = one_executor(make_client, 20_000)
    with pytest.raises(MoltTimeout):
        client.call("import_from", str(tmp_path), timeout_ms=1000)
    assert (tmp_path / "begun").exists()
    assert client.call("import_from", str(tmp_path), timeout_ms=60_000) == "whole"
    assert client.call("pid") != pid


#: Its import takes longer than any request may; what it does outside of requests comes behind.
NEVER_IN_A_REQUEST = """
import os, pathlib, time
from molt_worker import current_request
if current_request().remaining_ms() is not None:
    time.sleep(1e6)
with pathlib.Path(__file__).with_name("tries").open("a") as tries:
    tries.write("x")
"""


@pytest.mark.sample(3)
@pytest.mark.parametrize("end", ["VALUE = 'whole'", "raise SystemExit('not today')", "os._exit(1)"])
def test_an_import_that_takes_longer_than_a_request_is_done_by_the_next_executor(
    make_module: MakeModule, make_client: MakeClient, end: str
) -> None:
    module = make_module("slow_to_import", NEVER_IN_A_REQUEST + end)
    client, _ = one_executor(make_client, 20_000)
    for _ in range(2):  # what could not be imported is not tried again and again
        with pytest.raises(MoltTimeout):
            client.call("import_from", "", timeout_ms=1000)
        if "whole" in end:
            assert client.call("import_from", "", timeout_ms=60_000) == "whole"
            break
        assert client.call("echo", 1, timeout_ms=60_000) == 1
    assert module.with_name("tries").read_text() == "x"


@pytest.mark.sample(1)
def test_the_processes_of_a_stopped_request_end_with_it(make_client: MakeClient, tmp_path: Path) -> None:
    client, _ = one_executor(make_client, 20_000)
    child = tmp_path / "child"
    with pytest.raises(MoltTimeout):
        client.call("start_and_sleep", str(child), timeout_ms=1000)
    wait_until(lambda: not psutil.pid_exists(int(child.read_text())))
    assert client.call("echo", 1, timeout_ms=60_000) == 1


@pytest.mark.sample(1)
@pytest.mark.parametrize("grace_ms", [0, 1])
def test_without_grace_a_call_s_executor_is_killed_at_once_and_the_pool_recovers(
    make_client: MakeClient, tmp_path: Path, grace_ms: int
) -> None:
    client, _ = one_executor(make_client, grace_ms)
    for number in range(5):
        error = raised(MoltTimeout, client.call, "never_stops", str(tmp_path / str(number)), timeout_ms=500)
        # Where the answer's time is over too, nobody can say more than that.
        assert error.phase in ("running", "queue", "transport")
    assert client.call("echo", 1, timeout_ms=60_000) == 1


def test_many_calls_deadlines_at_once_each_hold(make_client: MakeClient) -> None:
    client = with_worker(make_client(executors=2, max_queue=100, grace_ms=20_000))
    # An executor may serve before the fork server has told the supervisor its process id.
    both = wait_until(
        lambda: (found := client.ping()["executors"])["idle"] == len(found["pids"]) == 2 and found
    )
    pids = set(both["pids"])

    def late(number: int) -> str:
        with pytest.raises((MoltTimeout, MoltBusy)) as caught:
            client.call("sleep", 1e6, timeout_ms=100 + 3 * number)
        error = caught.value
        # Who comes when some have ended already, on a slow machine, is told at once that it would not.
        return error.phase if isinstance(error, MoltTimeout) else error.reason

    with ThreadPoolExecutor(50) as threads:
        phases = Counter(threads.map(late, range(50)))
    assert set(phases) <= {"running", "queue", "deadline"}
    assert phases["running"] >= 2
    assert client.call("echo", "after all of them") == "after all of them"
    report = client.ping()
    assert report["outcomes"]["Timeout"] == 50 - phases["deadline"]
    assert report["executor_deaths"] == 0  # a sleep gives in to the soft interrupt
    assert set(report["executors"]["pids"]) == pids


@pytest.mark.sample(1)
def test_what_a_late_call_started_is_killed_with_it(make_client: MakeClient, tmp_path: Path) -> None:
    client, _ = one_executor(make_client, 100)
    marker = tmp_path / "child"
    with pytest.raises(MoltTimeout):
        client.call("spawn_child", str(marker), timeout_ms=1000)
    child = psutil.Process(int(marker.read_text())) if psutil.pid_exists(int(marker.read_text())) else None
    wait_until(lambda: child is None or dead(child))


@pytest.mark.sample(1)
def test_an_idle_executor_is_not_touched_by_deadlines_of_ended_calls(make_client: MakeClient) -> None:
    """Nor is the next request: thousands of deadlines pass while others run."""
    client, pid = one_executor(make_client, 20_000)
    until = time.monotonic() + 2
    number = 0
    while time.monotonic() < until:
        assert client.call("echo", number, timeout_ms=200 + number % 50) == number
        number += 1
    assert client.call("pid") == pid
    assert set(client.ping()["outcomes"]) == {"Ok"}


def test_what_an_entrypoint_started_is_killed_with_it(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    marker = tmp_path / "child"
    request_id = driver.start("spawn_child", str(marker), deadline_ns=deadline(300))
    child = psutil.Process(int(wait_for_file(marker)))
    assert error_of(driver.response(request_id)) == (Status.TIMEOUT, RUNNING)
    wait_until(lambda: dead(child))


def test_an_interrupted_entrypoint_cleans_up_before_answers(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--grace-ms", "20000")
    marker = tmp_path / "running"
    request_id = driver.start("clean_up", str(marker), deadline_ns=deadline(500))
    wait_for_file(marker)
    assert error_of(driver.response(request_id)) == (Status.TIMEOUT, RUNNING)
    assert not marker.exists()


def test_expired_work_never_starts(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    driver.start("wait_for_file", str(gate))
    late = [
        driver.start("append", {"path": str(effects), "text": str(n)}, deadline_ns=deadline(50))
        for n in range(5)
    ]
    in_time = driver.start("append", {"path": str(effects), "text": "in time"}, deadline_ns=deadline(60_000))
    for request_id in late:
        assert error_of(driver.response(request_id)) == (Status.TIMEOUT, QUEUE)
    gate.touch()
    driver.response(in_time)
    assert effects.read_text() == "in time\n"


def test_a_request_that_arrives_too_late_never_starts(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    effects = tmp_path / "effects"
    line = {"path": str(effects), "text": "late"}
    assert error_of(driver.call("append", line, deadline_ns=deadline(-1))) == (Status.TIMEOUT, QUEUE)
    assert error_of(driver.call("append", line, deadline_ns=1)) == (Status.TIMEOUT, QUEUE)
    assert not effects.exists()


def test_deadlines_far_ahead_are_as_good_as_none(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--start-timeout-ms", "2000")  # the only other timer, gone after that
    far = {"deadline_ns": 2**64 - 1, "max_wait_ms": 2**32 - 2}
    gate = tmp_path / "gate"
    running = driver.start("wait_for_file", str(gate), **far)
    queued = driver.start("echo", "queued", **far)
    driver.response(driver.start("echo", "late", deadline_ns=deadline(2500)))
    gate.touch()
    assert value_of(driver.response(running)) == "released"
    assert value_of(driver.response(queued)) == "queued"


def test_a_call_without_a_deadline_may_take_its_time(client: Client) -> None:
    assert client.call("sleep", 0.3, timeout_ms=None) == "slept"
    assert client.call("sleep", 0.3, timeout_ms=1e12) == "slept"


def test_many_deadlines_at_once_each_hold(make_driver: MakeDriver) -> None:
    driver = make_driver("--executors", "2", "--max-queue", "100", "--grace-ms", "20000")
    ids = [driver.start("sleep", 1e6, deadline_ns=deadline(100 + 3 * n)) for n in range(50)]
    good = driver.start("echo", "after all of them")
    phases = [error_of(driver.response(request_id))[1]["phase"] for request_id in ids]
    assert phases[:2] == ["running", "running"]
    assert value_of(driver.response(good)) == "after all of them"
    report = driver.wait_idle()
    assert report["outcomes"]["Timeout"] == 50
    assert report["executor_deaths"] == 0  # a sleep gives in to the soft interrupt


def test_the_client_sees_the_phase_and_is_not_held_beyond_deadline_and_grace(client: Client) -> None:
    started = time.monotonic()
    assert raised(MoltTimeout, client.call, "sleep", 1e6, timeout_ms=200).phase == "running"
    assert 0.2 <= time.monotonic() - started < 20


@pytest.mark.sample(1)
@pytest.mark.parametrize("grace_ms", [0, 1])
def test_without_grace_an_executor_is_killed_at_once_and_the_pool_recovers(
    make_driver: MakeDriver, tmp_path: Path, grace_ms: int
) -> None:
    driver = make_driver("--grace-ms", str(grace_ms))
    for number in range(5):
        marker = tmp_path / f"running{number}"
        request_id = driver.start("never_stops", str(marker), deadline_ns=deadline(100))
        assert error_of(driver.response(request_id))[0] is Status.TIMEOUT
    assert value_of(driver.call("echo", 1)) == 1
    assert driver.wait_idle()["executor_deaths"] == 5
