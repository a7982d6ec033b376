"""A result that is itself the view's answer: this library's Response, or a response of Django's."""

from __future__ import annotations

import sys
from typing import Any

from molt_accel import codec
from molt_accel.forms.response import Response
from molt_accel.forms.values import pack_response
from molt_accel.ipc.messages import Codec

_JSON = "application/json"


class NotSendable(TypeError):
    """A response can't be sent. The text says why, and what to return instead."""


def encoded(result: object) -> bytes | None:
    """Return a response as msgpack, whatever the codec of the export is; None: the result is no response.

    Raises NotSendable.
    """
    if not isinstance(result, Response):
        django = sys.modules.get("django.http.response")
        if django is None or not isinstance(result, django.HttpResponseBase):
            return None
        result = _of_django(result)
    elif not isinstance(result.body, (bytes, bytearray, memoryview, str)):
        try:
            body = codec.encode(Codec.JSON, result.body)
        except codec.EncodeError as exc:
            raise NotSendable(exc.of("body", "is a Response whose body")) from exc
        result = Response(body, result.status, result.headers, result.content_type or _JSON)
    try:
        return pack_response(result)
    except (TypeError, ValueError) as exc:  # a text with half of a surrogate pair
        raise NotSendable(f"is a Response that can't be sent: {exc}") from exc


def _of_django(result: Any) -> Response:
    name = type(result).__name__
    if result.streaming:
        raise NotSendable(
            f"is a {name}, whose parts can't be sent; return an HttpResponse with all of its content"
        )
    try:
        if not getattr(result, "is_rendered", True):
            result.render()
        body = result.content
    except Exception as exc:
        raise NotSendable(
            f"is a {name} that can't be rendered here ({type(exc).__name__}: {exc}); return its data, "
            "or a molt_worker.Response"
        ) from exc
    made = Response(
        body, result.status_code, dict(result.items()), ""
    )  # its headers have the type of the content
    made.reason = result.reason_phrase
    made.cookies = [
        [
            morsel.key,
            morsel.value,
            morsel.coded_value,
            {key: str(text) for key, text in morsel.items() if text},
        ]
        for morsel in result.cookies.values()
    ]
    return made
