"""The studies: their arithmetic on made figures, and each once in small with real servers and k6."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.core.progress import Reporter
from bench.demo.load.k6 import K6
from bench.demo.load.sampling import Usage
from bench.demo.options import Options
from bench.demo.studies import abort, goodput, neighbour, sweep, testbed
from bench.demo.studies.registry import STUDIES, chosen_studies
from bench.demo.studies.testbed import Sample, Scale, Variant, sample_ratio, servers_of, summary
from tests.bench.support.demo import load


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
def test_break_even_has_a_ratio_above_one(points: list[tuple[float, float]], expected: float | None) -> None:
    assert sweep.break_even(points) == (pytest.approx(expected) if expected is not None else None)


def test_a_summary_has_spreads_and_counts_errors() -> None:
    found = summary([sample(100), sample(300), sample(200)], more=[1.0, None, 3.0])
    assert found["req_s"] == {"median": 200, "min": 100, "max": 300, "rounds": [100, 300, 200]}
    assert (found["cpu_ms_per_request"]["median"], found["more"]["rounds"]) == (2.5, [1, 3])
    assert (found["rounds"], found["errors"]) == (3, 0)


def test_ratios_are_within_each_round() -> None:
    found = sample_ratio([sample(10), sample(30), sample(1)], [sample(5), sample(10), sample(0)], "req_s")
    assert found is not None
    assert found["rounds"] == [2, 3]
    assert sample_ratio([sample(0)], [sample(5)], "p99_ms") is None


def test_variants_that_differ_in_their_name_only_share_a_server() -> None:
    """Those of the sweep and of the neighbour are the same three."""
    assert servers_of([sweep.STUDY]) == servers_of([sweep.STUDY, neighbour.STUDY])
    assert len(servers_of(list(STUDIES.values()))) == 3 + 4
    assert servers_of([goodput.STUDY, abort.STUDY]).count(Variant("", asgi=True)) == 1


def test_a_preset_has_its_studies_and_the_user_may_choose_others() -> None:
    by_preset = {
        preset: [each.name for each in chosen_studies(Options(preset=preset))] for preset in sweep.SCALES
    }
    assert by_preset == {"quick": [], "default": ["sweep", "neighbour"], "full": list(STUDIES)}
    assert chosen_studies(Options(studies=())) == []
    assert [each.name for each in chosen_studies(Options(studies=("abort",)))] == ["abort"]


def test_goodput_kept_is_the_last_over_the_best() -> None:
    points = [{"runs": {"bounded": {"goodput_req_s": {"median": value}}}} for value in (50, 100, 90)]
    assert goodput._kept(points, "bounded") == 0.9
    assert goodput._kept([{"runs": {"x": {"goodput_req_s": {"median": 0}}}}], "x") == 0


def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as shows that each study does what it says."""
    for module in (sweep, neighbour, goodput, abort):
        monkeypatch.setattr(module, "SCALES", {"quick": Scale(1, 1.0)})
    monkeypatch.setattr(sweep, "COSTS", {"quick": (0.0, 1.0)})
    monkeypatch.setattr(goodput, "SHARES", {"quick": (2.0,)})
    monkeypatch.setattr(abort, "CLIENTS", 3)


@pytest.mark.bench
@pytest.mark.sample(1)
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_and_leaves_a_section_that_can_be_shown(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k6: K6
) -> None:
    in_small(monkeypatch)
    study = STUDIES[name]
    options = Options(preset="quick", executors=1, concurrency=4, server_threads=4)
    with Reporter() as reporter, testbed.Testbed(options, k6, reporter, tmp_path, None, [study]) as servers:
        section: dict[str, Any] = json.loads(json.dumps(study.run(servers)))
    assert len(servers.stopped) >= 2
    assert not any(report.killed or report.remaining for report in servers.stopped)
    for table in study.tables(section):
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert list(study.sentences(section))
    runs = section["runs"] if "runs" in section else section["points"][0]["runs"]
    assert {"baseline"} < runs.keys()
    for run in runs.values():
        if "req_s" in run:
            assert run["req_s"]["median"] > 0
