"""Reports of the benchmark of growth: from a results document alone."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from bench.core.results import Heading
from bench.growth.callers import Turn
from bench.growth.options import Options
from bench.growth.report import output
from bench.growth.report.document import KIND, build
from bench.growth.steps import Cost
from bench.scripts import report as script
from tests.bench.support.reports import in_file, on_terminal

COSTS = {"look": {32: Cost(3.41, 93), 256: Cost(10.6, None)}}
TURNS = [Turn(1, 12.0, 20.0, 70_000), Turn(4, 13.0, 50.0, 60_000), Turn(4, 15.0, 60.0, 64_000)]


def document(
    costs: dict[str, dict[int, Cost]], turns: list[Turn], errors: tuple[str, ...] = ()
) -> dict[str, Any]:
    heading = Heading(KIND, "python bench/scripts/run_growth_bench.py")
    return build(heading, Options(rounds=2), costs, turns, settings={}, errors=list(errors))


def test_steps_stand_by_channels_and_calls_by_processes() -> None:
    steps, calls = output.tables(document(COSTS, TURNS))
    assert steps.columns == ("step", "what", "32 channels", "256 channels")
    assert steps.rows[0][2:] == ("3.41, 93", "10.6, -")
    assert calls.rows == (
        ("1", "12.0", "20.0", "70000"),
        ("4", "14.0 (13.0-15.0)", "55.0 (50.0-60.0)", "62000 (60000-64000)"),
    )


def test_either_part_may_be_left_out() -> None:
    for made in (document(COSTS, []), document({}, TURNS)):
        assert len(list(output.tables(made))) == 1
        assert ElementTree.fromstring(output.picture(made)).tag.endswith("svg")


def test_few_rounds_and_failures_are_told() -> None:
    assert "Warning: 2 rounds say little" in on_terminal(output.report_of(document({}, TURNS)))
    failed = document(COSTS, [], ("calls: its client process ended",))
    assert failed["warnings"] == []
    assert "**calls: its client process ended**" in in_file(output.report_of(failed))


def test_the_reports_of_a_stored_result_are_made_anew(tmp_path: Path) -> None:
    files = output.write(document(COSTS, TURNS), tmp_path)
    assert {file.suffix for file in files} == {".svg", ".md", ".json"}
    (stored,) = tmp_path.glob("growth_*.json")
    before = {file: file.read_bytes() for file in files}
    assert script.main([str(stored)]) == 0
    assert {file: file.read_bytes() for file in files} == before
    assert json.loads(stored.read_text())["calls"]["4"]["calls_s"]["median"] == 62_000
