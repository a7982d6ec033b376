"""Fixtures that start workers of their own, and the build with crash points."""

import os
from pathlib import Path

import pytest

from tests.crash.points.build import build
from tests.integration.driver import make_driver, make_module
from tests.integration.peer import make_peer
from tests.integration.pools import pool_log, serve, share, window

__all__ = ["make_driver", "make_module", "make_peer", "pool_log", "points_build", "serve", "share", "window"]


@pytest.fixture(scope="session")
def points_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a native core with crash points, made once by all test processes of a session."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "points"
    build(folder)
    return folder
