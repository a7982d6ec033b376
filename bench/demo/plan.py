"""What a run will do and how long that takes, worked out before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.core.progress import clock
from bench.demo.options import Options
from bench.demo.scenarios import GROUPS, Scenario
from bench.demo.studies.registry import STUDIES
from bench.demo.studies.testbed import RUN_OVERHEAD_S, Study, servers_of

# Measured on two cores at rest; what else runs on the machine makes it longer.
BUILD_S = 9.0
SERVER_S = 1.0
"""Of each of several servers that start side by side, its stop included."""
REQUEST_S = 0.006
"""Of each request that verifies or warms up."""
REPORT_S = 6.0


@dataclass(frozen=True, slots=True)
class Plan:
    """The scenarios and studies of a run, with the seconds that each part takes."""

    options: Options
    scenarios: Sequence[Scenario]
    studies: Sequence[Study]

    @property
    def builds(self) -> bool:
        """Whether handler cores are compiled."""
        studied = any(variant.compiled for study in self.studies for variant in study.variants)
        return studied or any(scenario.compiled for scenario in self.scenarios)

    @property
    def start_s(self) -> float:
        """Until all servers of scenarios are up, with what is built for them."""
        return BUILD_S * self.builds + SERVER_S * len(self.scenarios)

    def warm_s(self, scenario: Scenario) -> float:
        """To verify a scenario and to warm it up."""
        requests = len(GROUPS[scenario.group].queries) + self.options.warmups(scenario.group)
        return requests * REQUEST_S

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
        return SERVER_S * len(servers_of(self.studies))

    @property
    def studies_s(self) -> float:
        """All studies."""
        runs = [study.runs(self.options.preset) for study in self.studies]
        return self.study_start_s + sum(count * (seconds + RUN_OVERHEAD_S) for count, seconds in runs)

    @property
    def total_s(self) -> float:
        """The whole run."""
        return self.start_s + sum(map(self.warm_s, self.scenarios)) + self.load_s + self.studies_s + REPORT_S

    def lines(self) -> Iterator[str]:
        """The plan in words."""
        yield f"Preset {self.options.preset}, about {clock(self.total_s)} minutes on a machine at rest:"
        setup_s = self.start_s + sum(map(self.warm_s, self.scenarios))
        yield f"  {setup_s:3.0f} s  build, start {len(self.scenarios)} servers, verify that they answer alike, warm up"
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
        yield f"  {REPORT_S:3.0f} s  tables, plots and files"
        left_out = [name for name in STUDIES if name not in [study.name for study in self.studies]]
        if left_out and self.options.preset != "full":
            yield "--full runs every scenario and study, for figures to keep; --quick takes a look."
