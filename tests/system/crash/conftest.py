"""The build with failpoints."""

from pathlib import Path

import pytest

from tests.system.crash.failpoints.build import build


@pytest.fixture(scope="session")
def points_build(shared_folder: Path, quick_cc: str, pytestconfig: pytest.Config) -> Path:
    """The folder of a native core with failpoints, made once by all test processes of a session.

    The whole suite has it optimised, as that of users is.
    """
    folder = shared_folder / "points"
    build(folder, **({} if pytestconfig.getoption("whole") else {"CC": quick_cc}))
    return folder
