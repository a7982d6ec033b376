"""Fixtures for the tests of views: the test project's settings and views of every kind."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import Settings, settings
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

import molt_accel.client
from molt_accel import Client, molt_offload
from tests.conftest import EXPORTS, TRANSPORTS

View = Callable[..., Any]


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    """The test project's settings, whatever other project this process was set up for."""
    before = settings._wrapped
    settings._wrapped = Settings("tests.integration.django.settings")
    yield
    settings._wrapped = before


@pytest.fixture(autouse=True)
def _own_default_client(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test has a default client of its own, made when it is first needed."""
    monkeypatch.setattr(molt_accel.client, "_default", None)
    yield
    if molt_accel.client._default is not None:
        molt_accel.client._default.close()


@pytest.fixture(params=["inline", *TRANSPORTS])
def any_client(request: pytest.FixtureRequest) -> Iterator[Client]:
    """A client in this process, and one for each way to a worker."""
    with Client(transport=request.param, exports=EXPORTS, executors=1, log_level="error") as client:
        yield client


@pytest.fixture
def inline_client() -> Iterator[Client]:
    """A client whose entrypoints run in this process."""
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
def offloaded(request: pytest.FixtureRequest) -> Callable[..., View]:
    """Makes an offloaded view, sync and async, called the same way; its own body answers ``here``."""

    def make(**options: Any) -> View:
        decorate = molt_offload(**options)
        if request.param == "sync":

            @decorate
            def view(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
                return HttpResponse("here")

            return view

        @decorate
        async def aview(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            return HttpResponse("here")

        def run(*args: Any, **kwargs: Any) -> Any:
            return asyncio.run(aview(*args, **kwargs))

        assert inspect.iscoroutinefunction(aview)
        return run

    return make


@pytest.fixture
def get() -> HttpRequest:
    """A GET request."""
    return RequestFactory().get("/items/?a=1&a=2&b=%C3%A9")
