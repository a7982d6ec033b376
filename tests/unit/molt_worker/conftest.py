"""Fixtures for the worker's unit tests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_worker.processes import pool as pool_module
from molt_worker.processes.pool import Pool
from tests.support.scripted_forkserver import FakeForkserver, Stage

if sys.platform == "linux":
    from tests.support.shm_testbed import make_shm_stage  # noqa: F401  # a fixture


@pytest.fixture
def make_stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Stage]]:
    """Makes stages, whose fork servers are fakes."""
    stages: list[Stage] = []

    def make_forkserver(*args: Any) -> FakeForkserver:
        forkserver = FakeForkserver(*args)
        stages[-1].forkservers.append(forkserver)
        return forkserver

    def make(make_pool: Callable[[Stage], Pool], **options: Any) -> Stage:
        stage = Stage(**options)
        stages.append(stage)
        stage.pool = make_pool(stage)
        return stage

    monkeypatch.setattr(pool_module.ForkserverHandle, "start", make_forkserver)
    yield make
    bugs = [line for stage in stages for line in stage.log().splitlines() if "supervisor_bug" in line]
    for stage in stages:
        stage.close()
    assert not bugs, bugs
