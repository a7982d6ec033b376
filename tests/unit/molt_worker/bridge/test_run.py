"""molt_worker.bridge.run: it tries again until it is there."""

import asyncio

import pytest

from molt_accel.cluster.engine import EngineError
from molt_worker.bridge import run as module
from molt_worker.bridge.run import _again_and_again


def test_it_tries_again_with_pauses_that_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.002)
    tries = []

    async def fourth_time_lucky() -> str:
        tries.append(1)
        if len(tries) < 4:
            raise EngineError("not yet")
        return "there"

    async def main() -> None:
        assert await _again_and_again(fourth_time_lucky, asyncio.Event()) == "there"

    asyncio.run(main())
    assert len(tries) == 4


def test_it_stops_trying_when_it_is_told_to() -> None:
    async def never() -> None:
        stop.set()
        raise EngineError("never")

    stop = asyncio.Event()

    async def main() -> None:
        assert await _again_and_again(never, stop) is None

    asyncio.run(main())
