"""What one run is asked to do: its options, the presets, and their validation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.harness.errors import BenchError
from bench.micro.payloads import KIB, LARGE_BYTES, MIB, SMALLEST, parse_size
from bench.micro.peers import PEERS, RAW_FROM

CONDITIONS = {
    "idle": "an idle machine",
    "spaced": "an idle machine, calls with pauses between",
    "one": "one core kept busy by another process",
    "all": "every core kept busy by another process",
}
BUSY = ("one", "all")
"""The conditions with other processes that compute."""
SPACED = "spaced"
"""The condition under which who answers has gone to sleep, as between the requests of a web server; under the
others the next call comes at once."""
FRAME_LIMIT = 60 * MIB
"""The default frame limits of this project and of gunicorn's dirty apps are 64 MiB, headers included."""


MOST_CALLS = 500_000
"""Of one batch, for its memory."""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many calls one batch makes at most, for about how long, after how many that aren't timed.

    Time is what ends it, and is the same for all peers: a thousand calls of a fast one fit into one slice of
    the scheduler and would know nothing of the other programs on a busy core.
    """

    calls: int
    limit_s: float
    warmup: int


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty."""

    sizes: tuple[int, ...]
    rounds: int
    small: Budget
    medium: Budget
    large: Budget
    busy: Budget
    """On busy cores, where a call can take several slices of the scheduler: the slowest hundredth shall be many."""
    window_s: float
    idle_s: float


PRESETS = {
    "default": Preset(
        sizes=(64, 4 * KIB, 256 * KIB, 1 * MIB, 4 * MIB, 16 * MIB),
        rounds=5,
        small=Budget(MOST_CALLS, 0.3, 50),
        medium=Budget(MOST_CALLS, 0.25, 10),
        large=Budget(MOST_CALLS, 0.4, 3),
        busy=Budget(MOST_CALLS, 1.0, 50),
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
    """Who calls at the same time: threads of each of so many client processes."""

    threads: int
    clients: int

    @property
    def name(self) -> str:
        """As a person reads it, and as the results file has it."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        return threads if self.clients == 1 else f"{self.clients} processes"


LAYOUTS = (Layout(1, 1), Layout(4, 1), Layout(16, 1), Layout(1, 4))


@dataclass(frozen=True, slots=True)
class Options:
    """The options of one run; None means: as the preset says."""

    out: Path
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
        _known("--peers", self.chosen_peers, PEERS)
        _known("--conditions", self.conditions, CONDITIONS)
        for size in self.payload_sizes:
            if not SMALLEST <= size <= FRAME_LIMIT:
                raise BenchError(
                    f"--sizes has {size}, allowed are {SMALLEST} bytes to {FRAME_LIMIT // MIB} MiB"
                )
        at_least_one = {
            "--rounds": self.round_count,
            "--calls": self.calls,
            "--executors": self.executors,
            "--latency-executors": self.latency_executors,
        }
        for name, count in at_least_one.items():
            if count is not None and count < 1:
                raise BenchError(f"{name} is {count}, allowed are whole numbers from 1")
        if not 0.01 <= self.window <= 600:
            raise BenchError(f"--window is {self.window:g}, allowed are 0.01 to 600 seconds")
        if not 0 <= self.idle_seconds <= 600:
            raise BenchError(f"--idle is {self.idle_seconds:g}, allowed are 0 (leave it out) to 600 seconds")
        if not 1 <= self.pause_us <= 100_000:
            raise BenchError(f"--pause-us is {self.pause_us}, allowed are 1 to 100000 microseconds")

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
        """Whether calls carry bytes as they are: never, or both without and with."""
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


def _known(option: str, given: Sequence[str], known: Iterable[str]) -> None:
    names = list(known)
    if not given:
        raise BenchError(f"{option} names nothing, known are {', '.join(names)}")
    for name in given:
        if name not in names:
            raise BenchError(f"{option} has {name!r}, known are {', '.join(names)}")


def parse_list(text: str) -> tuple[str, ...]:
    """The parts of ``a,b,c``, each once."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))


def parse_sizes(text: str) -> tuple[int, ...]:
    """The sizes of ``64,4KiB``. Raises BenchError."""
    try:
        sizes = tuple(parse_size(part) for part in parse_list(text))
    except ValueError as error:
        raise BenchError(f"--sizes: {error}") from error
    if not sizes:
        raise BenchError("--sizes names nothing")
    return sizes
