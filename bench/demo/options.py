"""What one benchmark run is asked to do: its options, their presets and their validation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.core import BenchError
from bench.core.command import check_bounds, check_names
from bench.core.environment import available_cores
from bench.core.results import RESULTS

TRANSPORTS = ("auto", "shm", "stdio", "inline")


@dataclass(frozen=True, slots=True)
class Rounds:
    """How often and how long one group of scenarios is loaded: rounds of each kind, seconds per run."""

    closed: int
    open: int
    duration_s: float


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty; rounds for each group of scenarios."""

    rounds: dict[str, Rounds]
    warmup_requests: int


PRESETS = {
    "quick": Preset({"list": Rounds(1, 1, 1.5), "data": Rounds(1, 1, 1.5)}, warmup_requests=60),
    "default": Preset({"list": Rounds(3, 1, 2.0), "data": Rounds(2, 1, 2.0)}, warmup_requests=60),
    "full": Preset({"list": Rounds(5, 5, 4.0), "data": Rounds(5, 5, 3.0)}, warmup_requests=400),
}


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one benchmark run; None means: as the preset or the machine says."""

    out: Path = RESULTS
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
    studies: tuple[str, ...] | None = None
    study_rounds: int | None = None
    app: str = "demo.django_app.wsgi:application"
    k6: str | None = None
    sample_interval_s: float = 0.25

    def validate(self) -> None:
        """Raises BenchError that names the first option out of bounds, its value and what is allowed."""
        check_bounds(
            {
                "--server-processes": self.server_processes,
                "--server-threads": self.server_threads,
                "--executors": self.executors,
                "--max-queue": self.max_queue,
                "--concurrency": self.concurrency,
                "--rounds": self.closed_rounds,
                "--study-rounds": self.study_rounds,
                "--data-rows": self.data_rows,
                "--warmup": self.warmup_requests,
            }
        )
        check_bounds({"--open-rounds": self.open_rounds}, 0)
        duration = "1 (the least k6 takes) to 3600 seconds"
        check_bounds({"--duration": self.duration_s}, 1, 3600, duration)
        check_bounds({"--rate": self.rate}, 1, 1_000_000, "1 to 1000000 requests per second")
        check_bounds({"--rate-share": self.rate_share}, 1e-9, 1, "shares above 0 and up to 1")
        check_bounds({"--sample-interval": self.sample_interval_s}, 0.05, 10, "0.05 to 10 seconds")
        check_names("--transport", (self.transport,), TRANSPORTS)
        check_names("preset", (self.preset,), PRESETS)

    def rounds(self, group: str) -> Rounds:
        """The preset's rounds of a group, with the options that were given put over them."""
        base = PRESETS[self.preset].rounds[group]
        return Rounds(
            base.closed if self.closed_rounds is None else self.closed_rounds,
            base.open if self.open_rounds is None else self.open_rounds,
            base.duration_s if self.duration_s is None else self.duration_s,
        )

    def warmups(self, group: str) -> int:
        """Requests that warm up each server of a group. Those of the data path are far heavier, so a tenth will do."""
        preset = PRESETS[self.preset].warmup_requests
        requests = preset if self.warmup_requests is None else self.warmup_requests
        return max(1, requests // 10) if group == "data" else requests

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
