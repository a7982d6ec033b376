"""The gates: what fails, what noise may do, what can't be compared."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.results import read
from bench.demo.report.document import KIND
from bench.scripts import compare, report
from tests.bench.support.demo import document, load, run
from tests.support import ROOT
from tests.support.errors import raised


def made(factor: float = 1.0, spread: float = 0.0) -> dict[str, Any]:
    """A result whose offload is so much faster than the baseline, or slower by a factor."""
    runs = []
    for number in range(3):
        answers = round(500 * factor * (1 + spread * (number - 1)))
        runs.append(run("baseline-threads", load(100), round_=number))
        runs.append(run("offload", load(answers, p=2 / factor), round_=number))
    return json.loads(json.dumps(document(runs)))  # type: ignore[no-any-return]


@pytest.fixture
def files(tmp_path: Path) -> Any:
    """Writes results; their paths as words."""

    def write(*documents: Any) -> list[str]:
        paths = [tmp_path / f"{number}.json" for number in range(len(documents))]
        for path, each in zip(paths, documents, strict=True):
            path.write_text(json.dumps(each))
        return list(map(str, paths))

    return write


def test_the_same_result_passes(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(files(made(), made())) == 0
    shown = capsys.readouterr().out
    assert "offload/baseline-threads.req_s" in shown
    assert "No gate failed" in shown


def test_a_loss_beyond_the_tolerance_fails(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert compare.main(files(made(), made(0.7))) == 1
    assert "FAILED" in capsys.readouterr().out
    assert compare.main(files(made(), made(0.95))) == 0
    assert compare.main([*files(made(), made(0.95)), "--tolerance", "0.01"]) == 1


def test_a_gain_or_a_loss_within_the_spread_of_the_rounds_never_fails(files: Any) -> None:
    assert compare.main(files(made(), made(3.0))) == 0
    words = files(made(1.0, 0.5), made(0.8, 0.5))
    assert compare.main([*words, "--threshold", "offload/baseline-threads.p99=0.9"]) == 0


def test_a_threshold_is_for_names_that_begin_so(files: Any) -> None:
    words = files(made(), made(0.7))
    assert compare.main([*words, "--threshold", "offload/=0.5"]) == 0
    words += ["--threshold", "offload/=0.5"]
    assert compare.main([*words, "--threshold", "offload/baseline-threads.req_s=0.1"]) == 1


def test_one_result_is_held_against_its_criteria(files: Any, tmp_path: Path) -> None:
    reached = made()
    assert [entry["reached"] for entry in reached["criteria"] if entry["name"] == "threads_req_s"] == [True]
    assert compare.main([*files(reached), "--markdown", str(tmp_path / "c.md")]) == 0
    assert "| reached |" in (tmp_path / "c.md").read_text()
    missed = made(0.5)
    assert compare.main(files(missed)) == 1
    assert compare.main([*files(missed, missed)]) == 0
    assert compare.main([*files(missed, missed), "--criteria"]) == 1


def test_what_is_missing_in_the_new_result_is_told(files: Any, capsys: pytest.CaptureFixture[str]) -> None:
    less = copy.deepcopy(made())
    more = made()
    more["studies"]["neighbour"] = {"ratio_p99": {"gunicorn": {"median": 5, "min": 4, "max": 6}}}
    kept = {"offload": {"kept": {"2": {"median": 0.9, "min": 0.9, "max": 0.9}}}, "baseline": {"kept": {}}}
    more["studies"]["goodput"] = {"cells": [{"server": "uvicorn", "handler_ms": 5.0, "variants": kept}]}
    assert compare.main(files(more, less)) == 0
    told = capsys.readouterr().out
    assert "neighbour.p99.gunicorn" in told
    assert "goodput.kept.uvicorn.5ms.2x" in told


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"kind": "other"}, "is no result of the molt-accel demo benchmark"),
        ({"schema_version": 1}, "schema_version 1, not 4"),
        ({"comparisons": []}, "no figure in common"),
    ],
)
def test_results_that_can_not_be_compared_are_wrong_usage(
    files: Any, capsys: pytest.CaptureFixture[str], change: dict[str, Any], text: str
) -> None:
    assert compare.main(files(made() | change, made())) == 2
    assert text in capsys.readouterr().err


def test_wrong_usage(files: Any, tmp_path: Path) -> None:
    assert compare.main([str(tmp_path / "none.json")]) == 2
    assert compare.main(files(made(), made(), made())) == 2
    assert compare.main([*files(made()), "--tolerance", "1"]) == 2
    for threshold in ("x", "x=", "x=2", "=0.1"):
        assert raised(SystemExit, compare.main, [*files(made()), "--threshold", threshold]).code == 2


def test_the_stored_reference_can_be_compared() -> None:
    nightly = (ROOT / ".github/workflows/nightly.yml").read_text()
    (line,) = [line for line in nightly.splitlines() if "bench-compare" in line]
    given = compare.parser().parse_args(line.partition(" -- ")[2].split())
    assert compare.figures(read(ROOT / given.results[0], KIND)[1])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    "path", sorted((ROOT / "bench" / "results").glob("*.json")), ids=lambda path: path.name
)
def test_the_tables_of_a_stored_reference_are_made_anew(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    assert report.main([str(copy)]) == 0
    assert copy.with_suffix(".md").read_text() == path.with_suffix(".md").read_text()
    assert copy.read_bytes() == path.read_bytes()
