"""Turns the runs of a benchmark into what is reported: figures, comparisons, errors and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Literal

from bench.core.statistics import ratio, rounded, spread, spread_json
from bench.demo.load.k6 import LoadResult
from bench.demo.load.sampling import Usage, disturbance
from bench.demo.load.worker_metrics import MetricsSample, pooled
from bench.demo.scenarios import Scenario

Mode = Literal["closed", "open"]
LATENCIES = ("p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999")
MODE_RATIOS = {
    "closed": ("req_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request"),
    "open": ("p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request"),
}
IDLE_BUT_BUSY_PERCENT = 5.0
# An open run that answered less than this share of its rate was overloaded; a little is always cut off at its end.
KEPT_UP_SHARE = 0.9


@dataclass(frozen=True, slots=True)
class Run:
    """One run of k6 against one scenario, with everything measured meanwhile."""

    scenario: Scenario
    mode: Mode
    round: int
    position: int
    started_utc: str
    rate: int | None
    load: LoadResult
    usage: Usage = field(default_factory=Usage)
    metrics: MetricsSample = field(default_factory=MetricsSample)

    @property
    def cpu_ms_per_request(self) -> float | None:
        """Processor milliseconds of server and worker for one good answer."""
        return self.usage.served_cpu_seconds * 1000 / self.load.ok if self.load.ok else None

    def figure(self, name: str) -> float | None:
        """A figure by its name in the results file (`req_s`, `p95_ms`, ...); None if no answer was good."""
        if name == "req_s":
            return self.load.req_s
        if name == "cpu_ms_per_request":
            return self.cpu_ms_per_request
        return self.load.latency_ms[name.removesuffix("_ms")] if self.load.latency_ms is not None else None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file: what does not stand in the scenario's figures, which have all rounds."""
        load, usage = self.load, self.usage.as_json()
        return {
            "mode": self.mode,
            "round": self.round,
            "position": self.position,
            "started_utc": self.started_utc,
            "ok": load.ok,
            "failed": load.failed,
            "dropped_iterations": load.dropped,
            "usage": {name: value for name, value in usage.items() if name not in self.usage.parts},
        }


def summarise(runs: Sequence[Run]) -> dict[str, Any]:
    """The figures of one scenario in one mode over its rounds: spreads, sums and pooled metrics."""
    failed: Counter[str] = Counter()
    for run in runs:
        failed.update(run.load.failed)
    ok = sum(run.load.ok for run in runs)
    dropped = sum(run.load.dropped for run in runs)
    bad = sum(failed.values()) + dropped
    summary: dict[str, Any] = {
        "rounds": len(runs),
        "rate": runs[0].rate,
        "error_rate": rounded(bad / (ok + bad)) if ok + bad else 1.0,
        "failed": dict(sorted(failed.items())),
        "dropped_iterations": dropped,
        "ok": ok,
        "bytes_received": sum(run.load.bytes_received for run in runs),
        "bytes_sent": sum(run.load.bytes_sent for run in runs),
    }
    for name in ("req_s", *(f"{latency}_ms" for latency in LATENCIES), "cpu_ms_per_request"):
        summary[name] = spread_json(run.figure(name) for run in runs)
    usages = [run.usage.as_json() for run in runs]
    for part in ("server", "worker"):
        summary[part] = _usage([usage[part] for usage in usages])
    summary["worker_metrics"] = pooled(run.metrics for run in runs).as_json()
    return summary


def _usage(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means of the averages and the greatest of the maxima, over rounds of equal length."""
    pss = [part["pss_mib"] for part in parts if part["pss_mib"] is not None]
    return {
        **{
            name: {
                "avg": rounded(fmean(part[name]["avg"] for part in parts)),
                "max": max(part[name]["max"] for part in parts),
            }
            for name in ("cpu_percent", "rss_mib")
        },
        "pss_mib": max(pss) if pss else None,
        "processes": max(part["processes"] for part in parts),
        "samples": sum(part["samples"] for part in parts),
    }


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each headline offload against the baselines and alternatives of its group, and against its twin over stdio."""
    scenarios = {run.scenario.name: run.scenario for run in runs}.values()
    return [
        {"group": candidate.group, "candidate": candidate.name, "baseline": baseline.name}
        | {
            mode: ratios(runs, candidate.name, baseline.name, mode, names)
            for mode, names in MODE_RATIOS.items()
        }
        for candidate in scenarios
        if candidate.role == "offload" and candidate.headline
        for baseline in scenarios
        if _comparable(candidate, baseline)
    ]


def _comparable(candidate: Scenario, other: Scenario) -> bool:
    if other.group != candidate.group:
        return False
    if other.role != "offload":
        return True
    return (
        other.transport == "stdio" and candidate.transport != "stdio" and other.per_core == candidate.per_core
    )


def ratios(
    runs: Sequence[Run], candidate: str, baseline: str, mode: str, names: Sequence[str]
) -> dict[str, Any] | None:
    """Spreads of one scenario's figures over another's within each round; None where no round has both scenarios."""

    def of(scenario: str) -> dict[int, Run]:
        return {run.round: run for run in runs if run.scenario.name == scenario and run.mode == mode}

    ours, theirs = of(candidate), of(baseline)
    if not ours.keys() & theirs.keys():
        return None
    found = {
        name: ratio(*({number: run.figure(name) for number, run in side.items()} for side in (ours, theirs)))
        for name in names
    }
    return {name: None if over is None else over.as_json() for name, over in found.items()}


def find_errors(scenarios: Mapping[str, Any]) -> list[str]:
    """One sentence for each scenario and mode that had failed or dropped requests."""
    sentences = []
    for name, scenario in scenarios.items():
        for mode in ("closed", "open"):
            summary = scenario.get(mode)
            if not summary or not summary["error_rate"]:
                continue
            kinds = [f"{count} {kind}" for kind, count in summary["failed"].items()]
            if summary["dropped_iterations"]:
                kinds.append(
                    f"{summary['dropped_iterations']} dropped (no client was free when they were due)"
                )
            sentences.append(
                f"{name} ({mode} loop): {summary['error_rate']:.3%} of the requests failed: "
                f"{', '.join(kinds) or 'none was answered'}; its figures count the good answers only."
            )
    return sentences


def find_warnings(runs: Sequence[Run], scenarios: Mapping[str, Any]) -> Iterator[str]:
    """What makes the figures doubtful without being an error of a scenario, in a sentence each."""
    bad_lines = sum(run.metrics.bad_lines for run in runs)
    if bad_lines:
        yield f"{bad_lines} lines of the metrics files could not be read and were passed over."
    if (disturbed := disturbance(run.usage for run in runs)) is not None:
        yield disturbed
    idle = max((run.usage.percent(run.usage.idle_cpu_seconds) for run in runs), default=0.0)
    if idle > IDLE_BUT_BUSY_PERCENT:
        yield f"Servers that should have been idle took up to {idle:.0f} % of a core during a run."
    for name, scenario in scenarios.items():
        opened = scenario.get("open")
        if opened and opened["req_s"] and opened["req_s"]["min"] < KEPT_UP_SHARE * opened["rate"]:
            yield (
                f"{name} fell behind the open loop's {opened['rate']} requests/s "
                f"({opened['req_s']['min']:.1f} at worst), so its latency there is that of an overload."
            )
        if scenario["role"] != "offload":
            continue
        for mode in ("closed", "open"):
            summary = scenario.get(mode)
            if summary and summary["ok"] and not summary["worker_metrics"]["rows"]:
                yield f"{name} ({mode} loop) wrote no metrics rows."
        if (scenario["layout"]["transport_asked"], scenario["layout"]["transport"]) == ("auto", "stdio"):
            yield f"{name} ran over stdio: there was no shared memory for it."


def open_rate(closed: Iterable[Run], share: float) -> int | None:
    """The arrival rate of a group: `share` of its slowest scenario's median throughput, so that all can keep up.

    None if a scenario had no good answer, because then there is no such rate.
    """
    by_scenario: dict[str, list[float]] = {}
    for run in closed:
        by_scenario.setdefault(run.scenario.name, []).append(run.load.req_s)
    medians = [over.median for values in by_scenario.values() if (over := spread(values)) is not None]
    slowest = min(medians, default=0.0)
    return max(1, int(slowest * share)) if slowest > 0 else None
