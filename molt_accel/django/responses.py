"""Makes HTTP responses of results and errors."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from molt_accel import codec
from molt_accel.call import Reply, decode_result
from molt_accel.errors import MoltBusy, MoltCancelled, MoltError, MoltInternalError, error_body, http_status
from molt_accel.forms.response import Response
from molt_accel.ipc.messages import Codec
from molt_accel.overload.episode import Episode

_JSON = "application/json"
#: The refusals that were answered.
_refused: Final = Episode()


def json_response(value: object, status: int = 200) -> HttpResponse:
    """Return a response with the value as JSON, encoded as the worker encodes it.

    Raises:
        molt_accel.codec.EncodeError: the value has no JSON form.
    """
    return HttpResponse(codec.encode(Codec.JSON, value), content_type=_JSON, status=status)


def error_response(
    error: MoltError, *, request_id: str | None = None, busy_status: int | None = None
) -> HttpResponse:
    """Return the response for an error: public JSON body, status of the error table, Retry-After for Busy.

    Of several refusals that follow each other Django's log ``django.request`` has the first one: a log that floods
    would be one load more.

    Args:
        error: The error.
        request_id: The id that the body has; by default the error's own.
        busy_status: The status of Busy, 429 or 503; by default the table's.
    """
    status = busy_status if busy_status and isinstance(error, MoltBusy) else http_status(error)
    response = json_response(error_body(error, request_id), status)
    if isinstance(error, MoltCancelled):
        response.reason_phrase = "Client Closed Request"  # nginx's words for 499; Django has none
    if isinstance(error, MoltBusy):
        response["Retry-After"] = str(error.retry_after_s)
        if not _refused.refused(error.reason, time.monotonic_ns()):
            response._has_been_logged = True  # type: ignore[attr-defined]  # as Django's log_response notes it
    return response


def result_response(
    request: HttpRequest, reply: Reply, factory: Callable[[HttpRequest, Any], HttpResponseBase] | None
) -> HttpResponseBase:
    """Return the response for an undecoded reply. JSON passes through unless `factory` needs the value.

    A response that the entrypoint chose is the view's, whether there is a factory or not.

    Raises:
        MoltInternalError: the result is not valid in its codec, or has no JSON form.
    """
    if factory is None:
        if reply.codec is Codec.JSON:
            return HttpResponse(reply.value, content_type=_JSON)
        if reply.codec is Codec.RAW:
            return HttpResponse(reply.value, content_type="application/octet-stream")
    value = decode_result(reply.entry, reply.codec, reply.value)
    if type(value) is Response:
        return _chosen(value)
    if factory is not None:
        return factory(request, value)
    try:
        return json_response(value)
    except codec.EncodeError as exc:
        raise MoltInternalError(exc.of("result", "the result")) from exc


def _chosen(value: Response) -> HttpResponse:
    made = HttpResponse(
        value.body, status=value.status, reason=value.reason, content_type=value.content_type or None
    )
    if value.content_type == "":  # of Django's own response, whose headers are all there
        del made.headers["Content-Type"]
    for name, text in value.headers.items():
        made.headers[name] = text
    for key, cookie, coded, attributes in value.cookies:
        made.cookies[key] = cookie
        made.cookies[key].set(key, cookie, coded)
        made.cookies[key].update(attributes)
    return made
