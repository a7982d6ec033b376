"""Whether `@molt_offload` may replace a view: not one that another decorator, or a class, protects.

The decorated body never runs, and neither does what was wrapped around it before: a login check, a check of the
method, a permission. So the decorator belongs directly above the function, below all others.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from django.core.exceptions import ImproperlyConfigured

_REMEDY = (
    "Put @molt_offload directly above the function, below all other decorators; or pass replaces_wrapped=True if "
    "nothing of it matters"
)


def check(view: Callable[..., Any]) -> None:
    """Refuse a view that carries more than its own function.

    Raises:
        ImproperlyConfigured: it is wrapped by another decorator, is the function that a class's ``as_view`` made,
            or is the method ``dispatch``, which checks HTTP methods, logins and permissions.
    """
    function = view
    # `method_decorator` hands over a partial of the bound method.
    while isinstance(function, functools.partial):
        function = function.func
    function = getattr(function, "__func__", function)
    name = getattr(function, "__qualname__", repr(function))
    if hasattr(view, "view_class") or hasattr(view, "cls"):
        raise ImproperlyConfigured(
            f"@molt_offload would replace all of the class-based view {name!r}, its checks included. Decorate a "
            "handler of the class: @method_decorator(molt_offload(...)) above its get or post"
        )
    if getattr(function, "__name__", "") == "dispatch":
        raise ImproperlyConfigured(
            f"@molt_offload would replace {name!r}, and with it the class's checks of methods, logins and "
            "permissions. Decorate a handler: @method_decorator(molt_offload(...)) above get or post"
        )
    if hasattr(function, "__wrapped__"):
        code = getattr(function, "__code__", None)
        wrapper = code.co_qualname.partition(".<locals>")[0] if code else type(function).__name__
        raise ImproperlyConfigured(
            f"@molt_offload would replace the view {name!r} together with what {wrapper!r} has wrapped around it, "
            f"which would never run. {_REMEDY}"
        )
