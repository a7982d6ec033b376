"""Samples processor time and memory of a server, its worker and the load generator while a run lasts.

Processor time comes from the counters of each process (differences, so the sampling interval doesn't matter
for the average); the greatest value is that of one interval. The counters tick in hundredths of a second. A
process that ends between two samples takes at most one interval of its processor time with it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import psutil

from bench.core.cpu import busy_seconds, cpu_seconds
from bench.core.processes import Family, Member, Part
from bench.core.statistics import rounded

MIB = 1024 * 1024
DISTURBED_PERCENT = 25.0
"""Of a core: when other programs take more during a run, its figures are doubtful."""


@dataclass(slots=True)
class PartUsage:
    """Processor time and memory of one part (server or worker) over one run."""

    cpu_seconds: float = 0.0
    cpu_max_percent: float = 0.0
    rss_sum: int = 0
    rss_max: int = 0
    pss: int | None = None
    processes: int = 0
    samples: int = 0

    def as_json(self, elapsed_s: float) -> dict[str, Any]:
        """The JSON object of the results file; percent of one core, sizes in MiB."""
        average = self.cpu_seconds / elapsed_s * 100 if elapsed_s > 0 else 0.0
        return {
            "cpu_percent": {"avg": rounded(average), "max": rounded(max(self.cpu_max_percent, average))},
            "cpu_seconds": rounded(self.cpu_seconds),
            "rss_mib": {
                "avg": rounded(self.rss_sum / self.samples / MIB) if self.samples else 0.0,
                "max": rounded(self.rss_max / MIB),
            },
            "pss_mib": rounded(self.pss / MIB) if self.pss is not None else None,
            "processes": self.processes,
            "samples": self.samples,
        }


@dataclass(slots=True)
class Usage:
    """What the processes of one run took, and what else took the machine's processors meanwhile.

    Attributes:
        series: At each sample: seconds since the start, percent of a core and MiB of the server, then of the worker.
    """

    elapsed_s: float = 0.0
    parts: dict[Part, PartUsage] = field(
        default_factory=lambda: {"server": PartUsage(), "worker": PartUsage()}
    )
    load_cpu_seconds: float = 0.0
    runner_cpu_seconds: float = 0.0
    idle_cpu_seconds: float = 0.0
    busy_cpu_seconds: float = 0.0
    steal_cpu_seconds: float = 0.0
    series: list[list[float]] = field(default_factory=list)

    @property
    def served_cpu_seconds(self) -> float:
        """Processor seconds of server and worker together."""
        return sum(part.cpu_seconds for part in self.parts.values())

    @property
    def other_percent(self) -> float:
        """What processes that have nothing to do with this run took, in percent of one core."""
        ours = (
            self.served_cpu_seconds + self.load_cpu_seconds + self.runner_cpu_seconds + self.idle_cpu_seconds
        )
        return self.percent(max(0.0, self.busy_cpu_seconds - ours))

    def percent(self, seconds: float) -> float:
        """Processor seconds of this run in percent of one core."""
        return seconds / self.elapsed_s * 100 if self.elapsed_s > 0 else 0.0

    def as_json(self) -> dict[str, Any]:
        """The JSON object of the results file; percentages are of one core."""
        percentages = {
            "load_generator_cpu_percent": self.percent(self.load_cpu_seconds),
            "runner_cpu_percent": self.percent(self.runner_cpu_seconds),
            "idle_servers_cpu_percent": self.percent(self.idle_cpu_seconds),
            "other_cpu_percent": self.other_percent,
            "machine_busy_percent": self.percent(self.busy_cpu_seconds),
            "steal_percent": self.percent(self.steal_cpu_seconds),
        }
        parts: dict[str, Any] = {name: part.as_json(self.elapsed_s) for name, part in self.parts.items()}
        return {**parts, **{name: rounded(value) for name, value in percentages.items()}}


def disturbance(usages: Iterable[Usage]) -> str | None:
    """A sentence where other programs took so much during some of the runs that figures are doubtful; else None."""
    taken = [usage.other_percent for usage in usages]
    disturbed = [percent for percent in taken if percent > DISTURBED_PERCENT]
    if not disturbed:
        return None
    return (
        f"Other programs took more than {DISTURBED_PERCENT:.0f} % of a core in {len(disturbed)} of {len(taken)} runs, "
        f"up to {max(disturbed):.0f} %: figures of this machine at rest will differ."
    )


class Sampler:
    """Samples a family of processes in a thread, from entering the context to leaving it.

    `idle` are the families of servers that should do nothing meanwhile. The load generator is the child that this
    process starts and reaps inside the context.
    """

    def __init__(self, family: Family, *, interval_s: float = 0.25, idle: tuple[Family, ...] = ()) -> None:
        self.usage = Usage()
        self._family = family
        self._interval_s = interval_s
        self._idle = idle
        self._runner = psutil.Process(os.getpid())
        self._seen: dict[psutil.Process, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bench-sampler", daemon=True)

    def __enter__(self) -> Sampler:
        self._started = self._last = time.monotonic()
        self._idle_before = _family_cpu(self._idle)
        self._runner_before = self._runner.cpu_times()
        self._machine_before = psutil.cpu_times()
        for member in self._family.members():
            self._seen[member.process] = cpu_seconds(member.process.pid) or 0.0
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        # The closing sample completes the sums; its interval is too short for a maximum.
        members = self._sample(time.monotonic(), maxima=False)
        usage = self.usage
        usage.elapsed_s = self._last - self._started
        machine = psutil.cpu_times()
        usage.busy_cpu_seconds = busy_seconds(machine) - busy_seconds(self._machine_before)
        usage.steal_cpu_seconds = getattr(machine, "steal", 0.0) - getattr(self._machine_before, "steal", 0.0)
        runner, before = self._runner.cpu_times(), self._runner_before
        usage.runner_cpu_seconds = runner.user + runner.system - before.user - before.system
        # A child counts once it is reaped, and then to its last tick, which no sampling could catch.
        usage.load_cpu_seconds = (
            runner.children_user + runner.children_system - before.children_user - before.children_system
        )
        after = _family_cpu(self._idle)
        usage.idle_cpu_seconds = sum(
            max(0.0, seconds - self._idle_before.get(p, 0.0)) for p, seconds in after.items()
        )
        self._weigh(members)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            self._sample(time.monotonic(), maxima=True)

    def _sample(self, now: float, *, maxima: bool) -> list[Member]:
        members = self._family.members()
        spent: dict[Part, float] = {"server": 0.0, "worker": 0.0}
        rss: dict[Part, int] = {"server": 0, "worker": 0}
        count: dict[Part, int] = {"server": 0, "worker": 0}
        for part, process in ((member.part, member.process) for member in members):
            try:
                with process.oneshot():
                    times = process.cpu_times()
                    resident = process.memory_info().rss
            except psutil.Error:
                continue
            total = times.user + times.system
            # A process that came later began at zero, so all it spent belongs to the run.
            spent[part] += max(0.0, total - self._seen.get(process, 0.0))
            self._seen[process] = total
            rss[part] += resident
            count[part] += 1
        elapsed, self._last = now - self._last, now
        if maxima:
            row = [now - self._started]
            for name in spent:
                row += [spent[name] / elapsed * 100, rss[name] / MIB]
            self.usage.series.append([rounded(value, 3) for value in row])
        for name, part_usage in self.usage.parts.items():
            part_usage.cpu_seconds += spent[name]
            if maxima:
                part_usage.cpu_max_percent = max(part_usage.cpu_max_percent, spent[name] / elapsed * 100)
            part_usage.rss_sum += rss[name]
            part_usage.rss_max = max(part_usage.rss_max, rss[name])
            part_usage.processes = max(part_usage.processes, count[name])
            part_usage.samples += 1
        return members

    def _weigh(self, members: list[Member]) -> None:
        """Proportional set size, once after the load: it costs too much to be read while measuring."""
        for member in members:
            try:
                pss = getattr(member.process.memory_full_info(), "pss", None)
            except psutil.Error:
                continue
            if pss is not None:
                part = self.usage.parts[member.part]
                part.pss = (part.pss or 0) + pss


def _family_cpu(families: tuple[Family, ...]) -> dict[psutil.Process, float]:
    return {
        member.process: seconds
        for family in families
        for member in family.members()
        if (seconds := cpu_seconds(member.process.pid)) is not None
    }
