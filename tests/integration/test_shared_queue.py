"""The queue of a shared pool: bounded, fair among client processes, and kept without asking the supervisor."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltBusy, MoltError, MoltTimeout, MoltWorkerUnavailable
from molt_accel.ipc.messages import PING, Request
from molt_accel.ipc.shm.layout import ChannelState
from tests.support.errors import raised
from tests.support.peer import PATIENCE_S, MakePeer, loading
from tests.support.pools import Gate, Look, Share, Window, health, idle, with_worker
from tests.support.processes import in_thread, wait_for_file, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")


FULL = "the queue is full"
OVER_ITS_SHARE = "as many calls are in flight as may be"


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that does nothing meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T")
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def queue_up(view: Window, count: int, calls: list[Callable[[], Future[Any]]]) -> list[Future[Any]]:
    """Begin calls one after the other, each when the one before is queued."""
    begun = []
    for number, begin in enumerate(calls):
        begun.append(begin())
        wait_until(lambda number=number: view.states()[ChannelState.READY] == count + number + 1)
    return begun


# -- without the supervisor ---------------------------------------------------------------------------------
def test_calls_go_on_while_the_supervisor_is_stopped(share: Share, make_peer: MakePeer) -> None:
    client, peer = share(), make_peer()
    supervisor = idle(client)["pid"]
    assert peer.call("echo", "attached") == "attached"
    with stopped(supervisor):
        assert [client.call("echo", number) for number in range(200)] == list(range(200))
        assert [peer.call("echo", number) for number in range(20)] == list(range(20))
        assert peer.do("echo_bytes", size=3_000_000)
    assert health(client)["pid"] == supervisor


def test_a_full_queue_is_busy_at_once_though_nobody_could_be_asked(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client = with_worker(share(executors=1, max_queue=2))
    gate = Gate(client, tmp_path)
    view = window()
    with ThreadPoolExecutor(2) as threads, stopped(health(client)["pid"]):
        queued = queue_up(
            view, 0, [lambda number=number: threads.submit(client.call, "echo", number) for number in (0, 1)]
        )
        for _ in range(50):
            error = raised(MoltBusy, client.call, "echo", "refused", timeout_ms=PATIENCE_S * 1000)
            assert (error.detail, error.reason) == (FULL, "queue_full")
        assert view.states() == {ChannelState.CLAIMED: 1, ChannelState.READY: 2}
        gate.open()
        assert [call.result(PATIENCE_S) for call in queued] == [0, 1]
    assert health(client)["outcomes"] == {"Ok": 3, "Busy": 50}


def test_a_deadline_in_the_queue_holds_though_unwatched(share: Share, window: Look, tmp_path: Path) -> None:
    client = with_worker(share(executors=1))
    gate = Gate(client, tmp_path)
    line = {"path": str(tmp_path / "effects"), "text": "ran"}
    with stopped(health(client)["pid"]):
        started = time.monotonic()
        error = raised(MoltTimeout, client.call, "append", line, timeout_ms=150)
        assert (error.phase, error.detail) == ("queue", "the deadline passed in the queue")
        assert time.monotonic() - started >= 0.15
    window().wait(ChannelState.CLAIMED)
    gate.open()
    assert client.call("echo", 1) == 1
    assert not (tmp_path / "effects").exists()
    assert health(client)["outcomes"] == {"Ok": 2, "Timeout": 1}


def test_a_deadline_of_what_runs_holds_for_the_caller_and_the_request_is_stopped_later(
    share: Share, window: Look, tmp_path: Path
) -> None:
    client = with_worker(share(executors=1))
    view = window()
    with stopped(health(client)["pid"]):
        with pytest.raises(MoltTimeout) as caught:
            client.call("announce_and_sleep", str(tmp_path / "running"), timeout_ms=1000)
        assert caught.value.phase == "transport"
        assert caught.value.detail == "no answer within deadline and grace time"
        assert view.states() == {ChannelState.ABANDONED: 1}
    view.wait()
    assert client.call("echo", 1) == 1


def _ping_until_refused(client: Client) -> None:
    for number in range(1, 100_000):  # until its socket is full
        client._transport.submit(Request(number, PING))


def test_a_cancel_with_no_room_in_the_socket_is_heeded(share: Share, window: Look, tmp_path: Path) -> None:
    client = with_worker(share(executors=1, grace_ms=20_000))
    # The pool stays for this one if the other, which gets more answers at once than it may read in time, is cut off.
    share(executors=1, grace_ms=20_000).start()
    marker = tmp_path / "running"
    give_up = threading.Event()
    outcomes = []

    def call() -> None:
        try:
            client.call("clean_up", str(marker), timeout_ms=None, cancel_check=give_up.is_set)
        except MoltError as exc:
            outcomes.append(type(exc).__name__)

    thread = in_thread(call)
    wait_for_file(marker)
    with stopped(health(client)["pid"]):
        with pytest.raises(MoltWorkerUnavailable, match=r"^the worker doesn't listen$"):
            _ping_until_refused(client)
        give_up.set()
        thread.join(PATIENCE_S)
        assert outcomes == ["MoltCancelled"]
    wait_until(lambda: not marker.exists())
    window().wait()


def test_more_channels_than_granted_can_t_be_had_from_a_stopped_supervisor_and_deadlines_hold(
    share: Share, tmp_path: Path
) -> None:
    client = share(executors=2, max_queue=200)
    supervisor = idle(client)["pid"]
    gate = Gate(client, tmp_path, executors=2)
    held = len(client._transport._connection.channels.free)  # type: ignore[attr-defined]
    with ThreadPoolExecutor(held) as threads:
        with stopped(supervisor):
            queued = [threads.submit(client.call, "echo", number) for number in range(held)]
            wait_until(lambda: client._transport._connection.channels.wants_more)  # type: ignore[attr-defined]
            started = time.monotonic()
            error = raised(MoltTimeout, client.call, "echo", "one too many", timeout_ms=200)
            assert error.phase == "transport"
            assert time.monotonic() - started < 5
        gate.open()
        assert [call.result(PATIENCE_S) for call in queued] == list(range(held))
    assert client.call("echo", 1) == 1


# -- among clients ------------------------------------------------------------------------------------------
def test_requests_of_different_processes_are_served_in_the_order_they_came(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peers = share(executors=1), [make_peer(executors=1) for _ in range(2)]
    client.start()
    for peer in peers:
        peer.do("start")
    gate = Gate(client, tmp_path)
    lines = [str(number) for number in range(12)]
    with ThreadPoolExecutor(4) as threads:

        def beginning(number: int, line: str) -> Callable[[], Future[Any]]:
            order = {"path": str(tmp_path / "order"), "text": line}
            if number % 3 < 2:
                return lambda: peers[number % 3].begin("append", order)
            return lambda: threads.submit(client.call, "append", order)

        calls = [beginning(*item) for item in enumerate(lines)]
        begun = queue_up(window(), 0, calls)
        gate.open()
        for call in begun:
            call.result(PATIENCE_S)
    assert (tmp_path / "order").read_text().split() == lines


def test_a_client_that_floods_leaves_places_to_another(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peer = share(executors=1, max_queue=8), make_peer(executors=1, max_queue=8)
    client.start()
    assert peer.call("echo", "attached") == "attached"
    gate = Gate(client, tmp_path)
    view = window()
    with ThreadPoolExecutor(20) as threads:
        flood = [threads.submit(client.call, "echo", number) for number in range(20)]
        # Three quarters of the queue, and as many as there are executors: one of them runs.
        view.wait(ChannelState.CLAIMED, *[ChannelState.READY] * 6)
        wait_until(lambda: sum(call.done() for call in flood) == 14)
        refused = [call.exception() for call in flood if call.done()]
        assert {(type(error), str(error)) for error in refused} == {(MoltBusy, OVER_ITS_SHARE)}
        others = [peer.begin("echo", f"other {number}") for number in range(3)]
        wait_until(lambda: sum(call.done() for call in others) == 1)
        (late,) = [call for call in others if call.done()]
        assert (type(late.exception()), str(late.exception())) == (MoltBusy, FULL)
        assert view.states() == {ChannelState.CLAIMED: 1, ChannelState.READY: 8}
        gate.open()
        assert sorted(call.result(PATIENCE_S) for call in others if call is not late) == sorted(
            f"other {number}" for number, call in enumerate(others) if call is not late
        )
        assert Counter(call.exception() is None for call in flood) == {True: 6, False: 14}


def test_a_client_that_is_alone_again_may_have_the_whole_queue(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peer = share(executors=1, max_queue=4), make_peer(executors=1, max_queue=4)
    client.start()
    assert peer.call("echo", "attached") == "attached"
    peer.close()
    wait_until(lambda: health(client)["clients"] == 1)
    gate = Gate(client, tmp_path)
    with ThreadPoolExecutor(4) as threads:
        queued = [threads.submit(client.call, "echo", number) for number in range(4)]
        window().wait(ChannelState.CLAIMED, *[ChannelState.READY] * 4)
        assert raised(MoltBusy, client.call, "echo", "too many").detail == FULL
        gate.open()
        assert [call.result(PATIENCE_S) for call in queued] == [0, 1, 2, 3]


def test_one_may_wait_for_a_place_that_another_process_has_and_gets_it(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, peer = share(executors=1, max_queue=1), make_peer(executors=1, max_queue=1)
    client.start()
    peer.do("start")
    gate = Gate(client, tmp_path)
    view = window()
    (queued,) = queue_up(view, 0, [lambda: peer.begin("echo", "queued")])
    with pytest.raises(MoltBusy) as caught:
        client.call("echo", "can't wait", queue_timeout_ms=0)
    assert caught.value.detail == FULL
    started = time.monotonic()
    with pytest.raises(MoltBusy) as caught:
        client.call("echo", "waits in vain", queue_timeout_ms=200)
    assert caught.value.detail == FULL
    assert time.monotonic() - started >= 0.2
    with pytest.raises(MoltTimeout) as late:
        client.call("echo", "has no time to wait", queue_timeout_ms=60_000, timeout_ms=100)
    assert late.value.phase == "queue"
    with ThreadPoolExecutor(1) as threads:
        (waiting,) = queue_up(
            view, 1, [lambda: threads.submit(client.call, "echo", "waits", queue_timeout_ms=60_000)]
        )
        gate.open()
        assert (queued.result(PATIENCE_S), waiting.result(PATIENCE_S)) == ("queued", "waits")


def test_who_waits_for_a_place_gets_the_one_of_a_client_that_was_killed(
    share: Share, make_peer: MakePeer, window: Look, tmp_path: Path
) -> None:
    client, doomed = share(executors=1, max_queue=1), make_peer(executors=1, max_queue=1)
    client.start()
    doomed.do("start")
    gate = Gate(client, tmp_path)
    view = window()
    line = {"path": str(tmp_path / "effects"), "text": "ran"}
    queue_up(view, 0, [lambda: doomed.begin("append", line)])
    with ThreadPoolExecutor(1) as threads:
        (waiting,) = queue_up(
            view, 1, [lambda: threads.submit(client.call, "echo", "waits", queue_timeout_ms=500)]
        )
        doomed.kill()
        view.wait(ChannelState.CLAIMED, ChannelState.READY)
        wait_until(lambda: health(client)["clients"] == 1)
        with pytest.raises(MoltBusy):
            client.call("echo", "one too many")
        assert not wait([waiting], timeout=0.6).done  # the time to wait is over, but it has its place
        gate.open()
        assert waiting.result(PATIENCE_S) == "waits"
    assert not (tmp_path / "effects").exists()


def test_several_processes_keep_a_small_queue_full_and_each_is_served(
    share: Share, make_peer: MakePeer, tmp_path: Path
) -> None:
    client = with_worker(share(executors=2, max_queue=4))
    peers = [make_peer(executors=2, max_queue=4) for _ in range(3)]
    with loading(peers, tmp_path, threads=4, pause_s=0.001) as outcomes:
        for _ in range(100):
            assert client.call("echo", "also", queue_timeout_ms=60_000) == "also"
    assert set().union(*outcomes) <= {"Ok", "MoltBusy"}
    assert idle(client)["executor_deaths"] == 0
