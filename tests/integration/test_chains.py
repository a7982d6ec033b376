"""Entrypoints that call other pools."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from molt_accel import Client

OUTER = """
from molt_accel import Client, MoltError
from molt_worker import export

@export
def outer(payload):
    with Client(transport="{transport}", exports="chain_inner", executors=1, log_level="error") as client:
        return ["outer", client.call("inner", payload, timeout_ms=60_000)]
"""
INNER = """
from molt_worker import export

@export
def inner(payload):
    return ["inner", payload]
"""


def test_an_entrypoint_may_call_another_pool(make_module: Callable[[str, str], Path], transport: str) -> None:
    """Also where neither has a name: the outer pool's must not be taken for the inner one's."""
    make_module("chain_outer", OUTER.format(transport=transport))
    make_module("chain_inner", INNER)
    with Client(transport=transport, exports="chain_outer", executors=1, log_level="error") as client:
        assert client.call("outer", 1, timeout_ms=60_000) == ["outer", ["inner", 1]]
