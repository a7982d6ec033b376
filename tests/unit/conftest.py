"""Fixtures for the unit tests."""

import sys

import pytest

from molt_accel import config

#: Where there is no shared memory, its tests are not even imported.
collect_ignore_glob = [
    *("*/shm/*", "molt_accel/ipc/test_control.py", "molt_worker/cli/test_observer.py"),
    *("molt_worker/cli/test_status*", "molt_worker/processes/test_shm_endpoint.py"),
]
if sys.platform == "linux":
    collect_ignore_glob.clear()


@pytest.fixture(autouse=True)
def _no_project(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Django settings, whatever project other tests have set this process up for."""
    for name in ("_django_settings", "_settings_that_are_read"):
        monkeypatch.setattr(config, name, lambda: None)
