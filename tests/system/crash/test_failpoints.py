"""Failpoints by themselves, in a build that has them. That each of the table is passed, the kill matrix shows."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT
from tests.system.crash.failpoints.build import build
from tests.system.crash.failpoints.build import environ as environ_of
from tests.system.crash.failpoints.control import Control
from tests.system.crash.failpoints.table import POINTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")

NAMES = {point.name for point in POINTS}


PASSES = """
import ctypes, os, sys
import molt_accel.ipc.shm._native as native
assert native.__file__ == os.environ["MOLT_FAILPOINTS_NATIVE"]
point = ctypes.PyDLL(native.__file__).molt_failpoint
for number in range(4):
    print(number, flush=True)
    point(sys.argv[1].encode())
"""


def passing(name: str, environ: dict[str, str]) -> tuple[int, int]:
    """Have a process pass a point four times. Its exit code, and how often it came there."""
    command = [sys.executable, "-c", PASSES, name]
    done = subprocess.run(command, env={**os.environ, **environ}, cwd=ROOT, capture_output=True, timeout=60)
    return done.returncode, len(done.stdout.split())


def test_the_passage_that_is_armed_is_hit_once_and_nobody_else(points_build: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "points", NAMES)
    environ = environ_of(build(points_build), control.path)
    name, other = sorted(NAMES)[:2]
    assert passing(name, environ) == (0, 4)
    control.arm(name, signal.SIGKILL, nth=3)
    assert passing(other, environ) == (0, 4)
    assert passing("of.no.table", environ) == (-signal.SIGABRT, 1)
    assert control.hit(name) is None
    assert passing(name, environ) == (-signal.SIGKILL, 3)
    hit = control.hit(name)
    assert hit is not None
    assert hit.ns > 0
    assert passing(name, environ) == (0, 4)
    control.arm(name, signal.SIGTERM, only=os.getpid())
    assert passing(name, environ) == (0, 4)
    control.arm(name, signal.SIGTERM)
    control.disarm()
    assert passing(name, environ) == (0, 4)
    control.close()


def test_a_point_in_python_is_passed_too(points_build: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "points", NAMES)
    control.arm("supervisor.killed", signal.SIGKILL)
    code = (
        "from molt_accel.ipc.failpoint import failpoint as f; f('supervisor.bound'); f('supervisor.killed')"
    )
    environ = {**os.environ, **environ_of(build(points_build), control.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, timeout=60)
    assert done.returncode == -signal.SIGKILL
    control.close()
