"""`ShedMiddleware`: refuses what is being shed before the other middlewares have worked for it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction, markcoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.urls import Resolver404, resolve

from molt_accel.django import placement


class ShedMiddleware:
    """Answers requests to offloaded views that would be refused now, as their decorator would.

    It stands first in ``MIDDLEWARE``, so sessions and users are not looked up for a request that is refused. It starts
    no worker, and lets a request pass wherever it can't know: `molt_accel.client.Client.refusal` says when. Where
    another middleware sets ``request.urlconf``, this one belongs behind it.
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
        return shed(request) or cast(HttpResponseBase, self._get_response(request))

    async def _answer(self, request: HttpRequest) -> HttpResponseBase:
        return shed(request) or cast(HttpResponseBase, await self._get_response(request))


def shed(request: HttpRequest) -> HttpResponseBase | None:
    """Return the answer to a request whose view would refuse it now; None: the view shall have it."""
    try:
        view = resolve(request.path_info, getattr(request, "urlconf", None)).func
    except Resolver404:
        return None
    try:
        offload = _offload_of(view, request.method or "GET")
    except TypeError:  # it has no hash
        offload = placement.offload_of(view, request.method or "GET")
    return None if offload is None else offload.shed(request)


# What a view is never changes, and looking into its class takes longer than all the rest.
_offload_of = functools.lru_cache(maxsize=1024)(placement.offload_of)
