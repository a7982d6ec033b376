"""The pytest plugin: fixtures of what `molt_accel.testing` has. It imports nothing of it before a test asks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from molt_accel import testing

if TYPE_CHECKING:
    from molt_accel.client import Client


@pytest.fixture
def molt_inline() -> Iterator[None]:
    """All clients of this process run entrypoints in this process."""
    with testing.inline_pool():
        yield


@pytest.fixture(scope="session")
def molt_pool_options() -> dict[str, Any]:
    """What `molt_pool` is started with, for a conftest.py to override: arguments of `molt_accel.testing.real_pool`."""
    return {}


@pytest.fixture(scope="session")
def _molt_running_pool(molt_pool_options: dict[str, Any]) -> Iterator[Client]:
    with testing.running_pool(**molt_pool_options) as client:
        yield client


@pytest.fixture
def molt_pool(_molt_running_pool: Client, molt_pool_options: dict[str, Any]) -> Iterator[Client]:
    """A client of a real worker, which the pool's views call in this test; one worker for all tests of the session."""
    with testing.use_pool(_molt_running_pool, molt_pool_options.get("pool", "default")) as client:
        yield client


@pytest.fixture
def molt_force() -> Iterator[Callable[..., None]]:
    """Force outcomes until the test's end: ``molt_force(entry, outcome, pool=None, times=None)``."""
    with contextlib.ExitStack() as stack:

        def force(entry: Any, outcome: testing.Outcome, **rest: Any) -> None:
            stack.enter_context(testing.forced(entry, outcome, **rest))

        yield force


@pytest.fixture
def molt_calls() -> Iterator[list[testing.RecordedCall]]:
    """The calls of this test, a list that grows: what was called with what."""
    with testing.recorded_calls() as calls:
        yield calls
