"""Move a view's computation to a pool of executor processes, over a call that costs microseconds.

The public names are here. Each module is imported at the first use of one of its names: a worker needs only
the floor of this package, and `molt_offload` needs Django.
"""

import importlib
from typing import TYPE_CHECKING, Any

from molt_accel.version import __version__

if TYPE_CHECKING:
    from molt_accel.call import Reply
    from molt_accel.client import Client, client_for, default_client, offload
    from molt_accel.config import Config, ConfigError
    from molt_accel.django.decorator import molt_offload
    from molt_accel.errors import (
        MoltBusy,
        MoltCancelled,
        MoltClientClosed,
        MoltEntryError,
        MoltError,
        MoltIncompatible,
        MoltInternalError,
        MoltInvalidInput,
        MoltProtocolError,
        MoltStartFailed,
        MoltTimeout,
        MoltWorkerCrashed,
        MoltWorkerUnavailable,
        RemoteError,
    )
    from molt_accel.options import CallInfo, CallMetrics, CallOptions

# fmt: off
__all__ = [
    "CallInfo", "CallMetrics", "CallOptions", "Client", "Config", "ConfigError", "Reply",
    "MoltBusy", "MoltCancelled", "MoltClientClosed", "MoltEntryError", "MoltError", "MoltIncompatible",
    "MoltInternalError", "MoltInvalidInput", "MoltProtocolError", "MoltStartFailed", "MoltTimeout", "MoltWorkerCrashed",
    "MoltWorkerUnavailable", "RemoteError", "__version__", "client_for", "default_client", "molt_offload", "offload",
]
# fmt: on

_MODULES = {
    "client": ("Client", "client_for", "default_client", "offload"),
    "config": ("Config", "ConfigError"),
    "call": ("Reply",),
    "django.decorator": ("molt_offload",),
    "options": ("CallInfo", "CallMetrics", "CallOptions"),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("." + _MODULE_OF.get(name, "errors"), "molt_accel")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
