"""Figures, ratios, errors and warnings."""

import pytest

from bench.demo.load.servers import StopReport
from bench.demo.report.aggregate import compare, find_errors, find_warnings, open_rate, summarise
from tests.bench.support.demo import document, load, run


def test_summary_of_rounds() -> None:
    runs = [
        run("offload", load(ok, p=p), round_=n) for n, (ok, p) in enumerate([(100, 5), (300, 7), (200, 6)])
    ]
    summary = summarise(runs)
    assert summary["req_s"] == {"median": 200, "min": 100, "max": 300, "rounds": [100, 300, 200]}
    assert (summary["p99_ms"]["median"], summary["ok"]) == (6, 600)
    assert (summary["bytes_received"], summary["error_rate"]) == (600_000, 0)
    assert summary["cpu_ms_per_request"]["max"] == pytest.approx(10)
    assert summary["server"]["cpu_percent"]["avg"] == pytest.approx(50)
    assert (summary["server"]["processes"], summary["worker"]["processes"]) == (2, 4)
    assert (summary["server"]["samples"], summary["worker_metrics"]["rows"]) == (12, 3)


def test_summary_without_a_good_answer() -> None:
    summary = summarise([run("offload", load(0, failed={"busy_429": 7}))])
    assert (summary["error_rate"], summary["failed"]) == (1, {"busy_429": 7})
    assert summary["p50_ms"] is None
    assert summary["cpu_ms_per_request"] is None
    assert summary["req_s"]["median"] == 0


def test_ratios_are_taken_within_each_round() -> None:
    runs = []
    # A machine that slows to a third in the second round changes no ratio.
    for number, speed in enumerate((900, 300, 600)):
        runs.append(run("baseline-threads", load(speed, p=9000 / speed), round_=number))
        runs.append(run("offload", load(speed * 2, p=4500 / speed), round_=number))
    (comparison,) = compare(runs)
    assert (comparison["candidate"], comparison["baseline"]) == ("offload", "baseline-threads")
    assert comparison["closed"]["req_s"] == {"median": 2, "min": 2, "max": 2, "rounds": [2, 2, 2]}
    assert comparison["closed"]["p95_ms"]["median"] == 0.5
    assert comparison["closed"]["cpu_ms_per_request"]["median"] == 1
    assert comparison["open"] is None


def pairs_of(*names: str) -> list[tuple[str, str]]:
    compared = compare([run(name, load(10)) for name in names])
    return [(entry["candidate"], entry["baseline"]) for entry in compared]


def test_a_headline_meets_baselines_and_alternatives_of_its_group_and_its_twin_over_stdio() -> None:
    offloads = ("offload", "offload-stdio", "offload-python")
    others = ("baseline-threads", "baseline-cores", "process-pool", "data-baseline", "data-offload")
    assert set(pairs_of(*offloads, *others)) == {
        ("offload", "baseline-threads"), ("offload", "baseline-cores"), ("offload", "offload-stdio"),
        ("offload", "process-pool"), ("data-offload", "data-baseline"),
    }  # fmt: skip


def test_twins_have_equally_many_server_processes() -> None:
    assert pairs_of("offload", "offload-cores", "offload-stdio") == [("offload", "offload-stdio")]


def test_a_round_without_good_answers_gives_no_ratio() -> None:
    runs = [run("baseline-threads", load(0, failed={"status": 1})), run("offload", load(10))]
    (comparison,) = compare(runs)
    assert comparison["closed"]["req_s"] is None
    assert comparison["closed"]["p95_ms"] is None


def test_failures_and_drops_are_told_by_kind() -> None:
    made = document(
        [
            run("offload", load(90, failed={"busy_429": 8, "transport": 2})),
            run("baseline-threads", load(50, dropped=50), rate=100),
        ]
    )
    errors = find_errors(made["scenarios"])
    assert len(errors) == 2
    assert errors[0].startswith(
        "offload (closed loop): 10.000% of the requests failed: 8 busy_429, 2 transport"
    )
    assert "50 dropped" in errors[1]


def test_a_clean_run_has_no_errors_and_no_warnings() -> None:
    runs = [run("offload", load(100)), run("offload", load(100), rate=100)]
    made = document(runs)
    assert made["errors"] == []
    runs[0].usage.busy_cpu_seconds = 1.0
    assert list(find_warnings(runs, made["scenarios"])) == []


def test_what_makes_figures_doubtful() -> None:
    slow = run("offload", load(80), rate=100, rows=0)
    noisy = run("baseline-threads", load(100))
    noisy.usage.busy_cpu_seconds = 1.9
    noisy.usage.idle_cpu_seconds = 0.2
    noisy.metrics.add_line(b"torn")
    runs = [slow, noisy]
    warnings = "\n".join(find_warnings(runs, document(runs)["scenarios"]))
    assert "1 lines of the metrics files" in warnings
    assert "Other programs took more than 25 % of a core in 1 of 2 runs, up to 120 %" in warnings
    assert "should have been idle took up to 20 %" in warnings
    assert "offload fell behind the open loop's 100 requests/s" in warnings
    assert "offload (open loop) wrote no metrics rows" in warnings


def test_a_transport_that_fell_back_is_a_warning() -> None:
    runs = [run("offload", load(1)), run("offload-stdio", load(1))]
    stdio = {"transport": "stdio"}
    made = document(runs, workers={"offload": stdio, "offload-stdio": stdio})
    assert made["warnings"] == ["offload ran over stdio: there was no shared memory for it."]
    made = document(runs, workers={"offload": {"transport": "shm"}, "offload-stdio": stdio})
    assert made["warnings"] == []


def test_processes_that_had_to_be_killed_are_a_warning() -> None:
    made = document([run("offload", load(1))], stopped=[StopReport(killed=["7 molt-worker"])])
    assert "had to be killed: 7 molt-worker" in "\n".join(made["warnings"])


def test_the_open_rate_is_one_that_all_can_bear() -> None:
    runs = [run("baseline-threads", load(ok), round_=n) for n, ok in enumerate((100, 200, 150))]
    runs.append(run("offload", load(1000)))
    assert open_rate(runs, 0.6) == 90
    assert open_rate([run("offload", load(1))], 0.5) == 1


def test_there_is_no_open_rate_where_one_can_bear_none() -> None:
    assert open_rate([run("offload", load(0)), run("baseline-threads", load(9))], 0.6) is None
    assert open_rate([], 0.6) is None
