"""What one request leaves to the next on the same executor, as docs/how-to/write-entrypoints.md has it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from molt_accel import Client

EXPORTS = """
import contextvars, decimal, locale, logging, os, signal, sys, threading
from molt_worker import export
variable, local = contextvars.ContextVar("variable", default="new"), threading.local()

@export
def leave(payload):
    found = {
        "context": variable.get(), "decimal": decimal.getcontext().prec,
        "cwd": os.getcwd(), "environ": os.environ.get("LEFT"), "path": "/left" in sys.path,
        "modules": "left" in sys.modules, "locale": locale.setlocale(locale.LC_NUMERIC),
        "local": getattr(local, "value", None), "level": logging.getLogger("left").level,
        "signal": signal.getsignal(signal.SIGUSR2) is len, "pid": os.getpid(),
    }
    variable.set("left"); decimal.getcontext().prec = 5
    os.chdir("/"); os.environ["LEFT"] = "left"; sys.path.append("/left"); sys.modules["left"] = sys
    locale.setlocale(locale.LC_NUMERIC, "C.UTF-8"); local.value = "left"; logging.getLogger("left").setLevel(10)
    signal.signal(signal.SIGUSR2, len)
    return found
"""


def test_what_a_request_leaves_to_the_next_is_as_documented(
    make_module: Callable[[str, str], Path], transport: str
) -> None:
    make_module("left_state", EXPORTS)
    with Client(transport=transport, exports="left_state", executors=1, log_level="error") as client:
        first, second = (client.call("leave", timeout_ms=60_000) for _ in range(2))
    anew = {"context": "new", "decimal": 28, "pid": first["pid"]}
    left = {"cwd": "/", "environ": "left", "path": True, "modules": True, "locale": "C.UTF-8"}
    left |= {"local": "left", "level": 10, "signal": True}
    assert second == anew | left
    assert {**first, **anew} == first
    assert not [name for name, value in left.items() if first[name] == value]
