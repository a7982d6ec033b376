"""The benchmark of recoveries, once and for real."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

STUBBORN = ("busy_loop", "sleep", "stuck_in_c")
CASES = (
    *(f"cancel {entry}: executor free again" for entry in STUBBORN),
    *(f"deadline of {entry}: overrun" for entry in STUBBORN),
    "kill -9 an executor: pool whole again",
    "kill -9 the supervisor: new worker, pool whole",
)

pytestmark = pytest.mark.bench


def run(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "bench" / "scripts" / "run_fault_bench.py", *words],
        cwd=cwd,
        env=os.environ | {"COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.skipif(sys.platform != "linux", reason="one transport only")
def test_every_case_has_figures_for_both_transports(tmp_path: Path) -> None:
    done = run("--rounds", "1", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"shm median +.* stdio max", done.stdout)
    for case in CASES:
        (row,) = [line for line in done.stdout.splitlines() if case in line]
        figures = [float(cell) for cell in row.partition(case)[2].split()]
        assert len(figures) == 6
        # Of one round, the median, p90 and maximum are the same.
        assert len(set(figures[:3])) == len(set(figures[3:])) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_one_transport_can_be_asked_for(tmp_path: Path) -> None:
    done = run("--rounds", "1", "--transport", "stdio", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "shm" not in done.stdout
    rows = [
        line.partition(case)[2].split() for line in done.stdout.splitlines() for case in CASES if case in line
    ]
    assert [len(cells) for cells in rows] == [3] * len(CASES)


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--transport", "shm,pigeon"), "'shm,pigeon'; allowed are shm, stdio, or both"),
        (("--rounds", "0"), "--rounds is 0, allowed are whole numbers from 1"),
    ],
)
def test_what_is_not_allowed_is_named(words: tuple[str, ...], complaint: str, tmp_path: Path) -> None:
    done = run(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert complaint in done.stderr


def test_a_worker_that_cannot_start_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOLT_WORKER_CMD", "/nonexistent/worker")
    done = run("--rounds", "1", cwd=tmp_path)
    assert done.returncode == 1
    assert (
        "run_fault_bench.py: can't start the worker with '/nonexistent/worker --shm alone --linger'"
        in done.stderr
    )
