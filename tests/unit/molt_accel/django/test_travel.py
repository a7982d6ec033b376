"""molt_accel.django.travel: a request in an executor has the URL, host, user and CSRF token of the view's."""

from types import SimpleNamespace
from typing import Any

import pytest
from django.http import HttpRequest
from django.middleware.csrf import CsrfViewMiddleware, get_token
from django.test import RequestFactory, override_settings
from django.urls import get_script_prefix, set_script_prefix

from molt_accel import codec
from molt_accel.django import rebuilt_request, request_parts, travel
from molt_accel.ipc.frame import Codec


def sent(request: HttpRequest, **options: Any) -> HttpRequest:
    return rebuilt_request(
        codec.decode(Codec.MSGPACK, codec.encode(Codec.MSGPACK, request_parts(request, **options)))
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "example.com:8443", "[::1]:80", "example.com"])
@pytest.mark.parametrize("secure", [False, True])
def test_urls_are_the_same(host: str, secure: bool) -> None:
    with override_settings(ALLOWED_HOSTS=["*"]):
        request = RequestFactory().get("/é/b c", {"q": ["ä", "%&"]}, secure=secure, headers={"Host": host})
        made = sent(request)
        assert made.build_absolute_uri() == request.build_absolute_uri()
        assert made.build_absolute_uri("/x") == request.build_absolute_uri("/x")
        assert (made.path_info, made.GET, made.method) == (request.path_info, request.GET, "GET")
        assert (made.get_port(), made.is_secure(), made.headers.get("Cookie")) == (
            request.get_port(),
            secure,
            None,
        )


def test_links_know_where_the_site_is_mounted() -> None:
    try:
        made = sent(RequestFactory(SCRIPT_NAME="/shop").get("/a"))
        assert (made.path, made.path_info, get_script_prefix()) == ("/shop/a", "/a", "/shop/")
    finally:
        set_script_prefix("/")


def test_only_the_headers_that_are_named_travel() -> None:
    request = RequestFactory().get("/", headers={"Accept": "text/html", "X-Secret": "s"})
    made = sent(request, headers=("accept", "X-None"))
    assert (made.headers.get("Accept"), made.headers.get("X-Secret"), made.headers.get("X-None")) == (
        "text/html",
        None,
        None,
    )


def test_the_user_is_looked_up_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []
    monkeypatch.setattr(travel, "_user", lambda key: asked.append(key) or SimpleNamespace(pk=key))
    request = RequestFactory().get("/")
    request.user = SimpleNamespace(pk=7)
    made = sent(request)
    assert asked == []
    assert (made.user.pk, made.user.pk, asked) == (7, 7, [7])
    assert sent(RequestFactory().get("/")).user.pk is None


def test_forms_that_the_executor_makes_are_valid() -> None:
    request = RequestFactory().get("/")
    token = get_token(sent(request, csrf=True))
    posted = RequestFactory().post("/", {"csrfmiddlewaretoken": token})
    posted.COOKIES["csrftoken"] = request.META["CSRF_COOKIE"]
    assert request.META["CSRF_COOKIE_NEEDS_UPDATE"]
    check = CsrfViewMiddleware(lambda _: None)  # type: ignore[arg-type, return-value]
    check.process_request(posted)
    assert check.process_view(posted, lambda _: None, (), {}) is None  # type: ignore[arg-type, return-value]
    assert "CSRF_COOKIE" not in sent(RequestFactory().get("/")).META
