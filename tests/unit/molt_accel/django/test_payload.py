"""molt_accel.django.payload: the id of a request and what an entrypoint is given of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from django.http import HttpRequest
from django.test import RequestFactory

from molt_accel import Client, codec
from molt_accel.django import request_id_of
from molt_accel.ipc.frame import Codec

MakeView = Callable[..., Callable[..., Any]]


def posted(body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
    return RequestFactory().post("/items/", data=body, content_type=content_type)


def test_url_arguments_that_a_converter_made_objects_of_travel_as_their_text(
    inline_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    view = offloaded(entry="to_json", client=inline_client)
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")

    payload = json.loads(view(get, key, 3, key=key, number=4).content)

    assert payload["args"] == [str(key), 3]
    assert payload["kwargs"] == {"key": str(key), "number": 4}


@pytest.mark.parametrize("codec_name", ["json", Codec.JSON, "raw", Codec.RAW])
def test_the_default_payload_is_the_body(inline_client: Client, offloaded: MakeView, codec_name: str) -> None:
    entry = f"echo_{codec.parse(codec_name).label}"
    view = offloaded(entry=entry, codec=codec_name, client=inline_client)
    assert view(posted(b"[1,2]")).content == b"[1,2]"


@pytest.mark.parametrize(
    "sane", ["7f3a", "a" * 128, "Root=1-67891233-abcdef012345678912345678", "a.b:c/d_e+f-g="]
)
def test_a_sane_x_request_id_is_taken(sane: str) -> None:
    assert request_id_of(RequestFactory().get("/", headers={"X-Request-ID": sane}), "own") == sane


@pytest.mark.parametrize(
    "hostile", ["", "a" * 129, "a b", 'a"b', "a\nb", "abc\n", "a\x00b", "<script>", "é", "٣", "a;b", "%0a"]
)
def test_a_hostile_x_request_id_is_ignored(hostile: str) -> None:
    request = RequestFactory().get("/", headers={"X-Request-ID": hostile})
    assert request_id_of(request, "own") == "own"
    made = [request_id_of(request) for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in made)
