"""A sample of the kill matrix: each point with SIGKILL, and some cells of all else. `tox -e crash` runs the rest."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.system.crash.failpoints.table import Actor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")


@pytest.mark.parametrize("actor", [actor.value for actor in Actor])
def test_whoever_dies_at_any_point_no_call_is_lost_and_the_pool_is_whole_again(
    actor: str, points_build: Path, tmp_path: Path
) -> None:
    command = [sys.executable, "tests/system/crash/matrix.py", "--sample", "--only", f"{actor}:*"]
    command += ["--build", str(points_build), "--output", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "crash_matrix.json").read_text())
    cells = found["cells"]
    ran = [cell for cell in cells if cell["runs"]]
    assert {cell["actor"] for cell in ran} == {actor}
    assert {cell["action"] for cell in ran} == {"kill", "stop-cont", "stop-kill", "segv", "term"}
    points = {cell["point"] for cell in cells if cell["actor"] == actor}
    assert {cell["point"] for cell in ran if cell["action"] == "kill"} == points
    # A dead client has no calls whose answers could be timed; each of the others ends some.
    assert set(found["answers"]) == {actor} - {Actor.CLIENT.value}
