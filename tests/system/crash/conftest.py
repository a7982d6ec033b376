"""Fixtures that start workers of their own, and the build with failpoints."""

import os
from pathlib import Path

import pytest

from tests.support.driver import make_driver, make_module
from tests.support.peer import make_peer
from tests.support.pools import pool_log, serve, share, window
from tests.system.crash.failpoints.build import build

__all__ = ["make_driver", "make_module", "make_peer", "pool_log", "points_build", "serve", "share", "window"]


@pytest.fixture(scope="session")
def points_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a native core with failpoints, made once by all test processes of a session."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "points"
    build(folder)
    return folder
