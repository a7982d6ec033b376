"""molt_worker.bridge.run: it tries again until it is there, and tells manifests apart."""

import asyncio
from pathlib import Path

import pytest

from molt_accel.cluster.engine import EngineError
from molt_accel.config import Config
from molt_worker.bridge import run as module
from molt_worker.bridge.run import _again_and_again, _manifest_hash


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


def test_manifests_are_told_apart(tmp_path: Path) -> None:
    report = {"exports": ["a", "b"]}
    by_names = _manifest_hash(Config.load(), report)
    assert by_names == _manifest_hash(Config.load(exports="shop.entrypoints"), report)
    assert by_names != _manifest_hash(Config.load(), {"exports": ["a"]})
    path = tmp_path / "exports.json"
    path.write_text("{}")
    by_text = _manifest_hash(Config.load(exports=str(path)), report)
    path.write_text("{ }")
    assert len({by_names, by_text, _manifest_hash(Config.load(exports=str(path)), report)}) == 3
    path.unlink()
    assert _manifest_hash(Config.load(exports=str(path)), report) == by_names
