"""A client and fork: the parent's calls go on, and the child has a connection of its own.

Over stdio that is a worker of its own, and in shared memory the same pool.
"""

import dataclasses
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
from molt_accel.config import Config
from tests.integration.django.servers import gone
from tests.support import EXPORTS
from tests.support.processes import exit_code, fork, in_thread, wait_until

# Python 3.12 warns of forks of processes with threads: what is tested here.
pytestmark = [pytest.mark.sample(1), pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]

THREADS = 4


@pytest.fixture
def client(transport: str) -> Iterator[Client]:
    """A client whose worker is ready."""
    with Client(transport=transport, exports=EXPORTS, executors=2, log_level="error") as client:
        client.start()
        yield client


def shares(client: Client) -> bool:
    """Whether all processes of its kind have one worker."""
    return client.config.transport == "shm"


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
        assert (client.ping(timeout_ms=20_000)["pid"] == worker) is shares(client)

    with ThreadPoolExecutor(THREADS) as callers:
        work = [callers.submit(caller, index) for index in range(THREADS)]
        try:
            children = [fork(child) for _ in range(4)]
            assert [exit_code(pid) for pid in children] == [0, 0, 0, 0]
        finally:
            stop.set()
        assert all(each.result() for each in work)
    assert client.ping()["pid"] == worker


@pytest.mark.sample(2)
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
    assert shares(client) or gone(worker)
    wait_until(lambda: gone(worker))
    os.close(hold_w)
    assert exit_code(pid) == 0


def test_grandchildren_have_connections_of_their_own_too(client: Client) -> None:
    worker = client.ping()["pid"]

    def child() -> None:
        own = client.ping(timeout_ms=20_000)["pid"]
        assert (own == worker) is shares(client)

        def grandchild() -> None:
            assert client.call("echo", 1) == 1
            assert (client.ping()["pid"] in (worker, own)) is shares(client)

        assert exit_code(fork(grandchild)) == 0
        assert client.ping()["pid"] == own

    assert exit_code(fork(child)) == 0
    assert client.ping()["pid"] == worker


def made_by_forks(before: Counter[str]) -> int:
    """How many descriptors a child has that are new: libuv makes its pipe anew, once a test has used uvloop."""
    return exit_code(fork(lambda: os._exit((descriptors() - before).total())))


def test_a_child_inherits_nothing_of_the_clients(transport: str) -> None:
    """No pipe, no poller: a server forks as often as it likes."""
    before = descriptors()
    of_forks = made_by_forks(before)
    with Client(transport=transport, exports=EXPORTS, executors=1, log_level="error") as client:
        client.start()
        assert descriptors() - before

        def child() -> None:
            assert (descriptors() - before).total() == of_forks

        assert exit_code(fork(child)) == 0


def test_a_child_forked_while_connections_are_made_and_closed_inherits_none_of_them(transport: str) -> None:
    """Over stdio each is to a worker of its own; in shared memory all are to the pool of the first client."""
    before = descriptors()
    of_forks = made_by_forks(before)
    stop = threading.Event()
    cycles = 0

    def churn(config: Config) -> None:
        nonlocal cycles
        while not stop.is_set():
            with Client(config) as client:
                client._transport.start()
            cycles += 1

    def child() -> None:
        assert (descriptors() - before).total() == of_forks

    with Client(transport=transport, exports=EXPORTS, executors=1, log_level="error") as first:
        first.start()
        config = first.config if shares(first) else dataclasses.replace(first.config, worker_cmd="cat")
        thread = in_thread(churn, config)
        try:
            while cycles < 20:
                assert thread.is_alive()
                assert exit_code(fork(child)) == 0
        finally:
            stop.set()
            thread.join()


def test_a_fork_by_another_thread_leaves_a_call_of_the_main_thread_alone(client: Client) -> None:
    codes: list[int] = []

    def forker() -> None:
        codes.extend(exit_code(fork(lambda: client.call("echo", 1))) for _ in range(5))

    thread = in_thread(forker)
    while thread.is_alive():
        assert client.call("echo", "main") == "main"
    thread.join()
    assert codes == [0] * 5


# -- multiprocessing ----------------------------------------------------------------------------------------
@pytest.mark.sample(1)
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_each_process_of_a_multiprocessing_pool_has_a_connection(
    method: str, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLT_TRANSPORT", transport)
    done = subprocess.run(
        [sys.executable, "-m", "tests.integration.django.pools", method],
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"done\n", b"")
