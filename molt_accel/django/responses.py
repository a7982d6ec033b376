"""Makes HTTP responses of results and errors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseBase

from molt_accel import codec
from molt_accel.call import Reply, decode_result
from molt_accel.errors import MoltBusy, MoltCancelled, MoltError, MoltInternalError, error_body, http_status
from molt_accel.ipc.messages import Codec

_JSON = "application/json"


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
    return response


def result_response(
    request: HttpRequest, reply: Reply, factory: Callable[[HttpRequest, Any], HttpResponseBase] | None
) -> HttpResponseBase:
    """Return the response for an undecoded reply. JSON passes through unless `factory` needs the value.

    Raises:
        MoltInternalError: the result is not valid in its codec, or has no JSON form.
    """
    if factory is not None:
        return factory(request, decode_result(reply.entry, reply.codec, reply.value))
    if reply.codec is Codec.JSON:
        return HttpResponse(reply.value, content_type=_JSON)
    if reply.codec is Codec.RAW:
        return HttpResponse(reply.value, content_type="application/octet-stream")
    try:
        return json_response(decode_result(reply.entry, reply.codec, reply.value))
    except codec.EncodeError as exc:
        raise MoltInternalError(f"the result {exc}") from exc
