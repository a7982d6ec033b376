"""molt_accel.django.responses: what a result becomes, with and without a factory."""

from types import SimpleNamespace
from typing import Any

import msgpack
import pytest
from django.http import HttpRequest, HttpResponse

from molt_accel import Client
from molt_accel.django.responses import result_response
from molt_accel.forms import values
from molt_accel.forms.response import Response
from molt_accel.ipc.messages import Codec
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
