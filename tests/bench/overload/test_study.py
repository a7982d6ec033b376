"""The simulation's tables and files."""

import json
from pathlib import Path

import pytest

from bench.overload import report, study
from bench.overload.pool import Shape
from bench.scripts import run_overload_simulation
from tests.support import ROOT

FIGURES = {"goodput": 0.987, "onset": 0.5, "refused": 0.25, "wait_p50_ms": 3.0, "wait_p99_ms": 99.6}


def test_a_burst_of_20_passes_as_long_as_an_interval_allows() -> None:
    assert study.longest_burst(Shape()) in range(50, 100)


def test_every_part_of_the_study_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "ONSETS", 1)
    monkeypatch.setattr(study, "ROWS", study.ROWS[1:2])
    monkeypatch.setattr(study, "LOADS", (2.0,))
    monkeypatch.setattr(study, "VARIANT_LOADS", (2.0,))
    rules = study.compare_rules(3)
    kept = {name: rows["20 ms"]["2"]["goodput"] for name, rows in rules.items()}
    assert kept["as it is"] > 0.95 > kept["CoDel"] > kept["64 places"]
    variants = study.compare_variants(3)
    assert set(variants) == set(study.VARIANTS)
    assert variants["as it is"]["rows"]["20 ms"]["2"] == rules["as it is"]["20 ms"]["2"]
    assert {name for name, told in variants.items() if told["rows"]["20 ms"]["2"]["onset"] < 0.5} == {
        "ends at the first short wait"
    }
    for scene in study.scenes():
        told = study.play(scene, 2)
        assert 0 < told["busy"] <= 1.05
        assert [each.name for each in scene.sources] == list(told["sources"])


def test_files_are_written_and_say_what_was_simulated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def by_row(loads: tuple[float, ...]) -> dict[str, object]:
        return {row.name: {f"{load:g}": FIGURES for load in loads} for row in study.ROWS}

    monkeypatch.setattr(study, "compare_rules", lambda _: {name: by_row(study.LOADS) for name in study.RULES})
    variant = {"rows": by_row(study.VARIANT_LOADS), "burst_ms": -1, "followed_s": 1.25}
    monkeypatch.setattr(study, "compare_variants", lambda _: dict.fromkeys(study.VARIANTS, variant))
    monkeypatch.setattr(study, "CURVE_LOADS", (1.0,))
    monkeypatch.setattr(report, "CURVE_LOADS", (1.0,))
    assert run_overload_simulation.main(["--seconds", "1", "--out", str(tmp_path)]) == 0
    files = {path.suffix: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()}
    assert set(files) == {".md", ".json", ".svg"}
    document = json.loads(files[".json"])
    assert (document["schema_version"], document["errors"], document["simulated_s"]) == (1, [], 1.0)
    assert str(ROOT) not in files[".json"]
    assert "| 20 ms | CoDel | 0.99 / 0.50 |" in files[".md"]
    assert "| as it is | never | 1.2 |" in files[".md"]
    assert "three classes" in capsys.readouterr().out
