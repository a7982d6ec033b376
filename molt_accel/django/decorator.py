"""`@molt_offload`: a view whose core runs in a worker. The body of the view is the local fallback."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponseBase
from django.utils.datastructures import MultiValueDict

from molt_accel.call import Call, Reply
from molt_accel.client import Client, default_client
from molt_accel.codec import EncodeError
from molt_accel.config import Config
from molt_accel.django import disconnect, placement
from molt_accel.django.payload import default_payload, request_id_of
from molt_accel.django.responses import error_response, result_response
from molt_accel.errors import (
    MoltBusy,
    MoltError,
    MoltInvalidInput,
    MoltWorkerUnavailable,
    http_status,
    row_of,
)
from molt_accel.options import CallOptions
from molt_accel.waits import adrive

log = logging.getLogger("molt_accel")

View = Callable[..., Any]
PayloadBuilder = Callable[..., Any]
ResponseFactory = Callable[[HttpRequest, Any], HttpResponseBase]


def molt_offload(
    *,
    entry: str,
    client: Client | None = None,
    payload_builder: PayloadBuilder | None = None,
    response_factory: ResponseFactory | None = None,
    allow_fallback: bool = False,
    cancel_check: Callable[[HttpRequest], bool] | None = None,
    replaces_wrapped: bool = False,
    **options: Any,
) -> Callable[[View], View]:
    """Make a sync or async view run `entry` in a worker.

    A JSON result goes to the browser as the bytes the worker made of it; others are decoded and encoded as
    JSON. Errors become JSON bodies with the status of the table in `molt_accel.errors`. When the browser
    goes away the request is cancelled: under ASGI with the view's task, under gunicorn by its socket.

    Args:
        entry: The entrypoint's name.
        client: The client to call with; by default one that all decorated views share.
        payload_builder: ``(request, *args, **kwargs) -> payload``; by default method, path, query,
            URL arguments and body (see `molt_accel.django.payload.default_payload`).
        response_factory: ``(request, value) -> HttpResponse``, given the decoded result.
        allow_fallback: Run the view's own body where no worker can be reached; where one was lost with the
            outcome unknown, only with ``idempotent=True``. Without a fallback, that is a 503.
        cancel_check: ``(request) -> bool``, asked again and again while the call waits; true cancels it. It
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
    options["entry"] = entry
    CallOptions().replace(options)  # wrong options fail where they are written, not at the first request

    def decorate(view: View) -> View:
        if not replaces_wrapped:
            placement.check(view)
        offload = _OffloadedView(
            client, payload_builder, response_factory, allow_fallback, cancel_check, options
        )
        if iscoroutinefunction(view):  # Django's notion of it: views only marked as async are known too

            @functools.wraps(view)
            async def aview(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
                try:
                    reply = await adrive(offload.make_call(request, args, kwargs))
                except MoltError as error:
                    if offload.falls_back(error):
                        return await view(request, *args, **kwargs)
                    return offload.refuse(request, error)
                return offload.answer(request, reply)

            return aview

        @functools.wraps(view)
        def sync_view(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
            try:
                reply = disconnect.drive_for(request, offload.make_call(request, args, kwargs))
            except MoltError as error:
                if offload.falls_back(error):
                    return view(request, *args, **kwargs)
                return offload.refuse(request, error)
            return offload.answer(request, reply)

        return sync_view

    return decorate


def _warn_of_early_client(client: Client) -> None:
    """Say so if the default client was made before Django's settings were there to be read."""
    if Config.load() != client.config:
        log.warning(
            "the default client was made before Django's settings were known and doesn't follow them; "
            "make it later (gunicorn: post_worker_init instead of post_fork)"
        )


class _OffloadedView:
    """What the sync and the async wrapper share."""

    def __init__(
        self,
        client: Client | None,
        payload_builder: PayloadBuilder | None,
        response_factory: ResponseFactory | None,
        allow_fallback: bool,
        cancel_check: Callable[[HttpRequest], bool] | None,
        options: dict[str, Any],
    ) -> None:
        self._given_client = client
        self._payload_builder = payload_builder
        self._response_factory = response_factory
        self._allow_fallback = allow_fallback
        self._cancel_check = cancel_check
        # Undecoded: a JSON result passes through, and any other is decoded just once, here.
        self._options = {**options, "decode_response": False}
        self._merged: CallOptions | None = None

    @property
    def _client(self) -> Client:
        return self._given_client or default_client()

    def make_call(self, request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        client = self._client
        options = self._merged
        if options is None:
            options = self._merged = client.options.replace(self._options)
            if self._given_client is None:
                _warn_of_early_client(client)
        if self._payload_builder is not None:
            payload = self._payload_builder(request, *args, **kwargs)
            if isinstance(
                payload, MultiValueDict
            ):  # as a dict it would lose all but the last value of a name
                payload = dict(payload.lists())
        else:
            payload = default_payload(request, options.codec, args, kwargs)
        return client.make_call(options, payload, self._check_of(request))

    def _check_of(self, request: HttpRequest) -> Callable[[], bool] | None:
        if self._cancel_check is not None:
            return functools.partial(self._cancel_check, request)
        return disconnect.cancel_check(request)

    def falls_back(self, error: MoltError) -> bool:
        if not self._allow_fallback or not row_of(error).falls_back:
            return False
        may_have_run = isinstance(error, MoltWorkerUnavailable) and error.may_have_run
        if not may_have_run or (self._merged is not None and self._merged.idempotent):
            log.warning("no worker, the view runs here: %s", error.detail)
            return True
        return False

    def refuse(self, request: HttpRequest, error: MoltError) -> HttpResponseBase:
        builder = self._payload_builder
        if (
            builder is not None
            and isinstance(error, MoltInvalidInput)
            and isinstance(error.__cause__, EncodeError)
        ):
            raise error  # what the view's own payload builder made can't be sent: a bug here, no bad request
        request_id = request_id_of(request, error.request_id)
        if http_status(error) >= 500:
            # Two ids: the one that the sender is told, and the one in the worker's log.
            name = type(error).__name__
            log.error(
                "request %s failed in call %s (%s): %s", request_id, error.request_id, name, error.detail
            )
        if isinstance(error, MoltBusy):  # only a client that was made can be refused so
            busy_status = self._client.config.busy_http_status
            return error_response(error, request_id=request_id, busy_status=busy_status)
        return error_response(error, request_id=request_id)

    def answer(self, request: HttpRequest, reply: Reply) -> HttpResponseBase:
        """The response to a good end; an error's, where the result is none that can be sent."""
        try:
            return result_response(request, reply, self._response_factory)
        except MoltError as error:
            error.request_id = error.request_id or reply.metrics.request_id
            return self.refuse(request, error)
