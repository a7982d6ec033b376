"""Calls over NATS: outcomes, deadlines, cancellation, large frames, and every process that may be gone."""

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel import (
    Client,
    MoltBusy,
    MoltCancelled,
    MoltInternalError,
    MoltInvalidInput,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
)
from tests.integration.cluster.conftest import Cluster
from tests.support.driver import MakeModule
from tests.support.errors import raised
from tests.support.nats_server import PATIENCE_S
from tests.support.processes import exit_code, fork, wait_for_file, wait_until

Remote = Callable[..., Client]


def test_a_call_is_as_any_other(whole: Cluster, remote: Remote) -> None:
    client = remote()
    assert client.call("echo", {"list": [1, "ä", b"x", None]}) == {"list": [1, "ä", b"x", None]}
    assert client.call("echo_json", {"a": 1}, codec="json") == {"a": 1}
    assert client.call("echo_raw", b"raw", codec="raw") == b"raw"
    assert asyncio.run(client.acall("echo", 5)) == 5
    assert client.ping(timeout_ms=PATIENCE_S * 1000)["executors"]["size"] == 2
    assert client.call("told", 1, metadata={"tenant": "a"}) == [1, {"tenant": "a"}]
    reply = client.reply("sleep", 0.05)
    assert reply.metrics.handler_us >= 50_000
    assert reply.metrics.client_us >= reply.metrics.handler_us


def test_errors_are_as_any_other(whole: Cluster, remote: Remote) -> None:
    client = remote()
    raised(MoltInternalError, client.call, "fail", "value")
    raised(MoltInvalidInput, client.call, "fail", "invalid")
    crashed = raised(MoltWorkerCrashed, client.call, "crash", {"signal": signal.SIGKILL})
    assert crashed.signal == signal.SIGKILL
    assert client.call("echo", 1) == 1


def test_an_entry_that_no_pool_exports_was_not_run(whole: Cluster, remote: Remote) -> None:
    error = raised(MoltWorkerUnavailable, remote().call, "nowhere")
    assert not error.may_have_run
    assert "nowhere" in error.detail


@pytest.mark.parametrize("size", [900_000, 1_100_000, 5_000_000])
def test_frames_over_the_server_s_limit_go_in_pieces(whole: Cluster, remote: Remote, size: int) -> None:
    payload = bytes(range(250)) * (size // 250)
    assert remote().call("echo", payload) == payload


def test_frames_over_the_own_limit_are_refused_as_any_other(whole: Cluster, remote: Remote) -> None:
    client = remote(max_frame_bytes=100_000)
    raised(MoltInvalidInput, client.call, "echo", bytes(200_000))
    # The answer is too long for the client, and the executor has run.
    error = raised(Exception, remote(max_frame_bytes=100_000).call, "big", 2_000_000)
    assert "limit" in str(error)


def test_a_deadline_holds_whatever_the_code_does(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    client = remote()
    raised(MoltTimeout, client.call, "sleep", 60, timeout_ms=200)
    raised(MoltTimeout, client.call, "never_stops", str(tmp_path / "began"), timeout_ms=200)
    assert client.call("echo", 1) == 1


def test_a_cancelled_task_stops_the_work(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    client, path = remote(), str(tmp_path / "stopped")

    async def main() -> None:
        task = asyncio.create_task(client.acall("clean_up", path, timeout_ms=PATIENCE_S * 1000))
        await asyncio.to_thread(wait_for_file, path)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not Path(path).exists(), PATIENCE_S)


def test_a_closed_client_ends_its_calls(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    client, path = remote(), tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=PATIENCE_S * 1000)
        wait_for_file(f"{path}.running")
        client.close()
        raised(MoltCancelled, call.result, PATIENCE_S)


def test_a_closed_client_stops_its_work(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    client, path = remote(), tmp_path / "running"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "clean_up", str(path), timeout_ms=PATIENCE_S * 1000)
        wait_for_file(str(path))
        client.close()
        raised(MoltCancelled, call.result, PATIENCE_S)
    wait_until(lambda: not path.exists(), PATIENCE_S / 2)


def test_many_threads_and_tasks_get_their_own_answers(whole: Cluster, remote: Remote) -> None:
    client = remote()
    client.call("echo", 0)
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda number: client.call("echo", number), range(400))) == list(range(400))

    async def main() -> list[Any]:
        return await asyncio.gather(*(client.acall("echo", number) for number in range(60)))

    assert asyncio.run(main()) == list(range(60))


def test_a_forked_child_has_a_connection_of_its_own(whole: Cluster, remote: Remote) -> None:
    client = remote()
    assert client.call("echo", 1) == 1

    def child() -> None:
        assert client.call("echo", 2) == 2

    assert exit_code(fork(child)) == 0
    assert client.call("echo", 3) == 3


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_forked_child_keeps_none_of_the_parent_s_sockets(
    whole: Cluster, remote: Remote, loop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the server takes a parent that has ended for living as long as a child lives."""
    if loop == "asyncio":
        monkeypatch.setitem(sys.modules, "uvloop", None)

    def sockets() -> list[int]:
        return [
            each.fd
            for each in psutil.Process().net_connections("tcp")
            if each.raddr and each.raddr.port == whole.nats.port
        ]

    client = remote()
    assert client.call("echo", 1) == 1
    (parent_s,) = sockets()

    def child() -> None:
        assert sockets() == []
        assert client.call("echo", 2) == 2
        assert len(sockets()) == 1
        gc.collect()
        assert client.call("echo", 3) == 3

    assert exit_code(fork(child)) == 0
    assert sockets() == [parent_s]
    assert client.call("echo", 4) == 4


def test_nobody_there_is_told_at_once(cluster: Cluster, remote: Remote) -> None:
    no_server = raised(MoltWorkerUnavailable, remote().call, "echo")
    assert not no_server.may_have_run
    assert str(cluster.nats.port) in no_server.detail
    cluster.nats.start()
    client = remote()
    assert not raised(MoltWorkerUnavailable, client.call, "echo").may_have_run
    cluster.pool()
    cluster.bridge()
    assert client.call("echo", 1) == 1


def test_a_bridge_may_differ_from_its_pool_in_environment_and_folder(
    cluster: Cluster, remote: Remote, tmp_path: Path
) -> None:
    """Its operator names the pool, and what runs there is as the pool was started. A client that differs is refused."""
    cluster.nats.start()
    cluster.pool()
    cluster.bridge(DATABASE_URL="another", cwd=str(tmp_path))
    assert remote().call("echo", 1) == 1
    environ = {**os.environ, "DATABASE_URL": "another"}
    script = "import molt_accel\nmolt_accel.Client(worker_name='pool', transport='shm', autostart=False).call('echo')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert "MoltIncompatible" in done.stderr
    assert "DATABASE_URL" in done.stderr


def test_of_two_pools_the_other_is_asked_if_one_is_full(
    cluster: Cluster, remote: Remote, tmp_path: Path
) -> None:
    cluster.nats.start()
    for name in ("first", "second"):
        cluster.pool(name, "--max-queue", "0")
        cluster.bridge(name)
    client = remote()
    path = tmp_path / "go"
    with ThreadPoolExecutor(4) as threads:
        calls = [
            threads.submit(client.call, "wait_for_file", f"{path}{number}", timeout_ms=PATIENCE_S * 1000)
            for number in range(4)
        ]
        for number in range(4):
            wait_for_file(f"{path}{number}.running")
        for _ in range(10):  # at some of these calls nobody asks for requests any more
            assert raised(MoltBusy, client.call, "echo").retry_after_s > 0
        for number in range(4):
            Path(f"{path}{number}").touch()
        assert [call.result(PATIENCE_S) for call in calls] == ["released"] * 4
    wait_until(lambda: _answers(client), PATIENCE_S)


def _answers(client: Client) -> bool:
    try:
        return bool(client.call("echo", 1) == 1)
    except (MoltBusy, MoltWorkerUnavailable):
        return False


def test_of_two_pools_each_is_asked_for_what_it_exports_only(
    cluster: Cluster, remote: Remote, make_module: MakeModule
) -> None:
    """As in a rolling deployment: the new pool has a new version of an entrypoint beside the old one."""
    head = "import os\nfrom molt_worker import export\n"
    old = f"{head}\n@export\ndef items(payload):\n    return [os.getppid(), payload]\n"
    make_module("old_shop", old)
    make_module("new_shop", f"{old}\n@export\ndef items_2(payload):\n    return [os.getppid(), payload, 2]\n")
    cluster.nats.start()
    for name in ("old", "new"):
        cluster.pool(name, "--exports", f"{name}_shop")
        cluster.bridge(name)
    client = remote()
    new = {client.call("items_2", number)[0] for number in range(50)}
    assert len(new) == 1  # the old pool got none: it would have said that it has no such entrypoint
    both = {client.call("items", number)[0] for number in range(200)}
    assert len(both) == 2
    assert new < both
    cluster.started[3].stop()  # the new pool's bridge: a deployment that is taken back
    error = raised(MoltWorkerUnavailable, client.call, "items_2")
    assert not error.may_have_run
    assert {client.call("items", number)[0] for number in range(50)} == both - new


def test_a_bridge_that_is_told_to_stop_finishes_first(whole: Cluster, remote: Remote, tmp_path: Path) -> None:
    client, path = remote(), tmp_path / "go"
    bridge = whole.started[-1]
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=PATIENCE_S * 1000)
        wait_for_file(f"{path}.running")
        bridge.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not _answers(client), PATIENCE_S)
        assert bridge.process.poll() is None
        path.touch()
        assert call.result(PATIENCE_S) == "released"
    assert bridge.process.wait(PATIENCE_S) == 0


@pytest.mark.parametrize("who", ["bridge", "pool"])
def test_a_host_that_is_lost_with_a_request_may_have_run_it(
    whole: Cluster, remote: Remote, tmp_path: Path, who: str
) -> None:
    client, path = remote(), tmp_path / "go"
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.call, "wait_for_file", str(path), timeout_ms=PATIENCE_S * 1000)
        wait_for_file(f"{path}.running")
        whole.started[{"bridge": 1, "pool": 0}[who]].stop(signal.SIGKILL)
        error = raised(MoltWorkerUnavailable, call.result, PATIENCE_S)
        assert error.may_have_run
    path.touch()
    if who == "bridge":
        whole.bridge()
    else:
        whole.pool()
    wait_until(lambda: _answers(client), PATIENCE_S)


def test_a_server_that_comes_back_has_its_clients_and_bridges_back(whole: Cluster, remote: Remote) -> None:
    client = remote()
    assert client.call("echo", 1) == 1
    whole.nats.kill()
    wait_until(lambda: not _answers(client), PATIENCE_S)
    whole.nats.start()
    wait_until(lambda: _answers(client), PATIENCE_S)


def test_every_call_has_one_outcome_while_bridges_come_and_go(
    whole: Cluster, remote: Remote, tmp_path: Path
) -> None:
    """Each run leaves a line with its nonce: none is there twice, and none is missing that was answered."""
    client = remote()
    stop = threading.Event()
    outcomes: list[tuple[int, str]] = []

    def call(first: int) -> None:
        number = first
        while not stop.is_set():
            try:
                client.call("append", {"path": str(tmp_path / "runs"), "text": str(number)}, timeout_ms=5000)
            except (MoltBusy, MoltWorkerUnavailable, MoltTimeout) as error:
                ran = getattr(error, "may_have_run", False) or isinstance(error, MoltTimeout)
                outcomes.append((number, "unknown" if ran else "not run"))
            else:
                outcomes.append((number, "ran"))
            number += 4

    with ThreadPoolExecutor(4) as threads:
        calls = [threads.submit(call, first) for first in range(4)]
        bridge = whole.started[-1]
        for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGKILL):
            seen = len(outcomes)
            wait_until(lambda seen=seen: len(outcomes) > seen + 50, PATIENCE_S)
            bridge.stop(number)
            bridge = whole.bridge()
        seen = len(outcomes)
        wait_until(lambda: len(outcomes) > seen + 50, PATIENCE_S)
        stop.set()
        for each in calls:
            each.result(PATIENCE_S)
    ran = Counter(int(line) for line in (tmp_path / "runs").read_text().split())
    assert max(ran.values()) == 1
    for number, outcome in outcomes:
        assert outcome == "unknown" or (number in ran) is (outcome == "ran"), (number, outcome)
    assert len({number for number, _ in outcomes}) == len(outcomes)


def test_a_frame_over_the_bridge_s_limit_is_refused_and_was_not_run(cluster: Cluster, remote: Remote) -> None:
    cluster.nats.start()
    cluster.pool()
    cluster.bridge(MOLT_MAX_FRAME_BYTES="1500000")
    client = remote()
    error = raised(MoltInvalidInput, client.call, "echo", bytes(2_000_000), timeout_ms=PATIENCE_S * 1000)
    assert "limit" in error.detail
    assert client.call("echo", 1) == 1
