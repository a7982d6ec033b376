"""Processes of a shared pool killed under load: each call has one outcome, and the pool is whole again."""

import os
import random
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltError, MoltTimeout, MoltWorkerCrashed, MoltWorkerUnavailable
from tests.support.driver import dead
from tests.support.peer import PATIENCE_S, MakePeer, loading
from tests.support.pools import Look, Share, health, idle, path_of
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


def arenas_of(pid: int) -> int:
    """How many arenas a process has mapped."""
    return sum("/dev/shm/molt-" in line for line in Path(f"/proc/{pid}/maps").read_text().splitlines())


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them lives any more."""
    return all(dead(process) for process in processes)


def kill(pid: int) -> None:
    """SIGKILL a process that may be gone already."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


@pytest.mark.slow
def test_executors_killed_in_a_loop_cost_each_call_one_outcome_and_the_pool_is_whole_again(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client = share(max_queue=100)
    idle(client)
    view = window()
    peers = [make_peer(max_queue=100) for _ in range(3)]
    chance = random.Random(1)
    kills = 0
    with loading(peers, tmp_path) as outcomes:
        large = [peer.start("echo_bytes", size=1_000_000) for peer in peers for _ in range(5)]
        while kills < 25:
            pids = health(client)["executors"]["pids"]
            if pids:
                kill(chance.choice(pids))
                kills += 1
            time.sleep(chance.choice([0, 0.001, 0.01]))  # any moment will do
        for call in large:
            assert type(call.exception(PATIENCE_S)) in (type(None), MoltWorkerCrashed)
    assert set().union(*outcomes) <= {"Ok", "MoltWorkerCrashed"}
    assert all(each["Ok"] > 0 for each in outcomes)
    view.wait()
    report = idle(client)
    assert report["executor_deaths"] > 0
    assert report["outcomes"]["Ok"] >= sum(each["Ok"] for each in outcomes)
    crashed = sum(each.get("MoltWorkerCrashed", 0) for each in outcomes)
    assert report["outcomes"].get("WorkerCrashed", 0) >= crashed


def test_a_call_whose_executor_is_killed_after_it_answered_is_answered(share: Share, window: Look) -> None:
    """Answer and death race: whichever comes first is the outcome, and the next call is not hurt by the other."""
    client = share(executors=1)
    outcomes: set[object] = set()
    with ThreadPoolExecutor(1) as threads:
        for number in range(60):
            (pid,) = idle(client)["executors"]["pids"]
            call = threads.submit(client.call, "sleep", 0.002)
            time.sleep(0.0001 * (number % 40))  # around the answer's time
            kill(pid)
            try:
                outcomes.add(call.result(PATIENCE_S))
            except MoltWorkerCrashed as exc:
                outcomes.add(exc.signal)
            assert client.call("echo", number) == number
    assert outcomes == {"slept", int(signal.SIGKILL)}
    window().wait()


@pytest.mark.slow
def test_forkservers_killed_in_a_loop_cost_each_call_one_outcome(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client = share(max_queue=100)
    worker = psutil.Process(idle(client)["pid"])
    view = window()
    peers = [make_peer(max_queue=100) for _ in range(2)]
    with loading(peers, tmp_path) as outcomes:
        for _ in range(4):
            old = set(idle(client)["executors"]["pids"])
            (forkserver,) = worker.children()
            forkserver.kill()
            wait_until(lambda old=old: old.isdisjoint(idle(client)["executors"]["pids"]), PATIENCE_S)
    assert set().union(*outcomes) <= {"Ok", "MoltWorkerCrashed"}
    view.wait()
    assert idle(client)["pid"] == worker.pid


@pytest.mark.slow
def test_workers_killed_in_a_loop_cost_each_call_one_outcome_and_leave_nothing(
    share: Share, make_peer: MakePeer, tmp_path: Path
) -> None:
    client = share(max_queue=100)
    peers = [make_peer(max_queue=100) for _ in range(3)]
    with loading(peers, tmp_path) as outcomes:
        for _ in range(5):
            worker = psutil.Process(idle(client)["pid"])
            killed = [worker, *worker.children(recursive=True)]
            worker.kill()
            wait_until(lambda killed=killed: gone(killed))
            wait_until(lambda: _answers(client), PATIENCE_S)
    for each in outcomes:
        assert each["Ok"] > 0
        lost = sum(count for outcome, count in each.items() if outcome != "Ok")
        kinds = {outcome.split(":")[0] for outcome in each}
        assert kinds <= {"Ok", "MoltWorkerUnavailable", "MoltStartFailed"}
        assert lost <= 5 * 3  # what ran, and no more: each of its threads has one call at a time
    wait_until(lambda: health(client)["clients"] == 4)
    for pid in (os.getpid(), *(peer.pid for peer in peers)):
        wait_until(lambda pid=pid: arenas_of(pid) <= 2)  # the last one's, and one that waits to be collected
    found = {name for name in os.listdir(os.path.dirname(path_of())) if name.endswith(".sock")}
    assert found == {"pool.sock"}


def _answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", "new", timeout_ms=PATIENCE_S * 1000) == "new")
    except MoltWorkerUnavailable:
        return False


def test_a_killed_worker_s_stuck_executors_are_gone_too(share: Share, tmp_path: Path) -> None:
    client = share()
    worker = psutil.Process(idle(client)["pid"])
    family = [worker, *worker.children(recursive=True)]
    assert len(family) == 4
    marker = tmp_path / "running"
    with ThreadPoolExecutor(1) as threads:
        stuck = threads.submit(client.call, "never_stops", str(marker), timeout_ms=None)
        wait_for_file(marker)
        worker.kill()
        error = stuck.exception(PATIENCE_S)
    assert isinstance(error, MoltWorkerUnavailable)
    assert error.may_have_run
    wait_until(lambda: gone(family))


def test_an_executor_that_is_stopped_holds_its_request_to_deadline_and_grace_only(
    share: Share, window: Look, tmp_path: Path
) -> None:
    client = share(executors=1)
    (pid,) = idle(client)["executors"]["pids"]
    marker = tmp_path / "running"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "announce_and_sleep", str(marker), timeout_ms=1000)
        wait_for_file(marker)
        os.kill(pid, signal.SIGSTOP)
        error = call.exception(PATIENCE_S)
    assert isinstance(error, MoltTimeout)
    assert error.phase == "running"
    assert client.call("echo", 2, timeout_ms=PATIENCE_S * 1000) == 2
    assert idle(client)["executors"]["pids"] != [pid]
    window().wait()


def test_whoever_is_killed_in_whatever_order_nothing_hangs_and_nothing_stays(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    """Executors, fork servers, workers and clients, one after the other and at random."""
    chance = random.Random(7)
    client = share(max_queue=100)
    idle(client)
    survivors = [make_peer(max_queue=100) for _ in range(2)]
    doomed = make_peer(max_queue=100)
    with loading(survivors, tmp_path) as outcomes:
        for number in range(20):
            report = wait_until(lambda: _report(client), PATIENCE_S)
            worker = psutil.Process(report["pid"])
            victim = chance.choice(["executor", "forkserver", "worker", "client"])
            if victim == "executor" and report["executors"]["pids"]:
                kill(chance.choice(report["executors"]["pids"]))
            elif victim == "forkserver":
                for child in worker.children():
                    kill(child.pid)
            elif victim == "worker":
                kill(worker.pid)
            else:
                doomed.kill()
                doomed = make_peer(max_queue=100)
                doomed.start("load", until=str(tmp_path / "never"), threads=4, who=str(number))
                doomed.start("echo_bytes", size=2_000_000)
    kinds = {outcome.split(":")[0] for each in outcomes for outcome in each}
    # A worker whose fork server is killed while it imports has failed to start.
    assert kinds <= {"Ok", "MoltWorkerCrashed", "MoltWorkerUnavailable", "MoltStartFailed"}
    doomed.kill()
    assert wait_until(lambda: _answers(client), PATIENCE_S)
    idle(client)
    window().wait()


def _report(client: Client) -> dict[str, object] | None:
    try:
        return health(client)
    except MoltError:
        return None
