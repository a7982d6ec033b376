"""What a run will do and how long that takes, worked out before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter

from bench.core.progress import clock
from bench.demo.options import Options
from bench.demo.scenarios import GROUPS, Scenario
from bench.demo.studies.registry import STUDIES
from bench.demo.studies.testbed import RUN_OVERHEAD_S, Study, servers_of

# Seconds where `slowness` is 1, measured on two cores at rest. What else runs on the machine makes it longer.
BUILD_S = 18.0
SERVER_S = 1.2
"""Of each of several servers that start side by side, its stop included."""
REQUEST_S = 0.016
"""Of each request that verifies or warms up, of a handler in Python; compiled ones take a third."""
REPORT_S = 3.0


def slowness() -> float:
    """How much slower than a nominal machine this one computes, by a loop in Python that takes 10 ms there."""
    taken = []
    for _ in range(9):
        started, total, seen = perf_counter(), 0, {}
        for number in range(100_000):
            total += number * number
            seen[number & 255] = total
        taken.append(perf_counter() - started)
    return median(taken) / 0.010


@dataclass(frozen=True, slots=True)
class Plan:
    """The scenarios and studies of a run, with the seconds that each part takes.

    Attributes:
        slowness: What computes takes so many times as long as on a nominal machine; load has fixed times.
    """

    options: Options
    scenarios: Sequence[Scenario]
    studies: Sequence[Study]
    slowness: float = 1.0

    @property
    def builds(self) -> bool:
        """Whether handler cores are compiled."""
        studied = any(server.compiled for server in servers_of(self.studies, self.options.preset))
        return studied or any(scenario.compiled for scenario in self.scenarios)

    @property
    def setup_s(self) -> float:
        """Until all servers of scenarios are warm; those that need no compiled cores are while these are built."""
        seconds = dict.fromkeys((False, True), 0.0)
        for scenario in self.scenarios:
            requests = len(GROUPS[scenario.group].queries) + self.options.warmups(scenario.group)
            seconds[scenario.compiled] += SERVER_S + requests * REQUEST_S / (3 if scenario.compiled else 1)
        return self.slowness * (max(BUILD_S * self.builds, seconds[False]) + seconds[True])

    def run_s(self, group: str) -> float:
        """One run of a scenario of a group."""
        return self.options.rounds(group).duration_s + RUN_OVERHEAD_S

    @property
    def load_s(self) -> float:
        """All runs of scenarios."""
        rounds = [(scenario.group, self.options.rounds(scenario.group)) for scenario in self.scenarios]
        return sum((of.closed + of.open) * self.run_s(group) for group, of in rounds)

    @property
    def study_start_s(self) -> float:
        """Until all servers of studies are up."""
        return self.slowness * SERVER_S * len(servers_of(self.studies, self.options.preset))

    @property
    def studies_s(self) -> float:
        """All studies."""
        return self.study_start_s + sum(study.lasts_s(self.options) for study in self.studies)

    @property
    def report_s(self) -> float:
        """Tables, plots and files."""
        return self.slowness * REPORT_S

    @property
    def total_s(self) -> float:
        """The whole run."""
        return self.setup_s + self.load_s + self.studies_s + self.report_s

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        yield f"Preset {self.options.preset}, about {clock(self.total_s)} minutes on a machine at rest:"
        what = f"build, start {len(self.scenarios)} servers, verify that they answer alike, warm up"
        yield f"  {self.setup_s:3.0f} s  {what}"
        for group in GROUPS.values():
            members = [scenario.name for scenario in self.scenarios if scenario.group == group.name]
            if members:
                rounds = self.options.rounds(group.name)
                seconds = len(members) * (rounds.closed + rounds.open) * self.run_s(group.name)
                yield (
                    f"  {seconds:3.0f} s  {group.title}, {rounds.closed} closed and {rounds.open} open rounds of "
                    f"{rounds.duration_s:g} s: {', '.join(members)}"
                )
        if self.studies:
            yield f"  {self.studies_s:3.0f} s  studies: {', '.join(study.name for study in self.studies)}"
        yield f"  {self.report_s:3.0f} s  tables, plots and files"
        left_out = [name for name in STUDIES if name not in [study.name for study in self.studies]]
        if left_out and self.options.preset != "full":
            yield "--full runs every scenario and study, for figures to keep; --quick takes a look."
