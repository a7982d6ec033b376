"""Turns the runs of a benchmark into what is reported: figures, comparisons, errors and doubts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bench.harness.k6 import LoadResult
from bench.harness.sampling import Usage
from bench.harness.scenarios import Scenario
from bench.harness.stats import rounded, spread
from bench.harness.worker_metrics import MetricsSample, pooled

Mode = Literal["closed", "open"]
LATENCIES = ("p10", "p25", "p50", "p75", "p90", "p95", "p99", "p999")
MODE_RATIOS = {
    "closed": ("req_s", "p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request"),
    "open": ("p50_ms", "p95_ms", "p99_ms", "cpu_ms_per_request"),
}
# More than this beside the benchmark makes its figures doubtful: percent of one core.
BUSY_ELSEWHERE_PERCENT = 25.0
IDLE_BUT_BUSY_PERCENT = 5.0
# An open run that answered less than this share of its rate was overloaded; the rest is the run's ragged end.
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

    def latency(self, name: str) -> float | None:
        """A latency in milliseconds by its name (`p95`); None if no answer was good."""
        return self.load.latency_ms[name] if self.load.latency_ms is not None else None

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file."""
        load = self.load
        latencies = load.latency_ms or {}
        cpu = self.cpu_ms_per_request
        return {
            "mode": self.mode,
            "round": self.round,
            "position": self.position,
            "started_utc": self.started_utc,
            "rate": self.rate,
            "duration_s": rounded(load.duration_s),
            "requests": load.requests,
            "ok": load.ok,
            "failed": load.failed,
            "dropped_iterations": load.dropped,
            "error_rate": rounded(load.error_rate),
            "req_s": rounded(load.req_s),
            **{f"{name}_ms": rounded(value) for name, value in latencies.items()},
            "bytes_received": load.bytes_received,
            "bytes_sent": load.bytes_sent,
            "cpu_ms_per_request": rounded(cpu) if cpu is not None else None,
            "usage": self.usage.as_json(),
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
    figures: dict[str, list[float | None]] = {"req_s": [run.load.req_s for run in runs]}
    figures |= {f"{name}_ms": [run.latency(name) for run in runs] for name in LATENCIES}
    figures["cpu_ms_per_request"] = [run.cpu_ms_per_request for run in runs]
    for name, values in figures.items():
        over_rounds = spread(values)
        summary[name] = over_rounds.as_json() if over_rounds is not None else None
    usages = [run.usage.as_json() for run in runs]
    for part in ("server", "worker"):
        summary[part] = _usage([usage[part] for usage in usages])
    summary["worker_metrics"] = pooled(run.metrics for run in runs).as_json()
    return summary


def _usage(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Averages averaged and maxima of maxima, over rounds of equal length."""

    def mean(values: Iterable[float]) -> float:
        listed = list(values)
        return rounded(sum(listed) / len(listed))

    pss = [part["pss_mib"] for part in parts if part["pss_mib"] is not None]
    return {
        "cpu_percent": {
            "avg": mean(part["cpu_percent"]["avg"] for part in parts),
            "max": max(part["cpu_percent"]["max"] for part in parts),
        },
        "rss_mib": {
            "avg": mean(part["rss_mib"]["avg"] for part in parts),
            "max": max(part["rss_mib"]["max"] for part in parts),
        },
        "pss_mib": max(pss) if pss else None,
        "processes": max(part["processes"] for part in parts),
        "samples": sum(part["samples"] for part in parts),
    }


def compare(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Each headline offload against the baselines and alternatives of its group, and against its twin over stdio:
    ratios within each round, and their spread.

    A ratio of figures of one round is of runs seconds apart, so that a slow spell of the machine touches
    both.
    """
    scenarios = list(dict.fromkeys(run.scenario.name for run in runs))
    by_name = {run.scenario.name: run.scenario for run in runs}
    comparisons = []
    offloads = [by_name[name] for name in scenarios if by_name[name].role == "offload"]
    for candidate in (each for each in offloads if each.headline):
        for baseline in (by_name[name] for name in scenarios):
            if not _stand_together(candidate, baseline):
                continue
            entry: dict[str, Any] = {
                "group": candidate.group, "candidate": candidate.name, "baseline": baseline.name,
            }  # fmt: skip
            for mode, names in MODE_RATIOS.items():
                entry[mode] = ratios(runs, candidate.name, baseline.name, mode, names)
            comparisons.append(entry)
    return comparisons


def _stand_together(candidate: Scenario, other: Scenario) -> bool:
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
    """Figures of one scenario over those of another in the rounds that both ran, by figure; None: there is none."""

    def of(scenario: str) -> dict[int, Run]:
        return {run.round: run for run in runs if run.scenario.name == scenario and run.mode == mode}

    ours, theirs = of(candidate), of(baseline)
    rounds = sorted(ours.keys() & theirs.keys())
    if not rounds:
        return None
    found: dict[str, Any] = {}
    for name in names:

        def figure(run: Run, name: str = name) -> float | None:
            if name == "req_s":
                return run.load.req_s
            if name == "cpu_ms_per_request":
                return run.cpu_ms_per_request
            return run.latency(name.removesuffix("_ms"))

        over_rounds = spread(
            up / down if (up := figure(ours[n])) is not None and (down := figure(theirs[n])) else None
            for n in rounds
        )
        found[name] = over_rounds.as_json() if over_rounds is not None else None
    return found


def find_errors(scenarios: dict[str, Any]) -> list[str]:
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


def find_warnings(runs: Sequence[Run], scenarios: dict[str, Any]) -> list[str]:
    """What makes the figures doubtful without being an error of a scenario."""
    warnings = []
    bad_lines = sum(run.metrics.bad_lines for run in runs)
    if bad_lines:
        warnings.append(f"{bad_lines} lines of the metrics files could not be read and were passed over.")
    elsewhere = [_percent(run.usage.other_cpu_seconds, run.usage) for run in runs]
    disturbed = [percent for percent in elsewhere if percent > BUSY_ELSEWHERE_PERCENT]
    if disturbed:
        warnings.append(
            f"Other programs took more than {BUSY_ELSEWHERE_PERCENT:.0f} % of a core in {len(disturbed)} of "
            f"{len(runs)} runs, up to {max(disturbed):.0f} %: figures of this machine at rest will differ."
        )
    idle = max((_percent(run.usage.idle_cpu_seconds, run.usage) for run in runs), default=0.0)
    if idle > IDLE_BUT_BUSY_PERCENT:
        warnings.append(f"Servers that should have been idle took up to {idle:.0f} % of a core during a run.")
    for name, scenario in scenarios.items():
        opened = scenario.get("open")
        if opened and opened["req_s"] and opened["req_s"]["min"] < KEPT_UP_SHARE * opened["rate"]:
            warnings.append(
                f"{name} fell behind the open loop's {opened['rate']} requests/s "
                f"({opened['req_s']['min']:.1f} at worst), so its latency there is that of an overload."
            )
        if scenario["role"] != "offload":
            continue
        for mode in ("closed", "open"):
            summary = scenario.get(mode)
            if summary and summary["ok"] and not summary["worker_metrics"]["rows"]:
                warnings.append(f"{name} ({mode} loop) wrote no metrics rows.")
    return warnings


def _percent(seconds: float, usage: Usage) -> float:
    return seconds / usage.elapsed_s * 100 if usage.elapsed_s > 0 else 0.0


def open_rate(closed: Iterable[Run], share: float) -> int | None:
    """The arrival rate of a group: `share` of its slowest scenario's median throughput, so all can bear it.

    None if a scenario had no good answer, because then there is no such rate.
    """
    by_scenario: dict[str, list[float]] = {}
    for run in closed:
        by_scenario.setdefault(run.scenario.name, []).append(run.load.req_s)
    medians = [over.median for values in by_scenario.values() if (over := spread(values)) is not None]
    slowest = min(medians, default=0.0)
    return max(1, int(slowest * share)) if slowest > 0 else None
