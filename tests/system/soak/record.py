"""What a soak test has seen: outcomes, latencies and needs over time, and what was wrong."""

import statistics
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.system.soak.client import quantile

SHARES = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}
#: Growth of a role's private memory from its second quarter on that is no leak: caches, fragments.
_GROWTH_MB = 8.0
_GROWTH = 0.10
#: Growth of the number of a process's descriptors that is no leak: it has as many as there are clients just then.
_MORE_FDS = 12
#: Runs shorter than this say nothing about growth.
_LONG_S = 60.0


@dataclass(slots=True)
class Sample:
    """A moment: seconds since the start; medians of the processes of each role."""

    at_s: float
    calls: int
    latency: Counter[int]  #: since the sample before
    rss_mb: dict[str, float]
    fds: dict[str, float]


@dataclass(slots=True)
class Record:
    """Everything that is reported."""

    options: dict[str, Any]
    samples: list[Sample] = field(default_factory=list)
    calls: Counter[str] = field(default_factory=Counter)
    kills: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)  #: processes of each role
    wrong: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    duration_s: float = 0.0

    @property
    def outcomes(self) -> Counter[str]:
        """How often each outcome was, whatever the kind of call."""
        found: Counter[str] = Counter()
        for name, count in self.calls.items():
            found[name.partition(" ")[2]] += count
        return found

    def latency(self, *, last: bool) -> dict[str, float]:
        """Quantiles in microseconds of the plain calls in the first or last tenth of the run."""
        working = [each.latency for each in self.samples if each.latency]
        tenth = max(1, len(working) // 10)
        counts = sum(working[-tenth:] if last else working[:tenth], Counter[int]())
        return {name: round(quantile(counts, share), 1) for name, share in SHARES.items()}

    def roles(self) -> list[str]:
        """Those that were seen."""
        return [role for role in ("supervisor", "forkserver", "executor", "client") if self.seen[role]]

    def _series(self, what: str, role: str) -> list[tuple[float, float]]:
        """Values over time, without the first quarter of the run."""
        start_s = self.duration_s / 4
        return [
            (each.at_s, getattr(each, what)[role])
            for each in self.samples
            if each.at_s >= start_s and role in getattr(each, what)
        ]

    def growth(self, what: str, role: str) -> tuple[float, float, float]:
        """Median of the second quarter, median of the last, slope per minute by least squares."""
        series = self._series(what, role)
        if len(series) < 4:
            return 0.0, 0.0, 0.0
        quarter = max(1, len(series) // 3)
        values = [value for _, value in series]
        slope = statistics.linear_regression([at / 60 for at, _ in series], values).slope
        return statistics.median(values[:quarter]), statistics.median(values[-quarter:]), slope

    def judge_growth(self) -> None:
        """Say what has grown over the run."""
        if self.duration_s < _LONG_S:
            return
        for role in self.roles():
            before, after, slope = self.growth("rss_mb", role)
            if after - before > _GROWTH_MB and after > before * (1 + _GROWTH):
                self.wrong.append(
                    f"memory of a {role} grew from {before:.1f} to {after:.1f} MB ({slope:+.2f} MB a minute)"
                )
            before, after, _ = self.growth("fds", role)
            if after - before > _MORE_FDS:
                self.wrong.append(f"a {role} had {before:.0f} descriptors, later {after:.0f}")

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "schema_version": 1,
            "options": self.options,
            "duration_s": round(self.duration_s, 1),
            "requests": self.calls.total(),
            "outcomes": dict(self.outcomes.most_common()),
            "calls": dict(sorted(self.calls.items())),
            "kills": dict(self.kills),
            "processes": dict(self.seen),
            "latency_us": {"first_tenth": self.latency(last=False), "last_tenth": self.latency(last=True)},
            "growth": {
                role: {
                    "rss_mb": [round(value, 2) for value in self.growth("rss_mb", role)],
                    "fds": [round(value, 1) for value in self.growth("fds", role)],
                }
                for role in self.roles()
            },
            "samples": [
                {
                    "at_s": round(each.at_s, 1),
                    "calls": each.calls,
                    "rss_mb": each.rss_mb,
                    "fds": each.fds,
                    **{name: round(quantile(each.latency, share), 1) for name, share in SHARES.items()},
                }
                for each in self.samples
            ],
            "wrong": self.wrong,
            "notes": self.notes,
        }
