"""The benchmark of growth once, in little."""

import json
from pathlib import Path

import pytest

from bench.core.processes import MARK_VARIABLE
from tests.bench.support.commands import start
from tests.support import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.slow, pytest.mark.timeout(150)]


def test_steps_and_calls_are_measured_and_nothing_is_left_behind(tmp_path: Path) -> None:
    words = ("--quick", "--rounds=1", "--most-clients=4", "--out", str(tmp_path))
    ended, output = start("bench/scripts/run_growth_bench.py", *words).end(120)
    assert ended == 0, output
    (path,) = tmp_path.glob("growth_*.json")
    text = path.read_text(encoding="utf-8")
    for private in (str(ROOT), str(tmp_path), str(Path.home()), MARK_VARIABLE):
        assert private not in text
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".md", ".svg"}
    document = json.loads(text)
    assert document["errors"] == []
    assert list(document["steps"]) == ["publish", "look", "call"]
    assert all(cost["ns"] > 0 for cost in document["steps"]["call"]["channels"].values())
    assert list(document["calls"]) == ["1", "4"]
    assert all(figures["calls_s"]["median"] > 0 for figures in document["calls"].values())
