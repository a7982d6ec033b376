"""Whether `@molt_offload` may replace a view: not one that another decorator, or a class, protects.

The decorated body never runs, and neither does what was wrapped around it before: a login check, a check of the
method, a permission. So the decorator belongs directly above the function, below all others.

What is seen: anything but a plain function (or a partial of one, as `method_decorator` hands over), a class-based
view, the method ``dispatch``, what `functools.wraps` leaves behind, and a function made inside another one that holds
something it could call with a request. What can't be seen: a guard that finds the view elsewhere, such as in a list
or a global name.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

from django.core.exceptions import ImproperlyConfigured
from django.utils.decorators import method_decorator

_REMEDY = (
    "Put @molt_offload directly above the function, below all other decorators; or pass replaces_wrapped=True if "
    "nothing of it matters"
)
#: Methods that prepare a request and check it (Django's `View`, REST framework's `APIView`), and answer nothing.
_MACHINERY = frozenset(
    {
        "setup",
        "initial",
        "initialize_request",
        "check_permissions",
        "check_throttles",
        "perform_authentication",
    }
)

_decorated: dict[tuple[str, str], str] = {}


def note(pool: str, entry: str, view: Callable[..., Any]) -> None:
    """Remember what a view offloads, for the system checks. A method that is decorated anew is noted once."""
    _decorated.setdefault((pool, entry), _name_of(view))


def mark(wrapper: Any, view: Callable[..., Any], offload: object) -> None:
    """Mark what stands in the place of a view, and how it offloads. Decorators above it hand the marks on."""
    wrapper.molt_offloads = _name_of(view)
    wrapper.molt_offload = offload


def _name_of(view: Callable[..., Any]) -> str:
    # `method_decorator` calls a decorator with a stand-in too, of which Django knows no more than that.
    if view.__module__ == method_decorator.__module__:
        return "a method with method_decorator"
    return f"{view.__module__}.{getattr(view, '__qualname__', view)}"


def offloaded(view: Any) -> str:
    """Return the name of the decorated function that a URL's view is, or has as a handler; empty: it is none."""
    if name := getattr(view, "molt_offloads", ""):
        return str(name)
    cls: Any = getattr(view, "view_class", None) or getattr(view, "cls", None)
    # Of a view set only the handlers of this URL; they may be inherited.
    handlers = (getattr(view, "actions", None) or {}).values() or getattr(cls, "http_method_names", ())
    for handler in handlers:
        method = getattr(cls, handler.lower(), None)
        if hasattr(method, "molt_offloads"):
            return f"{cls.__module__}.{cls.__qualname__}.{handler.lower()}"
        # REST framework's `api_view` makes a class whose handlers call the function.
        for _, held in _held(method) if hasattr(method, "__closure__") else ():
            if name := getattr(held, "molt_offloads", ""):
                return str(name)
    return ""


def offload_of(view: Any, method: str) -> Any:
    """Return how a URL's view offloads requests of an HTTP method, as it was marked; None: it does not."""
    if offload := getattr(view, "molt_offload", None):
        return offload
    cls: Any = getattr(view, "view_class", None) or getattr(view, "cls", None)
    verb = method.lower()
    # Django's classes answer HEAD as GET unless they have a handler for it.
    for name in (verb, "get") if verb == "head" else (verb,):
        handler = getattr(cls, (getattr(view, "actions", None) or {}).get(name, name), None)
        if handler is not None:
            if offload := getattr(handler, "molt_offload", None):
                return offload
            held = (each for _, each in _held(handler)) if hasattr(handler, "__closure__") else ()
            return next((found for each in held if (found := getattr(each, "molt_offload", None))), None)
    return None


def decorated() -> dict[tuple[str, str], str]:
    """Return the first view of each entry that was decorated so far, by pool and entry."""
    return dict(_decorated)


def check(view: Callable[..., Any]) -> None:
    """Refuse a view that carries more than its own function.

    Raises:
        ImproperlyConfigured: it is wrapped by another decorator, or could be; it is no plain function; it is the
            function that a class's ``as_view`` made, or the method ``dispatch``, which checks HTTP methods, logins and
            permissions.
    """
    function = view
    layers = [view]
    # `method_decorator` hands over a partial of the bound method.
    while isinstance(function, functools.partial):
        function = function.func
        layers.append(function)
    is_method = inspect.ismethod(function)
    function = getattr(function, "__func__", function)
    name = getattr(function, "__qualname__", repr(function))
    above = name.rpartition(".")[0]
    is_method = is_method or bool(above and not above.endswith("<locals>"))
    if any(hasattr(layer, "view_class") or hasattr(layer, "cls") for layer in layers):
        raise ImproperlyConfigured(
            f"@molt_offload would replace all of the class-based view {name!r}, its checks included. Decorate a "
            "handler of the class: @method_decorator(molt_offload(...)) above its get or post"
        )
    own_name = getattr(function, "__name__", "")
    if own_name == "dispatch" or (is_method and own_name in _MACHINERY):
        raise ImproperlyConfigured(
            f"@molt_offload would replace {name!r}, and with it the class's checks of methods, logins and "
            "permissions. Decorate a handler: @method_decorator(molt_offload(...)) above get or post"
        )
    code = getattr(function, "__code__", None)
    if hasattr(function, "__wrapped__"):
        wrapper = code.co_qualname.partition(".<locals>")[0] if code else type(function).__name__
        raise ImproperlyConfigured(
            f"@molt_offload would replace the view {name!r} together with what {wrapper!r} has wrapped around it, "
            f"which would never run. {_REMEDY}"
        )
    if code is None:
        raise ImproperlyConfigured(
            f"@molt_offload would replace {name!r}, which is no plain function but of the type "
            f"{type(function).__qualname__!r}, with all that it may check. {_REMEDY}"
        )
    for variable, held in _held(function):
        if held is not function and _could_be_a_view(held):
            raise ImproperlyConfigured(
                f"@molt_offload would replace {name!r}, which holds the callable {variable!r}. If that is the view "
                f"and {name!r} its guard, the guard would never run. {_REMEDY}"
            )


def _held(function: Any) -> Iterator[tuple[str, object]]:
    """What a function made inside another one has of that one: by its closure, or by defaults of its arguments."""
    for variable, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield variable, cell.cell_contents
        except ValueError:  # not assigned yet
            continue
    if "<locals>" in function.__code__.co_qualname:
        for parameter in inspect.signature(function).parameters.values():
            yield parameter.name, parameter.default


def _could_be_a_view(held: object) -> bool:
    """Whether an object could be called with a request: nothing built in, no class, nothing without an argument."""
    if not callable(held) or isinstance(held, type) or inspect.isbuiltin(held):
        return False
    try:
        first = next(iter(inspect.signature(held).parameters.values()), None)
    except (TypeError, ValueError):
        return True
    return first is not None and first.kind is not first.KEYWORD_ONLY and first.kind is not first.VAR_KEYWORD
