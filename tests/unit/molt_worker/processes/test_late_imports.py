"""What executors tell their fork server of imports that a stop has interrupted."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from molt_worker.processes.late_imports import _MAX_NAMES, LateImports


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module that can be imported, and one that can't."""
    (tmp_path / "late_one.py").write_text("x = 1")
    (tmp_path / "late_bad.py").write_text("raise SystemExit(3)")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("late_one", None)


@pytest.fixture
def late() -> Iterator[LateImports]:
    late = LateImports()
    yield late
    os.close(late._read_fd)
    os.close(late._write_fd)


@pytest.mark.usefixtures("modules")
def test_what_one_executor_did_not_finish_the_next_ones_import(late: LateImports) -> None:
    late.before_fork(1)
    assert list(late.run(1)) == []
    for name in ("late_one", "late_bad", "sys"):
        late.tell(1, name)
    assert late.after_exit(1) == []
    late.before_fork(2)
    ((failed, error),) = late.run(2)
    assert (failed, type(error)) == ("late_bad", SystemExit)
    assert "late_one" in sys.modules
    del sys.modules["late_one"]
    late.before_fork(3)
    assert list(late.run(3)) == []
    assert "late_one" in sys.modules
    assert late.after_exit(2) == late.after_exit(3) == []


@pytest.mark.usefixtures("modules")
def test_what_an_executor_dies_of_is_given_up(late: LateImports) -> None:
    late.tell(1, "late_one")
    late.before_fork(2)
    assert late.after_exit(2) == ["late_one"]
    late.tell(3, "late_one")
    late.before_fork(4)
    assert list(late.run(4)) == []
    assert "late_one" not in sys.modules


def test_whatever_stands_in_the_pipe_does_no_harm(late: LateImports) -> None:
    late.tell(1, "a\n\nb c\n-\nx \n")
    for number in range(10 * _MAX_NAMES):
        late.tell(1, f"late_{number}" + "x" * 1000)  # more than a pipe takes
    late.before_fork(2)
    assert 1 < len(late.after_exit(2)) <= _MAX_NAMES
