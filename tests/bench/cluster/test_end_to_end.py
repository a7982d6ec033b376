"""The benchmark of several hosts once, in little. Ray and Celery are no part of it: tests have neither."""

import json
from pathlib import Path

import pytest

from bench.cluster.network import why_not
from bench.core.processes import MARK_VARIABLE
from tests.bench.support.commands import start
from tests.support import ROOT

SCRIPT = "bench/scripts/run_cluster_bench.py"
LITTLE = ["--quick", "--rounds=1"]

pytestmark = [pytest.mark.bench, pytest.mark.slow, pytest.mark.timeout(240)]


def run(out: Path, *words: str, code: int = 0) -> dict[str, object]:
    ended, output = start(SCRIPT, *LITTLE, *words, "--out", str(out)).end(200)
    assert ended == code, output
    (path,) = out.glob("cluster_*.json")
    text = path.read_text(encoding="utf-8")
    for private in (str(ROOT), str(out), str(Path.home()), MARK_VARIABLE):
        assert private not in text
    assert {file.suffix for file in out.iterdir()} == {".json", ".md", ".svg"}
    document: dict[str, object] = json.loads(text)
    return document


def test_calls_are_measured_and_nothing_is_left_behind(tmp_path: Path) -> None:
    document = run(tmp_path, "--no-goodput")
    rows = document["rows"]
    assert isinstance(rows, dict)
    assert document["errors"] == []
    for name in ("nats", "nats-uvloop", "call", "acall"):
        assert rows[name]["not_run"] is None
        assert 0 < rows[name]["p50_us"]["median"] <= rows[name]["p99_us"]["median"]
        assert rows[name]["calls_s"]["1"]["median"] > 0
        assert rows[name]["p50_over_bare"]["median"] > 0
    for name in ("far-link", "far-nats", "far-call", "far-acall"):
        assert rows[name]["not_run"] == why_not()
        if why_not() is None:
            assert rows[name]["p50_us"]["min"] > 400, "there and back"
    assert rows["ray"]["not_run"] in (None, "ray isn't installed")


def test_goodput_is_measured_with_one_to_three_pools(tmp_path: Path) -> None:
    document = run(tmp_path, "--no-calls")
    goodput = document["goodput"]
    assert isinstance(goodput, dict)
    assert (document["errors"], document["rows"], goodput["not_run"]) == ([], {}, None)
    assert list(goodput["pools"]) == ["1", "2", "3"]
    for pools, figures in goodput["pools"].items():
        assert 0 < figures["goodput_s"]["median"] <= figures["offered_s"]["median"]
        others = figures["outcomes"]["in_time"] / 3 - figures["own_s"]["median"]
        assert (others > 1) == (pools != "1"), "only other hosts' pools can add to the own one"
