"""From an HTTP request to a call: its id and its default payload."""

from __future__ import annotations

import os
import re
from enum import Enum
from typing import Any, Final

from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import UploadedFile
from django.http import HttpRequest, RawPostDataException
from django.utils.datastructures import MultiValueDict

from molt_accel import codec as codecs
from molt_accel.django.active import active_metadata
from molt_accel.errors import MoltInvalidInput
from molt_accel.ipc.messages import METADATA_REQUEST_ID, Codec

_HEADER: Final = "HTTP_X_REQUEST_ID"
# A header of this form may go into logs and bodies: it has no spaces, quotes or control characters.
_ID: Final = re.compile(r"[A-Za-z0-9_.:/+=-]{1,128}")


def request_id_of(request: HttpRequest, default: str = "") -> str:
    """Return the X-Request-ID header if it has the form of an id, else `default`, else a new id.

    A middleware may have set it: then it stands in ``request.META`` only, since ``request.headers`` is made just once.
    """
    return _sent_id(request) or default or os.urandom(8).hex()


def _sent_id(request: HttpRequest) -> str:
    """The X-Request-ID header if it has the form of an id, else an empty text."""
    header = request.META.get(_HEADER, "")
    return header if header and _ID.fullmatch(header) else ""


def metadata_of(request: HttpRequest) -> dict[str, Any]:
    """Return what an executor should know of an HTTP request beside its payload; empty if all is as usual.

    Its id, if the request brings one, and the active language and time zone, if they are not those of the settings.
    """
    metadata = active_metadata()
    if sent := _sent_id(request):
        metadata[METADATA_REQUEST_ID] = sent
    return metadata


#: What msgpack can encode. URL converters make other objects too, such as UUIDs and dates.
_PLAIN: Final = (str, int, float, bytes, list, dict, type(None))


def _plain(argument: Any) -> object:
    """An argument of a view: of a URL, or what a framework has made of the request, such as pydantic's models."""
    if isinstance(argument, Enum):
        return _plain(argument.value)
    if isinstance(argument, list):
        return [_plain(each) for each in argument]
    if isinstance(argument, _PLAIN):
        return argument
    dump = getattr(argument, "model_dump", None)
    return dump(mode="json") if callable(dump) else str(argument)


def unwrapped(request: HttpRequest) -> HttpRequest:
    """Return Django's own request, which frameworks such as Django REST framework wrap."""
    wrapped = getattr(request, "_request", None)
    return wrapped if isinstance(wrapped, HttpRequest) else request


def default_payload(
    request: HttpRequest, codec: str, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """Return the payload of a view that has no `payload_builder`.

    For the codecs ``json`` and ``raw`` it is the body. For ``msgpack`` it is a dict: ``method``, ``path``, ``query``
    (name -> list of values), ``args`` and ``kwargs`` of the URL, or what django-ninja made of the request (an enum as
    its value, a pydantic model as a dict, another object as its text), ``body`` (bytes). Of a ``multipart/form-data``
    request by POST, and of any form that was parsed and whose body is gone, ``body`` is empty, ``form`` holds the
    fields (name -> list of values) and ``files`` the files (name -> list of dicts with ``name``, ``content_type`` and
    ``content``). Django parses no form of other methods: there the body travels.

    Raises:
        MoltInvalidInput: the codec takes the body, but that was a form, which has been parsed; or the request names a
            charset that is none.
        ImproperlyConfigured: something has read the body before, and there is no form either.
    """
    request = unwrapped(request)
    if codecs.parse(codec) is not Codec.MSGPACK:
        return _body(request)
    try:
        return _parts(request, args, kwargs or {})
    except (LookupError, UnicodeError) as exc:  # of the Content-Type, which Django takes for the query too
        raise MoltInvalidInput(f"the charset {request.encoding!r} can't decode the request: {exc}") from exc


def _parts(request: HttpRequest, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    payload = {
        "method": request.method,
        "path": request.path,
        "query": dict(request.GET.lists()),
        "args": [_plain(value) for value in args],
        "kwargs": {name: _plain(value) for name, value in kwargs.items()},
    }
    parsed = _is_parsed(request)
    is_multipart = request.content_type == "multipart/form-data" and request.method == "POST"
    if not is_multipart and not (parsed and _is_gone(request)):
        return {**payload, "body": _body(request)}
    if not parsed and _is_gone(request):  # Django would take the form for empty
        raise _gone()
    # A middleware may have read the form, for its CSRF token: then the body is gone, and the parts are what is left.
    return {**payload, "body": b"", "form": dict(request.POST.lists()), "files": lists_of(request.FILES)}


def _is_parsed(request: HttpRequest) -> bool:
    return hasattr(request, "_post")


def _is_gone(request: HttpRequest) -> bool:
    """Whether the body was read as a stream, which nobody can read again."""
    return bool(getattr(request, "_read_started", False)) and not hasattr(request, "_body")


def _body(request: HttpRequest) -> bytes:
    try:
        return request.body
    except RawPostDataException as exc:
        if _is_parsed(request):
            raise MoltInvalidInput(
                f"the body is a form ({request.content_type}) and was parsed as one, and this view takes the body "
                "itself; where a form is right, give the view a payload_builder"
            ) from exc
        raise _gone() from exc


def _gone() -> ImproperlyConfigured:
    return ImproperlyConfigured(
        "the request's body was read as a stream before the view, by a middleware or a permission, so there is none "
        "left for the entrypoint; give @molt_offload a payload_builder that takes what was made of it "
        "(payload_builder=lambda request: request.data), or read request.body there"
    )


def lists_of(sent: MultiValueDict[str, Any]) -> dict[str, list[Any]]:
    """All values of each name, of which a codec would keep the last only. Files are as in the default payload."""
    return {
        name: [_file(each) if isinstance(each, UploadedFile) else each for each in values]
        for name, values in sent.lists()
    }


def _file(sent: UploadedFile[Any]) -> dict[str, Any]:
    sent.seek(0)  # a middleware may have read it
    content = sent.read()
    sent.seek(0)  # the view's own body may have to
    return {"name": sent.name, "content_type": sent.content_type, "content": content}
