"""The executors of a shared pool: replaced when they die, hang or are worn; and what is told of their requests."""

import json
import os
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest

from molt_accel import MoltError, MoltStartFailed, MoltWorkerCrashed
from molt_accel.ipc.shm.layout import ChannelState, SlotGauge
from tests.support.driver import FORK_HOOK, SLOW_EXPORTS, MakeModule
from tests.support.peer import PATIENCE_S, MakePeer, loading
from tests.support.pools import Gate, Look, Share, health, idle, with_worker
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


# -- starting and ending ------------------------------------------------------------------------------------
def test_executors_that_die_while_they_start_are_tried_again_ever_more_slowly(
    share: Share, make_module: MakeModule, tmp_path: Path
) -> None:
    switch, log = tmp_path / "switch", tmp_path / "starts"
    make_module("dying_exports", FORK_HOOK.format(switch=str(switch), log=str(log), act="os._exit(7)"))
    client = share(exports="dying_exports", executors=1)
    assert client.call("answer") == 42
    switch.touch()
    with pytest.raises(MoltWorkerCrashed):
        client.call("die")
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.call, "answer", timeout_ms=PATIENCE_S * 1000)
        # 0.1 + 0.2 + 0.4 + 0.8 s between the starts: far fewer than a loop without a pause would make.
        wait_until(lambda: log.exists() and len(log.read_text().split()) >= 4)
        assert health(client)["executor_starts"] < 12
        switch.unlink()
        assert waiting.result(PATIENCE_S) == 42
    assert idle(client)["executors"]["idle"] == 1


def test_an_executor_that_hangs_while_it_starts_is_replaced(
    share: Share, make_module: MakeModule, tmp_path: Path
) -> None:
    switch, log = tmp_path / "switch", tmp_path / "starts"
    source = FORK_HOOK.format(switch=str(switch), log=str(log), act="import time; time.sleep(1e6)")
    make_module("hanging_executors", source)
    client = with_worker(share(exports="hanging_executors", executors=1, start_timeout_ms=2000))
    switch.touch()
    with pytest.raises(MoltWorkerCrashed):
        client.call("die")
    wait_for_file(log)
    switch.unlink()
    assert client.call("answer", timeout_ms=PATIENCE_S * 1000) == 42
    assert idle(client)["executors"]["idle"] == 1


def test_hundreds_of_crashes_leave_no_zombie_no_descriptor_and_no_slot(share: Share, window: Look) -> None:
    client = share(max_queue=200, log_level="error")
    worker = psutil.Process(idle(client)["pid"])
    view = window()
    with pytest.raises(MoltWorkerCrashed):
        client.call("crash", {"exit": 1})
    idle(client)
    descriptors = worker.num_fds()
    (forkserver,) = worker.children()

    def crash(number: int) -> str:
        try:
            client.call("crash", {"signal": 9} if number % 2 else {"exit": 1}, timeout_ms=PATIENCE_S * 1000)
        except MoltError as exc:
            return type(exc).__name__
        return "Ok"

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(crash, range(150))) == {"MoltWorkerCrashed"}
    report = idle(client)
    assert (report["executor_deaths"], report["executor_starts"]) == (151, 153)
    assert report["outcomes"] == {"WorkerCrashed": 151}
    wait_until(lambda: len(forkserver.children(recursive=True)) == 2)
    wait_until(lambda: worker.num_fds() == descriptors)
    view.wait()
    pids = [view.view.slot_gauge(slot, SlotGauge.PID) for slot in range(view.view.slots)]
    assert {pid for pid in pids if pid} == set(report["executors"]["pids"])


def test_executors_worn_by_several_clients_are_replaced_without_a_loss(
    share: Share, make_peer: MakePeer, tmp_path: Path, window: Look
) -> None:
    config = {"max_requests": 10, "max_queue": 100}
    client = share(**config)
    idle(client)
    peers = [make_peer(**config) for _ in range(2)]
    with loading(peers, tmp_path) as outcomes:
        wait_until(lambda: health(client)["recycled"] >= 20, PATIENCE_S)
    assert [set(each) for each in outcomes] == [{"Ok"}] * 2
    report = idle(client)
    assert report["executor_deaths"] == 0
    assert set(report["outcomes"]) == {"Ok"}
    window().wait()


def test_an_executor_that_has_grown_too_large_is_replaced(share: Share) -> None:
    client = share(exports="tests.support.entrypoints", max_rss_mb=150)
    small = set(idle(client)["executors"]["pids"])
    large = client.call("hoard", 200)
    wait_until(lambda: large not in health(client)["executors"]["pids"])
    report = idle(client)
    assert (report["recycled"], report["executor_deaths"]) == (1, 0)
    assert small - set(report["executors"]["pids"]) == {large}


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("1/0", "ZeroDivisionError: division by zero"),
        ("import os; os._exit(5)", "the fork server died: exit code 5"),
    ],
)
def test_exports_that_can_t_be_imported_any_more_keep_the_old_ones(
    share: Share, make_module: MakeModule, pool_log: Path, source: str, why: str
) -> None:
    good = "from molt_worker import export\n@export\ndef version(payload): return {}\n"
    make_module("shared_versions", good.format(1))
    client = share(exports="shared_versions", executors=1)
    pids = idle(client)["executors"]["pids"]
    worker = health(client)["pid"]
    make_module("shared_versions", source)
    os.kill(worker, signal.SIGHUP)
    wait_until(lambda: "reload_failed" in pool_log.read_text())
    assert why in pool_log.read_text()
    assert client.call("version") == 1
    assert idle(client)["executors"]["pids"] == pids
    make_module("shared_versions", good.format(2))
    os.kill(worker, signal.SIGHUP)
    wait_until(lambda: health(client)["reloads"] == 1)
    assert client.call("version") == 2


def test_exports_that_can_t_be_imported_tell_every_client_why(
    share: Share, make_peer: MakePeer, make_module: MakeModule
) -> None:
    make_module("broken_exports", "raise RuntimeError('the reason')")
    client, peer = share(exports="broken_exports", log_level="error"), make_peer(exports="broken_exports")
    for _ in range(2):
        with pytest.raises(MoltStartFailed) as here:
            client.call("echo", 1)
        with pytest.raises(MoltStartFailed) as there:
            peer.call("echo", 1)
        for caught in (here, there):
            assert "can't import broken_exports: RuntimeError: the reason" in caught.value.detail


def test_requests_before_the_exports_are_imported_are_queued_and_then_run(
    share: Share, make_peer: MakePeer, make_module: MakeModule, window: Look, tmp_path: Path
) -> None:
    gate = tmp_path / "gate"
    make_module("slow_exports", SLOW_EXPORTS.format(gate=str(gate)))
    config = {"exports": "slow_exports", "executors": 1}
    client, peer = share(**config), make_peer(**config)
    with ThreadPoolExecutor(1) as threads:
        calls = [threads.submit(client.call, "answer"), peer.begin("answer"), peer.begin("nothing")]
        assert wait_until(lambda: os.path.exists(gate.parent))
        wait_until(lambda: health(client)["queue_depth"] == 3, PATIENCE_S)
        assert health(client)["ready"] is False
        window().wait(*[ChannelState.READY] * 3)
        gate.touch()
        assert [call.result(PATIENCE_S) for call in calls[:2]] == [42, 42]
        error = calls[2].exception(PATIENCE_S)
    assert str(error) == "unknown entry 'nothing'; the pool offers 'answer'"


# -- what is told -------------------------------------------------------------------------------------------
def test_queue_depth_and_in_flight_are_those_when_the_request_was_taken_up(
    share: Share, window: Look, tmp_path: Path
) -> None:
    client = share(executors=2)
    idle(client)
    view = window()
    gates = [Gate(client, tmp_path / name) for name in ("a", "b") if not (tmp_path / name).mkdir()]
    seen: dict[int, Any] = {}

    def call(number: int) -> None:
        seen[number] = client.reply("echo", number).metrics

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for number, thread in enumerate(threads):
        thread.start()
        wait_until(lambda number=number: view.states()[ChannelState.READY] == number + 1)
    report = health(client)
    assert (report["in_flight"], report["queue_depth"], report["executors"]["busy"]) == (2, 3, 2)
    gates[0].open()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [(seen[n].queue_depth, seen[n].in_flight) for n in range(3)] == [(2, 2), (1, 2), (0, 2)]
    assert len({seen[number].executor for number in range(3)}) == 1
    gates[1].open()


def test_a_json_log_has_one_line_for_each_request_that_an_executor_had(share: Share, pool_log: Path) -> None:
    client = share(exports="tests.support.entrypoints", log_json=True, log_level="debug")
    idle(client)
    sent: dict[str, str] = {}
    calls: list[tuple[str, Any, str]] = [
        ("echo", 1, "Ok"), ("fail", "value", "InternalError"), ("fail", "invalid", "InvalidInput"),
        ("nothing", 1, "InternalError"), ("sleep", 100, "Timeout"), ("echo", "a\nb", "Ok"),
    ]  # fmt: skip
    for entry, payload, status in calls:
        try:
            reply = client.reply(entry, payload, timeout_ms=500 if status == "Timeout" else 20_000)
            sent[reply.metrics.request_id] = status
        except MoltError as exc:
            sent[exc.request_id] = status
    with pytest.raises(MoltWorkerCrashed) as crashed:
        client.call("crash", {"exit": 1})
    client.close()
    wait_until(lambda: "worker_stopped" in pool_log.read_text())
    rows = [json.loads(line) for line in pool_log.read_text().splitlines()]
    requests = [row for row in rows if row["event"] == "request"]
    assert {row["request_id"]: row["status"] for row in requests} == sent
    assert len(requests) == len(sent)
    assert {row["level"] for row in requests if row["status"] == "Ok"} == {"debug"}
    assert {row["level"] for row in requests if row["status"] != "Ok"} == {"warning"}
    (crash,) = [row for row in rows if row["event"] == "executor_crashed"]
    assert crash["request_id"] == crashed.value.request_id
