"""Figures of what was measured: percentiles of batches, spreads over rounds, ratios within a round."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bench.core.statistics import Spread, percentile, ratio, spread
from bench.micro.options import Layout

LATENCIES = ("p50_us", "p99_us", "mean_us")
CURVE = (0, 1, 10, 25, 50, 70, 80, 90, 92, 94, 96, 97, 98, 99, 99.2, 99.4, 99.6, 99.8, 99.9, 100)
"""The percentiles at which a distribution is kept: closer where it rises."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Calls of one peer, one after another: one size, one condition, one round.

    Attributes:
        peer: The row: the name of a peer, with `-raw` behind it where bytes travelled as they are.
        ordered_ns: Times of the calls, ascending; of very many a selection with the same percentiles.
        cpu_ns: Processor time of both sides.
        own_cpu_ns: That of the caller's process alone.
        idle_percent: How much of the machine's processor time nobody had.
    """

    peer: str
    condition: str
    size: int
    round: int
    calls: int
    mean_ns: float
    ordered_ns: Sequence[int]
    cpu_ns: int | None = None
    own_cpu_ns: int | None = None
    idle_percent: float | None = None

    @property
    def p50_us(self) -> float:
        """The median call."""
        return percentile(self.ordered_ns, 50) / 1000

    @property
    def p99_us(self) -> float:
        """The slowest of a hundred calls; of fewer calls it is nearly the slowest of all."""
        return percentile(self.ordered_ns, 99) / 1000

    @property
    def mean_us(self) -> float:
        """The mean call."""
        return self.mean_ns / 1000

    @property
    def cpu_us_per_call(self) -> float | None:
        """Processor time of both sides for a call."""
        return None if self.cpu_ns is None else self.cpu_ns / 1000 / self.calls

    @property
    def own_cpu_us_per_call(self) -> float | None:
        """Processor time of the caller's process for a call."""
        return None if self.own_cpu_ns is None else self.own_cpu_ns / 1000 / self.calls

    @property
    def mib_s(self) -> float:
        """MiB of payload that went there and came back in a second."""
        return self.size / 2**20 / (self.mean_us / 1e6)


@dataclass(frozen=True, slots=True)
class Window:
    """Calls of one peer from several threads, tasks or processes in a stretch of time."""

    peer: str
    layout: Layout
    round: int
    calls: int
    window_s: float
    cpu_ns: int
    idle_percent: float | None = None

    @property
    def calls_s(self) -> float:
        """Calls that were completed in a second."""
        return self.calls / self.window_s

    @property
    def cpu_us_per_call(self) -> float | None:
        """Processor time of both sides for a call, the idle threads' included."""
        return self.cpu_ns / 1000 / self.calls if self.calls else None


@dataclass(frozen=True, slots=True)
class Idle:
    """Processor time of a peer's client and workers while nothing was asked of them."""

    peer: str
    processes: int
    seconds: float
    cpu_ns: int

    @property
    def percent(self) -> float:
        """Of one core."""
        return self.cpu_ns / 1e9 / self.seconds * 100


@dataclass(slots=True)
class Measured:
    """Everything that one run measured."""

    batches: list[Batch] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    idle: dict[str, Idle] = field(default_factory=dict)

    def of(self, peer: str, condition: str, size: int) -> list[Batch]:
        """A peer's batches by round."""
        return [
            batch
            for batch in self.batches
            if (batch.peer, batch.condition, batch.size) == (peer, condition, size)
        ]

    def at(self, peer: str, layout: Layout) -> list[Window]:
        """A peer's windows by round."""
        return [window for window in self.windows if (window.peer, window.layout) == (peer, layout)]

    def latency_ratio(self, figure: str, over: str, under: str, condition: str, size: int) -> Spread | None:
        """How many times one peer's figure another's is, round by round."""
        return _ratio(self.of(over, condition, size), self.of(under, condition, size), figure)

    def throughput_ratio(
        self, over: str, under: str, layout: Layout, other: Layout | None = None
    ) -> Spread | None:
        """How many times another's calls per second a peer makes, round by round, also with `other` callers there."""
        return _ratio(self.at(over, layout), self.at(under, other or layout), "calls_s")

    def cpu_at(self, peer: str, layout: Layout) -> Spread | None:
        """Processor time of both sides for a call in a layout, microseconds."""
        return spread(window.cpu_us_per_call for window in self.at(peer, layout))


def _ratio(over: Sequence[Batch | Window], under: Sequence[Batch | Window], figure: str) -> Spread | None:
    return ratio(*({each.round: getattr(each, figure) for each in found} for found in (over, under)))


def curve(batches: Iterable[Batch]) -> list[float]:
    """The distribution of all rounds' calls together, in microseconds at the percentiles of `CURVE`."""
    ordered = sorted(sample for batch in batches for sample in batch.ordered_ns)
    return [percentile(ordered, q) / 1000 for q in CURVE]
