"""Callers that are tasks: how they are timed and counted."""

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.micro.peers.base import Setup
from bench.micro.peers.looped import Looped
from bench.micro.timing import LEAST_CALLS


class Echo(Looped):
    """Answers in the loop's next turn, and notes how many calls are under way."""

    started = stopped = False
    now = most = 0

    async def astart(self) -> None:
        self.started = True

    async def acall(self, payload: object) -> object:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0)
        self.now -= 1
        return payload

    async def astop(self) -> None:
        self.stopped = True


@pytest.fixture
def echo(tmp_path: Path) -> Iterator[Echo]:
    made = Echo(Setup(tmp_path))
    made.start()
    assert made.started
    yield made
    made.stop()
    assert made.stopped


def test_calls_are_timed_one_after_another(echo: Echo) -> None:
    echo.warm_up("x", 3)
    assert len(echo.latency("x", calls=50, limit_s=60, pause_s=0)) == 50
    assert len(echo.latency("x", calls=50, limit_s=0, pause_s=0)) == LEAST_CALLS
    assert echo.most == 1


def test_so_many_tasks_call_in_a_window(echo: Echo) -> None:
    done = echo.throughput("x", callers=5, start_at_ns=time.monotonic_ns(), window_s=0.05)
    assert done > 0
    assert echo.most == 5


def test_a_window_that_is_over_has_no_calls(echo: Echo) -> None:
    assert echo.throughput("x", callers=2, start_at_ns=time.monotonic_ns() - 10**9, window_s=0.5) == 0
