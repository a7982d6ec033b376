"""Callers call in each way until their time is over, and count what they did."""

import asyncio
import time
from typing import Any, cast

import pytest

from bench.attribution.caller import WAYS
from molt_accel import Client


class Echo:
    """A client that answers at once, and counts."""

    calls = 0

    def call(self, entry: str, value: object) -> object:
        self.calls += 1
        return value

    async def acall(self, entry: str, value: object) -> object:
        await asyncio.sleep(0)
        return self.call(entry, value)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 3])
def test_each_call_is_counted_once(way: str, count: int) -> None:
    client: Any = Echo()
    assert WAYS[way](cast(Client, client), count, time.monotonic() + 0.02) == client.calls > 0


@pytest.mark.parametrize("way", WAYS)
def test_nobody_calls_when_the_time_is_over(way: str) -> None:
    client: Any = Echo()
    assert WAYS[way](cast(Client, client), 2, 0.0) == client.calls == 0
