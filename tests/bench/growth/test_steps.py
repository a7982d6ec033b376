"""bench.growth.steps: the program is there, and counts what it says."""

import shutil
from pathlib import Path

import pytest

from bench.core import BenchError
from bench.growth.steps import STEPS, Program


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_steps_cost_more_where_more_channels_are_used(tmp_path: Path) -> None:
    program = Program(tmp_path)
    for step in STEPS:
        few, many = (program.measure(step, 1024, clients) for clients in (1, 512))
        assert few.ns > 0
        if shutil.which("valgrind"):
            assert few.instructions is not None
            assert many.instructions is not None
            assert 2 * few.instructions < many.instructions


@pytest.mark.skipif(shutil.which("valgrind") is None, reason="valgrind is not installed")
def test_a_channel_that_was_granted_and_not_used_costs_next_to_nothing(tmp_path: Path) -> None:
    few, many = (Program(tmp_path).measure("look", channels, 1).instructions for channels in (64, 4096))
    assert few is not None
    assert many is not None
    assert (many - few) / (4096 - 64) < 0.5


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_what_can_t_be_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match="ended with code 2"):
        Program(tmp_path).measure("look", 32, 33)


def test_without_a_compiler_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(BenchError, match="no C compiler"):
        Program(tmp_path)
