"""Finding k6, calling it and reading what it reports."""

import json
import stat
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.core import BenchError
from bench.demo.load import k6
from bench.demo.load.k6 import K6, Clients, Counts, Load, LoadSpec, find_k6, parse_summary

Sample = Callable[[str], dict[str, Any]]


def program(path: Path, text: str) -> Path:
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def fake_k6(path: Path, version: str = "1.1.0") -> Path:
    return program(path, f"echo 'k6 v{version} (commit/0e3fb953be, go1.24.4, linux/amd64)'")


def test_closed_loop_summary(sample: Sample) -> None:
    raw = sample("closed")
    result = parse_summary(raw)
    assert result.ok == raw["metrics"]["bench_ok"]["values"]["count"] > 100
    assert (result.requests, result.duration_s) == (result.ok, pytest.approx(1.0, abs=0.2))
    assert (result.req_s, result.error_rate) == (pytest.approx(result.ok / result.duration_s), 0)
    assert result.failed == {}
    assert result.latency_ms is not None
    names = ("min", "p50", "p95", "p99", "p999", "max")
    values = [result.latency_ms[name] for name in names]
    assert values == sorted(values)
    assert result.latency_ms["p999"] == raw["metrics"]["bench_ok_ms"]["values"]["p(99.9)"]
    assert result.bytes_received > result.bytes_sent > 0


def test_dropped_iterations_are_errors(sample: Sample) -> None:
    result = parse_summary(sample("open_dropped"))
    assert result.dropped > 0
    assert result.error_rate == pytest.approx(result.dropped / (result.ok + result.dropped))


def test_a_run_without_a_good_answer_has_no_latency(sample: Sample) -> None:
    result = parse_summary(sample("failed"))
    assert result.ok == 0
    assert result.latency_ms is None
    assert result.failed == {"body": result.requests}
    assert (result.error_rate, result.req_s) == (1.0, 0.0)
    assert parse_summary({"metrics": {}, "state": {"testRunDurationMs": 1000}}).error_rate == 1.0


def test_requests_of_other_clients_are_counted_apart(sample: Sample) -> None:
    raw = sample("closed")
    counts = {"bench_other_heavy_refused": 4, "bench_other_low_ok": 3, "bench_other_low_failed": 1}
    raw["metrics"] |= {name: {"values": {"count": count}} for name, count in counts.items()}
    result = parse_summary(raw)
    assert result.others == {"heavy": Counts(refused=4), "low": Counts(ok=3, failed=1)}
    assert result.due == result.ok
    assert not result.all_answered
    del raw["metrics"]["bench_other_low_failed"]
    assert parse_summary(raw).all_answered


def test_refusals_are_answers_and_errors_of_which_the_server_knows_nothing_more(sample: Sample) -> None:
    raw = sample("closed")
    ok = parse_summary(raw).ok
    raw["metrics"]["bench_failed_busy_429"] = {"values": {"count": ok}}
    result = parse_summary(raw)
    assert (result.refused, result.due, result.refused_share, result.error_rate) == (ok, 2 * ok, 0.5, 0.5)
    assert result.all_answered
    raw["metrics"]["bench_failed_transport"] = {"values": {"count": 1}}
    assert not parse_summary(raw).all_answered


@pytest.mark.parametrize(
    "summary", [{}, {"metrics": {}}, {"metrics": [], "state": 1}, {"metrics": None, "state": {}}]
)
def test_another_shape_is_refused(summary: dict[str, Any]) -> None:
    with pytest.raises(BenchError, match="not as expected"):
        parse_summary(summary)


def test_k6_on_path_is_taken_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = fake_k6(tmp_path / "k6", "2.0.0-rc1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert find_k6() == K6(str(path), "PATH", "2.0.0-rc1")


def test_an_explicit_k6_goes_before_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    fake_k6(tmp_path / "bin" / "k6")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=":")
    assert find_k6(str(fake_k6(tmp_path / "mine", "0.9.1"))).version == "0.9.1"


def test_the_package_is_taken_where_path_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    path = fake_k6(tmp_path / "bin" / "k6")
    monkeypatch.setattr(k6.shutil, "which", lambda _name: None)
    files = [metadata.PackagePath("k6/__init__.py"), metadata.PackagePath("bin/k6")]
    found = SimpleNamespace(files=files, locate_file=lambda entry: tmp_path / entry)
    monkeypatch.setattr(k6.metadata, "distribution", lambda _name: found)
    assert find_k6() == K6(str(path.resolve()), "k6 package", "1.1.0")


def test_without_k6_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(k6.shutil, "which", lambda _name: None)
    monkeypatch.setattr(k6.metadata, "distribution", missing)
    with pytest.raises(BenchError, match=r"pip install 'k6==1\.1\.0'.*--k6 PATH"):
        find_k6()


@pytest.mark.parametrize("text", ["echo something else", "exit 3", "echo k6 v1.0; exit 1"])
def test_what_is_no_k6_is_refused(tmp_path: Path, text: str) -> None:
    path = program(tmp_path / "k6", text)
    with pytest.raises(BenchError, match="doesn't report a k6 version"):
        find_k6(str(path))


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"--k6\) doesn't run"):
        find_k6(str(tmp_path / "nowhere"))


def test_load_hands_its_spec_over_and_no_setting_of_the_caller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sample: Sample
) -> None:
    summary = tmp_path / "given.json"
    summary.write_text(json.dumps(sample("closed")), encoding="utf-8")
    script = f'env > {tmp_path}/env; echo "$@" > {tmp_path}/args; cat {summary} > "$BENCH_SUMMARY"'
    path = program(tmp_path / "k6", script)
    monkeypatch.setenv("K6_OUT", "influxdb=http://elsewhere")
    monkeypatch.setenv("BENCH_BODY_FILE", "left over")
    spec = LoadSpec(
        "http://127.0.0.1:9/x", "open", 1.5, 20, rate=70, queries=("a=1", ""), expect_key="items",
        others=(Clients("heavy", "http://127.0.0.1:9/y", 3, honours=True),), lead_s=1.0,
    )  # fmt: skip
    with Load(K6(str(path), "test", "1"), spec, tmp_path, "one") as load:
        result = load.wait()
    assert result.ok > 0
    lines = (tmp_path / "env").read_text(encoding="utf-8").splitlines()
    given = dict(line.partition("=")[::2] for line in lines)
    assert (given["BENCH_DURATION"], given["BENCH_RATE"]) == ("1500ms", "70")
    assert json.loads(given["BENCH_QUERIES"]) == ["a=1", ""]
    (other,) = json.loads(given["BENCH_OTHERS"])
    assert other == {
        "name": "heavy", "url": "http://127.0.0.1:9/y", "vus": 3, "duration_ms": 2500, "honours": True,
    }  # fmt: skip
    assert given["BENCH_START"] == "1000ms"
    assert "K6_OUT" not in given
    assert "BENCH_BODY_FILE" not in given
    assert "--no-usage-report" in (tmp_path / "args").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ("echo no such scenario >&2; exit 107", r"exit code 107(?s:.*)no such scenario"),
        ("true", "no readable summary"),
    ],
)
def test_a_k6_that_fails_or_leaves_no_summary_is_quoted(tmp_path: Path, script: str, complaint: str) -> None:
    k6 = K6(str(program(tmp_path / "k6", script)), "test", "1")
    spec = LoadSpec("http://127.0.0.1:9/", "closed", 0.2, 1)
    with Load(k6, spec, tmp_path, "one") as load, pytest.raises(BenchError, match=complaint):
        load.wait()


def test_leaving_the_context_ends_a_running_k6(tmp_path: Path) -> None:
    path = program(tmp_path / "k6", "exec cat /dev/zero > /dev/null")
    spec = LoadSpec("http://127.0.0.1:9/", "closed", 60.0, 1)
    with Load(K6(str(path), "test", "1"), spec, tmp_path, "one") as load:
        process = load._process
    assert process.returncode is not None


class Refusing(BaseHTTPRequestHandler):
    """Refuses what is asked at one path, for a minute, and answers all else."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        refused = self.path.startswith("/refused")
        self.send_response(429 if refused else 200)
        if refused:
            self.send_header("Retry-After", "60")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.bench
def test_clients_that_honour_retry_after_ask_once_and_others_at_once_again(tmp_path: Path, k6: K6) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}"
            beside = (
                Clients("patient", f"{url}/refused", 3, honours=True),
                Clients("hammering", f"{url}/refused", 1),
                Clients("served", f"{url}/fine", 1),
            )
            spec = LoadSpec(f"{url}/fine", "open", 1.0, 5, rate=20, others=beside, lead_s=0.2)
            with Load(k6, spec, tmp_path, "one") as load:
                result = load.wait()
        finally:
            server.shutdown()
            thread.join()
    assert result.others["patient"] == Counts(refused=3)
    assert result.others["hammering"].refused > 3
    assert result.others["served"].ok > 0
    assert result.ok > 0
    assert result.all_answered
