"""What one benchmark run is asked to do: its options, their presets and their validation."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from bench.harness.errors import BenchError

TRANSPORTS = ("auto", "shm", "stdio", "inline")


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long one group of scenarios is loaded: rounds of each kind, seconds per run."""

    closed_rounds: int
    open_rounds: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty; one plan per group of scenarios."""

    plans: dict[str, Plan]
    warmup_requests: int


PRESETS = {
    "default": Preset({"list": Plan(3, 1, 3.0), "data": Plan(2, 1, 2.0)}, warmup_requests=200),
    "quick": Preset({"list": Plan(1, 1, 1.5), "data": Plan(1, 1, 1.5)}, warmup_requests=60),
    "full": Preset({"list": Plan(5, 5, 4.0), "data": Plan(5, 5, 3.0)}, warmup_requests=400),
}


def available_cores() -> int:
    """Processors this process may run on (its affinity, not what the machine has)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one benchmark run; None means: as the preset or the machine says."""

    out: Path
    preset: str = "default"
    scenarios: tuple[str, ...] | None = None
    data: bool = True
    server_processes: int = 1
    server_threads: int = 8
    executors: int | None = None
    max_queue: int | None = None
    concurrency: int = 16
    duration_s: float | None = None
    closed_rounds: int | None = None
    open_rounds: int | None = None
    rate: float | None = None
    rate_share: float = 0.6
    transport: str = "auto"
    data_rows: int = 10_000
    warmup_requests: int | None = None
    extra_env: dict[str, str] = field(default_factory=dict)
    studies: tuple[str, ...] = ()
    app: str = "demo.django_app.wsgi:application"
    k6: str | None = None
    sample_interval_s: float = 0.25

    def validate(self) -> None:
        """Raises BenchError that names the first option out of bounds, its value and what is allowed."""
        at_least_one = {
            "--server-processes": self.server_processes,
            "--server-threads": self.server_threads,
            "--executors": self.executors,
            "--max-queue": self.max_queue,
            "--concurrency": self.concurrency,
            "--rounds": self.closed_rounds,
            "--data-rows": self.data_rows,
            "--warmup": self.warmup_requests,
        }
        for name, count in at_least_one.items():
            if count is not None and count < 1:
                raise BenchError(f"{name} is {count}, allowed are whole numbers from 1")
        if self.open_rounds is not None and self.open_rounds < 0:
            raise BenchError(f"--open-rounds is {self.open_rounds}, allowed are whole numbers from 0")
        if self.duration_s is not None and not 1 <= self.duration_s <= 3600:
            raise BenchError(
                f"--duration is {self.duration_s:g}, allowed are 1 (the least k6 takes) to 3600 seconds"
            )
        if self.rate is not None and not 1 <= self.rate <= 1_000_000:
            raise BenchError(f"--rate is {self.rate:g}, allowed are 1 to 1000000 requests per second")
        if not 0 < self.rate_share <= 1:
            raise BenchError(f"--rate-share is {self.rate_share:g}, allowed are shares above 0 and up to 1")
        if self.transport not in TRANSPORTS:
            raise BenchError(f"--transport is {self.transport!r}, allowed are {', '.join(TRANSPORTS)}")
        if self.preset not in PRESETS:
            raise BenchError(f"preset {self.preset!r} is unknown, known are {', '.join(PRESETS)}")
        if not 0.05 <= self.sample_interval_s <= 10:
            raise BenchError(
                f"--sample-interval is {self.sample_interval_s:g}, allowed are 0.05 to 10 seconds"
            )

    def plan(self, group: str) -> Plan:
        """The preset's plan of a group with the options that were given put over it."""
        base = PRESETS[self.preset].plans[group]
        return Plan(
            base.closed_rounds if self.closed_rounds is None else self.closed_rounds,
            base.open_rounds if self.open_rounds is None else self.open_rounds,
            base.duration_s if self.duration_s is None else self.duration_s,
        )

    @property
    def warmups(self) -> int:
        """Requests that warm up each scenario's server."""
        return PRESETS[self.preset].warmup_requests if self.warmup_requests is None else self.warmup_requests

    @property
    def executor_count(self) -> int:
        """Executors of a worker: as asked, else one for each core."""
        return self.executors if self.executors is not None else available_cores()


def parse_assignment(text: str) -> tuple[str, str]:
    """Splits `NAME=VALUE`; raises BenchError when it isn't one."""
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise BenchError(f"--env is {text!r}, expected NAME=VALUE")
    return name, value
