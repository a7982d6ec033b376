"""What is made before any server is loaded."""

from pathlib import Path

import pytest

from bench.core import BenchError
from bench.demo import preparation


def test_a_build_that_fails_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preparation, "DEMO_EXPORTS", "nowhere.json")
    folder, report = preparation.Build(tmp_path / "builds").wait()
    assert folder is None
    assert "nowhere.json" in report["failed"]


def test_a_table_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    assert preparation.make_table(tmp_path / "table.json", 3).stat().st_size > 0
    with pytest.raises(BenchError, match=r"couldn't be made(?s:.*)rows"):
        preparation.make_table(tmp_path / "table.json", -1)
