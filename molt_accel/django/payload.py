"""From an HTTP request to a call: its id and its default payload."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from django.http import HttpRequest

from molt_accel import codec as codecs
from molt_accel.ipc.messages import Codec

# A header of this form may go into logs and bodies: it has no spaces, quotes or control characters.
_ID: Final = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")


def request_id_of(request: HttpRequest, default: str = "") -> str:
    """Return the X-Request-ID header if it has the form of an id, else `default`, else a new id."""
    header = request.headers.get("X-Request-ID", "")
    return header if _ID.fullmatch(header) else default or os.urandom(8).hex()


#: What msgpack can encode. URL converters make other objects too, such as UUIDs and dates.
_PLAIN: Final = (str, int, float, bytes, list, dict, type(None))


def _plain(argument: object) -> object:
    return argument if isinstance(argument, _PLAIN) else str(argument)


def default_payload(
    request: HttpRequest, codec: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """Return the payload of a view that has no `payload_builder`.

    For the codecs ``json`` and ``raw`` it is the body. For ``msgpack`` it is a dict: ``method``, ``path``, ``query``
    (name -> list of values), ``args`` and ``kwargs`` of the URL (an object that a converter made as its text), ``body``
    (bytes).
    """
    if codecs.parse(codec) is not Codec.MSGPACK:
        return request.body
    return {
        "method": request.method,
        "path": request.path,
        "query": dict(request.GET.lists()),
        "args": [_plain(value) for value in args],
        "kwargs": {name: _plain(value) for name, value in (kwargs or {}).items()},
        "body": request.body,
    }
