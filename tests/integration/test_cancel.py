"""Cancelling: queued and running requests stop, and nothing else does."""

import itertools
import random
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import Client, MoltCancelled
from molt_accel.errors import Status
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import Cancel, Response
from tests.support.driver import STOPPED, MakeDriver, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.sample(4)

Often = Callable[[int], int]


ASKED = (Status.CANCELLED, {"error": "MoltCancelled", "detail": "the client asked to stop"})


@pytest.mark.parametrize(("entry", "survives"), STOPPED)
def test_a_running_request_is_cancelled_whatever_it_does(
    make_driver: MakeDriver, tmp_path: Path, entry: str, survives: bool
) -> None:
    driver = make_driver("--grace-ms", "20000" if survives else "100")
    (pid,) = driver.pids()
    marker = tmp_path / "running"
    request_id = driver.start(entry, str(marker))
    wait_for_file(marker)
    driver.cancel(request_id)
    assert error_of(driver.response(request_id)) == ASKED
    assert marker.exists() is (entry != "clean_up")
    assert value_of(driver.call("echo", "next")) == "next"
    assert (driver.pids() == [pid]) is survives


def test_a_queued_request_is_cancelled_and_never_starts(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver()
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    running = driver.start("wait_for_file", str(gate))
    queued = driver.start("append", {"path": str(effects), "text": "ran"})
    driver.cancel(queued)
    assert error_of(driver.response(queued)) == ASKED
    gate.touch()
    assert value_of(driver.response(running)) == "released"
    assert driver.wait_idle()["outcomes"]["Cancelled"] == 1
    assert not effects.exists()


@pytest.mark.parametrize("generation", [0, 7])
def test_a_cancel_names_id_and_generation(make_driver: MakeDriver, tmp_path: Path, generation: int) -> None:
    driver = make_driver()
    gate = tmp_path / "gate"
    running = driver.start("wait_for_file", str(gate), generation=generation)
    driver.cancel(running, generation + 1)
    driver.cancel(running + 1, generation)
    driver.ping()
    gate.touch()
    frame = driver.response(running)
    assert value_of(frame) == "released"
    assert frame.generation == generation


def test_a_cancel_twice_or_after_the_end_touches_nothing(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--grace-ms", "20000")
    marker = tmp_path / "running"
    done = driver.start("echo", 1)
    driver.response(done)
    driver.cancel(done)
    request_id = driver.start("clean_up", str(marker))
    wait_for_file(marker)
    driver.cancel(request_id)
    driver.cancel(request_id)
    assert error_of(driver.response(request_id)) == ASKED
    driver.cancel(request_id)
    assert value_of(driver.call("echo", "next")) == "next"
    assert [frame for frame in driver.received if isinstance(frame, Response)] == []
    assert driver.ping()["executor_deaths"] == 0


def test_a_cancel_never_hits_another_request(make_driver: MakeDriver) -> None:
    """Quick requests with a cancel sent right behind each second one: the others must all succeed."""
    driver = make_driver("--executors", "2", "--max-queue", "4000", "--grace-ms", "20000")
    chance = random.Random(7)
    cancelled: set[int] = set()
    sent: dict[int, int] = {}
    batch = b""
    for number in range(3000):
        request = driver.request("echo", number)
        sent[request.request_id] = number
        batch += encode(request)
        if number % 2:
            victim = request.request_id - 2 * chance.randrange(0, min(8, number // 2 + 1))
            cancelled.add(victim)
            batch += encode(Cancel(victim, 0))
        if len(batch) > 2000:
            driver.send_bytes(batch)
            batch = b""
    driver.send_bytes(batch)
    outcomes: Counter[str] = Counter()
    for request_id, number in sent.items():
        frame = driver.response(request_id)
        if frame.status is Status.CANCELLED:
            assert request_id in cancelled
            outcomes["cancelled"] += 1
        else:
            assert value_of(frame) == number
            outcomes["answered"] += 1
    assert outcomes["answered"] >= 1500
    assert outcomes.total() == 3000
    assert driver.wait_idle()["executor_deaths"] == 0


def test_cancels_that_race_with_the_end_of_their_request_hit_nobody_else(make_driver: MakeDriver) -> None:
    """One at a time: the cancel goes out while the request ends, and the next request follows at once."""
    driver = make_driver("--log-level", "error", "--grace-ms", "20000")
    outcomes: Counter[Status | None] = Counter()
    for number in range(1500):
        victim = driver.request("sleep", 0.0002 * (number % 4))
        other = driver.request("echo", number)
        cancel = Cancel(victim.request_id, 0)
        driver.send(victim)
        driver.send_bytes(encode(cancel) + encode(other))
        assert value_of(driver.response(other.request_id)) == number
        outcomes[driver.response(victim.request_id).status] += 1
    assert set(outcomes) <= {Status.OK, Status.CANCELLED}
    assert outcomes[Status.CANCELLED] > 0
    assert driver.ping()["executor_deaths"] == 0


def test_the_client_s_cancel_check_stops_the_request(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(grace_ms=20_000)
    marker = tmp_path / "running"
    error = raised(MoltCancelled, client.call, "clean_up", str(marker), cancel_check=marker.exists)
    assert error.detail == "the client went away"
    wait_until(lambda: not marker.exists())
    assert client.call("echo", 1) == 1


@pytest.mark.parametrize(("entry", "survives"), STOPPED)
def test_a_call_that_is_cancelled_stops_whatever_it_does(
    make_client: MakeClient, tmp_path: Path, entry: str, survives: bool
) -> None:
    client = with_worker(make_client(executors=1, grace_ms=20_000 if survives else 100))
    pid = client.call("pid", timeout_ms=60_000)
    marker = tmp_path / "running"
    with pytest.raises(MoltCancelled):
        client.call(entry, str(marker), cancel_check=lambda: marker.exists() and marker.read_text() != "")
    assert (client.call("pid", timeout_ms=60_000) == pid) is survives
    assert marker.exists() is (entry != "clean_up")


def test_calls_cancelled_as_they_end_hit_nobody_else(make_client: MakeClient, often: Often) -> None:
    """One at a time: the cancel goes out while the request ends, and the next one follows at once."""
    client = with_worker(make_client(executors=1, grace_ms=20_000))
    pid = client.call("pid", timeout_ms=60_000)
    outcomes: Counter[str] = Counter()
    for number in range(often(400)):
        try:
            # Asked for the first time after 10 ms, which is when it ends.
            client.call("sleep", 0.0095 + 0.0002 * (number % 8), cancel_check=lambda: True)
            outcomes["answered"] += 1
        except MoltCancelled:
            outcomes["cancelled"] += 1
        assert client.call("echo", number) == number
    assert set(outcomes) == {"answered", "cancelled"}
    assert client.call("pid") == pid
    assert client.ping()["executor_deaths"] == 0


def test_a_cancel_check_that_never_says_yes_changes_nothing(client: Client) -> None:
    asked = itertools.count()
    assert client.call("sleep", 0.3, cancel_check=lambda: next(asked) < 0) == "slept"
    assert next(asked) > 1


def test_calls_cancelled_from_other_threads_race_with_quick_ones(
    make_client: MakeClient, often: Often
) -> None:
    client = make_client(max_queue=1000)
    stop = threading.Event()
    wrong: list[object] = []

    def cancelling() -> None:
        while not stop.is_set():
            try:
                client.call("sleep", 0.02, cancel_check=lambda: True)
            except MoltCancelled:
                continue
            except Exception as exc:
                wrong.append(exc)

    threads = [in_thread(cancelling) for _ in range(3)]
    try:
        for number in range(often(400)):
            assert client.call("echo", number) == number
    finally:
        stop.set()
        for thread in threads:
            thread.join(30)
    assert wrong == []
