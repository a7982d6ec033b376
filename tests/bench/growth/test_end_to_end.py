"""The benchmark of growth once, in little."""

import json
from pathlib import Path

import pytest

from bench.core.processes import MARK_VARIABLE
from tests.bench.support.commands import start
from tests.support import ROOT

pytestmark = [pytest.mark.bench, pytest.mark.timeout(150)]


@pytest.mark.parametrize(
    ("words", "steps", "clients"),
    [
        (("--no-steps", "--most-clients=1"), [], ["1"]),
        pytest.param(("--most-clients=4",), ["publish", "look", "call"], ["1", "4"], marks=pytest.mark.slow),
    ],
)
def test_steps_and_calls_are_measured_and_nothing_is_left_behind(
    words: tuple[str, ...], steps: list[str], clients: list[str], tmp_path: Path
) -> None:
    script = "bench/scripts/run_growth_bench.py"
    ended, output = start(script, "--quick", "--rounds=1", *words, "--out", str(tmp_path)).end(120)
    assert ended == 0, output
    (path,) = tmp_path.glob("growth_*.json")
    text = path.read_text(encoding="utf-8")
    for private in (str(ROOT), str(tmp_path), str(Path.home()), MARK_VARIABLE):
        assert private not in text
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".md", ".svg"}
    document = json.loads(text)
    assert document["errors"] == []
    assert list(document["steps"]) == steps
    assert all(cost["ns"] > 0 for step in document["steps"].values() for cost in step["channels"].values())
    assert list(document["calls"]) == clients
    assert all(figures["calls_s"]["median"] > 0 for figures in document["calls"].values())
