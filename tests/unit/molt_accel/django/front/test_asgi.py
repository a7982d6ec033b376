"""molt_accel.django.front.asgi: what passes, by turns, and how refusals leave. What is refused: see test_shedding."""

import asyncio
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.test import override_settings
from django.urls import path

from molt_accel import Client, molt_offload
from molt_accel.django import ShedASGI
from molt_accel.django.front import asgi, gate
from molt_accel.django.front.asgi import Allowance, note_call
from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc import outcomes
from tests.support import EXPORTS

Message = dict[str, Any]


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


@pytest.fixture
def view(client: Client) -> Iterator[None]:
    """The only view: `/view/`."""

    @molt_offload(entry="echo", client=client)
    async def view(request: HttpRequest) -> HttpResponse:
        raise AssertionError("it is not run here")

    urls: Any = ModuleType("urls")
    urls.urlpatterns = [path("view/", view)]
    with override_settings(ROOT_URLCONF=urls):
        yield


def scope_of(where: str = "/view/") -> Message:
    return {
        "type": "http", "method": "GET", "path": where, "headers": [], "query_string": b"", "root_path": "",
    }  # fmt: skip


async def get(application: Any, where: str = "/view/", query: bytes = b"") -> int:
    sent: list[Message] = []
    messages = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        try:
            return next(messages)
        except StopIteration:
            return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    async def send(message: Message) -> None:
        sent.append(message)

    await application({**scope_of(where), "query_string": query}, receive, send)
    return int(sent[0]["status"])


@pytest.mark.usefixtures("view")
def test_a_request_that_makes_its_call_gives_its_place_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LATE_S", -1.0)
    monkeypatch.setattr(gate, "FORGOTTEN_S", 3600.0)
    monkeypatch.setattr(gate, "ROOM", 1)
    application = ShedASGI(get_asgi_application())
    assert asyncio.run(_several(application, 20)) == [200] * 20
    # Another loop, such as the next test's of Django's own client, has a gate of its own.
    assert asyncio.run(_several(application, 3)) == [200] * 3


async def _several(application: Any, number: int) -> list[int]:
    return await asyncio.gather(*(get(application) for _ in range(number)))


@pytest.mark.usefixtures("view")
def test_a_request_that_ends_without_a_call_gives_up_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "LATE_S", -1.0)
    monkeypatch.setattr(gate, "FORGOTTEN_S", 3600.0)
    monkeypatch.setattr(gate, "ROOM", 1)

    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("broken")

    async def main() -> None:
        application = ShedASGI(broken)
        answers = await asyncio.gather(*(get(application) for _ in range(5)), return_exceptions=True)
        assert [str(each) for each in answers] == ["broken"] * 5

    asyncio.run(main())


def test_what_is_no_http_request_passes_untouched() -> None:
    seen: list[object] = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        seen.append(scope)

    scope = {"type": "lifespan"}
    asyncio.run(ShedASGI(application)(scope, None, None))  # type: ignore[arg-type]
    assert seen == [scope]
    assert seen[0] is scope


@pytest.mark.usefixtures("view")
def test_other_addresses_reach_django() -> None:
    assert asyncio.run(get(ShedASGI(get_asgi_application()), "/nowhere/")) == 404


@pytest.mark.usefixtures("view")
def test_refusals_over_the_rate_leave_later(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    def refuse(entry: str, left_ns: int | None) -> MoltBusy:
        return outcomes.busy(BusyReason.QUEUE_DELAY, 0)

    monkeypatch.setattr(client._transport, "refusal", refuse)
    paused: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        paused.append(seconds)
        await sleep(0)

    monkeypatch.setattr(asyncio, "sleep", pause)

    async def main() -> None:
        application = ShedASGI(get_asgi_application())
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: 1000.0)
        assert await _several(application, asgi.AT_ONCE_PER_S) == [429] * asgi.AT_ONCE_PER_S
        assert paused == []
        assert await _several(application, 3) == [429] * 3
        assert paused == [asgi.PAUSE_S] * 3

    asyncio.run(main())


def test_an_allowance_comes_back_with_time_and_is_never_more_than_a_second_s() -> None:
    allowance = Allowance(3)
    assert [allowance.take(1000.0) for _ in range(4)] == [True, True, True, False]
    assert allowance.take(1000.1) is False
    assert allowance.take(1000.5) is True
    assert [allowance.take(5000.0) for _ in range(4)] == [True, True, True, False]


def test_a_request_that_came_another_way_has_nothing_to_note() -> None:
    note_call(object())
    note_call(type("Request", (), {"scope": {}})())


@pytest.mark.usefixtures("view")
def test_a_request_that_django_can_t_read_is_answered_by_django(
    monkeypatch: pytest.MonkeyPatch, client: Client
) -> None:
    monkeypatch.setattr(
        client._transport, "refusal", lambda entry, left_ns: outcomes.busy(BusyReason.QUEUE_DELAY, 0)
    )
    application = ShedASGI(get_asgi_application())
    assert asyncio.run(get(application, query=b"a=1")) == 429
    assert asyncio.run(get(application, query=b"a=\xff")) == 400
