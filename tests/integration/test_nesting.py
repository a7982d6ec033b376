"""Workers that lead to workers: calls at import, and calls out of an entrypoint."""

from collections.abc import Callable

import pytest

from molt_accel import Client, MoltInternalError, MoltStartFailed
from tests.support.driver import MakeModule

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
