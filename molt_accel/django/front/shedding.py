"""Refuses requests that are being shed, before others have worked for them: as a middleware, or in front of Django.

Each looks the URL's view up, asks its client, and answers as the view would. None starts a worker, and each lets a
request pass wherever it can't know: `molt_accel.client.Client.refusal` says when.
"""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.conf import settings
from django.core.handlers.wsgi import WSGIRequest, get_path_info
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import Resolver404, resolve
from django.utils.log import log_response
from django.utils.translation import get_language_from_path, override

from molt_accel.django import placement
from molt_accel.errors import MoltBusy


class ShedMiddleware:
    """A middleware that refuses. It stands first in ``MIDDLEWARE``, so that users are not looked up in vain.

    Where another middleware sets ``request.urlconf``, this one belongs behind it.
    """

    sync_capable = True
    async_capable = True

    def __init__(self, get_response: Callable[[HttpRequest], Any]) -> None:
        self._get_response = get_response
        self._is_async = iscoroutinefunction(get_response)
        if self._is_async:
            markcoroutinefunction(self)

    def __call__(self, request: HttpRequest) -> HttpResponseBase | Awaitable[HttpResponseBase]:
        if self._is_async:
            return self._answer(request)
        return _shed(request) or cast(HttpResponseBase, self._get_response(request))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        return _shed(request) or cast(HttpResponseBase, await self._get_response(request))


class ShedWSGI:
    """A WSGI application around Django's that refuses. No middleware sees what it refuses.

    Args:
        application: Django's, of ``get_wsgi_application()``, or one around it.
    """

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        offload = offload_at(get_path_info(environ), environ["REQUEST_METHOD"], settings.ROOT_URLCONF)
        error = None if offload is None else offload.refusal()
        if error is None:
            return self._application(environ, start_response)
        response = refuse(offload, WSGIRequest(environ), error)
        start_response(f"{response.status_code} {response.reason_phrase}", list(response.items()))
        return [response.content]


def _shed(request: HttpRequest) -> HttpResponseBase | None:
    offload = offload_at(request.path_info, request.method or "GET", getattr(request, "urlconf", None))
    error = None if offload is None else offload.refusal()
    return None if error is None else cast(HttpResponseBase, offload.refuse(request, error))


def refuse(offload: Any, request: HttpRequest, error: MoltBusy) -> HttpResponse:
    """Answer a request in Django's place, and log it as Django does: of an episode the first one."""
    response: HttpResponse = offload.refuse(request, error)
    log_response("%s: %s", response.reason_phrase, request.path, response=response, request=request)
    return response


def offload_at(path: str, method: str, urlconf: Any) -> Any:
    """Return how the view at a path offloads requests of an HTTP method; None: it does not, or there is none.

    Args:
        path: Without the script's prefix.
        method: In capitals.
        urlconf: Where the path is looked up, as for `django.urls.resolve`.
    """
    try:
        view = _view_at(path, urlconf)
    except Exception:  # of the project's URLs. Django meets it again, and answers it
        return None
    if view is None:
        return None
    try:
        return _offload_of(view, method)
    except TypeError:  # it has no hash
        return placement.offload_of(view, method)


def _view_at(path: str, urlconf: Any) -> Any:
    try:
        return resolve(path, urlconf).func
    except Resolver404:
        # Below `i18n_patterns` a URL is found in the active language only. LocaleMiddleware comes later than this.
        language = get_language_from_path(path) if settings.USE_I18N else None
    if language is None:
        return None
    try:
        with override(language):
            return resolve(path, urlconf).func
    except Resolver404:
        return None


# What a view is never changes, and looking into its class takes longer than all the rest.
_offload_of = functools.lru_cache(maxsize=1024)(placement.offload_of)
