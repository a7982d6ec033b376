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


def test_a_build_is_in_its_folder_and_the_report_says_of_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quick_cc: str
) -> None:
    (tmp_path / "handlers.py").write_text("def double(payload: int) -> int:\n    return payload * 2\n")
    monkeypatch.setenv("CC", quick_cc)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(preparation, "DEMO_EXPORTS", "handlers")
    folder, report = preparation.Build(tmp_path / "builds").wait()
    assert folder == tmp_path / "builds", report
    assert [path.suffix for path in folder.glob("*.json")] == [".json"]
    assert [(module["name"], module["compiled"]) for module in report["modules"]] == [("handlers", True)]
    assert report["seconds"] > 0


def test_a_table_that_can_not_be_made_is_an_error(tmp_path: Path) -> None:
    assert preparation.make_table(tmp_path / "table.json", 3).stat().st_size > 0
    with pytest.raises(BenchError, match=r"couldn't be made(?s:.*)rows"):
        preparation.make_table(tmp_path / "table.json", -1)
