"""Backpressure: a bounded queue, a bounded wait for a place in it, and first come, first served."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import MoltBusy
from molt_accel.errors import Status
from molt_accel.ipc.frame import Item
from tests.support.driver import SLOW_EXPORTS, Driver, MakeDriver, deadline, error_of, value_of
from tests.support.errors import raised
from tests.support.pools import MakeClient
from tests.support.processes import wait_for_file, wait_until

BUSY = (Status.BUSY, {"error": "MoltBusy", "detail": "the queue is full", "reason": "queue_full"})


def busy_of(response: Item) -> tuple[Status, dict[str, Any]]:
    """A refusal, but for the time after which to come back, which is drawn."""
    status, body = error_of(response)
    assert body.pop("retry_after_s") in (1, 2)
    return status, body


class Gate:
    """One request that occupies the only executor until the gate is opened."""

    def __init__(self, driver: Driver, path: Path) -> None:
        self._driver = driver
        self._path = path
        self._request_id = driver.start("wait_for_file", str(path))
        wait_for_file(f"{path}.running")

    def open(self) -> None:
        self._path.touch()
        assert value_of(self._driver.response(self._request_id)) == "released"


def test_a_full_queue_is_busy_and_serves_what_it_took(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "3")
    gate = Gate(driver, tmp_path / "gate")
    accepted = [driver.start("echo", number) for number in range(3)]
    refused = [driver.start("echo", number) for number in range(5)]
    for request_id in refused:
        assert busy_of(driver.response(request_id)) == BUSY
    gate.open()
    assert [value_of(driver.response(request_id)) for request_id in accepted] == [0, 1, 2]
    assert value_of(driver.call("echo", "place again")) == "place again"


def test_requests_are_served_in_the_order_they_came(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "10", "--max-wait-ms", "60000")
    gate = Gate(driver, tmp_path / "gate")
    lines = [f"{number}" for number in range(20)]  # ten with a place, ten that wait for one
    ids = [driver.start("append", {"path": str(tmp_path / "order"), "text": line}) for line in lines]
    cancelled = [3, 12]
    for index in cancelled:
        driver.cancel(ids[index])
        assert error_of(driver.response(ids[index]))[0] is Status.CANCELLED
    gate.open()
    for index in set(range(20)) - set(cancelled):
        driver.response(ids[index])
    expected = [line for index, line in enumerate(lines) if index not in cancelled]
    assert (tmp_path / "order").read_text().split() == expected


@pytest.mark.parametrize("by", ["flag", "request"])
def test_one_may_wait_for_a_place_but_not_for_ever(make_driver: MakeDriver, tmp_path: Path, by: str) -> None:
    driver = make_driver("--max-queue", "1", "--max-wait-ms", "200" if by == "flag" else "0")
    gate = Gate(driver, tmp_path / "gate")
    wait = {} if by == "flag" else {"max_wait_ms": 200}
    queued = driver.start("echo", "queued")
    started = time.monotonic()
    waiting = driver.start("echo", "waits", **wait)
    waits_too = driver.start("echo", "behind it", **wait)
    assert [busy_of(driver.response(each)) for each in (waiting, waits_too)] == [BUSY, BUSY]
    assert time.monotonic() - started >= 0.2
    gate.open()
    assert value_of(driver.response(queued)) == "queued"


def test_a_request_can_refuse_to_wait_where_the_worker_would(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "1", "--max-wait-ms", "60000")
    gate = Gate(driver, tmp_path / "gate")
    queued = driver.start("echo", "queued")
    assert busy_of(driver.call("echo", "won't wait", max_wait_ms=0)) == BUSY
    waiting = driver.start("echo", "waits")
    gate.open()
    assert value_of(driver.response(queued)) == "queued"
    assert value_of(driver.response(waiting)) == "waits"


def test_a_deadline_before_the_end_of_the_wait_is_a_timeout(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "1", "--max-wait-ms", "60000")
    gate = Gate(driver, tmp_path / "gate")
    queued = driver.start("echo", "queued")
    status, body = error_of(driver.call("echo", "late", deadline_ns=deadline(100)))
    assert (status, body["phase"]) == (Status.TIMEOUT, "queue")
    gate.open()
    driver.response(queued)


def test_a_place_freed_by_a_cancel_goes_to_who_waited(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "1", "--max-wait-ms", "60000")
    gate = Gate(driver, tmp_path / "gate")
    queued = driver.start("echo", "queued")
    waiting = driver.start("echo", "waited")
    driver.cancel(queued)
    assert error_of(driver.response(queued))[0] is Status.CANCELLED
    wait_until(lambda: driver.ping()["queue_depth"] == 1)
    assert busy_of(driver.call("echo", 1, max_wait_ms=0)) == BUSY
    gate.open()
    assert value_of(driver.response(waiting)) == "waited"


def test_without_places_a_request_runs_at_once_or_is_busy(make_driver: MakeDriver, tmp_path: Path) -> None:
    driver = make_driver("--max-queue", "0")
    assert value_of(driver.call("echo", "idle")) == "idle"
    gate = Gate(driver, tmp_path / "gate")
    assert busy_of(driver.call("echo", 1)) == BUSY
    waiting = driver.start("echo", "waits for the executor itself", max_wait_ms=60_000)
    gate.open()
    assert value_of(driver.response(waiting)) == "waits for the executor itself"


def test_the_client_s_queue_timeout_is_per_call(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(executors=1, max_queue=1, max_wait_ms=0)
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(3) as pool:
        running = pool.submit(client.call, "wait_for_file", str(gate))
        wait_for_file(f"{gate}.running")
        queued = pool.submit(client.call, "echo", "queued")
        wait_until(lambda: client.ping()["queue_depth"] == 1)
        patient = pool.submit(client.call, "echo", "patient", queue_timeout_ms=60_000)
        assert raised(MoltBusy, client.call, "echo", "impatient").reason == "queue_full"
        gate.touch()
        assert [job.result(30) for job in (running, queued, patient)] == ["released", "queued", "patient"]


def test_requests_before_the_exports_are_imported_are_queued_and_then_checked(
    make_driver: MakeDriver, make_module: Callable[[str, str], Path], tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    make_module("slow_exports", SLOW_EXPORTS.format(gate=str(gate)))
    driver = make_driver("--exports", "slow_exports", "--max-queue", "2", ready=False)
    assert driver.ping()["ready"] is False
    known, unknown = driver.start("answer"), driver.start("nothing")
    assert busy_of(driver.call("answer")) == BUSY
    gate.touch()
    assert value_of(driver.response(known)) == 42
    status, body = error_of(driver.response(unknown))
    assert (status, body["detail"]) == (
        Status.INTERNAL_ERROR,
        "unknown entry 'nothing'; the pool offers 'answer'",
    )
    assert driver.ping()["ready"] is True
