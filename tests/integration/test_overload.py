"""What a pool refuses under load, whom it serves first, and how many it runs, over both transports."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltBusy
from molt_accel.overload.admission import INTERVAL_NS
from tests.support.errors import raised
from tests.support.pools import health
from tests.support.processes import wait_for_file, wait_until

EXPORTS = "tests.support.overload_entrypoints"
PATIENCE_MS = 60_000
MakeClient = Callable[..., Client]
Begin = Callable[..., Future[Any]]


@pytest.fixture
def begin() -> Iterator[Begin]:
    """Begins a call on a thread of its own."""
    with ThreadPoolExecutor(100) as threads:
        yield lambda client, *call, **options: threads.submit(client.call, *call, **options)


def one(make_client: MakeClient, executors: int = 1, **options: Any) -> Client:
    client = make_client(exports=EXPORTS, executors=executors, **options)
    client.start()
    return client


def train(client: Client, seconds: float) -> None:
    """Have the pool learn what `work` takes."""
    for _ in range(3):
        client.call("work", {"seconds": seconds}, timeout_ms=PATIENCE_MS)


def held(begin: Begin, client: Client, path: Path, entry: str = "work") -> Future[Any]:
    """A request that runs until the file is there."""
    call = begin(client, entry, {"path": str(path)} if entry == "work" else str(path), timeout_ms=PATIENCE_MS)
    wait_for_file(f"{path}.running")
    return call


def is_queued(client: Client, count: int) -> None:
    wait_until(lambda: health(client)["queue_depth"] == count)


def queue_up(begin: Begin, client: Client, count: int) -> list[Future[Any]]:
    """Calls of `work` that are taken on, each when the one before is queued."""
    queued = []
    for number in range(1, count + 1):
        queued.append(begin(client, "work", {"seconds": 0}, timeout_ms=PATIENCE_MS))
        is_queued(client, number)
    return queued


def test_a_class_goes_before_the_next(make_client: MakeClient, begin: Begin, tmp_path: Path) -> None:
    client = one(make_client)
    gate, order = held(begin, client, tmp_path / "gate"), tmp_path / "order"
    calls = []
    for number, entry in enumerate(("low", "normal", "high", "low", "high"), 1):
        calls.append(
            begin(client, entry, {"path": str(order), "text": f"{entry}{number}"}, timeout_ms=PATIENCE_MS)
        )
        is_queued(client, number)
    (tmp_path / "gate").touch()
    for call in [gate, *calls]:
        call.result()
    assert order.read_text().split() == ["high3", "high5", "normal2", "low1", "low4"]


def test_others_pass_an_entrypoint_at_its_limit(
    make_client: MakeClient, begin: Begin, tmp_path: Path
) -> None:
    client = one(make_client, executors=2)
    first = held(begin, client, tmp_path / "first", "slow")
    second = begin(client, "slow", str(tmp_path / "second"), timeout_ms=PATIENCE_MS)
    is_queued(client, 1)
    for _ in range(20):
        client.call("work", {"seconds": 0}, timeout_ms=PATIENCE_MS)
    entry = health(client)["entries"]["slow"]
    assert (entry["running"], entry["queued"], entry["limit"], entry["priority"]) == (1, 1, 1, "normal")
    assert not (tmp_path / "second.running").exists()
    (tmp_path / "first").touch()
    (tmp_path / "second").touch()
    assert (first.result(), second.result()) == ("released", "released")


def test_a_limit_holds_however_many_call(make_client: MakeClient, begin: Begin, tmp_path: Path) -> None:
    client = one(make_client, executors=4, queue_target_ms=0)
    calls = [begin(client, "one_at_a_time", str(tmp_path), timeout_ms=PATIENCE_MS) for _ in range(40)]
    assert {call.result() for call in calls} == {1}


def test_a_call_that_can_not_end_in_time_is_refused_at_once(
    make_client: MakeClient, begin: Begin, tmp_path: Path
) -> None:
    client = one(make_client)
    train(client, 0.3)
    gate = held(begin, client, tmp_path / "gate")
    error = raised(MoltBusy, client.call, "work", {"seconds": 0}, timeout_ms=250)
    assert (error.reason, error.detail) == ("deadline", "the request could not end before its deadline")
    assert {why: count for why, count in health(client)["shed"].items() if count} == {"deadline": 1}
    (tmp_path / "gate").touch()
    gate.result()


def test_a_queue_that_stands_is_cut_down_and_says_when_to_come_back(
    make_client: MakeClient, begin: Begin, tmp_path: Path
) -> None:
    client = one(make_client)
    train(client, 0.3)
    gate = held(begin, client, tmp_path / "gate")
    queued = queue_up(begin, client, 3)
    over_since_ns = time.monotonic_ns()
    wait_until(lambda: time.monotonic_ns() - over_since_ns > INTERVAL_NS)
    error = raised(MoltBusy, client.call, "work", {"seconds": 0}, timeout_ms=PATIENCE_MS)
    assert (error.reason, error.detail) == ("queue_delay", "requests have to wait for too long")
    assert error.retry_after_s >= 1
    assert health(client)["entries"]["work"]["refused"] == 1
    (tmp_path / "gate").touch()
    for call in [gate, *queued]:
        call.result()
    # Shedding is not over yet. But nobody waits: nothing is refused.
    assert client.call("work", {"seconds": 0}, timeout_ms=PATIENCE_MS) == "done"


def test_without_a_target_the_queue_s_places_are_the_bound(
    make_client: MakeClient, begin: Begin, tmp_path: Path
) -> None:
    client = one(make_client, max_queue=20, queue_target_ms=0)
    train(client, 0.05)
    gate = held(begin, client, tmp_path / "gate")
    queued = queue_up(begin, client, 20)
    error = raised(MoltBusy, client.call, "work", {"seconds": 0}, timeout_ms=PATIENCE_MS)
    assert error.reason == "queue_full"
    (tmp_path / "gate").touch()
    for call in [gate, *queued]:
        call.result()


def test_a_burst_passes_whole(make_client: MakeClient, begin: Begin) -> None:
    for _ in range(10):
        client = one(make_client, executors=2)
        train(client, 0.05)
        sent_ns: list[int] = []
        calls = [
            begin(
                client, "work", {"seconds": 0.05}, timeout_ms=PATIENCE_MS,
                before_send=lambda _, sent_ns=sent_ns: sent_ns.append(time.monotonic_ns()),
            )
            for _ in range(20)
        ]  # fmt: skip
        outcomes = [call.exception() or call.result() for call in calls]
        if max(sent_ns) - min(sent_ns) < INTERVAL_NS / 2:
            break
        client.close()  # it was no burst, on a machine that was busy with something else
    else:
        pytest.skip("this machine makes no burst")
    assert outcomes == ["done"] * 20


def test_before_an_executor_is_ready_only_the_places_are_the_bound(
    make_client: MakeClient, begin: Begin
) -> None:
    client = make_client(exports=EXPORTS, executors=1)
    calls = [begin(client, "work", {"seconds": 0.001}, timeout_ms=PATIENCE_MS) for _ in range(30)]
    assert [call.result() for call in calls] == ["done"] * 30


def test_what_a_process_refuses_itself_is_counted_where_its_pool_can_see_it(
    make_client: MakeClient, begin: Begin, transport: str, tmp_path: Path
) -> None:
    client = one(make_client, max_in_flight=1)
    running = held(begin, client, tmp_path / "go")
    before = health(client)["shed"].get("in_flight", 0)
    error = raised(MoltBusy, client.call, "work", {"seconds": 0})
    assert (error.reason, error.detail) == ("in_flight", "as many calls are in flight as may be")
    counted = health(client)["shed"].get("in_flight", 0) - before
    assert counted == (1 if transport == "shm" else 0)
    (tmp_path / "go").touch()
    running.result()
    client.call("work", {"seconds": 0})


def test_who_waited_for_a_place_in_vain_is_counted_and_told_how_long_it_takes(
    make_client: MakeClient, begin: Begin, tmp_path: Path
) -> None:
    client = one(make_client, max_queue=1, queue_target_ms=0)
    train(client, 2)
    running = held(begin, client, tmp_path / "gate")
    (queued,) = queue_up(begin, client, 1)
    error = raised(MoltBusy, client.call, "work", {"seconds": 0}, queue_timeout_ms=20, timeout_ms=PATIENCE_MS)
    assert error.reason == "queue_full"
    assert error.retry_after_s >= 2
    counted = health(client)
    assert counted["shed"]["queue_full"] == counted["outcomes"]["Busy"] == 1
    (tmp_path / "gate").touch()
    assert [each.result() for each in (running, queued)] == ["released", "done"]
