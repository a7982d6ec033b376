"""Fixtures for the client library's tests."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _cheap_collections() -> Iterator[None]:
    """The check that follows each test collects garbage; what was there before the tests is none."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
