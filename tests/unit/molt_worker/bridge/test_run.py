"""molt_worker.bridge.run: it tries again until it is there."""

import asyncio
from pathlib import Path

import pytest

from molt_accel.cluster.engine import EngineError
from molt_worker.bridge import run as module
from molt_worker.bridge.run import _again_and_again
from molt_worker.bridge.settings import BridgeConfig
from tests.support.nats_server import NatsServer


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


def test_each_try_looks_for_the_pool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that has found none makes pauses, up to half a minute. A bridge's own are shorter."""
    monkeypatch.setattr(module, "LONGEST_PAUSE_S", 0.02)
    monkeypatch.setattr(module, "FIRST_PAUSE_S", 0.02)

    async def main() -> None:
        with NatsServer(tmp_path) as server:
            config = BridgeConfig.load(
                worker_name="nobody",
                nats_url=server.url,
                runtime_dir=str(tmp_path / "run"),
                transport="shm",
                autostart=False,
            )
            stop = asyncio.Event()
            running = asyncio.create_task(module.run(config, stop))
            while len(caplog.records) < 10:
                await asyncio.sleep(0.01)
            stop.set()
            await running

    asyncio.run(main())
    tries = [each.getMessage() for each in caplog.records]
    assert all("nobody serves the pool 'nobody'" in each for each in tries), tries
    assert not [each for each in tries if "the next start" in each]
