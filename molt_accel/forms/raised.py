"""Exceptions of entrypoints that Django or REST framework makes a response of: they are raised again in the view.

They travel in the body of an error, as the name of their class and plain data: never as code, never pickled. A class
is looked up among the modules that the view's process has imported, and has to be of the family that is said.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Mapping
from typing import Any, Final

from molt_accel.lenient import text_of

#: A raised exception as it travels.
Raised = dict[str, Any]

_HTTP_404: Final = "django.http.response:Http404"
_VALIDATION: Final = "django.core.exceptions:ValidationError"
_API: Final = "rest_framework.exceptions:APIException"
#: The families, and whether they refuse a request: else the entrypoint has failed.
_FAMILIES: Final = {
    _HTTP_404: True,
    "django.core.exceptions:PermissionDenied": True,
    "django.core.exceptions:SuspiciousOperation": True,
    "django.core.exceptions:BadRequest": True,
    "django.core.exceptions:ObjectDoesNotExist": False,
    _VALIDATION: False,
    _API: True,
}
_SERVER_ERROR: Final = 500
_MAX_TEXT: Final = 1000  #: characters of an argument
_MAX_ARGS: Final = 8


def packed(error: BaseException) -> Raised | None:
    """Return what of an exception travels; None: Django knows nothing of its class."""
    try:
        for family in _FAMILIES:
            base = _class(family)
            if base is not None and isinstance(error, base):
                return _packed(family, error)
    except Exception:  # a class of an application may do anything when it is looked at
        return None
    return None


def _packed(family: str, error: BaseException) -> Raised:
    cls = type(error)
    raised: Raised = {
        "family": family,
        "class": f"{cls.__module__}:{cls.__qualname__}",
        "args": [text_of(each)[:_MAX_TEXT] for each in error.args[:_MAX_ARGS]],
    }
    if family == _API:
        state = {name: getattr(error, name, None) for name in ("status_code", "auth_header", "wait")}
        raised["state"] = {
            name: value for name, value in state.items() if isinstance(value, (int, float, str))
        }
        raised["detail"] = _detail(getattr(error, "detail", ""))
    elif family == _VALIDATION:
        raised["detail"] = _messages(error)
    return raised


def refuses(raised: Raised) -> bool:
    """Whether the exception refuses the request, as an answer below 500 does; else the entrypoint has failed."""
    status = raised.get("state", {}).get("status_code", 0)
    return _FAMILIES[raised["family"]] and not (isinstance(status, int) and status >= _SERVER_ERROR)


def rebuilt(raised: object) -> Exception | None:
    """Return the exception that was raised; None: this process doesn't know its family, or it is none."""
    try:
        assert isinstance(raised, dict)
        base = _class(raised["family"]) if raised["family"] in _FAMILIES else None
        if base is None:
            return None
        cls = _class(raised["class"])
        if not isinstance(cls, type) or not issubclass(cls, base):
            cls = base
        # Not by calling the class: one of an application may want other arguments.
        made: Exception = cls.__new__(cls, *raised["args"])
        vars(made).update(raised.get("state", {}))
        if raised["family"] == _API:
            vars(made)["detail"] = _detail_of(raised["detail"])
        elif raised["family"] == _VALIDATION:
            vars(made).update(vars(_validation_error(base, raised["detail"])))
    except Exception:  # another release has sent it
        return None
    return made


def _class(name: str) -> Any:
    """The class of this name if its module is imported, else None."""
    module, _, path = name.partition(":")
    try:
        return operator.attrgetter(path)(sys.modules[module])
    except (AttributeError, KeyError):
        return None


def _detail(detail: object) -> object:
    """The detail of REST framework's, in which each text has a code."""
    if isinstance(detail, Mapping):
        return {"map": {text_of(key): _detail(item) for key, item in detail.items()}}
    if isinstance(detail, (list, tuple)):
        return {"list": [_detail(item) for item in detail]}
    return {"text": text_of(detail), "code": text_of(getattr(detail, "code", None) or "error")}


def _detail_of(form: Any) -> Any:
    if "map" in form:
        return {key: _detail_of(item) for key, item in form["map"].items()}
    if "list" in form:
        return [_detail_of(item) for item in form["list"]]
    return _class("rest_framework.exceptions:ErrorDetail")(form["text"], form["code"])


def _messages(error: Any) -> object:
    """The messages of Django's ValidationError: by field, or a list; each as text and code."""
    if hasattr(error, "error_dict"):
        return {
            text_of(field): [_message(each) for each in errors] for field, errors in error.error_dict.items()
        }
    return [_message(each) for each in error.error_list]


def _message(error: Any) -> list[str | None]:
    message = error.message % error.params if error.params else error.message
    return [text_of(message), None if error.code is None else text_of(error.code)]


def _validation_error(base: Any, detail: Any) -> Any:
    if isinstance(detail, dict):
        return base({field: [base(*message) for message in each] for field, each in detail.items()})
    return base([base(*message) for message in detail])
