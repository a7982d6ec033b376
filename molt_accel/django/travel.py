"""A request that is made anew in an executor, for code that wants one: views as they are, templates, absolute URLs."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping
from typing import Any

from django.core.handlers.wsgi import WSGIRequest
from django.http import HttpRequest
from django.http.request import HttpHeaders, split_domain_port
from django.middleware.csrf import get_token
from django.urls import set_script_prefix
from django.utils.functional import SimpleLazyObject

from molt_accel.django.payload import unwrapped


def request_parts(
    request: HttpRequest, *, headers: tuple[str, ...] = (), csrf: bool = False
) -> dict[str, Any]:
    """Return what `rebuilt_request` makes a request of, for a payload.

    Args:
        request: The view's.
        headers: Names of headers that go with it, such as ``Accept``. Without ``Cookie`` there are no cookies.
        csrf: Whether the executor makes forms: the response sets the cookie that they need.

    Raises:
        DisallowedHost: the request names a host that ``ALLOWED_HOSTS`` doesn't have.
    """
    request = unwrapped(request)
    if csrf:
        get_token(request)
    user = getattr(request, "user", None)
    return {
        "method": request.method,
        "scheme": request.scheme,
        "host": request.get_host(),
        "port": request.get_port(),
        "script": request.path[: len(request.path) - len(request.path_info)],
        "path": request.path_info,
        "query": request.META.get("QUERY_STRING", ""),
        "headers": {name: request.headers[name] for name in headers if name in request.headers},
        "user": None if user is None else user.pk,
        "csrf": request.META.get("CSRF_COOKIE") if csrf else None,
    }


def rebuilt_request(parts: Mapping[str, Any]) -> HttpRequest:
    """Return a request like the one that `request_parts` was given: for its URL, host, user and CSRF token.

    It has no body, no session and no messages. Its user is read from the database when it is first asked for.
    """
    environ = {
        "REQUEST_METHOD": parts["method"],
        "SCRIPT_NAME": _wsgi(parts["script"]),
        "PATH_INFO": _wsgi(parts["path"]),
        "QUERY_STRING": parts["query"],
        "SERVER_NAME": split_domain_port(parts["host"])[0],
        "SERVER_PORT": parts["port"],
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": parts["host"],
        "wsgi.url_scheme": parts["scheme"],
        "wsgi.input": io.BytesIO(),
        "wsgi.errors": sys.stderr,
        **{HttpHeaders.to_wsgi_name(header): text for header, text in parts["headers"].items()},
    }
    if parts["csrf"] is not None:
        environ["CSRF_COOKIE"] = parts["csrf"]
    set_script_prefix(f"{parts['script']}/" if parts["script"] else "/")
    request: Any = WSGIRequest(environ)
    request.user = SimpleLazyObject(lambda: _user(parts["user"]))
    made: HttpRequest = request
    return made


def _wsgi(text: str) -> str:
    return text.encode().decode("latin-1")


def _user(key: object) -> Any:
    from django.contrib.auth import get_user_model
    from django.contrib.auth.models import AnonymousUser

    return AnonymousUser() if key is None else get_user_model()._base_manager.get(pk=key)
