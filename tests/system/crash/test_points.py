"""Crash points by themselves: the table names those in the sources, and only a test build has any."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.system.crash.points.build import build
from tests.system.crash.points.build import environ as environ_of
from tests.system.crash.points.control import Control
from tests.system.crash.points.table import POINTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="shared memory is for Linux")

IN_C = re.compile(r"^ *MOLT_POINT\((\S+)\);$", re.M)
IN_PYTHON = re.compile(r"^ *# point: (\S+)$", re.M)
NAMES = {point.name for point in POINTS}


def sources(*patterns: str) -> str:
    """The text of the packages' files of these kinds."""
    packages = [ROOT / "molt_accel", ROOT / "molt_worker"]
    files = [file for package in packages for pattern in patterns for file in sorted(package.rglob(pattern))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def test_each_point_of_the_table_is_in_the_sources_once_and_no_other_is() -> None:
    found = Counter(IN_C.findall(sources("*.h", "*.pyx")) + IN_PYTHON.findall(sources("*.py")))
    assert found == Counter(NAMES)


def test_each_marker_is_one_that_a_test_build_sees() -> None:
    """A comment that is not alone on its line, or a macro that is part of an expression, would be none."""
    assert len(re.findall(r"# point:", sources("*.py"))) == len(IN_PYTHON.findall(sources("*.py")))
    used = re.findall(r"MOLT_POINT\((?!name\))", sources("*.h", "*.pyx"))
    assert len(used) == len(IN_C.findall(sources("*.h", "*.pyx")))


def test_the_core_has_no_points_unless_it_is_built_for_them() -> None:
    from molt_accel.ipc.shm import _native

    assert b"molt_point" not in Path(_native.__file__).read_bytes()


PASSES = """
import ctypes, os, sys
import molt_accel.ipc.shm._native as native
assert native.__file__ == os.environ["MOLT_POINTS_NATIVE"]
point = ctypes.PyDLL(native.__file__).molt_point
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


def test_a_marker_becomes_a_call_on_its_own_line(points_build: Path, tmp_path: Path) -> None:
    control = Control(tmp_path / "points", NAMES)
    control.arm("executor.running", signal.SIGUSR1)
    lines = (ROOT / "molt_worker" / "entrypoints" / "runner.py").read_text().splitlines()
    line = lines.index("        # point: executor.running") + 1
    code = f"""
import signal
from molt_worker.entrypoints import runner
lines = []
def handler(number, frame):
    lines.append(frame.f_lineno if frame.f_code.co_filename == runner.__file__ else 0)
signal.signal(signal.SIGUSR1, handler)
class Export:
    decode = encode = None
    codec_out, function = runner.Codec.MSGPACK, staticmethod(lambda payload: payload)
request = runner.Frame(runner.Kind.REQUEST, 1, "entry", b"\\x01")
runner.Runner._call(None, Export, request, runner.Frame(runner.Kind.RESPONSE, 1))
assert lines == [{line}], lines
"""
    environ = {**os.environ, **environ_of(build(points_build), control.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, cwd=ROOT, timeout=60)
    assert done.returncode == 0
    control.close()
