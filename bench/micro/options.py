"""What one run is asked to do: its options, the presets, and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.core import BenchError
from bench.core.command import check_bounds, check_names, names_in
from bench.core.results import RESULTS
from bench.micro.payloads import KIB, LARGE_BYTES, MIB, SMALLEST, parse_size
from bench.micro.peers.table import PEERS, RAW_FROM, PeerInfo

CONDITIONS = {
    "idle": "an idle machine",
    "spaced": "an idle machine, calls with pauses between",
    "one": "one core kept busy by another process",
    "all": "every core kept busy by another process",
    "quota": "a quota of one processor's time for both sides",
}
QUOTA = "quota"
"""The condition under which each peer is in a control group of its own, with all its processes from the start."""
BUSY = ("one", "all", QUOTA)
"""The conditions in which the scheduler holds calls up, by other processes that compute or by a quota."""
QUOTA_PROCESSORS = 1.0
OTHERS_EVERY = 3
"""Judged peers take part in each round, others in every third."""
SPACED = "spaced"
"""The condition with pauses, in which the side that answers has gone to sleep, as between the requests of a web server.
Under the others the next call comes at once."""
FRAME_LIMIT = 60 * MIB
"""The default frame limits of this project and of gunicorn's dirty apps are 64 MiB, headers included."""
MOST_CALLS = 500_000
"""Of one batch, for its memory."""
CALL_OVERHEAD_S, START_S = 0.04, 0.5
"""For the estimate: what a batch or window costs beside its own time, and what starting a client process costs."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls one batch makes at most, for about how long, after how many calls that aren't timed.

    As a rule the time ends a batch, and it is the same for all peers. A thousand calls of a fast peer fit into one
    slice of the scheduler, and would know nothing of the other programs on a busy core.
    """

    calls: int
    limit_s: float
    warmup: int


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty.

    Attributes:
        busy: Longer, because on busy cores a call can take several slices of the scheduler, and the slowest hundredth
            shall still be many calls.
    """

    sizes: tuple[int, ...]
    rounds: int
    small: Budget
    medium: Budget
    large: Budget
    busy: Budget
    window_s: float
    idle_s: float


PRESETS = {
    "default": Preset(
        sizes=(64, 4 * KIB, 256 * KIB, 1 * MIB, 4 * MIB, 16 * MIB),
        rounds=9,
        small=Budget(MOST_CALLS, 0.3, 50),
        medium=Budget(MOST_CALLS, 0.25, 10),
        large=Budget(MOST_CALLS, 0.3, 3),
        busy=Budget(MOST_CALLS, 0.8, 50),
        window_s=0.4,
        idle_s=10.0,
    ),
    "quick": Preset(
        sizes=(64, 4 * KIB, 1 * MIB),
        rounds=2,
        small=Budget(MOST_CALLS, 0.15, 20),
        medium=Budget(MOST_CALLS, 0.15, 5),
        large=Budget(MOST_CALLS, 0.15, 2),
        busy=Budget(MOST_CALLS, 0.4, 20),
        window_s=0.2,
        idle_s=2.0,
    ),
}


@dataclass(frozen=True, slots=True)
class Layout:
    """Who calls at the same time: so many callers in each of so many client processes.

    Attributes:
        kind: What a caller is: a thread, or a task of one event loop.
    """

    callers: int
    clients: int = 1
    kind: Literal["thread", "task"] = "thread"

    @property
    def name(self) -> str:
        """As a person reads it, and as the results file has it."""
        if self.clients > 1:
            return f"{self.clients} processes"
        return f"{self.callers} {self.kind}{'s' if self.callers > 1 else ''}"


LAYOUTS = (
    *(Layout(threads) for threads in (1, 4, 16)),
    Layout(1, 4),
    *(Layout(tasks, kind="task") for tasks in (1, 16, 64, 256)),
)


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run; None means: as the preset says."""

    out: Path = RESULTS
    preset: str = "default"
    peers: tuple[str, ...] | None = None
    sizes: tuple[int, ...] | None = None
    conditions: tuple[str, ...] = tuple(CONDITIONS)
    rounds: int | None = None
    calls: int | None = None
    executors: int = 2
    latency_executors: int = 1
    throughput: bool = True
    window_s: float | None = None
    idle_s: float | None = None
    pause_us: int = 1000
    seed: int = 1

    def validate(self) -> None:
        """Raises BenchError that names the first option out of bounds, its value and what is allowed."""
        check_names("--peers", self.chosen_peers, PEERS)
        check_names("--conditions", self.conditions, CONDITIONS)
        sizes = f"{SMALLEST} bytes to {FRAME_LIMIT // MIB} MiB"
        for size in self.payload_sizes:
            check_bounds({"--sizes": size}, SMALLEST, FRAME_LIMIT, sizes)
        check_bounds(
            {
                "--rounds": self.round_count,
                "--calls": self.calls,
                "--executors": self.executors,
                "--latency-executors": self.latency_executors,
            }
        )
        check_bounds({"--window": self.window}, 0.01, 600, "0.01 to 600 seconds")
        check_bounds({"--idle": self.idle_seconds}, 0, 600, "0 (leave it out) to 600 seconds")
        check_bounds({"--pause-us": self.pause_us}, 1, 100_000, "1 to 100000 microseconds")

    @property
    def _preset(self) -> Preset:
        return PRESETS[self.preset]

    @property
    def chosen_peers(self) -> tuple[str, ...]:
        """The peers to run, in the table's order."""
        return tuple(PEERS) if self.peers is None else self.peers

    @property
    def payload_sizes(self) -> tuple[int, ...]:
        """Ascending, each once."""
        return tuple(sorted(set(self._preset.sizes if self.sizes is None else self.sizes)))

    def pause_s(self, condition: str) -> float:
        """Seconds between two calls under a condition."""
        return self.pause_us / 1e6 if condition == SPACED else 0.0

    def sizes_under(self, condition: str) -> tuple[int, ...]:
        """The sizes that are measured under a condition: all on an idle machine, else the smallest."""
        return self.payload_sizes if condition == "idle" else self.payload_sizes[:1]

    def raw_too(self, size: int) -> tuple[bool, ...]:
        """Whether calls of a size carry bytes as they are: never, or once without and once with."""
        return (False, True) if size >= RAW_FROM else (False,)

    @property
    def round_count(self) -> int:
        """How often everything is measured."""
        return self._preset.rounds if self.rounds is None else self.rounds

    @property
    def window(self) -> float:
        """Seconds of one throughput window."""
        return self._preset.window_s if self.window_s is None else self.window_s

    @property
    def idle_seconds(self) -> float:
        """How long the processor time of idle peers is watched."""
        return self._preset.idle_s if self.idle_s is None else self.idle_s

    def budget(self, size: int, condition: str = "idle") -> Budget:
        """What a batch of calls with this size may take under a condition."""
        preset = self._preset
        if condition in BUSY:
            base = preset.busy
        else:
            base = preset.small if size < LARGE_BYTES else preset.medium if size < MIB else preset.large
        if self.calls is None:
            return base
        return Budget(self.calls, base.limit_s, min(base.warmup, self.calls))

    @property
    def called_peers(self) -> list[str]:
        """The peers that are called one after another, under any condition."""
        return [name for name in self.chosen_peers if PEERS[name].when != ()]

    @property
    def only_watched_peers(self) -> list[str]:
        """The peers of which only the idle processor time is watched."""
        return [name for name in self.chosen_peers if PEERS[name].when == ()]

    def in_round(self, number: int) -> list[PeerInfo]:
        """The peers that take part in a round. Who names peers wants to see these, in each."""
        infos = [PEERS[name] for name in self.chosen_peers]
        every = self.peers is not None or number % OTHERS_EVERY == 0
        return [info for info in infos if every or info.judged]

    def under(self, condition: str, size: int, raw: bool, number: int) -> list[PeerInfo]:
        """The peers that are measured under a condition with a size in a round.

        A peer whose cost knows no size takes part with the smallest only. For the quota each peer is started once more,
        so only the judged ones, or those that were named, are.
        """
        return [
            info
            for info in self.in_round(number)
            if (info.sized or size == self.payload_sizes[0])
            and (info.raw or not raw)
            and info.called_under(condition)
            and (condition != QUOTA or info.judged or self.peers is not None)
        ]

    @property
    def callers_at_once(self) -> list[str]:
        """The peers that take part in throughput."""
        return [name for name in self.chosen_peers if PEERS[name].callers] if self.throughput else []

    def layouts(self, number: int) -> list[tuple[Layout, list[str]]]:
        """The layouts of a round, with the peers that are measured in each."""
        names = [info.name for info in self.in_round(number) if info.name in self.callers_at_once]
        return [
            (layout, taking)
            for layout in LAYOUTS
            if (taking := [n for n in names if PEERS[n].callers == layout.kind])
        ]

    @property
    def quota_peers(self) -> list[str]:
        """The peers that are started once more for the quota."""
        if QUOTA not in self.conditions:
            return []
        return [info.name for info in self.under(QUOTA, self.payload_sizes[0], False, 0)]

    def batch_s(self, size: int, condition: str) -> float:
        """About how long a batch takes, its warm-up and the asking included."""
        return self.budget(size, condition).limit_s + CALL_OVERHEAD_S

    @property
    def window_cost_s(self) -> float:
        """About how long a throughput window takes, the asking included."""
        return self.window + CALL_OVERHEAD_S

    def expected_s(self) -> float:
        """About how long the whole run takes."""
        starts = len(self.chosen_peers) + len(self.quota_peers)
        starts += sum(clients_of(name) for name in self.callers_at_once)
        seconds = starts * START_S + self.idle_seconds
        for number in range(self.round_count):
            seconds += sum(
                self.batch_s(size, condition) * len(self.under(condition, size, raw, number))
                for condition in self.conditions
                for size in self.sizes_under(condition)
                for raw in self.raw_too(size)
            )
            seconds += sum(len(taking) for _, taking in self.layouts(number)) * self.window_cost_s
        return seconds


def clients_of(name: str) -> int:
    """How many client processes a peer needs for its layouts."""
    return max(layout.clients for layout in LAYOUTS if layout.kind == PEERS[name].callers)


def parse_sizes(text: str) -> tuple[int, ...]:
    """The sizes of ``64,4KiB``. Raises BenchError."""
    try:
        sizes = tuple(parse_size(part) for part in names_in(text))
    except ValueError as error:
        raise BenchError(f"--sizes: {error}") from error
    if not sizes:
        raise BenchError("--sizes names nothing")
    return sizes
