"""molt_accel.django.payload: the id of a request and what an entrypoint is given of it."""

import json
import uuid

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from django.test import RequestFactory

from molt_accel import Client, codec
from molt_accel.django import default_payload, request_id_of
from molt_accel.ipc.frame import Codec
from tests.support.views import MakeView


def posted(body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
    return RequestFactory().post("/items/", data=body, content_type=content_type)


def test_url_arguments_that_a_converter_made_objects_of_travel_as_their_text(
    inline_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    view = offloaded(entry="to_json", client=inline_client)
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")

    payload = json.loads(view(get, key, 3, key=key, number=4).content)

    assert (payload["args"], payload["kwargs"]) == ([str(key), 3], {"key": str(key), "number": 4})


def test_a_number_of_the_url_beyond_64_bits_is_a_bad_request(
    inline_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    response = offloaded(entry="to_json", client=inline_client)(get, n=2**64)
    assert response.status_code == 400
    assert json.loads(response.content)["error"] == "MoltInvalidInput"


@pytest.mark.parametrize("read_before", [False, True], ids=["unread", "its CSRF token was read"])
def test_a_multipart_form_travels_in_its_parts(read_before: bool) -> None:
    sent = {"a": ["1", "2"], "f": SimpleUploadedFile("x.csv", b"q,r", content_type="text/csv")}
    request = RequestFactory().post("/items/", data=sent)
    if read_before:
        request.POST.get("csrfmiddlewaretoken")
    payload = default_payload(request, "msgpack")
    assert payload["form"] == {"a": ["1", "2"]}
    assert payload["files"] == {"f": [{"name": "x.csv", "content_type": "text/csv", "content": b"q,r"}]}
    assert payload["body"] == b""


def test_an_urlencoded_form_travels_as_its_body() -> None:
    request = posted(b"a=1&a=2", "application/x-www-form-urlencoded")
    request.POST.get("csrfmiddlewaretoken")
    assert default_payload(request, "msgpack")["body"] == b"a=1&a=2"


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
