"""The whole micro benchmark once, in little."""

import json
import signal
from pathlib import Path

import pytest

from bench.core.processes import MARK_VARIABLE
from bench.micro.peers.table import PEERS
from tests.bench.support.commands import start
from tests.support import ROOT

SCRIPT = "bench/scripts/run_micro_bench.py"
LITTLE = ["--quick", "--rounds=1", "--window=0.05", "--idle=0.2", "--sizes=64,1MiB", "--calls=20"]

pytestmark = [pytest.mark.bench, pytest.mark.slow, pytest.mark.timeout(240)]


def test_the_benchmark_runs_and_leaves_results_and_nothing_else(tmp_path: Path) -> None:
    code, output = start(SCRIPT, *LITTLE, "--out", str(tmp_path)).end(200)
    assert code == 0, output

    (path,) = tmp_path.glob("micro_*.json")
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    for private in (str(ROOT), str(tmp_path), str(Path.home()), MARK_VARIABLE):
        assert private not in text
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".md", ".svg"}

    assert document["errors"] == []
    ran = [name for name, entry in document["peers"].items() if entry["not_run"] is None]
    assert {"stdio", "pipe", "pipe-pickle", "socket", "executor"} <= set(ran)
    called = {name: [peer for peer in ran if PEERS[peer].called_under(name)] for name in document["latency"]}
    for condition in ("idle", "spaced", "one", "all"):
        assert list(document["latency"][condition]["64"]) == called[condition]
    if "quota" in document["latency"] and document["latency"]["quota"]["64"]:
        judged = [name for name in called["quota"] if PEERS[name].judged]
        assert list(document["latency"]["quota"]["64"]) == judged
    else:
        assert any(warning.startswith("quota was not measured") for warning in document["warnings"])
    for figures in document["latency"]["one"]["64"].values():
        assert figures["cpu_us_per_call"]["median"] >= figures["own_cpu_us_per_call"]["median"]
    for figures in document["latency"]["idle"]["64"].values():
        assert 0 < figures["p50_us"]["median"] <= figures["p99_us"]["median"]
        assert figures["calls"] >= 3
    large = document["latency"]["idle"]["1048576"]
    for name in ("stdio", "pipe", "executor", "stdio-raw", "pipe-raw"):
        assert large[name]["mean_us"]["median"] > 0
    assert "executor-raw" not in large
    threads = {"1 thread", "4 threads", "16 threads", "4 processes"}
    assert (
        threads <= set(document["throughput"]) <= threads | {f"{n} tasks" for n in (16, 64, 256)} | {"1 task"}
    )
    measured = [document["throughput"][name]["stdio"]["calls_s"]["median"] for name in threads]
    assert min(measured) >= 0
    assert max(measured) > 0  # in so short a window, a busy machine may make none with many callers
    assert document["idle_cpu"]["stdio"]["processes"] >= 3
    if "shm-8" in ran:
        # Client process, supervisor, fork server and executors.
        assert [document["idle_cpu"][name]["processes"] for name in ("shm", "shm-4", "shm-8")] == [4, 7, 11]
    for criterion in document["criteria"]:
        assert (criterion["seen"] is None) == (criterion["reached"] is None)
    assert "Criteria" in output
    assert "Wrote" in output


def test_a_peer_that_fails_is_told_and_the_others_go_on(tmp_path: Path) -> None:
    """No worker is ready within a millisecond."""
    words = ["--peers", "pipe,stdio", "--no-throughput", "--conditions", "idle", "--out", str(tmp_path)]
    code, output = start(SCRIPT, *LITTLE, *words, MOLT_WORKER_START_TIMEOUT_MS="1").end(100)
    assert code == 3, output
    (path,) = tmp_path.glob("micro_*.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["peers"]["stdio"]["not_run"] in document["errors"][0]
    assert document["settings"]["MOLT_WORKER_START_TIMEOUT_MS"] == "1"
    assert list(document["latency"]["idle"]["64"]) == ["pipe"]
    assert output.index("THERE WERE ERRORS") < output.index("  - stdio failed")


def test_where_no_peer_can_run_the_reasons_are_told(tmp_path: Path) -> None:
    """No compiler on PATH."""
    code, output = start(SCRIPT, "--peers", "c-park", "--out", str(tmp_path), PATH=str(tmp_path)).end(100)
    assert code == 1, output
    assert "no peer can run here: c-park: there is no C compiler" in output
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_stops_everything_and_writes_nothing(tmp_path: Path) -> None:
    peers = ["--peers", "pipe,stdio,executor,iceoryx2", "--rounds", "1000", "--idle", "0"]
    command = start(SCRIPT, *peers, "--out", str(tmp_path))
    command.read_until(": round 1")
    command.process.send_signal(signal.SIGINT)
    code, output = command.end(100)
    assert code == 130, output
    assert "nothing is written" in output
    assert list(tmp_path.iterdir()) == []
