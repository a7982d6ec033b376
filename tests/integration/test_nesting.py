"""Workers that lead to workers: calls at import, and calls out of an entrypoint."""

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import Client, MoltInternalError, MoltStartFailed
from tests.support.driver import MakeModule
from tests.support.peer import PATIENCE_S
from tests.support.processes import wait_until

CALLING_AT_IMPORT = """
from molt_accel import Client
from molt_worker import export

@export
def answer(payload):
    return 42

print(Client(exports="calling_at_import").call("answer"))
"""

STARTING_AT_IMPORT = """
from molt_accel import default_client
from molt_worker import export

default_client().start()

@export
def answer(payload):
    return 42
"""

NESTED = """
from molt_accel import Client, default_client
from molt_worker import export

@export
def answer(payload):
    return 42

@export
def own_pool(payload):
    return default_client().call("answer")

@export
def another_pool(payload):
    with Client(exports="", worker_name="other", executors=1) as client:
        return client.call("echo", payload)
"""


STARTING_A_PROGRAM = """
import subprocess, sys
from molt_worker import export

CODE = "from molt_accel import Client; Client(exports='starting_a_program').call('answer', timeout_ms=50_000)"

def run():
    return subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True).stderr

SAID = run()

@export
def said(payload):
    return [SAID, run()]

@export
def answer(payload):
    return 42
"""

ROUND = """
import functools
from molt_accel import Client
from molt_worker import export

@functools.cache
def other():
    return Client(transport="shm", exports="{other}", executors={executors}, linger_ms=0, log_level="error")

@export
def outer(payload):
    return other().call("inner", timeout_ms=50_000)

@export
def inner(payload):
    return other().call("leaf", timeout_ms=50_000)

@export
def leaf(payload):
    return "leaf"
"""


@pytest.fixture
def connect(transport: str) -> Callable[[str], Client]:
    return lambda exports: Client(transport=transport, exports=exports, executors=1, log_level="error")


def test_a_module_that_calls_as_it_is_imported_is_told_and_starts_no_chain(
    connect: Callable[[str], Client], make_module: MakeModule
) -> None:
    make_module("calling_at_import", CALLING_AT_IMPORT)
    with (
        connect("calling_at_import") as client,
        pytest.raises(MoltStartFailed, match="call it from a function"),
    ):
        client.call("answer", timeout_ms=60_000)


def test_a_module_that_starts_the_worker_as_it_is_imported_is_imported(
    connect: Callable[[str], Client], make_module: MakeModule
) -> None:
    make_module("starting_at_import", STARTING_AT_IMPORT)
    with connect("starting_at_import") as client:
        assert client.call("answer", timeout_ms=60_000) == 42


def test_an_entrypoint_may_call_another_pool_and_not_its_own(
    connect: Callable[[str], Client], make_module: MakeModule
) -> None:
    make_module("nested", NESTED)
    with connect("nested") as client:
        assert client.call("another_pool", "through", timeout_ms=60_000) == "through"
        with pytest.raises(MoltInternalError, match="'own_pool' raised MoltStartFailed"):
            client.call("own_pool", timeout_ms=60_000)


def test_a_program_that_a_worker_starts_starts_no_chain_and_waits_for_nothing(
    connect: Callable[[str], Client], make_module: MakeModule
) -> None:
    make_module("starting_a_program", STARTING_A_PROGRAM)
    with connect("starting_a_program") as client:
        at_import, in_call = client.call("said", timeout_ms=60_000)
    assert "while a worker imports the exports" in at_import
    assert "MoltStartFailed" in at_import
    assert "MoltStartFailed" in in_call
    assert "that it runs in" in in_call


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
def test_pools_that_call_each_other_stop_when_nobody_else_needs_them(make_module: MakeModule) -> None:
    make_module("round_a", ROUND.format(other="round_b", executors=1))
    make_module("round_b", ROUND.format(other="round_a", executors=2))
    with Client(transport="shm", exports="round_a", executors=2, log_level="error") as client:
        assert client.call("outer", timeout_ms=60_000) == "leaf"
    runtime = Path(os.environ["MOLT_RUNTIME_DIR"])
    wait_until(lambda: not list(runtime.glob("*.sock")), PATIENCE_S)
