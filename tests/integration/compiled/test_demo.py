"""The demo's handler cores, compiled: their own tests hold, and what a client gets is what Python gives."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from molt_accel import Client, MoltError
from tests.demo.demo_strategies import good_parameters, tables
from tests.support import ROOT

EXPORTS = "demo/molt_worker_app/molt_exports.json"
#: Their tests replace parts of modules by others, which compiled code that calls them in C doesn't see.
REPLACING = "database or iterations or cancelled or settings or Impatient or stops"
MODULES = ("core", "query", "ranking", "wire", "table")


@pytest.mark.slow
@pytest.mark.parametrize("module", MODULES)
def test_a_core_s_own_tests_hold_when_it_is_compiled(demo_build: Path, module: str) -> None:
    words = [
        "-p", "tests.support.use_build", "-n", "0", "-q", "-p", "no:cacheprovider", "-k",
        f"not ({REPLACING})",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words, f"tests/demo/test_demo_{module}.py"],
        cwd=ROOT,
        env={**os.environ, "MOLT_BUILD_DIR": str(demo_build)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture
def ways(demo_build: Path) -> Iterator[tuple[Client, Client]]:
    """The demo's worker in Python, and compiled."""
    options: dict[str, Any] = {
        "exports": EXPORTS, "build_dir": demo_build, "executors": 1, "log_level": "error",
    }  # fmt: skip
    with (
        Client(compiled="off", transport="stdio", **options) as python,
        Client(compiled="require", transport="stdio", **options) as native,
    ):
        yield python, native


def outcome(client: Client, entry: str, payload: Any, **options: Any) -> Any:
    try:
        return client.call(entry, payload, timeout_ms=60_000, **options)
    except MoltError as exc:
        return type(exc).__name__, exc.detail


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(good_parameters)
def test_a_list_is_the_same_list(ways: tuple[Client, Client], parameters: dict[str, Any]) -> None:
    python, native = (outcome(client, "list_items", parameters) for client in ways)
    assert python == native


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(tables())
def test_a_summary_is_the_same_summary(ways: tuple[Client, Client], table: Any) -> None:
    python, native = (outcome(client, "data_summary", table, codec="json") for client in ways)
    assert python == native
