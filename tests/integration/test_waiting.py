"""Calls that may wait for a place get one, however many they are: `queue_timeout_ms`."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from molt_accel import Client, MoltBusy, MoltCancelled, MoltTimeout
from tests.support.pools import MakeClient
from tests.support.processes import wait_for_file, wait_until


@pytest.fixture
def client(make_client: MakeClient) -> Client:
    """With room for 3 requests, and (over shared memory) for some more that wait."""
    made = make_client(executors=1, max_queue=2)
    made.start()
    return made


class Full:
    """A pool whose executor is held, and all of whose room is taken by calls that wait."""

    def __init__(self, client: Client, folder: Path, waiting: int) -> None:
        self._gate = folder / "gate"
        self.threads = ThreadPoolExecutor(waiting + 10)
        self.calls = [self.threads.submit(client.call, "wait_for_file", str(self._gate), timeout_ms=None)]
        wait_for_file(f"{self._gate}.running")
        for number in range(waiting):
            self.calls.append(
                self.threads.submit(client.call, "echo", number, queue_timeout_ms=60_000, timeout_ms=None)
            )

    def open(self) -> list[object]:
        self._gate.touch()
        results = [call.result(60) for call in self.calls]
        self.threads.shutdown()
        return results


def test_forty_tasks_that_may_wait_are_all_served(client: Client) -> None:
    async def many() -> list[object]:
        calls = [client.acall("echo", number, queue_timeout_ms=60_000) for number in range(40)]
        return await asyncio.gather(*calls, client.acall("sleep", 0.05, queue_timeout_ms=60_000))

    assert asyncio.run(many())[:40] == list(range(40))


def test_forty_threads_that_may_wait_are_all_served(client: Client, tmp_path: Path) -> None:
    full = Full(client, tmp_path, 40)
    with pytest.raises(MoltBusy):  # who doesn't want to wait needn't
        wait_until(lambda: client.call("echo", "at once") is None)
    assert full.open() == ["released", *range(40)]
    assert client.ping()["outcomes"]["Ok"] >= 41


def test_calls_in_the_line_end_at_their_time(client: Client, tmp_path: Path) -> None:
    full = Full(client, tmp_path, 30)
    with pytest.raises(MoltBusy):
        client.call("echo", "in vain", queue_timeout_ms=100)
    with pytest.raises(MoltTimeout) as late:
        client.call("echo", "late", queue_timeout_ms=60_000, timeout_ms=100)
    assert late.value.phase == "queue"
    gone = threading.Event()
    cancelled = full.threads.submit(
        client.call, "echo", "gone", queue_timeout_ms=60_000, cancel_check=gone.is_set
    )
    gone.set()
    with pytest.raises(MoltCancelled):
        cancelled.result(60)

    async def given_up() -> None:
        await asyncio.wait_for(client.acall("echo", "given up", queue_timeout_ms=60_000), 0.1)

    with pytest.raises(TimeoutError):
        asyncio.run(given_up())
    assert full.open() == ["released", *range(30)]
    # Nobody is left in the line that would hold others back.
    assert client.call("echo", "afterwards", queue_timeout_ms=60_000) == "afterwards"
