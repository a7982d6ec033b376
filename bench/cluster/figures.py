"""Figures of what was measured. Those of single calls are the micro benchmark's; a condition is a place there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.core.statistics import Spread, percentile, ratio
from bench.micro.report.figures import Batch
from bench.micro.report.figures import Measured as Calls

IN_TIME = "in_time"


@dataclass(frozen=True, slots=True)
class Run:
    """Goodput of one number of pools in one round.

    Attributes:
        outcomes: How many calls ended how: `in_time`, `late`, `busy`, or as which error.
        own: Answers in time of the pool on the client's host.
        others: Those of each other pool, most first.
        ordered_ns: What answers in time took, from when the call was due; ascending.
        behind_ms: How late the latest call was made.
        client_cpu_s: Processor seconds of the client process.
        bridges_cpu_s: Those of all bridges and of the NATS server.
    """

    pools: int
    round: int
    seconds: float
    outcomes: Mapping[str, int]
    own: int
    others: Sequence[int]
    ordered_ns: Sequence[int]
    behind_ms: float
    client_cpu_s: float
    bridges_cpu_s: float

    @property
    def goodput_s(self) -> float:
        """Answers in time, per second."""
        return self.outcomes.get(IN_TIME, 0) / self.seconds

    @property
    def offered_s(self) -> float:
        """Calls that were made, per second."""
        return sum(self.outcomes.values()) / self.seconds

    @property
    def own_s(self) -> float:
        """Answers in time of the client's own host, per second."""
        return self.own / self.seconds

    @property
    def p50_ms(self) -> float | None:
        """The median answer in time."""
        return percentile(self.ordered_ns, 50) / 1e6 if self.ordered_ns else None

    @property
    def p99_ms(self) -> float | None:
        """The slowest of a hundred answers in time."""
        return percentile(self.ordered_ns, 99) / 1e6 if self.ordered_ns else None

    @property
    def client_cores(self) -> float:
        """How many processors the client kept busy."""
        return self.client_cpu_s / self.seconds

    @property
    def bridges_cores(self) -> float:
        """How many processors bridges and server kept busy."""
        return self.bridges_cpu_s / self.seconds


@dataclass(slots=True)
class Measured:
    """Everything that one run measured."""

    calls: Calls = field(default_factory=Calls)
    runs: list[Run] = field(default_factory=list)

    def of(self, row: str) -> list[Batch]:
        """A row's batches by round."""
        return [batch for batch in self.calls.batches if batch.peer == row]

    def with_pools(self, pools: int) -> list[Run]:
        """Runs of goodput by round."""
        return [run for run in self.runs if run.pools == pools]

    def latency_ratio(self, over: str, under: str) -> Spread | None:
        """How many times one row's p50 another's is, round by round."""
        return ratio(*({batch.round: batch.p50_us for batch in self.of(name)} for name in (over, under)))

    def goodput_ratio(self, over: int, under: int) -> Spread | None:
        """How many times the goodput with fewer pools that with more is, round by round."""
        return ratio(
            *({run.round: run.goodput_s for run in self.with_pools(pools)} for pools in (over, under))
        )
