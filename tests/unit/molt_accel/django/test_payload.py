"""molt_accel.django.payload: the id of a request and what an entrypoint is given of it."""

import base64
import json
import uuid
from types import SimpleNamespace
from typing import Any

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.http import HttpRequest
from django.test import RequestFactory
from django.test.client import BOUNDARY, MULTIPART_CONTENT
from django.utils.decorators import method_decorator

from molt_accel import Client, codec, molt_offload
from molt_accel.django import default_payload, request_id_of
from molt_accel.django.payload import metadata_of
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


FORM = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--{BOUNDARY}--\r\n'.encode()


def view_of_drf(client: Client, *, csrf: bool = False, **options: Any) -> Any:
    """A handler below a permission that reads the request's data, and, if asked for, DRF's check of CSRF tokens."""
    from rest_framework.authentication import SessionAuthentication
    from rest_framework.permissions import BasePermission
    from rest_framework.views import APIView

    class Reading(BasePermission):  # type: ignore[misc]
        def has_permission(self, request: Any, view: object) -> bool:
            return "a" in request.data

    class Items(APIView):  # type: ignore[misc]
        authentication_classes = (SessionAuthentication,) if csrf else ()
        permission_classes = () if csrf else (Reading,)

        @method_decorator(molt_offload(entry="to_json", client=client, **options))
        def post(self, request: Any) -> None: ...

        put = post

    return Items.as_view()


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("sent", ["multipart", "urlencoded", "json"])
def test_what_a_permission_of_drf_has_read_travels(inline_client: Client, method: str, sent: str) -> None:
    body, content_type = {
        "multipart": (FORM, MULTIPART_CONTENT),
        "urlencoded": (b"a=1", "application/x-www-form-urlencoded"),
        "json": (b'{"a":1}', "application/json"),
    }[sent]
    request = RequestFactory().generic(method, "/", body, content_type=content_type)
    response = view_of_drf(inline_client)(request)
    payload = json.loads(response.content)
    expected = (
        {"body": "", "form": {"a": ["1"]}, "files": {}}
        if sent == "multipart"
        else {"body": base64.b64encode(body).decode()}
    )
    assert {name: payload[name] for name in payload if name in ("body", "form", "files")} == expected


def test_a_form_that_drf_has_checked_for_its_csrf_token_travels(inline_client: Client) -> None:
    token = "a" * 32
    request = RequestFactory().post("/", {"a": "1", "csrfmiddlewaretoken": token})
    request.COOKIES["csrftoken"] = token
    request.user = SimpleNamespace(is_active=True)
    response = view_of_drf(inline_client, csrf=True)(request)
    assert json.loads(response.content)["form"] == {"a": ["1"], "csrfmiddlewaretoken": [token]}


@pytest.mark.parametrize("method", ["PUT", "PATCH"])
def test_a_multipart_body_that_django_does_not_parse_travels_as_it_is(method: str) -> None:
    request = RequestFactory().generic(method, "/", FORM, content_type=MULTIPART_CONTENT)
    assert not request.POST
    payload = default_payload(request, "msgpack")
    assert payload["body"] == FORM
    assert "form" not in payload


def test_a_file_that_was_read_before_travels_whole_and_can_be_read_again() -> None:
    request = RequestFactory().post("/", {"f": SimpleUploadedFile("x.csv", b"q,r")})
    request.FILES["f"].read()
    assert default_payload(request, "msgpack")["files"]["f"][0]["content"] == b"q,r"
    assert request.FILES["f"].read() == b"q,r"


@pytest.mark.parametrize("codec_name", ["json", "raw"])
def test_a_form_for_a_view_that_takes_the_body_is_a_bad_request(
    inline_client: Client, offloaded: MakeView, codec_name: str
) -> None:
    request = RequestFactory().post("/", {"a": "1"})
    request.POST.get("csrfmiddlewaretoken")
    response = offloaded(entry="echo", client=inline_client, codec=codec_name)(request)
    assert response.status_code == 400
    assert "give the view a payload_builder" in json.loads(response.content)["detail"]


@pytest.mark.parametrize("content_type", ["application/json", MULTIPART_CONTENT])
@pytest.mark.parametrize("codec_name", ["msgpack", "json"])
def test_a_body_that_is_gone_says_what_to_do(content_type: str, codec_name: str) -> None:
    request = RequestFactory().generic("POST", "/", FORM, content_type=content_type)
    request.read()
    with pytest.raises(ImproperlyConfigured, match=r"was read as a stream before the view.*payload_builder"):
        default_payload(request, codec_name)


@pytest.mark.parametrize("charset", ["hex", "rot13", "undefined"])
def test_a_charset_that_is_none_is_a_bad_request(
    inline_client: Client, offloaded: MakeView, charset: str
) -> None:
    request = RequestFactory().generic(
        "POST", "/", FORM, content_type=f"{MULTIPART_CONTENT}; charset={charset}"
    )
    response = offloaded(entry="echo", client=inline_client)(request)
    assert response.status_code == 400
    assert repr(charset) in json.loads(response.content)["detail"]


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


def test_an_id_that_a_middleware_has_set_is_the_call_s_too() -> None:
    request = RequestFactory().get("/")
    assert "X-Request-ID" not in request.headers  # which are read only once
    request.META["HTTP_X_REQUEST_ID"] = "7f3a"
    assert request_id_of(request, "own") == "7f3a"
    assert metadata_of(request) == {"request_id": "7f3a"}


@pytest.mark.parametrize(
    "hostile", ["", "a" * 129, "a b", 'a"b', "a\nb", "abc\n", "a\x00b", "<script>", "é", "٣", "a;b", "%0a"]
)
def test_a_hostile_x_request_id_is_ignored(hostile: str) -> None:
    request = RequestFactory().get("/", headers={"X-Request-ID": hostile})
    assert request_id_of(request, "own") == "own"
    made = [request_id_of(request) for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in made)


@pytest.mark.parametrize("hostile", ["a b", "a\nb", "x" * 129])
def test_metadata_have_no_hostile_id(hostile: str) -> None:
    request = RequestFactory().get("/", headers={"X-Request-ID": hostile})
    assert metadata_of(request) == {}
