"""molt_accel.testing.plugin: installed for pytest, free where it isn't used, and fixtures of what the kit has."""

import importlib.metadata
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from molt_accel import Client, MoltBusy, testing
from molt_accel.testing import plugin
from tests.support import EXPORTS


def test_pytest_finds_the_plugin() -> None:
    (found,) = [
        each for each in importlib.metadata.entry_points(group="pytest11") if each.name == "molt_accel"
    ]
    assert found.load() is plugin


def test_loading_it_imports_nothing_of_django_or_the_library() -> None:
    script = (
        "import pytest, sys; before = set(sys.modules); "
        "import molt_accel.testing.plugin; print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == {
        *("molt_accel", "molt_accel.version", "molt_accel.testing", "molt_accel.testing.plugin")
    }


@pytest.fixture(scope="session")
def molt_pool_options() -> dict[str, Any]:
    return {"exports": EXPORTS, "executors": 1}


def test_the_fixtures_are_the_kit(
    molt_inline: None, molt_force: Callable[..., None], molt_calls: list[testing.RecordedCall]
) -> None:
    with Client(transport="stdio", exports=EXPORTS) as client:
        assert client.ping()["transport"] == "inline"
        molt_force("echo", testing.busy(), times=1)
        with pytest.raises(MoltBusy):
            client.call("echo", 1)
        assert client.call("echo", 2) == 2
    assert [call.payload for call in molt_calls] == [1, 2]
