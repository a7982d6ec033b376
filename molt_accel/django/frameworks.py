"""Frameworks upon Django: where a view finds its request, and what makes a response of its result.

Django REST framework and django-ninja answer a value in the form that was negotiated or declared, and pass an
`HttpResponse` on. So JSON that the worker made may go out as it is only where they would make plain JSON of it too.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Final, cast

from django.http import HttpRequest

from molt_accel.call import Reply
from molt_accel.django.payload import unwrapped
from molt_accel.ipc.messages import Codec

log = logging.getLogger("molt_accel")

Factory = Callable[[HttpRequest, Any], Any]

#: What django-ninja calls with the operation that it makes of a view, if the view has a list of this name.
_CONTRIBUTE: Final = "_ninja_contribute_to_operation"


def split(
    args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[HttpRequest, tuple[Any, ...], dict[str, Any]]:
    """Return a view's request, and its other arguments without `self`.

    A method that is decorated itself is given `self` first. URL arguments are never requests, so the second argument is
    the request if it is one at all.

    Raises:
        TypeError: there is no request.
    """
    if len(args) == 1 and isinstance(args[0], HttpRequest):  # most are
        return args[0], (), kwargs
    for position in (1, 0):
        if len(args) > position and isinstance(unwrapped(args[position]), HttpRequest):
            return args[position], args[position + 1 :], kwargs
    others = dict(kwargs)
    request = others.pop("request", None)
    if not isinstance(unwrapped(request), HttpRequest):
        raise TypeError(
            "@molt_offload found no request: neither of the first two arguments is one, nor is there one named "
            "'request'; it is for views and their methods (call molt_accel.offload elsewhere)"
        )
    return request, args[1:], others  # of a method: without self


def factory_for(request: HttpRequest, reply: Reply, operations: list[Any]) -> Factory | None:
    """Return what makes the framework's response of a decoded result; None if the bytes go out as they are.

    `operations` are what django-ninja has made of the view.
    """
    if reply.codec is Codec.RAW:
        return None
    is_json = reply.codec is Codec.JSON
    if operations and not (is_json and _take_any_json(operations)):
        return _value
    renderer = getattr(request, "accepted_renderer", None)
    if renderer is None or unwrapped(request) is request:
        return None
    return None if is_json and _makes_plain_json(renderer, request) else _drf_response


def offer(view: Any, wrapper: Any) -> list[Any]:
    """Make a wrapper known to django-ninja as the view that it wraps. Returns the list of its operations to be.

    Ninja resolves annotations that are texts among the names of the function that it is given, which would be the
    wrapper's. So they are resolved here, if all their names are known yet.
    """
    operations: list[Any] = []

    def note(run: Any) -> Any:
        operations.append(getattr(inspect.unwrap(run), "__self__", None))
        return run

    def contribute(operation: Any) -> None:
        from ninja.decorators import decorate_view

        # Ninja decorates the copies of an operation too, which it makes for each API that has it.
        decorate_view(note)(cast(Any, SimpleNamespace(_ninja_operation=operation)))

    setattr(wrapper, _CONTRIBUTE, [*getattr(view, _CONTRIBUTE, ()), contribute])
    if any(isinstance(each, str) for each in getattr(view, "__annotations__", {}).values()):
        try:
            wrapper.__signature__ = inspect.signature(view, eval_str=True)
        except Exception as exc:  # an annotation may be any text
            log.debug("annotations of %r stay texts: %r", view, exc)
    return operations


def _take_any_json(operations: list[Any]) -> bool:
    """Whether ninja would make plain JSON of any result, with no schema that could leave something out."""
    from ninja.constants import NOT_SET
    from ninja.renderers import JSONRenderer

    if None in operations:  # decorated by something that hides it
        return False
    declared = any(model is not NOT_SET for each in operations for model in each.response_models.values())
    # Those that were copied have no API.
    return not declared and all(type(each.api.renderer) is JSONRenderer for each in operations if each.api)


def _makes_plain_json(renderer: Any, request: Any) -> bool:
    """Whether a renderer of DRF makes JSON without indentation or escapes. A derived class may do anything."""
    from rest_framework.renderers import JSONRenderer

    return (
        type(renderer) is JSONRenderer
        and renderer.compact
        and not renderer.ensure_ascii
        and renderer.get_indent(request.accepted_media_type, {}) is None
    )


def _value(request: HttpRequest, value: Any) -> Any:
    return value


def _drf_response(request: HttpRequest, value: Any) -> Any:
    from rest_framework.response import Response

    return Response(value)
