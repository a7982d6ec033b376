"""Fixtures for tests of views: the test project's settings, a client in this process, views of every kind."""

import asyncio
import inspect
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import Settings, settings
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory

from molt_accel import Client, molt_offload
from tests.support import EXPORTS

View = Callable[..., Any]
MakeView = Callable[..., View]


def body_of(response: HttpResponse) -> dict[str, str | int]:
    """The error body; its request id is checked and left out."""
    assert response["Content-Type"] == "application/json"
    body = json.loads(response.content)
    request_id = body.pop("request_id")
    assert len(request_id) == 16
    assert int(request_id, 16) >= 0
    return dict(body)


@pytest.fixture(autouse=True)
def _project() -> Iterator[None]:
    """The test project's settings, whatever other project this process was set up for."""
    before = settings._wrapped
    settings._wrapped = Settings("tests.integration.django.settings")
    yield
    settings._wrapped = before


@pytest.fixture
def inline_client() -> Iterator[Client]:
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


@pytest.fixture(params=["sync", "async"])
def offloaded(request: pytest.FixtureRequest) -> MakeView:
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
    return RequestFactory().get("/items/?a=1&a=2&b=%C3%A9")
