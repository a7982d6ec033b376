"""One pool for all client processes: who starts it, who finds it, how long it stays, and how it is handed on."""

import os
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import psutil
import pytest

from molt_accel import Client, MoltTimeout, MoltWorkerUnavailable
from molt_accel.ipc.shm import attach
from molt_accel.ipc.shm.layout import ChannelState
from molt_accel.transports import launcher
from tests.support.driver import MakeModule, dead
from tests.support.errors import raised
from tests.support.peer import ENTRIES, PATIENCE_S, SHARED, Gone, MakePeer, Peer, loading
from tests.support.pools import Look, Share, health, idle, path_of, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")

Serve = Callable[..., "subprocess.Popen[bytes]"]


def started(log: Path) -> int:
    """How many workers have begun to serve."""
    return log.read_text().count(" worker_started ")


# -- starting -----------------------------------------------------------------------------------------------
def test_client_processes_share_one_pool(share: Share, make_peer: MakePeer, pool_log: Path) -> None:
    here = share(log_level="info")
    assert here.call("echo", "here") == "here"
    report = health(here)
    peers = [make_peer() for _ in range(3)]
    assert {peer.do("ping")["pid"] for peer in peers} == {report["pid"]}
    assert health(here)["clients"] == 4
    assert [peer.call("pid") in report["executors"]["pids"] for peer in peers] == [True] * 3
    assert peers[0].close() == 0
    wait_until(lambda: health(here)["clients"] == 3)
    assert started(pool_log) == 1


@pytest.mark.slow
def test_many_starts_at_once_make_one_worker(make_peer: MakePeer, pool_log: Path) -> None:
    peers = [make_peer(log_level="info") for _ in range(8)]
    for peer in peers:  # else it is interpreters that start, one after the other
        peer.do("here")
    calls = [peer.begin("pid") for peer in peers]
    assert len({call.result(PATIENCE_S) for call in calls}) <= 2
    assert len({peer.do("ping")["pid"] for peer in peers}) == 1
    assert started(pool_log) == 1


def test_threads_and_clients_of_a_process_that_start_at_once_share(share: Share, pool_log: Path) -> None:
    clients = [share(log_level="info") for _ in range(4)]
    with ThreadPoolExecutor(12) as threads:
        pids = set(threads.map(lambda number: health(clients[number % 4])["pid"], range(24)))
    assert len(pids) == 1
    assert started(pool_log) == 1


GATED = """
touch "$HERE/starting.$$"
while [ -e "$HERE/closed" ]; do sleep 0.01; done
MOLT_WORKER_LOG=stderr exec {python} -m molt_worker "$@" 2>>"$HERE/log"
"""


@pytest.fixture
def gated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Workers say that they were started, and begin only when the file `closed` is gone. Returns the folder."""
    monkeypatch.setenv("HERE", str(tmp_path))
    script = GATED.format(python=shlex.quote(sys.executable))
    monkeypatch.setenv("MOLT_WORKER_CMD", shlex.join(["sh", "-c", script, "molt-worker"]))
    (tmp_path / "closed").touch()
    return tmp_path


def starts(folder: Path) -> int:
    return len(list(folder.glob("starting.*")))


def test_a_starter_that_is_killed_before_its_worker_serves_costs_nobody_else_an_error(
    make_peer: MakePeer, gated: Path
) -> None:
    """Its worker lives on, and the one that the next client starts meets it: one of them serves, for all."""
    first = make_peer(log_level="info")
    call = first.begin("echo", 1)
    wait_until(lambda: starts(gated) == 1)
    first.kill()
    with pytest.raises(Gone):
        call.result(PATIENCE_S)
    others = [make_peer(log_level="info") for _ in range(3)]
    calls = [other.begin("echo", 2) for other in others]
    wait_until(lambda: starts(gated) == 2)
    (gated / "closed").unlink()
    assert [call.result(PATIENCE_S) for call in calls] == [2, 2, 2]
    assert len({other.do("ping")["pid"] for other in others}) == 1
    assert started(gated / "log") == 1


@pytest.mark.slow
def test_starters_killed_at_any_time_cost_nobody_else_an_error(make_peer: MakePeer, share: Share) -> None:
    for number in range(12):
        first = make_peer(worker_name=f"pool{number}", executors=1)
        first.start("start")
        # As long as a start takes, in steps: nothing is waited for here, any moment will do.
        time.sleep(0.03 * number)
        first.kill()
        assert share(worker_name=f"pool{number}", executors=1).call("echo", number) == number


def test_a_starter_that_was_stopped_is_not_waited_for_for_ever(
    make_peer: MakePeer, gated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "_STARTER_S", 0.3)
    first = make_peer(log_level="info")
    call = first.begin("echo", 1)
    wait_until(lambda: starts(gated) == 1)
    first.stop()
    try:
        with Client(transport="shm", worker_name="pool", exports=ENTRIES, executors=1) as client:
            second = in_thread(client.start)
            wait_until(lambda: starts(gated) == 2)
            (gated / "closed").unlink()
            second.join(PATIENCE_S)
            assert client.call("echo", 2) == 2
            first.resume()
            assert call.result(PATIENCE_S) == 1
            assert first.do("ping")["pid"] == health(client)["pid"]
    finally:
        first.resume()
    assert started(gated / "log") == 1


def test_a_worker_that_is_started_by_hand_meanwhile_is_found(serve: Serve, gated: Path) -> None:
    with Client(transport="shm", worker_name="pool", exports=ENTRIES, executors=1) as client:
        starter = in_thread(client.start)
        wait_until(lambda: starts(gated) == 1)
        by_hand = serve()
        (gated / "closed").unlink()
        starter.join(PATIENCE_S)
        assert client.call("echo", 1) == 1
        assert health(client)["pid"] == by_hand.pid


@pytest.mark.sample(1)
@pytest.mark.parametrize("timeout_ms", [200, None])
def test_a_command_that_never_serves_holds_no_call_for_ever(tmp_path: Path, timeout_ms: int | None) -> None:
    command = [sys.executable, "-c", "import sys, time; open(sys.argv[1], 'w').write('x'); time.sleep(1e6)"]
    with Client(
        transport="shm", worker_cmd=[*command, str(tmp_path / "up")], start_timeout_ms=2000
    ) as client:
        started_s = time.monotonic()
        with pytest.raises(MoltTimeout if timeout_ms else MoltWorkerUnavailable) as caught:
            client.call("echo", 1, timeout_ms=timeout_ms)
        if timeout_ms:
            assert caught.value.detail == "the worker was not started within the deadline"
            assert time.monotonic() - started_s < 2
        else:
            assert caught.value.detail.endswith(" did not listen within 2000 ms; see its log")
        wait_until(lambda: (tmp_path / "up").exists())
        wait_until(lambda: psutil.Process().children() == [])  # it was killed


# -- staying, leaving ---------------------------------------------------------------------------------------
def test_a_pool_stays_for_a_while_after_its_last_client_and_is_found_again(
    make_peer: MakePeer, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLT_WORKER_LINGER_MS", "60000")
    pids = set()
    for ending in (Peer.close, Peer.kill, Peer.close):
        peer = make_peer()
        pids.add(peer.do("ping")["pid"])
        ending(peer)
    client = share()
    pids.add(health(client)["pid"])
    assert len(pids) == 1
    os.kill(health(client)["pid"], signal.SIGTERM)


def test_a_pool_leaves_when_nobody_has_come_for_its_time(share: Share) -> None:
    client = with_worker(share(linger_ms=400))
    worker = psutil.Process(health(client)["pid"])
    left_s = time.monotonic()
    client.close()
    wait_until(lambda: dead(worker))
    assert time.monotonic() - left_s >= 0.4
    assert not os.path.exists(path_of())


def test_an_observer_does_not_keep_a_pool(share: Share, window: Look) -> None:
    client = with_worker(share())
    worker = psutil.Process(health(client)["pid"])
    window()
    client.close()
    wait_until(lambda: dead(worker))


@pytest.mark.slow
def test_clients_that_come_and_go_meet_no_pool_that_is_leaving(make_peer: MakePeer, share: Share) -> None:
    """Each may be the last, and its pool leaves at once: who comes in that moment finds the next."""
    stop = threading.Event()
    wrong: list[BaseException] = []

    def come_and_go(number: int) -> int:
        visits = 0
        while not stop.is_set() and not wrong:
            try:
                with Client(**{**SHARED, "executors": 1}) as client:
                    assert client.call("echo", number) == number
            except BaseException as exc:
                wrong.append(exc)
            visits += 1
        return visits

    with ThreadPoolExecutor(3) as threads:
        jobs = [threads.submit(come_and_go, number) for number in range(3)]
        wait(jobs, timeout=5)
        stop.set()
        visits = [job.result() for job in jobs]
    assert wrong == []
    assert min(visits) > 0


# -- by hand ------------------------------------------------------------------------------------------------
def test_without_autostart_only_a_worker_that_was_started_by_hand_serves(share: Share, serve: Serve) -> None:
    client = share(autostart=False)
    error = raised(MoltWorkerUnavailable, client.call, "echo", 1)
    assert error.detail == (
        f"nobody serves the pool 'pool' ({path_of()}), and MOLT_WORKER_AUTOSTART is off; start it with "
        "molt-worker --shm pool"
    )
    worker = serve()
    assert wait_until(lambda: _echoes(client))
    assert health(client)["pid"] == worker.pid


def _echoes(client: Client) -> bool:
    try:
        return bool(client.call("echo", "hello") == "hello")
    except MoltWorkerUnavailable:
        return False


def test_a_worker_started_by_hand_stays_whoever_comes_and_goes(share: Share, serve: Serve) -> None:
    worker = serve()
    for number in range(3):
        client = share()
        assert client.call("echo", number) == number
        assert health(client)["pid"] == worker.pid
        client.close()
    assert worker.poll() is None
    worker.terminate()
    assert worker.wait(PATIENCE_S) == 0
    assert not os.path.exists(path_of())


def test_a_second_worker_of_the_same_name_is_refused(share: Share, serve: Serve) -> None:
    first = serve()
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", "--shm", "pool", "--exports", ENTRIES],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "molt-worker: another worker serves the pool 'pool' already\n"
    client = share()
    assert client.call("echo", 1) == 1
    assert health(client)["pid"] == first.pid


def test_pools_of_different_names_have_nothing_to_do_with_each_other(share: Share) -> None:
    one, other = share(worker_name="one", executors=1), share(worker_name="other", executors=1)
    assert one.call("pid") != other.call("pid")
    assert (health(one)["name"], health(other)["name"]) == ("one", "other")
    os.kill(health(one)["pid"], signal.SIGKILL)
    assert other.call("echo", 1) == 1


def test_a_pool_of_another_version_is_refused_with_a_hint(
    share: Share, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve()
    current = attach.__version__
    monkeypatch.setattr(attach, "__version__", "0.0.1")
    error = raised(MoltWorkerUnavailable, share().call, "echo", 1)
    assert error.detail == (
        f"the worker refused: this pool runs version {current}, the client is 0.0.1; restart the worker, "
        "or give the new version another MOLT_WORKER_NAME"
    )


# -- handing on ---------------------------------------------------------------------------------------------
def test_sigterm_finishes_what_was_accepted_while_a_successor_takes_what_is_new(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peer = share(executors=1), make_peer(executors=1)
    client.start()
    old = health(client)["pid"]
    gate = tmp_path / "gate"
    running = peer.begin("wait_for_file", str(gate))
    wait_for_file(f"{gate}.running")
    with ThreadPoolExecutor(1) as threads:
        queued = [peer.begin("pid"), threads.submit(client.call, "pid")]
        view = window()
        view.wait(ChannelState.CLAIMED, ChannelState.READY, ChannelState.READY)
        (old_executor,) = health(client)["executors"]["pids"]
        os.kill(old, signal.SIGTERM)
        wait_until(lambda: health(client)["pid"] != old)
        assert client.call("pid") != old_executor
        assert peer.call("pid") == client.call("pid")
        assert not running.done()
        assert view.states() == {ChannelState.CLAIMED: 1, ChannelState.READY: 2}
        gate.touch()
        assert running.result(PATIENCE_S) == "released"
        assert [call.result(PATIENCE_S) for call in queued] == [old_executor] * 2
    wait_until(lambda: dead_pid(old))


def dead_pid(pid: int) -> bool:
    try:
        return dead(psutil.Process(pid))
    except psutil.NoSuchProcess:
        return True


@pytest.mark.sample(1)
@pytest.mark.parametrize("pause_s", [0, 0.002])
def test_under_load_of_several_processes_no_call_is_lost_when_workers_are_told_to_stop(
    share: Share, make_peer: MakePeer, tmp_path: Path, pause_s: float
) -> None:
    client = share(max_queue=100)
    peers = [make_peer(max_queue=100) for _ in range(3)]
    workers = []
    with loading(peers, tmp_path, threads=2, pause_s=pause_s) as outcomes:
        for _ in range(8):
            worker = health(client)["pid"]
            workers.append(worker)
            os.kill(worker, signal.SIGTERM)
            wait_until(lambda worker=worker: dead_pid(worker), PATIENCE_S)
        assert client.call("echo", "the next") == "the next"
    assert [set(each) for each in outcomes] == [{"Ok"}] * 3
    assert len(set(workers)) == 8


def test_a_stopped_client_keeps_no_worker_running(share: Share, make_peer: MakePeer, pool_log: Path) -> None:
    client, peer = share(), make_peer()
    client.start()
    assert peer.call("echo", 1) == 1
    old = health(client)["pid"]
    peer.stop()
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: dead_pid(old))
    assert client.call("echo", 2) == 2
    peer.resume()
    assert peer.call("echo", 3) == 3
    assert peer.do("ping")["pid"] == health(client)["pid"] != old


@pytest.mark.sample(1)
@pytest.mark.parametrize("signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM]], ids=["int", "terms"])
def test_a_worker_that_is_told_to_stop_at_once_ends_what_runs_and_hands_on_what_is_queued(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    client, peer = share(executors=1, log_level="info"), make_peer(executors=1)
    client.start()
    old = psutil.Process(health(client)["pid"])
    (old_executor,) = health(client)["executors"]["pids"]
    marker = tmp_path / "running"
    running = peer.begin("announce_and_sleep", str(marker))
    wait_for_file(marker)
    queued = peer.begin("pid")
    window().wait(ChannelState.CLAIMED, ChannelState.READY)
    *drains, last = signals
    for number in drains:
        old.send_signal(number)
        wait_until(lambda: health(client)["pid"] != old.pid)
    old.send_signal(last)
    assert raised(MoltWorkerUnavailable, running.result, PATIENCE_S).may_have_run
    assert queued.result(PATIENCE_S) != old_executor
    wait_until(lambda: dead(old))


def test_a_client_closed_while_its_worker_drains_is_done(share: Share, window: Look, tmp_path: Path) -> None:
    """The calls that were made before the worker began to drain are on another connection than the next ones."""
    client = with_worker(share(executors=1, grace_ms=20_000))
    old = health(client)["pid"]
    marker = tmp_path / "running"
    outcomes: list[str] = []

    def call() -> None:
        try:
            client.call("clean_up", str(marker))
        except Exception as exc:
            outcomes.append(type(exc).__name__)

    thread = in_thread(call)
    wait_for_file(marker)
    os.kill(old, signal.SIGTERM)
    wait_until(lambda: health(client)["pid"] != old)
    client.close()
    thread.join(PATIENCE_S)
    assert outcomes == ["MoltCancelled"]
    wait_until(lambda: not marker.exists())
    wait_until(lambda: dead_pid(old))


def test_pings_that_are_under_way_when_a_worker_drains_are_answered(
    share: Share, often: Callable[[int], int]
) -> None:
    client = with_worker(share())
    for _ in range(often(15)):
        with ThreadPoolExecutor(4) as threads:
            old = health(client)["pid"]
            pings = [threads.submit(health, client) for _ in range(20)]
            os.kill(old, signal.SIGTERM)
            pids = [ping.result()["pid"] for ping in pings]
        assert len(set(pids)) <= 2


VERSIONED = (
    "import os, time\nfrom molt_worker import export\n@export\ndef version(payload): return {version}\n"
    + (
        "@export\ndef hold(path):\n"
        "    open(path + '.running', 'w').write('x')\n"
        "    while not os.path.exists(path): time.sleep(0.001)\n"
        "    return {version}\n"
    )
)


def test_a_reload_by_sighup_is_one_for_all_clients(
    share: Share, make_peer: MakePeer, make_module: MakeModule, window: Look, tmp_path: Path
) -> None:
    make_module("shared_versions", VERSIONED.format(version=1))
    config = {"exports": "shared_versions", "executors": 1}
    client, peer = share(**config), make_peer(**config)
    client.start()
    assert peer.call("version") == 1
    gate = tmp_path / "gate"
    held = peer.begin("hold", str(gate))
    wait_for_file(f"{gate}.running")
    make_module("shared_versions", VERSIONED.format(version=2))
    worker = health(client)["pid"]
    os.kill(worker, signal.SIGHUP)
    wait_until(lambda: health(client)["reloads"] == 1)
    assert (client.call("version"), peer.call("version")) == (2, 2)
    gate.touch()
    assert held.result(PATIENCE_S) == 1
    assert idle(client)["pid"] == worker
    window().wait()


# -- after a kill -------------------------------------------------------------------------------------------
def test_a_socket_that_a_killed_worker_left_is_replaced(share: Share, serve: Serve) -> None:
    first = serve()
    client = share()
    assert client.call("echo", 1) == 1
    first.kill()
    first.wait()
    assert os.path.exists(path_of())
    wait_until(lambda: _echoes(client))
    assert health(client)["pid"] != first.pid
    found = {name for name in os.listdir(os.path.dirname(path_of())) if name.endswith(".sock")}
    assert found == {"pool.sock"}


def test_calls_that_were_queued_when_the_worker_was_killed_are_run_by_its_successor(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    """Nobody had taken them up. What ran is another matter: its outcome is not known."""
    client, peers = share(executors=1), [make_peer(executors=1) for _ in range(2)]
    client.start()
    old = health(client)["pid"]
    gate, effects = tmp_path / "gate", tmp_path / "effects"
    running = peers[0].begin("wait_for_file", str(gate))
    wait_for_file(f"{gate}.running")
    queued = [
        peer.begin("append", {"path": str(effects), "text": f"{index}/{number}"})
        for number in range(3)
        for index, peer in enumerate(peers)
    ]
    window().wait(ChannelState.CLAIMED, *[ChannelState.READY] * 6)
    os.kill(old, signal.SIGKILL)
    assert raised(MoltWorkerUnavailable, running.result, PATIENCE_S).may_have_run
    for call in queued:
        assert call.result(PATIENCE_S) is None
    assert Counter(effects.read_text().split()) == {
        f"{index}/{number}": 1 for index in (0, 1) for number in range(3)
    }
    assert client.call("echo", 1) == 1


@pytest.mark.slow
def test_a_worker_that_died_young_is_attached_to_at_once_where_another_client_has_replaced_it(
    make_peer: MakePeer, serve: Serve, share: Share, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Starting it anew has to wait a little; finding it started has not."""
    monkeypatch.setattr(launcher, "FIRST_BACKOFF_S", 1000)
    first = serve()
    client = share(start_timeout_ms=600_000)
    assert client.call("echo", 1) == 1
    first.kill()
    first.wait()
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.call, "echo", 2, timeout_ms=PATIENCE_S * 1000)
        second = make_peer()
        assert second.call("echo", 3) == 3
        assert waiting.result() == 2
    assert health(client)["pid"] == second.do("ping")["pid"] != first.pid
