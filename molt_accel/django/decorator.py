"""`@molt_offload`: a view whose core runs in a worker. The body of the view is the local fallback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.datastructures import MultiValueDict

from molt_accel.call import Call, Reply
from molt_accel.client import Client, client_for
from molt_accel.codec import EncodeError
from molt_accel.config import Config
from molt_accel.django import disconnect, frameworks, placement
from molt_accel.django.payload import default_payload, lists_of, metadata_of, request_id_of
from molt_accel.django.responses import error_response, result_response
from molt_accel.errors import (
    MoltBusy,
    MoltError,
    MoltInvalidInput,
    MoltWorkerUnavailable,
    http_status,
    row_of,
)
from molt_accel.options import CallOptions, Entry, entry_name
from molt_accel.waits import adrive

log = logging.getLogger("molt_accel")

View = Callable[..., Any]
PayloadBuilder = Callable[..., Any]
ResponseFactory = Callable[[HttpRequest, Any], Any]


def molt_offload(
    *,
    entry: Entry,
    client: Client | None = None,
    pool: str = "default",
    payload_builder: PayloadBuilder | None = None,
    response_factory: ResponseFactory | None = None,
    allow_fallback: bool = False,
    cancel_check: Callable[[HttpRequest], bool] | None = None,
    replaces_wrapped: bool = False,
    **options: Any,
) -> Callable[[View], View]:
    """Make a sync or async view run `entry` in a worker.

    The view is a function, a handler of a class (the decorator stands above it, or in a `method_decorator`), a view,
    handler or action of Django REST framework, or an operation of django-ninja.

    A JSON result goes to the browser as the bytes that the worker made of it. Other results are decoded, and encoded
    as JSON. Where REST framework has negotiated another form, or django-ninja has a schema of the response, the result
    is decoded and theirs to render. Errors become JSON bodies with the HTTP status that `molt_accel.errors` has for
    them. When the browser goes away the request is cancelled: under ASGI with the view's task, under gunicorn when its
    socket closes.

    Args:
        entry: The entrypoint's name, or its function, marked with ``@molt_worker.export``.
        client: The client to call with; by default the one that all views of this pool share.
        pool: Which pool of the Django setting ``MOLT_POOLS``.
        payload_builder: ``(request, *args, **kwargs) -> payload``; by default method, path, query,
            URL arguments and body (see `molt_accel.django.payload.default_payload`).
        response_factory: ``(request, value) -> HttpResponse``, given the decoded result. What it returns is what the
            view returns: under a framework it may be what that takes.
        allow_fallback: Run the view's own body if no worker can be reached. If the worker was lost while it may
            have run the request, do so only with ``idempotent=True``. Without a fallback the answer is 503.
        cancel_check: ``(request) -> bool``, called again and again while the call waits; true cancels it. It
            takes the place of watching the connection.
        replaces_wrapped: Replace also a view that other decorators have wrapped, or a whole class-based view. What
            they check is lost: it never runs.
        options: Fields of `CallOptions`: ``codec, timeout_ms, idempotent, metrics_hook``, ...

    Raises:
        TypeError: an option is unknown.
        ValueError: an option has a value that is not allowed.
        ImproperlyConfigured: the view is wrapped already; see `molt_accel.django.placement`.
    """
    if not entry:
        raise ValueError(f"entry: {entry!r} is not allowed; it must be an entrypoint's name")
    options["entry"] = entry_name(entry)
    CallOptions().replace(options)  # so that a wrong option raises at import, not at the first request

    # Undecoded: a JSON result passes through, and any other is decoded just once, for the response.
    undecoded = {**options, "decode_response": False}
    # One for all views: `method_decorator` decorates a method anew for each request.
    offload = _OffloadedView(
        client, pool, payload_builder, response_factory, allow_fallback, cancel_check, undecoded
    )

    def decorate(view: View) -> View:
        if not replaces_wrapped:
            placement.check(view)
        operations: list[Any]

        if iscoroutinefunction(view):  # Django's own, which knows views that are only marked as async too

            @functools.wraps(view)
            async def aview(*args: Any, **kwargs: Any) -> Any:
                request, urls, names = frameworks.split(args, kwargs)
                try:
                    reply = await adrive(offload.make_call(request, urls, names))
                except MoltError as error:
                    if offload.falls_back(error):
                        return await view(*args, **kwargs)
                    return offload.refuse(request, error)
                return offload.answer(request, reply, operations)

            operations = frameworks.offer(view, aview)
            return aview

        @functools.wraps(view)
        def sync_view(*args: Any, **kwargs: Any) -> Any:
            request, urls, names = frameworks.split(args, kwargs)
            try:
                reply = disconnect.drive_for(request, offload.make_call(request, urls, names))
            except MoltError as error:
                if offload.falls_back(error):
                    return view(*args, **kwargs)
                return offload.refuse(request, error)
            return offload.answer(request, reply, operations)

        operations = frameworks.offer(view, sync_view)
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
    cancel_check: Callable[[HttpRequest], bool] | None
    options: dict[str, Any]
    merged: CallOptions | None = None  # with the client's, from the first request on

    @property
    def client(self) -> Client:
        return self.given_client or client_for(self.pool)

    def make_call(self, request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        client = self.client
        options = self.merged
        if options is None:
            options = self.merged = client.options.replace(self.options)
            if self.given_client is None:
                _warn_of_early_client(client, self.pool)
        if self.payload_builder is not None:
            payload = self.payload_builder(request, *args, **kwargs)
            if isinstance(payload, MultiValueDict):
                payload = lists_of(payload)
        else:
            payload = default_payload(request, options.codec, args, kwargs)
        return client.make_call(options, payload, self._check_of(request, client), metadata_of(request))

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

    def refuse(self, request: HttpRequest, error: MoltError) -> HttpResponseBase:
        why = error.__cause__ if isinstance(error, MoltInvalidInput) else None
        if isinstance(why, EncodeError) and self.payload_builder is not None:
            if not why.by_data:
                raise error  # the view's own payload is of a type that has no form: that is a bug, and no bad request
            log.warning("refused, as a visitor may have sent it: %s", error.detail)
        request_id = request_id_of(request, error.request_id)
        if http_status(error) >= 500:
            # Two ids: the one in the HTTP response, and the one in the worker's log.
            name = type(error).__name__
            log.error(
                "request %s failed in call %s (%s): %s", request_id, error.request_id, name, error.detail
            )
        # A client that was told Busy exists; after other errors there may be none to ask for its settings.
        busy_status = self.client.config.busy_http_status if isinstance(error, MoltBusy) else None
        return error_response(error, request_id=request_id, busy_status=busy_status)

    def answer(self, request: HttpRequest, reply: Reply, operations: list[Any]) -> Any:
        """The response for a result, or for an error if the result can't be sent."""
        factory = self.response_factory or frameworks.factory_for(request, reply, operations)
        try:
            return result_response(request, reply, factory)
        except MoltError as error:
            error.request_id = error.request_id or reply.metrics.request_id
            return self.refuse(request, error)
