"""Fixtures for tests of the client library."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

if sys.platform == "linux":
    from tests.support.scripted_pool import FakePool


@pytest.fixture
def make_pool() -> Iterator[Callable[..., FakePool]]:
    """Makes pools without processes, and closes them in the end."""
    pools: list[FakePool] = []

    def make(**geometry: Any) -> FakePool:
        pools.append(FakePool(**geometry))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
