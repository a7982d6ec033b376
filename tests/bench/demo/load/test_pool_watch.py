"""How busy a pool is, seen from outside."""

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.demo.load import pool_watch
from bench.demo.load.pool_watch import PoolWatch


def watch_in(directory: Path) -> PoolWatch:
    env = {"MOLT_WORKER_NAME": "watched", "MOLT_RUNTIME_DIR": str(directory)}
    return PoolWatch(env, interval_s=0.001)


class Scripted:
    """An observer that sees one executor at work after the other, and then all of them."""

    def __init__(self) -> None:
        self.looks = 0
        self.closed = False
        self.enough = threading.Event()

    def look(self) -> SimpleNamespace:
        self.looks += 1
        if self.looks == 40:
            self.enough.set()
        states = (["idle", "starting"], ["busy", "idle"], ["busy", "stopping"])[min(self.looks, 3) - 1]
        return SimpleNamespace(pool_size=2, executors=[SimpleNamespace(state=state) for state in states])

    def close(self) -> None:
        self.closed = True


def test_the_share_is_of_all_executors_and_all_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    observer = Scripted()
    monkeypatch.setattr(pool_watch.Observer, "of", lambda _pool: observer)
    with watch_in(tmp_path) as watch:
        assert observer.enough.wait(60)
    assert watch.busy_share == pytest.approx((0.5 + observer.looks - 2) / observer.looks)
    assert observer.closed


def test_without_a_pool_nothing_is_known(tmp_path: Path) -> None:
    with watch_in(tmp_path) as watch:
        pass
    assert watch.busy_share is None
