"""`@molt_offload`: a view whose core runs in a worker. The body of the view is the local fallback."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from asgiref.sync import iscoroutinefunction, sync_to_async
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.utils.datastructures import MultiValueDict

from molt_accel.call import Call, Reply
from molt_accel.client import Client, client_for, shared_client
from molt_accel.codec import EncodeError
from molt_accel.config import Config
from molt_accel.django import disconnect, frameworks, placement
from molt_accel.django.front.asgi import note_call
from molt_accel.django.payload import default_payload, lists_of, metadata_of, request_id_of
from molt_accel.django.reporting import SERVER_ERROR, report
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
from molt_accel.overload.places import Places
from molt_accel.waits import adrive

log = logging.getLogger("molt_accel")

#: What `on_error` may be, besides a function.
_ON_ERROR = ("response", "raise")
View = Callable[..., Any]
PayloadBuilder = Callable[..., Any]
ResponseFactory = Callable[[HttpRequest, Any], Any]
OnError = str | Callable[[HttpRequest, MoltError], HttpResponse]


def molt_offload(
    *,
    entry: Entry,
    client: Client | None = None,
    pool: str = "default",
    payload_builder: PayloadBuilder | None = None,
    response_factory: ResponseFactory | None = None,
    allow_fallback: bool = False,
    on_error: OnError = "response",
    cancel_check: Callable[[HttpRequest], bool] | None = None,
    max_in_flight: int | None = None,
    replaces_wrapped: bool = False,
    **options: Any,
) -> Callable[[View], View]:
    """Make a sync or async view run `entry` in a worker.

    The view is a function, a handler of a class (the decorator stands above it, or in a `method_decorator`), a view,
    handler or action of Django REST framework, or an operation of django-ninja.

    A JSON result goes to the browser as the bytes that the worker made of it. Other results are decoded, and encoded
    as JSON. A `molt_worker.Response` and an HttpResponse that the entrypoint returns are the view's answer. Where REST
    framework has negotiated another form, or django-ninja has a schema of the response, the result is decoded and
    theirs to render. Errors become JSON bodies with the HTTP status that `molt_accel.errors` has for them. Http404 and
    other exceptions that Django or REST framework makes a response of are raised in the view. When the browser goes
    away the request is cancelled: under ASGI with the view's task, under gunicorn when its socket closes.

    Args:
        entry: The entrypoint's name, or its function, marked with ``@molt_worker.export``.
        client: The client to call with; by default the one that all views of this pool share.
        pool: Which pool of the Django setting ``MOLT_POOLS``.
        payload_builder: ``(request, *args, **kwargs) -> payload``; by default method, path, query,
            URL arguments and body (see `molt_accel.django.payload.default_payload`). For an async view it may be async.
        response_factory: ``(request, value) -> HttpResponse``, given the decoded result. What it returns is what the
            view returns: under a framework it may be what that takes. For an async view it may be async.
        allow_fallback: Run the view's own body if no worker can be reached. If the worker was lost while it may
            have run the request, do so only with ``idempotent=True``. Without a fallback the answer is 503.
        on_error: ``response``: errors become JSON bodies. Django is told of those that are the server's fault
            (``got_request_exception``), and with DEBUG answers with its page for errors. ``raise``: the view raises the
            `MoltError`, for a middleware or the framework's exception handler. A function ``(request, error) ->
            HttpResponse`` makes the response in the place of the JSON body; else all is as with ``response``.
        cancel_check: ``(request) -> bool``, called again and again while the call waits; true cancels it. It
            takes the place of watching the connection.
        max_in_flight: How many calls of this decorator may be under way in one server process. One more is Busy at
            once (``in_flight``). None: as many as the client may have.
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
    if not callable(on_error) and on_error not in _ON_ERROR:
        raise ValueError(
            f"on_error: {on_error!r} is not allowed; it must be 'response', 'raise' or a function"
        )
    if max_in_flight is not None and (type(max_in_flight) is not int or max_in_flight < 1):
        raise ValueError(
            f"max_in_flight: {max_in_flight!r} is not allowed; it must be a whole number, 1 or more"
        )
    if iscoroutinefunction(on_error):
        raise ImproperlyConfigured("on_error is async, which it can't be: async views call it on a thread")
    options["entry"] = entry_name(entry)
    CallOptions().replace(options)  # so that a wrong option raises at import, not at the first request

    # Undecoded: a JSON result passes through, and any other is decoded just once, for the response.
    undecoded = {**options, "decode_response": False}
    # One for all views: `method_decorator` decorates a method anew for each request.
    offload = _OffloadedView(
        client,
        pool,
        payload_builder,
        response_factory,
        allow_fallback,
        on_error,
        cancel_check,
        undecoded,
        None if max_in_flight is None else Places(max_in_flight),
    )

    def decorate(view: View) -> View:
        if not replaces_wrapped:
            placement.check(view)
        if client is None:
            placement.note(pool, options["entry"], view)
        operations: list[Any]

        if iscoroutinefunction(view):  # Django's own, which knows views that are only marked as async too

            @functools.wraps(view)
            async def aview(*args: Any, **kwargs: Any) -> Any:
                request, urls, names = frameworks.split(args, kwargs)
                try:
                    payload = offload.payload(request, urls, names)
                    if inspect.isawaitable(payload):
                        payload = await payload
                    reply = await adrive(offload.make_call(request, payload, False))
                except MoltError as error:
                    if offload.falls_back(error):
                        return await view(*args, **kwargs)
                    return await offload.arefuse(request, error)
                try:
                    response = offload.answer(request, reply, operations)
                    return await response if inspect.isawaitable(response) else response
                except MoltError as error:
                    return await offload.arefuse(request, error, reply)

            placement.mark(aview, view, offload)
            operations = frameworks.offer(view, aview)
            return aview

        for function in (payload_builder, response_factory):
            if iscoroutinefunction(function):
                named = getattr(function, "__qualname__", repr(function))
                raise ImproperlyConfigured(
                    f"{named} is async and needs an async view, which {view.__qualname__} is not; make one of them "
                    "what the other is"
                )

        @functools.wraps(view)
        def sync_view(*args: Any, **kwargs: Any) -> Any:
            request, urls, names = frameworks.split(args, kwargs)
            try:
                payload = offload.payload(request, urls, names)
                reply = disconnect.drive_for(request, offload.make_call, payload)
            except MoltError as error:
                if offload.falls_back(error):
                    return view(*args, **kwargs)
                return offload.refuse(request, error)
            try:
                return offload.answer(request, reply, operations)
            except MoltError as error:
                return offload.refuse(request, error, reply)

        placement.mark(sync_view, view, offload)
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
    on_error: OnError
    cancel_check: Callable[[HttpRequest], bool] | None
    options: dict[str, Any]
    places: Places | None = None
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

    def make_call(self, request: HttpRequest, payload: Any, blocks: bool) -> Call:
        client = self.client
        note_call(request)
        if isinstance(payload, MultiValueDict):
            payload = lists_of(payload)
        check = self._check_of(request, client)
        metadata = metadata_of(request)
        return client.make_call(self.call_options, payload, check, metadata, self.places, blocks=blocks)

    def refusal(self) -> MoltBusy | None:
        """The error of a request that would be refused now; None: the view shall have it.

        That is so where the project answers errors itself, which may take what later middlewares add to a request; and
        before the first call, since this starts no worker.
        """
        client = self.given_client or shared_client(self.pool)
        if self.on_error != "response" or client is None:
            return None
        return client.refusal(self.call_options, self.places)

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

    def answer(self, request: HttpRequest, reply: Reply, operations: list[Any]) -> Any:
        """The response for a result; what an async response factory returns is to be awaited."""
        factory = self.response_factory or frameworks.factory_for(request, reply, operations)
        return result_response(request, reply, factory)

    async def arefuse(self, request: HttpRequest, error: MoltError, reply: Reply | None = None) -> Any:
        """`refuse` for async views, which may wait for receivers of the signal: on a thread, as Django does it.

        So may the project's own function.
        """
        if http_status(error) < SERVER_ERROR and not callable(self.on_error):
            return self.refuse(request, error, reply)
        return await sync_to_async(self.refuse, thread_sensitive=False)(request, error, reply)

    def refuse(self, request: HttpRequest, error: MoltError, reply: Reply | None = None) -> HttpResponseBase:
        """Answer an error that is being handled, or raise it, or what the entrypoint has raised.

        `reply` is the call's if the error came only after it.
        """
        if reply is not None:
            error.request_id = error.request_id or reply.metrics.request_id
        original = raised.rebuilt(error.raised) if error.raised is not None else None
        if original is not None:
            raise original.with_traceback(error.__traceback__) from error
        why = error.__cause__ if isinstance(error, MoltInvalidInput) else None
        if isinstance(why, EncodeError) and self.payload_builder is not None:
            if not why.by_data:
                raise error  # the view's own payload is of a type that has no form: that is a bug, and no bad request
            log.warning("refused, as a visitor may have sent it: %s", error.detail)
        is_failure = http_status(error) >= SERVER_ERROR
        if self.on_error == "raise" or (is_failure and settings.DEBUG_PROPAGATE_EXCEPTIONS):
            raise error
        request_id = request_id_of(request, error.request_id)
        if callable(self.on_error):
            response = self.on_error(request, error)
        else:
            # A client that was told Busy exists; after other errors there may be none to ask for its settings.
            busy_status = self.client.config.busy_http_status if isinstance(error, MoltBusy) else None
            response = error_response(error, request_id=request_id, busy_status=busy_status)
        return report(request, error, response, request_id) if is_failure else response
