"""The whole benchmark once, in little: the demo, gunicorn, the worker and k6 for real."""

import json
import signal
import sys
from pathlib import Path

import pytest

from bench.core.processes import MARK_VARIABLE
from tests.bench.support.commands import start
from tests.support import ROOT

SCRIPT = ["bench/scripts/run_demo_bench.py", "-m", "bench.scripts.run_demo_bench"]
LITTLE = [
    "--quick", "--duration=1", "--warmup=20", "--concurrency=4", "--server-threads=4", "--executors=1",
    "--data-rows=200", "--scenarios=baseline-threads,offload,offload-stdio,data-baseline,data-offload",
]  # fmt: skip
LEAST = ["--no-data", "--open-rounds", "0"]
IN_PYTHON = "--scenarios=baseline-threads,offload-python,offload-stdio"

pytestmark = [pytest.mark.bench, pytest.mark.usefixtures("k6")]


#: To compile the demo's handlers takes most of the time. What a build leaves is shown in test_preparation.py, too.
@pytest.mark.parametrize(
    ("how", "more", "compiles"),
    [
        pytest.param(SCRIPT[:1], [], True, marks=pytest.mark.slow, id="file"),
        pytest.param(SCRIPT[1:], LEAST, True, marks=pytest.mark.slow, id="module"),
        pytest.param(SCRIPT[1:], [*LEAST, IN_PYTHON], False, id="in-python"),
    ],
)
def test_the_benchmark_runs_and_leaves_results_and_nothing_else(
    tmp_path: Path, how: list[str], more: list[str], compiles: bool
) -> None:
    words = [*LITTLE, *more]
    code, output = start(*how, *words, "--out", str(tmp_path)).end()
    # A run this short on a busy machine may drop or fail a request; that is then told, by 3.
    assert code in (0, 3), output

    (path,) = tmp_path.glob("demo_k6_*.json")
    text = path.read_text(encoding="utf-8")
    document = json.loads(text)
    assert str(ROOT) not in text
    assert str(tmp_path) not in text
    assert MARK_VARIABLE not in text
    for kind in ("md", "svg", "html"):
        assert path.with_suffix(f".{kind}").is_file()
    assert len(list(tmp_path.iterdir())) == 4

    assert document["shutdown"]["remaining"] == document["shutdown"]["killed"] == []
    assert bool(document["errors"]) == (code == 3)
    offloaded = "offload" if compiles else "offload-python"
    offload = document["scenarios"][offloaded]
    assert document["scenarios"]["baseline-threads"]["closed"]["worker"]["processes"] == 0
    assert offload["closed"]["worker"]["processes"] >= 2
    assert offload["closed"]["worker"]["cpu_percent"]["avg"] > 0
    for scenario in document["scenarios"].values():
        assert scenario["closed"]["ok"] > 0
        assert scenario["closed"]["p999_ms"]["median"] >= scenario["closed"]["p50_ms"]["median"] > 0
        assert scenario["closed"]["server"]["rss_mib"]["max"] > 0
    best = "shm" if sys.platform == "linux" else "stdio"
    for name, used in ((offloaded, best), ("offload-stdio", "stdio")):
        assert document["scenarios"][name]["layout"]["transport"] == used
        assert document["scenarios"][name]["layout"]["workers"] == 1
        # Supervisor, template and executor, however they hang together.
        assert document["scenarios"][name]["processes"]["worker"] == 3
    compiled = {module["name"]: module["compiled"] for module in document["build"].get("modules", ())}
    assert compiled.get("demo.molt_worker_app.core", False) is compiles
    metrics = offload["closed"]["worker_metrics"]
    assert metrics["bad_lines"] == 0
    assert metrics["rows"] >= offload["closed"]["ok"]
    assert document["configuration"]["workers"][offloaded]["executors"] == 1
    assert document["configuration"]["client"]["executors"] == 1
    assert metrics["exec_us"]["p95"] >= metrics["exec_us"]["p50"] > 0
    assert document["verified"]["list"]["requests"] >= 30
    assert "Wrote" in output
    assert "nothing remains" in output


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["compiling the handler cores", "warming up offload"])
def test_an_interrupt_stops_everything_and_writes_nothing(tmp_path: Path, stage: str) -> None:
    command = start(SCRIPT[0], *LITTLE, "--no-data", "--duration", "60", "--out", str(tmp_path))
    command.read_until(stage)
    command.process.send_signal(signal.SIGINT)
    code, output = command.end(60)
    assert code == 130, output
    assert "nothing is written" in output
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_cannot_start_is_quoted_and_nothing_stays(tmp_path: Path) -> None:
    words = ["--quick", "--no-data", "--app", "nowhere:app", "--out", str(tmp_path)]
    code, output = start(SCRIPT[0], *words).end(100)
    assert code == 1
    assert "No module named 'nowhere'" in output
    assert list(tmp_path.iterdir()) == []
