"""Fixtures for the tests of views: the test project's settings and views of every kind."""

from collections.abc import Iterator

import pytest

import molt_accel.client
from molt_accel import Client
from tests.support import EXPORTS, TRANSPORTS
from tests.support.views import _project, get, inline_client, offloaded  # noqa: F401


@pytest.fixture(autouse=True)
def _own_default_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a default client of its own, made when it is first needed."""
    monkeypatch.setattr(molt_accel.client, "_clients", {})
    yield
    for client in molt_accel.client.shared_clients():
        client.close()


@pytest.fixture(params=["inline", *TRANSPORTS])
def any_client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client in this process, and one for each way to a worker."""
    with Client(transport=request.param, exports=EXPORTS, executors=1, log_level="error") as client:
        yield client
