"""From an HTTP request to a call: its id and its default payload."""

from __future__ import annotations

import os
import re
from typing import Any, Final

from django.http import HttpRequest

from molt_accel import codec as codecs
from molt_accel.ipc.messages import Codec

# What may go from a header into logs and bodies: no spaces, quotes or control characters.
_ID: Final = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")


def request_id_of(request: HttpRequest, default: str = "") -> str:
    """The request's id: its X-Request-ID header if that is a sane one, else `default`, else a new one."""
    header = request.headers.get("X-Request-ID", "")
    return header if _ID.fullmatch(header) else default or os.urandom(8).hex()


#: What an URL argument may be in msgpack. Converters make other objects too, such as UUIDs and dates.
_PLAIN: Final = (str, int, float, bytes, list, dict, type(None))


def _plain(argument: object) -> object:
    return argument if isinstance(argument, _PLAIN) else str(argument)


def default_payload(
    request: HttpRequest, codec: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """What an entrypoint is called with when the view has no `payload_builder`.

    For the codecs ``json`` and ``raw`` the body as it is. For ``msgpack`` a dict: ``method``, ``path``,
    ``query`` (name -> list of values), ``args`` and ``kwargs`` of the URL (objects made by a converter as
    their text), ``body`` (bytes).
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
