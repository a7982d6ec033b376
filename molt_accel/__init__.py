"""Move a view's computation to a pool of executor processes, over a call that costs microseconds.

The public names are here; `molt_offload` needs Django and is imported at its first use.
"""

from typing import TYPE_CHECKING, Any

from molt_accel.client import Client, default_client
from molt_accel.config import Config, ConfigError
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltProtocolError,
    MoltTimeout,
    MoltWorkerCrashed,
    MoltWorkerUnavailable,
)
from molt_accel.exchange import Reply
from molt_accel.options import CallInfo, CallMetrics, CallOptions

if TYPE_CHECKING:
    from molt_accel.decorator import molt_offload

__version__ = "0.1.0"

__all__ = [
    "CallInfo",
    "CallMetrics",
    "CallOptions",
    "Client",
    "Config",
    "ConfigError",
    "MoltBusy",
    "MoltCancelled",
    "MoltError",
    "MoltInternalError",
    "MoltInvalidInput",
    "MoltProtocolError",
    "MoltTimeout",
    "MoltWorkerCrashed",
    "MoltWorkerUnavailable",
    "Reply",
    "__version__",
    "default_client",
    "molt_offload",
]


def __getattr__(name: str) -> Any:
    if name == "molt_offload":
        from molt_accel.decorator import molt_offload

        return molt_offload
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
