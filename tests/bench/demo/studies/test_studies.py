"""The studies: their arithmetic on made figures, and each once in small with real servers and k6."""

import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.core.progress import Reporter
from bench.demo.load.k6 import K6, Counts
from bench.demo.load.sampling import Usage
from bench.demo.options import Options
from bench.demo.report import plots
from bench.demo.studies import abort, cost, goodput, mix, neighbour, sweep, testbed
from bench.demo.studies.registry import STUDIES, chosen_studies
from bench.demo.studies.testbed import (
    DIRTY,
    POOL,
    Sample,
    Scale,
    Variant,
    cores,
    sample_ratio,
    servers_of,
    summary,
)
from tests.bench.support.demo import load, whole


def sample(
    ok: int,
    *,
    p: float = 5.0,
    within: int | None = None,
    refused: int = 0,
    gone: int = 0,
    front_s: float = 0.5,
) -> Sample:
    """A run of one second. `gone`: requests that clients gave up on; `front_s`: what server and k6 took."""
    usage = Usage(elapsed_s=1.0, load_cpu_seconds=front_s - 0.5)
    usage.parts["server"].cpu_seconds = 0.5
    failed = {name: count for name, count in (("busy_429", refused), ("transport", gone)) if count}
    return Sample(replace(load(ok, p=p, failed=failed), within_slo=ok if within is None else within), usage)


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


def test_cores_are_processor_seconds_in_each_second() -> None:
    found = cores([sample(1, front_s=0.75), sample(1)])
    assert found == {"server_cores": [0.5, 0.5], "worker_cores": [0, 0], "k6_cores": [0.25, 0]}


@pytest.mark.parametrize(
    ("found", "slowest"),
    [
        (sample(1000), 5),
        (sample(1000, refused=10), 5),
        (sample(1000, refused=11), 999),  # more than a hundredth got no answer
        (sample(0, gone=1), 999),
        (sample(0), None),
    ],
)
def test_refusals_make_no_p99_better(found: Sample, slowest: float | None) -> None:
    assert found.slowest_ms(999) == slowest


def test_variants_with_equal_servers_share_one() -> None:
    assert (
        servers_of([goodput.STUDY], "default") == servers_of([goodput.STUDY, neighbour.STUDY], "default")[:1]
    )
    # gunicorn and uvicorn, with and without a worker; a dirty app; and the workers without a queue target.
    assert len(servers_of(list(STUDIES.values()), "full")) == 2 * 2 + 1 + 2
    assert Variant("a", peer=POOL).server == Variant("b").server != Variant("b", peer=DIRTY).server


def test_each_variant_has_its_path() -> None:
    offload = {"offload": True}
    made = [Variant(""), Variant("", asgi=True), Variant("", **offload), Variant("", asgi=True, **offload)]
    made += [Variant("", peer=POOL), Variant("", peer=POOL, asgi=True), Variant("", peer=DIRTY)]
    assert [cost.path_of(variant) for variant in made] == [
        "/cost/baseline/",
        "/cost/baseline/",
        "/cost/offload/",
        "/cost/offload-async/",
        "/cost/process-pool/",
        "/cost/process-pool-async/",
        "/cost/dirty-app/",
    ]


def test_a_preset_has_its_studies_and_the_user_may_choose_others() -> None:
    by_preset = {
        preset: [each.name for each in chosen_studies(Options(preset=preset))] for preset in sweep.SCALES
    }
    default = ["sweep", "goodput", "mix", "neighbour"]
    assert by_preset == {"quick": [], "default": default, "full": list(STUDIES)}
    assert chosen_studies(Options(studies=())) == []
    assert [each.name for each in chosen_studies(Options(studies=("abort",)))] == ["abort"]


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_takes_longer_with_more_rounds(name: str) -> None:
    study = STUDIES[name]
    one, two, three = (study.lasts_s(Options(preset="full", study_rounds=rounds)) for rounds in (1, 2, 3))
    assert 0 < one < two < three
    # Peers that take long to recover are asked in the first round only.
    assert three - two == pytest.approx(two - one)


# -- goodput -------------------------------------------------------------------------------------------------
def test_goodput_kept_is_over_the_best_of_the_round() -> None:
    turn = goodput.Turn(100, {0.5: sample(50), 1.0: sample(100, within=96), 2.0: sample(100, within=72)})
    assert (goodput.kept_of(turn, 1.0), goodput.kept_of(turn, 2.0)) == (1, 0.75)
    assert goodput.kept_of(goodput.Turn(1, {2.0: sample(5, within=0)}), 2.0) == 0


def test_what_refusals_took_is_what_answers_would_not_have_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(goodput, "available_cores", lambda: 2)
    best = sample(100, front_s=0.5)
    # 80 answers would have taken 0.4 s in front of the executors. So 100 refusals took the other 0.6 s of 2.
    turn = goodput.Turn(100, {1.0: best, 2.0: sample(80, refused=100, front_s=1.0)})
    assert goodput.lost_of(turn, 2.0, 1.0) == pytest.approx(0.3)
    # Where clients also gave up, half of it was theirs.
    turn = goodput.Turn(100, {1.0: best, 2.0: sample(80, refused=100, gone=100, front_s=1.0)})
    assert goodput.lost_of(turn, 2.0, 1.0) == pytest.approx(0.15)
    for none in (sample(80, front_s=1.0), sample(0, refused=1, front_s=0.5)):
        assert goodput.lost_of(goodput.Turn(100, {1.0: none, 2.0: none}), 2.0, 1.0) == 0


def test_what_is_kept_and_lost_is_added_up_in_each_round_and_judged_where_it_is_least() -> None:
    turns = [
        goodput.Turn(100, {1.0: sample(100), 2.0: sample(80, refused=9, front_s=1.0), 5.0: sample(within)})
        for within in (60, 70)
    ]
    entry = goodput.entry_of(turns, 1.0)
    assert set(entry["kept"]) == {"2", "5"}
    assert entry["kept"]["5"]["rounds"] == [0.6, 0.7]
    for share in ("2", "5"):
        kept, lost, both = (entry[name][share]["rounds"] for name in ("kept", "lost", "kept_and_lost"))
        assert both == pytest.approx([one + other for one, other in zip(kept, lost, strict=True)])
    assert entry["lost"]["2"]["median"] > 0
    worse = goodput.entry_of([goodput.Turn(9, {1.0: sample(100), 2.0: sample(50)})], 1.0)
    cells = [
        {"server": "uvicorn", "handler_ms": ms, "variants": {"offload": of, "baseline": worse}}
        for ms, of in ((5, entry), (20, worse))
    ]
    found = goodput.worst_kept({"cells": cells}, "uvicorn", "2")
    assert found is not None
    assert found["median"] == 0.5
    assert goodput.worst_kept({"cells": cells}, "gunicorn", "2") is None
    assert goodput.worst_kept({"cells": cells}, "uvicorn", "3") is None


# -- neighbour -----------------------------------------------------------------------------------------------
def test_a_light_view_is_allowed_three_times_what_it_takes_alone_and_some_milliseconds() -> None:
    alone = sample(100, p=5.0)
    assert neighbour.over_allowed(sample(100, p=10), alone) == 0.5
    assert neighbour.over_allowed(sample(100, p=10, gone=50), alone) == 15_000 / 20
    assert neighbour.over_allowed(sample(0), alone) is None


def test_the_worst_place_beside_many_heavy_clients_is_judged() -> None:
    def beside(p: float) -> dict[str, Any]:
        made = sample(100, p=p)
        made = replace(made, load=replace(made.load, others={"heavy": Counts(7, 2, 1)}), busy_share=p / 100)
        return neighbour.point({0: made}, [sample(100)], 2)

    points = [
        {"clients": count, "runs": {"offload": beside(p)}} for count, p in ((8, 90), (32, 20), (128, 40))
    ]
    section = {"servers": {"uvicorn": {"points": points}}}
    assert points[0]["runs"]["offload"]["heavy_failed"] == 1
    assert points[0]["runs"]["offload"]["heavy_ok_s"]["median"] == 7
    assert neighbour.worst(section, "uvicorn", "offload", "over_allowed")["median"] == 2
    assert neighbour.worst(section, "uvicorn", "offload", "busy_share", least=True)["median"] == 0.2
    assert neighbour.worst(section, "uvicorn", "hammered", "busy_share") is None
    assert neighbour.worst(section, "gunicorn", "offload", "busy_share") is None


# -- for real ------------------------------------------------------------------------------------------------
def in_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As little as shows that each study does what it says."""
    for module in (sweep, mix, abort):
        monkeypatch.setattr(module, "SCALES", {"quick": Scale(1, 1.0)})
    monkeypatch.setattr(sweep, "COSTS", {"quick": (0.0, 1.0)})
    few = goodput.Size(("gunicorn",), (5.0,), (1.0, 2.0), True, Scale(1, 1.0))
    monkeypatch.setattr(goodput, "SIZES", {"quick": few})
    monkeypatch.setattr(
        neighbour, "SIZES", {"quick": neighbour.Size(("uvicorn",), (4,), ("baseline", POOL), Scale(1, 1.0))}
    )
    monkeypatch.setattr(abort, "CLIENTS", 3)


@pytest.mark.bench
@pytest.mark.sample(1)
@pytest.mark.parametrize("name", STUDIES)
def test_a_study_runs_and_leaves_a_section_that_can_be_shown(
    name: str, monkeypatch: pytest.MonkeyPatch, k6: K6
) -> None:
    in_small(monkeypatch)
    study = STUDIES[name]
    options = Options(preset="quick", executors=1, concurrency=4, server_threads=4)
    with (
        tempfile.TemporaryDirectory() as scratch,  # a path that is short enough for sockets in folders below it
        Reporter() as reporter,
        testbed.Testbed(options, k6, reporter, Path(scratch), None, [study]) as servers,
    ):
        section: dict[str, Any] = json.loads(json.dumps(study.run(servers)))
    assert servers.stopped
    assert not any(report.killed or report.remaining for report in servers.stopped)
    for table in study.tables(section):
        assert table.rows
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert list(study.sentences(section))
    for drawn in plots.plots(whole() | {"studies": {name: section}}):
        assert drawn.svg
    for run in RUNS[name](section).values():
        assert run["p99_ms"]["median"] > 0
    if name == "mix" and sys.platform == "linux":  # over stdio there is no pool to look at
        assert section["runs"]["unlimited"]["busy_share"]["median"] > 0


#: By study: the runs that must have had good answers.
RUNS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "sweep": lambda section: section["points"][0]["runs"],
    "goodput": lambda section: {
        name: entry["points"][0]["run"] for name, entry in section["cells"][0]["variants"].items()
    },
    "mix": lambda section: section["runs"],
    "neighbour": lambda section: section["servers"]["uvicorn"]["points"][0]["runs"],
    "abort": lambda section: {},
}
