"""Many calls in flight on one client, from threads and tasks: each gets its own answer."""

import asyncio
import random
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from molt_accel import Client, MoltCancelled, MoltError, MoltWorkerCrashed
from tests.support.errors import raised
from tests.support.pools import MakeClient
from tests.support.processes import wait_for_file, wait_until

pytestmark = pytest.mark.sample(1)


def test_threads_on_one_client_each_get_their_own_answer(make_client: MakeClient) -> None:
    client = make_client(max_queue=1000)

    def worker(thread: int) -> int:
        for number in range(100):
            nonce = f"{thread}/{number}" + "x" * random.Random(thread * 1000 + number).choice(
                [0, 100, 50_000]
            )
            assert client.call("echo", nonce) == nonce
        return 100

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(worker, range(16))) == 1600


def test_tasks_in_one_loop_each_get_their_own_answer(make_client: MakeClient) -> None:
    client = make_client(max_queue=1000)

    async def main() -> list[Any]:
        return await asyncio.gather(*(client.acall("echo", number) for number in range(500)))

    assert asyncio.run(main()) == list(range(500))


def test_calls_from_several_loops_and_threads_at_once(make_client: MakeClient) -> None:
    client = make_client(max_queue=1000)

    def blocking(base: int) -> list[Any]:
        return [client.call("echo", base + number) for number in range(50)]

    def looping(base: int) -> list[Any]:
        async def main() -> list[Any]:
            return await asyncio.gather(*(client.acall("echo", base + number) for number in range(50)))

        return asyncio.run(main())

    with ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(blocking if i % 2 else looping, i * 1000) for i in range(8)]
        assert [job.result() for job in jobs] == [list(range(i * 1000, i * 1000 + 50)) for i in range(8)]


def test_both_directions_full_of_large_frames_do_not_block_each_other(make_client: MakeClient) -> None:
    client = make_client(max_queue=1000)
    size = 3 * 1024 * 1024

    def call(number: int) -> bool:
        payload = bytes([number]) * size
        return bool(client.call("echo_raw", payload, codec="raw", timeout_ms=120_000) == payload)

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(call, range(16))) == [True] * 16


def test_good_calls_are_unharmed_by_bad_ones_beside_them(make_client: MakeClient) -> None:
    client = make_client(executors=3, max_queue=1000)
    bad: list[tuple[str, Any, str]] = [
        ("crash", {"signal": 9}, "MoltWorkerCrashed"),
        ("fail", "value", "MoltInternalError"),
        ("fail", "invalid", "MoltInvalidInput"),
        ("nothing", 0, "MoltEntryError"),
    ]

    def call(number: int) -> str:
        if number % 5:
            assert client.call("echo", number) == number
            return "Ok"
        entry, payload, _ = bad[number // 5 % len(bad)]
        return type(raised(MoltError, client.call, entry, payload)).__name__

    with ThreadPoolExecutor(12) as pool:
        outcomes = Counter(pool.map(call, range(400)))
    assert outcomes == {"Ok": 320, **dict.fromkeys([error for _, _, error in bad], 20)}


def test_cancelling_a_task_stops_its_request_in_the_worker(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(grace_ms=20_000)
    marker = tmp_path / "running"

    async def main() -> None:
        task = asyncio.create_task(client.acall("clean_up", str(marker)))
        await asyncio.to_thread(wait_for_file, marker)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    wait_until(lambda: not marker.exists())  # its clean-up ran
    wait_until(lambda: client.ping()["outcomes"].get("Cancelled") == 1)
    assert client.call("echo", 1) == 1


def test_a_timeout_of_asyncio_s_cancels_too(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(grace_ms=20_000)
    marker = tmp_path / "running"

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await client.acall("clean_up", str(marker))

    asyncio.run(main())
    wait_until(lambda: client.ping()["in_flight"] == 0)
    assert not marker.exists()


def test_cancelling_one_of_many_tasks_leaves_others_alone(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(max_queue=1000)
    marker = tmp_path / "running"

    async def main() -> list[Any]:
        doomed = [asyncio.create_task(client.acall("sleep", 1e6)) for _ in range(10)]
        stuck = asyncio.create_task(client.acall("announce_and_sleep", str(marker)))
        others = [asyncio.create_task(client.acall("echo", number)) for number in range(100)]
        await asyncio.sleep(0)
        for task in (*doomed, stuck):
            task.cancel()
        ended = await asyncio.gather(*doomed, stuck, return_exceptions=True)
        assert [type(outcome) for outcome in ended] == [asyncio.CancelledError] * 11
        return await asyncio.gather(*others)

    assert asyncio.run(main()) == list(range(100))
    assert client.ping()["in_flight"] == 0


def test_close_while_calls_run_ends_each_as_cancelled(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client()
    marker = tmp_path / "running"
    outcomes: list[type[BaseException] | None] = []

    def call(entry: str, payload: Any) -> None:
        try:
            client.call(entry, payload)
        except MoltError as exc:
            outcomes.append(type(exc))
        else:
            outcomes.append(None)

    jobs = [("announce_and_sleep", str(marker)), *[("sleep", 1e6)] * 5]
    threads = [threading.Thread(target=call, args=job) for job in jobs]
    threads[0].start()
    wait_for_file(marker)
    for thread in threads[1:]:
        thread.start()
    wait_until(lambda: client.ping()["queue_depth"] == 4)
    client.close()
    for thread in threads:
        thread.join(30)
    assert outcomes == [MoltCancelled] * 6


def test_a_crash_in_flight_hits_only_the_call_that_crashed(make_client: MakeClient, tmp_path: Path) -> None:
    client = make_client(executors=2)
    gate = tmp_path / "gate"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client.call, "wait_for_file", str(gate))
        wait_for_file(f"{gate}.running")
        for _ in range(5):
            with pytest.raises(MoltWorkerCrashed):
                client.call("crash", {"signal": 11})
        gate.touch()
        assert waiting.result(30) == "released"


def test_a_client_s_calls_after_a_pause_need_no_wake_up(client: Client) -> None:
    until = time.monotonic() + 1.5
    count = 0
    while time.monotonic() < until:
        assert client.call("echo", count) == count
        count += 1
        time.sleep(random.Random(count).choice([0, 0.001, 0.05]))
    assert count > 5
