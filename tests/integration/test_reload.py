"""SIGHUP: the exports are imported anew beside the old ones, and no request is lost meanwhile."""

import os
import signal
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from molt_accel import Client
from molt_accel.errors import Status
from tests.support.driver import Driver, MakeDriver, MakeModule, error_of, value_of
from tests.support.pools import MakeClient, with_worker
from tests.support.processes import wait_for_file, wait_until
from tests.support.versioned import source


def versioned(make_module: MakeModule, version: object, extra: str = "") -> None:
    make_module("versioned_exports", source(version, extra))


@contextmanager
def load(client: Client, threads: int = 4) -> Iterator[Counter[Any]]:
    """Calls `version` from several threads all the while; counts the results. Any error is raised."""
    stop = Event()
    seen: Counter[Any] = Counter()

    def work() -> None:
        while not stop.is_set():
            seen[client.call("version")] += 1

    with ThreadPoolExecutor(threads) as pool:
        jobs = [pool.submit(work) for _ in range(threads)]
        try:
            yield seen
        finally:
            stop.set()
            for job in jobs:
                job.result(30)


def reloaded(driver: Driver, times: int) -> None:
    """Wait until so many reloads are through, and only the newest generation is left."""
    wait_until(lambda: driver.ping()["reloads"] >= times)
    driver.wait_idle()
    wait_until(lambda: len(driver.children()) == 1)


def test_under_load_no_request_is_lost_and_the_new_code_answers_afterwards(
    make_client: MakeClient, make_module: MakeModule
) -> None:
    versioned(make_module, 0)
    client = with_worker(make_client(exports="versioned_exports", max_queue=1000))
    worker = client.ping()["pid"]
    with load(client) as seen:
        for version in range(1, 6):
            versioned(make_module, version)
            os.kill(worker, signal.SIGHUP)
            wait_until(lambda version=version: client.ping()["reloads"] == version, 60)
            assert client.call("version") == version
    assert set(seen) <= set(range(6))
    assert seen[5] > 0
    report = client.ping()
    assert report["reloads"] == 5
    assert set(report["outcomes"]) == {"Ok"}
    assert report["pid"] == worker


def test_a_running_request_ends_in_the_code_it_began_in(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    versioned(make_module, 1)
    driver = make_driver("--exports", "versioned_exports")
    gate = tmp_path / "gate"
    held = driver.start("hold", str(gate))
    wait_for_file(f"{gate}.running")
    versioned(make_module, 2)
    driver.signal(signal.SIGHUP)
    assert wait_until(lambda: driver.ping()["reloads"]) == 1
    assert value_of(driver.call("version")) == 2  # by the replacement, beside it
    gate.touch()
    assert value_of(driver.response(held)) == 1
    reloaded(driver, 1)
    assert driver.ping()["executor_deaths"] == 0


def test_there_are_never_fewer_executors_ready(make_driver: MakeDriver, make_module: MakeModule) -> None:
    versioned(make_module, 1)
    driver = make_driver("--exports", "versioned_exports", "--executors", "3")
    old = set(driver.pids())
    driver.signal(signal.SIGHUP)
    while not old.isdisjoint((report := driver.ping())["executors"]["pids"]):
        assert report["executors"]["idle"] >= 3
    reloaded(driver, 1)


@pytest.mark.sample(1)
@pytest.mark.parametrize("held", [False, True])
def test_reloads_in_quick_succession_leave_one_pool_of_the_last_code(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path, held: bool
) -> None:
    versioned(make_module, 0)
    driver = make_driver("--exports", "versioned_exports", "--executors", "3")
    gate = tmp_path / "gate"
    if held:
        running = driver.start("hold", str(gate))
        wait_for_file(f"{gate}.running")
    for version in range(1, 8):
        versioned(make_module, version)
        driver.signal(signal.SIGHUP)
        for _ in range(version * 3):  # each time a little later in the life of the one before
            driver.ping()
    if held:
        wait_until(lambda: driver.ping()["executors"]["idle"] == 3)
        gate.touch()
        driver.response(running)
    wait_until(lambda: value_of(driver.call("version")) == 7)
    reloaded(driver, 1)
    assert driver.wait_idle()["executors"]["idle"] == 3
    assert [value_of(driver.call("version")) for _ in range(10)] == [7] * 10


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("def broken(:", "SyntaxError: "),
        ("x = 1", "no function is marked with @molt_worker.export"),
        ("import os; os._exit(5)", "the fork server died: exit code 5"),
        ("import os; os.kill(os.getpid(), 9)", "the fork server died: signal 9 (SIGKILL)"),
    ],
)
def test_exports_that_can_t_be_imported_any_more_keep_the_old_ones(
    make_driver: MakeDriver, make_module: MakeModule, source: str, why: str
) -> None:
    versioned(make_module, 1)
    driver = make_driver("--exports", "versioned_exports")
    pids = driver.pids()
    make_module("versioned_exports", source)
    driver.signal(signal.SIGHUP)
    assert why in driver.wait_log("reload_failed")
    assert value_of(driver.call("version")) == 1
    assert driver.pids() == pids
    versioned(make_module, 2)  # and a later reload works
    driver.signal(signal.SIGHUP)
    reloaded(driver, 1)
    assert value_of(driver.call("version")) == 2


def test_an_import_that_hangs_in_a_reload_ends(make_driver: MakeDriver, make_module: MakeModule) -> None:
    versioned(make_module, 1)
    driver = make_driver("--exports", "versioned_exports", "--start-timeout-ms", "3000")
    make_module("versioned_exports", "import time; time.sleep(1e6)")
    driver.signal(signal.SIGHUP)
    assert "importing the exports took longer than 3000 ms" in driver.wait_log("reload_failed")
    assert value_of(driver.call("version")) == 1
    wait_until(lambda: len(driver.children()) == 1)


def test_a_manifest_now_bad_is_refused_without_an_import(make_driver: MakeDriver, tmp_path: Path) -> None:
    manifest = tmp_path / "molt_exports.json"
    good = '{"abi_version": "0.1", "exports": [{"name": "e", "target": "tests.support.entrypoints:echo"}]}'
    manifest.write_text(good)
    driver = make_driver("--exports", str(manifest))
    manifest.write_text("{}")
    driver.signal(signal.SIGHUP)
    assert "abi_version: None is not allowed" in driver.wait_log("reload_failed")
    assert value_of(driver.call("e", 1)) == 1
    manifest.write_text(good.replace('"e"', '"f"'))
    driver.signal(signal.SIGHUP)
    reloaded(driver, 1)
    assert value_of(driver.call("f", 1)) == 1
    assert error_of(driver.call("e", 1))[1]["detail"] == "unknown entry 'e'; the pool offers 'f'"


def test_queued_requests_for_what_is_gone_now_are_refused(
    make_driver: MakeDriver, make_module: MakeModule, tmp_path: Path
) -> None:
    versioned(make_module, 1, "@export\ndef old(payload): return 'old'\n")
    driver = make_driver("--exports", "versioned_exports", "--max-queue", "5")
    gate = tmp_path / "gate"
    held = driver.start("hold", str(gate))
    wait_for_file(f"{gate}.running")
    gone, kept = driver.start("old"), driver.start("version")
    versioned(make_module, 2)
    driver.signal(signal.SIGHUP)
    assert error_of(driver.response(gone)) == (
        Status.INTERNAL_ERROR,
        {"error": "MoltEntryError", "detail": "unknown entry 'old'; the pool offers 'hold', 'version'"},
    )
    assert value_of(driver.response(kept)) == 2
    gate.touch()
    driver.response(held)
