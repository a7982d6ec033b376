"""A client and fork: the parent's calls go on, and the child has a worker of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest

from molt_accel import Client
from tests.conftest import EXPORTS, exit_code, fork
from tests.django.servers import gone

# Python 3.12 warns of forks of processes with threads: what is tested here.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

THREADS = 4


@pytest.fixture
def client() -> Iterator[Client]:
    """A client whose worker is ready."""
    with Client(transport="stdio", exports=EXPORTS, executors=2, log_level="error") as client:
        client.start()
        yield client


def descriptors() -> Counter[str]:
    """What this process has open, by what it is; files are of no interest."""
    found: Counter[str] = Counter()
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except FileNotFoundError:  # the listing's own
            continue
        if not target.startswith("/"):
            found[target] += 1
    return found


def test_calls_in_flight_are_answered_and_children_call_for_themselves(client: Client) -> None:
    worker = client.ping()["pid"]
    stop = threading.Event()
    numbers = count()

    def caller(_: int) -> int:
        calls = 0
        while not stop.is_set():
            number = next(numbers)
            assert client.call("echo", number) == number
            calls += 1
        return calls

    def child() -> None:
        assert [client.call("echo", number) for number in range(20)] == list(range(20))
        assert client.ping()["pid"] != worker

    with ThreadPoolExecutor(THREADS) as callers:
        work = [callers.submit(caller, index) for index in range(THREADS)]
        try:
            children = [fork(child) for _ in range(4)]
            assert [exit_code(pid) for pid in children] == [0, 0, 0, 0]
        finally:
            stop.set()
        assert all(each.result() for each in work)
    assert client.ping()["pid"] == worker


@pytest.mark.parametrize("ending", ["leaves it open", "closes it", "never uses it"])
def test_a_childs_end_does_not_touch_the_parents_worker(client: Client, ending: str) -> None:
    worker = client.ping()["pid"]

    def child() -> None:
        if ending != "never uses it":
            assert client.call("echo", 1) == 1
        if ending != "leaves it open":
            client.close()

    assert exit_code(fork(child)) == 0
    assert client.ping()["pid"] == worker
    assert client.call("echo", 2) == 2


def test_a_child_that_lives_on_does_not_keep_the_parents_worker_alive(client: Client) -> None:
    hold_r, hold_w = os.pipe()

    def child() -> None:
        os.close(hold_w)
        os.read(hold_r, 1)

    pid = fork(child)
    os.close(hold_r)
    worker = client.ping()["pid"]
    client.close()
    assert gone(worker)
    os.close(hold_w)
    assert exit_code(pid) == 0


def test_grandchildren_have_workers_of_their_own_too(client: Client) -> None:
    worker = client.ping()["pid"]

    def child() -> None:
        own = client.ping()["pid"]

        def grandchild() -> None:
            assert client.call("echo", 1) == 1
            assert client.ping()["pid"] not in (worker, own)

        assert exit_code(fork(grandchild)) == 0
        assert client.ping()["pid"] == own != worker

    assert exit_code(fork(child)) == 0
    assert client.ping()["pid"] == worker


def test_a_child_inherits_nothing_of_the_clients() -> None:
    """No pipe, no poller: a server forks as often as it likes."""
    before = descriptors()
    with Client(transport="stdio", exports=EXPORTS, executors=1, log_level="error") as client:
        client.start()
        assert descriptors() - before

        def child() -> None:
            assert descriptors() - before == Counter()

        assert exit_code(fork(child)) == 0


def test_a_child_forked_while_workers_start_and_stop_inherits_nothing_of_them() -> None:
    before = descriptors()
    stop = threading.Event()
    cycles = 0

    def churn() -> None:
        nonlocal cycles
        while not stop.is_set():
            with Client(transport="stdio", worker_cmd="cat") as client:
                client._transport.start()
            cycles += 1

    def child() -> None:
        assert descriptors() - before == Counter()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        while cycles < 20:
            assert exit_code(fork(child)) == 0
    finally:
        stop.set()
        thread.join()


def test_a_fork_by_another_thread_leaves_a_call_of_the_main_thread_alone(client: Client) -> None:
    codes: list[int] = []

    def forker() -> None:
        codes.extend(exit_code(fork(lambda: client.call("echo", 1))) for _ in range(5))

    thread = threading.Thread(target=forker)
    thread.start()
    while thread.is_alive():
        assert client.call("echo", "main") == "main"
    thread.join()
    assert codes == [0] * 5


# -- multiprocessing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_each_process_of_a_multiprocessing_pool_has_a_worker(method: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.django.pools", method], capture_output=True, timeout=100, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
