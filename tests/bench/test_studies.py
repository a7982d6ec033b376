"""The studies: their arithmetic on made figures, and each once in small with real servers and k6."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bench_documents import load

from bench.harness.errors import BenchError
from bench.harness.k6 import find_k6
from bench.harness.options import Options
from bench.harness.progress import Reporter
from bench.harness.sampling import Usage
from bench.harness.servers import StopReport
from bench.harness.studies import STUDIES, abort, goodput, neighbour, sweep
from bench.harness.studies.study import Context, Sample, ratio_spread, shown, summary
from tests.conftest import ROOT


def sample(ok: int, *, p: float = 5.0) -> Sample:
    usage = Usage(elapsed_s=1.0)
    usage.parts["server"].cpu_seconds = 0.5
    return Sample(load(ok, p=p), usage)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0, 2.0), (0.1, 2.0), (1, 3.0)], 0.05),  # pays for an empty handler even
        ([(0, 0.5), (0.1, 0.5), (1, 0.9)], None),  # never pays
        ([(0, 0.5), (0.1, 0.5), (1, 2.0)], 0.1 * 10**0.5),  # half way on logarithmic axes
        ([(0, 2.0), (0.1, 0.5), (1, 2.0), (10, 3.0)], 0.1 * 10**0.5),  # from there on, it stays so
    ],
)
def test_break_even_is_where_the_ratio_stays_above_one(
    points: list[tuple[float, float]], expected: float | None
) -> None:
    found = sweep.break_even(points)
    assert found == (pytest.approx(expected) if expected is not None else None)


def test_a_summary_has_spreads_and_counts_errors() -> None:
    found = summary([sample(100), sample(300), sample(200)], more=[1.0, None, 3.0])
    assert found["req_s"] == {"median": 200, "min": 100, "max": 300, "rounds": [100, 300, 200]}
    assert found["cpu_ms_per_request"]["median"] == 2.5
    assert found["more"]["rounds"] == [1, 3]
    assert (found["rounds"], found["errors"]) == (3, 0)


def test_ratios_are_within_each_round() -> None:
    found = ratio_spread([10, 30, None], [5, 10, 1])
    assert found is not None
    assert found["rounds"] == [2, 3]
    assert shown(found) == "2.50 (2.00-3.00)"
    assert shown(None) == "-"


def test_goodput_kept_is_the_last_over_the_best() -> None:
    points = [{"runs": {"bounded": {"goodput_req_s": {"median": value}}}} for value in (50, 100, 90)]
    assert goodput._kept(points, "bounded") == 0.9
    assert goodput._kept([{"runs": {"x": {"goodput_req_s": {"median": 0}}}}], "x") == 0


def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as shows that each study does what it says."""
    for module in (sweep, neighbour, goodput, abort):
        monkeypatch.setattr(module, "ROUNDS", {"quick": 1})
        monkeypatch.setattr(module, "SECONDS", {"quick": 1.0}, raising=False)
    monkeypatch.setattr(sweep, "COSTS", {"quick": (0.0, 1.0)})
    monkeypatch.setattr(goodput, "SHARES", {"quick": (2.0,)})
    monkeypatch.setattr(abort, "CLIENTS", 3)


@pytest.mark.bench
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_and_leaves_a_section_that_can_be_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        k6 = find_k6()
    except BenchError as exc:
        pytest.skip(str(exc))
    in_small(monkeypatch)
    options = Options(tmp_path, preset="quick", executors=1, concurrency=4, server_threads=4)
    stopped: list[StopReport] = []
    with Reporter() as reporter:
        context = Context(options, k6, reporter, tmp_path, ROOT, None, stopped, [])
        section: dict[str, Any] = json.loads(json.dumps(STUDIES[name].run(context)))
    assert len(stopped) >= 2
    assert not any(report.killed or report.remaining for report in stopped)
    for table in STUDIES[name].tables(section):
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert list(STUDIES[name].sentences(section))
    runs = section["runs"] if "runs" in section else section["points"][0]["runs"]
    assert {"baseline"} < runs.keys()
    for run in runs.values():
        if "req_s" in run:
            assert run["req_s"]["median"] > 0
