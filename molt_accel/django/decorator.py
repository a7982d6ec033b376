"""`@molt_offload`: a view whose core runs in a worker. The body of the view is the local fallback."""

from __future__ import annotations

import functools
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.datastructures import MultiValueDict
from django.utils.log import log_response
from django.views.debug import technical_500_response

from molt_accel.call import Call, Reply
from molt_accel.client import Client, client_for
from molt_accel.codec import EncodeError
from molt_accel.config import Config
from molt_accel.django import disconnect, placement
from molt_accel.django.payload import default_payload, metadata_of, request_id_of, unwrapped
from molt_accel.django.responses import error_response, result_response
from molt_accel.errors import (
    MoltBusy,
    MoltError,
    MoltInvalidInput,
    MoltWorkerUnavailable,
    http_status,
    row_of,
)
from molt_accel.forms import raised
from molt_accel.options import CallOptions, Entry, entry_name
from molt_accel.waits import adrive

log = logging.getLogger("molt_accel")

#: What `on_error` may be.
_ON_ERROR = ("response", "raise")
_SERVER_ERROR = 500  #: the lowest HTTP status of an error that is not the browser's
View = Callable[..., Any]
PayloadBuilder = Callable[..., Any]
ResponseFactory = Callable[[HttpRequest, Any], HttpResponseBase]


def molt_offload(
    *,
    entry: Entry,
    client: Client | None = None,
    pool: str = "default",
    payload_builder: PayloadBuilder | None = None,
    response_factory: ResponseFactory | None = None,
    allow_fallback: bool = False,
    on_error: str = "response",
    cancel_check: Callable[[HttpRequest], bool] | None = None,
    replaces_wrapped: bool = False,
    **options: Any,
) -> Callable[[View], View]:
    """Make a sync or async view run `entry` in a worker.

    A JSON result goes to the browser as the bytes that the worker made of it. Other results are decoded, and encoded
    as JSON. A `molt_worker.Response` and an HttpResponse that the entrypoint returns are the view's answer. Errors
    become JSON bodies with the HTTP status that `molt_accel.errors` has for them; from 500 on, Django's signal
    ``got_request_exception`` tells of them, and with DEBUG they are its technical page. Http404 and other exceptions
    that Django or REST framework makes a response of are raised in the view. When the browser goes away the request is
    cancelled: under ASGI with the view's task, under gunicorn when its socket closes.

    Args:
        entry: The entrypoint's name, or its function, marked with ``@molt_worker.export``.
        client: The client to call with; by default the one that all views of this pool share.
        pool: Which pool of the Django setting ``MOLT_POOLS``.
        payload_builder: ``(request, *args, **kwargs) -> payload``; by default method, path, query,
            URL arguments and body (see `molt_accel.django.payload.default_payload`). For an async view it may be async.
        response_factory: ``(request, value) -> HttpResponse``, given the decoded result. For an async view it may be
            async.
        allow_fallback: Run the view's own body if no worker can be reached. If the worker was lost while it may
            have run the request, do so only with ``idempotent=True``. Without a fallback the answer is 503.
        on_error: ``"response"`` answers an error by itself; ``"raise"`` raises the MoltError, for middleware, Django
            and REST framework's exception handler.
        cancel_check: ``(request) -> bool``, called again and again while the call waits; true cancels it. It
            takes the place of watching the connection.
        replaces_wrapped: Replace also a view that other decorators have wrapped, or a whole class-based view. What
            they check is lost: it never runs.
        options: Fields of `CallOptions`: ``codec, timeout_ms, idempotent, metrics_hook``, ...

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has a value that is not allowed.
        ImproperlyConfigured: the view is wrapped already (see `molt_accel.django.placement`), or it is sync and a
            function for it is async.
    """
    if not entry:
        raise ValueError(f"entry: {entry!r} is not allowed; it must be an entrypoint's name")
    if on_error not in _ON_ERROR:
        raise ValueError(f"on_error: {on_error!r} is not allowed; allowed: {', '.join(_ON_ERROR)}")
    options["entry"] = entry_name(entry)
    CallOptions().replace(options)  # so that a wrong option raises at import, not at the first request

    def decorate(view: View) -> View:
        if not replaces_wrapped:
            placement.check(view)
        # Undecoded: a JSON result passes through, and any other is decoded just once, for the response.
        undecoded = {**options, "decode_response": False}
        offload = _OffloadedView(
            client, pool, payload_builder, response_factory, allow_fallback, on_error, cancel_check, undecoded
        )
        if iscoroutinefunction(view):  # Django's own, which knows views that are only marked as async too

            @functools.wraps(view)
            async def aview(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                try:
                    payload = offload.payload(request, args, kwargs)
                    if inspect.isawaitable(payload):
                        payload = await payload
                    reply = await adrive(offload.make_call(request, payload))
                except MoltError as error:
                    if offload.falls_back(error):
                        return await view(request, *args, **kwargs)
                    return await offload.arefuse(request, error)
                try:
                    response = result_response(request, reply, response_factory)
                    return await response if inspect.isawaitable(response) else response
                except MoltError as error:
                    return await offload.arefuse(request, error, reply)

            return aview

        for function in (payload_builder, response_factory):
            if iscoroutinefunction(function):
                named = getattr(function, "__qualname__", repr(function))
                raise ImproperlyConfigured(
                    f"{named} is async and needs an async view, which {view.__qualname__} is not; make one of them "
                    "what the other is"
                )

        @functools.wraps(view)
        def sync_view(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                payload = offload.payload(request, args, kwargs)
                reply = disconnect.drive_for(request, offload.make_call(request, payload))
            except MoltError as error:
                if offload.falls_back(error):
                    return view(request, *args, **kwargs)
                return offload.refuse(request, error)
            try:
                return result_response(request, reply, response_factory)
            except MoltError as error:
                return offload.refuse(request, error, reply)

        return sync_view

    return decorate


def _warn_of_early_client(client: Client, pool: str) -> None:
    """Log a warning if the pool's client was made before Django's settings could be read."""
    if Config.load(pool=pool) != client.config:
        log.warning(
            "the default client was made before Django's settings were known and doesn't follow them; "
            "make it later (gunicorn: post_worker_init instead of post_fork)"
        )


@dataclass
class _OffloadedView:
    """What the sync and the async wrapper of a view share."""

    given_client: Client | None
    pool: str
    payload_builder: PayloadBuilder | None
    response_factory: ResponseFactory | None
    allow_fallback: bool
    on_error: str
    cancel_check: Callable[[HttpRequest], bool] | None
    options: dict[str, Any]
    merged: CallOptions | None = None  # with the client's, from the first request on

    @property
    def client(self) -> Client:
        return self.given_client or client_for(self.pool)

    @property
    def call_options(self) -> CallOptions:
        if self.merged is None:
            self.merged = self.client.options.replace(self.options)
            if self.given_client is None:
                _warn_of_early_client(self.client, self.pool)
        return self.merged

    def payload(self, request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.payload_builder is not None:
            return self.payload_builder(request, *args, **kwargs)
        return default_payload(request, self.call_options.codec, args, kwargs)

    def make_call(self, request: HttpRequest, payload: Any) -> Call:
        client = self.client
        if isinstance(payload, MultiValueDict):
            payload = dict(payload.lists())  # the codec would keep only the last value of each name
        return client.make_call(
            self.call_options, payload, self._check_of(request, client), metadata_of(request)
        )

    def _check_of(self, request: HttpRequest, client: Client) -> Callable[[], bool] | None:
        if self.cancel_check is not None:
            return functools.partial(self.cancel_check, request)
        return disconnect.cancel_check(request, client.config)

    def falls_back(self, error: MoltError) -> bool:
        if not self.allow_fallback or not row_of(error).falls_back:
            return False
        may_have_run = isinstance(error, MoltWorkerUnavailable) and error.may_have_run
        if not may_have_run or (self.merged is not None and self.merged.idempotent):
            log.warning("no worker, the view runs here: %s", error.detail)
            return True
        return False

    async def arefuse(self, request: HttpRequest, error: MoltError, reply: Reply | None = None) -> Any:
        """`refuse` for async views, which may wait for receivers of the signal: on a thread, as Django does it."""
        if http_status(error) < _SERVER_ERROR:
            return self.refuse(request, error, reply)
        return await sync_to_async(self.refuse, thread_sensitive=False)(request, error, reply)

    def refuse(self, request: HttpRequest, error: MoltError, reply: Reply | None = None) -> HttpResponseBase:
        """Answer an error that is being handled, or raise it, or what the entrypoint has raised.

        `reply` is the call's if the error came only after it.
        """
        if reply is not None:
            error.request_id = error.request_id or reply.metrics.request_id
        # Raised again as it is, also if the entrypoint's pool and the view are of different frameworks.
        original = raised.rebuilt(error.raised) if error.raised is not None else None
        if original is not None:
            raise original from error
        bad_payload = isinstance(error, MoltInvalidInput) and isinstance(error.__cause__, EncodeError)
        if bad_payload and self.payload_builder is not None:
            raise error  # the view's own payload can't be encoded: that is a bug, and no bad request
        status = http_status(error)
        if self.on_error == "raise" or (status >= _SERVER_ERROR and settings.DEBUG_PROPAGATE_EXCEPTIONS):
            raise error
        request_id = request_id_of(request, error.request_id)
        # Only a client that could be made is told Busy; for other errors there may be none.
        busy_status = self.client.config.busy_http_status if isinstance(error, MoltBusy) else 429
        response = error_response(error, request_id=request_id, busy_status=busy_status)
        return (
            response if status < _SERVER_ERROR else _reported(unwrapped(request), error, response, request_id)
        )


def _reported(
    request: HttpRequest, error: MoltError, response: HttpResponse, request_id: str
) -> HttpResponse:
    """Tell Django of an error that is being handled, as it tells of one that a view raises: once. Return the answer."""
    got_request_exception.send(sender=None, request=request)
    if settings.DEBUG:
        response = technical_500_response(request, *sys.exc_info(), response.status_code)  # type: ignore[call-arg]
    log_response(
        "%s: %s (request %s, call %s: %s: %s)",
        *(
            response.reason_phrase,
            request.path,
            request_id,
            error.request_id,
            type(error).__name__,
            error.detail,
        ),
        response=response,
        request=request,
        exception=error,
    )
    return response
