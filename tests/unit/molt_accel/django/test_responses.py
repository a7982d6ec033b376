"""molt_accel.django.responses: what a result becomes, with and without a factory, and what a refusal."""

import json
import logging
from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from django.http import HttpRequest, HttpResponse
from django.utils.log import log_response

from molt_accel import Client
from molt_accel.django import responses
from molt_accel.django.responses import error_response, result_response
from molt_accel.errors import BusyReason
from molt_accel.forms import values
from molt_accel.forms.response import Response
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import Codec
from molt_accel.overload.episode import Episode
from tests.support.views import MakeView, body_of


@pytest.mark.parametrize(
    ("entry", "codec_name", "payload", "seen"),
    [
        ("to_json", "msgpack", {"a": [1]}, {"a": [1]}),
        ("echo", "msgpack", {"a": b"\x00"}, {"a": b"\x00"}),
        ("echo_raw", "raw", b"\xff", b"\xff"),
    ],
)
def test_a_response_factory_gets_request_and_decoded_value(
    inline_client: Client,
    offloaded: MakeView,
    get: HttpRequest,
    entry: str,
    codec_name: str,
    payload: object,
    seen: object,
) -> None:
    given = []

    def factory(request: HttpRequest, value: object) -> HttpResponse:
        given.append((request, value))
        return HttpResponse("made", status=201)

    view = offloaded(
        entry=entry,
        codec=codec_name,
        client=inline_client,
        payload_builder=lambda _: payload,
        response_factory=factory,
    )
    response = view(get)

    assert (response.status_code, response.content) == (201, b"made")
    assert given == [(get, seen)]


def test_a_result_that_is_not_what_its_codec_says_is_500(
    inline_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    """`client.call` raises MoltInternalError for it, so the view answers as the table says."""
    view = offloaded(
        entry="to_json",
        client=inline_client,
        payload_builder=lambda _: b"{not json",
        response_factory=lambda request, value: HttpResponse("made"),
    )
    response = view(get)
    assert response.status_code == 500
    assert body_of(response) == {"error": "MoltInternalError", "detail": "the request failed"}


def test_results_without_json_are_500(inline_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    stamp = msgpack.Timestamp(1, 2)
    response = offloaded(entry="echo", client=inline_client, payload_builder=lambda _: stamp)(get)
    assert response.status_code == 500
    assert body_of(response) == {"error": "MoltInternalError", "detail": "the request failed"}


def test_a_response_that_had_no_content_type_gets_none(get: HttpRequest) -> None:
    packed = values.pack_response(Response(b"", 204, content_type=""))
    reply: Any = SimpleNamespace(codec=Codec.MSGPACK, entry="echo", value=packed)
    response = result_response(get, reply, None)
    assert (response.status_code, response.get("Content-Type")) == (204, None)


def test_a_refusal_says_why_and_when_to_come_back() -> None:
    error = outcomes.busy(BusyReason.DEADLINE, 3_000_000_000)
    response = error_response(error)
    body = json.loads(response.content)
    assert (response.status_code, body["reason"]) == (429, "deadline")
    assert 3 <= body["retry_after_s"] == int(response["Retry-After"]) <= 6


def test_django_logs_the_first_refusal_of_an_episode(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(responses, "_refused", Episode())
    for _ in range(3):
        response = error_response(outcomes.busy(BusyReason.QUEUE_DELAY))
        with caplog.at_level(logging.WARNING, "django.request"):
            log_response("refused", response=response)
    assert [record.message for record in caplog.records] == ["refused"]
