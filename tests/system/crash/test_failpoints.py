"""Failpoints by themselves: the table names those in the sources, and only a test build has any."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from molt_accel.ipc.failpoint import failpoint
from tests.support import ROOT
from tests.system.crash.failpoints.build import build
from tests.system.crash.failpoints.build import environ as environ_of
from tests.system.crash.failpoints.control import Control
from tests.system.crash.failpoints.table import POINTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")

IN_C = re.compile(r"^ *MOLT_FAILPOINT\((\S+)\);$", re.M)
IN_PYTHON = re.compile(r"^ *failpoint\(\"(\S+)\"\)$", re.M)
NAMES = {point.name for point in POINTS}


def sources(*patterns: str) -> str:
    """The text of the packages' files of these kinds."""
    packages = [ROOT / "molt_accel", ROOT / "molt_worker"]
    files = [file for package in packages for pattern in patterns for file in sorted(package.rglob(pattern))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_each_point_of_the_table_is_in_the_sources_once_and_no_other_is() -> None:
    # One stands in user code: the entrypoints of the matrix.
    entries = (ROOT / "tests" / "system" / "crash" / "matrix_entries.py").read_text(encoding="utf-8")
    found = Counter(IN_C.findall(sources("*.h", "*.pyx")) + IN_PYTHON.findall(sources("*.py") + entries))
    assert found == Counter(NAMES)


def test_each_point_is_a_statement_of_its_own() -> None:
    used = re.findall(r"(?<!def )\bfailpoint\(", sources("*.py"))
    assert len(used) == len(IN_PYTHON.findall(sources("*.py")))
    used = re.findall(r"MOLT_FAILPOINT\((?!name\))", sources("*.h", "*.pyx"))
    assert len(used) == len(IN_C.findall(sources("*.h", "*.pyx")))


def test_the_core_has_no_points_unless_it_is_built_for_them() -> None:
    from molt_accel.ipc.shm import _native

    assert b"molt_failpoint" not in Path(_native.__file__).read_bytes()


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


def test_a_point_in_python_does_nothing_without_a_test_build() -> None:
    assert failpoint("supervisor.killed") is None  # type: ignore[func-returns-value]
