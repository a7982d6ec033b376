"""The build with failpoints."""

import os
from pathlib import Path

import pytest

from tests.system.crash.failpoints.build import build


@pytest.fixture(scope="session")
def points_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a native core with failpoints, made once by all test processes of a session."""
    folder = tmp_path_factory.getbasetemp()
    folder = (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "points"
    build(folder)
    return folder
