"""For tests of what calls entrypoints: where calls run, how they end, and what was called.

Everything here is a context manager, for pytest, unittest and anything else; the pytest plugin has fixtures of them.
Each module is imported at the first use of one of its names, so that the plugin costs nothing where it isn't used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molt_accel.testing.calls import recorded_calls
    from molt_accel.testing.outcomes import (
        Outcome,
        busy,
        cancelled,
        crashed,
        forced,
        raises,
        returns,
        slow,
        start_failed,
        timeout,
        unavailable,
        unknown_entry,
    )
    from molt_accel.testing.pools import inline_pool, real_pool, running_pool, use_pool
    from molt_accel.testing.stage import RecordedCall

_MODULES = {
    "calls": ("recorded_calls",),
    "outcomes": (
        *("Outcome", "busy", "cancelled", "crashed", "forced", "raises", "returns", "slow", "start_failed"),
        *("timeout", "unavailable", "unknown_entry"),
    ),
    "pools": ("inline_pool", "real_pool", "running_pool", "use_pool"),
    "stage": ("RecordedCall",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
# fmt: off
__all__ = [
    "Outcome", "RecordedCall", "busy", "cancelled", "crashed", "forced", "inline_pool", "raises", "real_pool",
    "recorded_calls", "returns", "running_pool", "slow", "start_failed", "timeout", "unavailable", "unknown_entry",
    "use_pool",
]
# fmt: on


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = importlib.import_module("." + _MODULE_OF[name], "molt_accel.testing")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
