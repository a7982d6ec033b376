"""What one run is asked to do: its options, the presets, and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.cluster.rows import PLACES, ROWS, Row
from bench.core import BenchError
from bench.core.command import check_bounds, check_names
from bench.core.results import RESULTS
from bench.micro.options import MOST_CALLS, Layout

PAYLOAD_BYTES = 64
"""What the echo is given: a small dict of so many bytes as msgpack."""
CALLERS = (Layout(1), Layout(16))
"""How many call at the same time, of one client process."""
WARMUP_CALLS = 100
POOLS = (1, 2, 3)
"""With how many pools goodput is measured."""
START_S, POOLS_START_S = 2.0, 3.0
"""For the estimate: what starting a row's processes costs, and what those of a run of goodput."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty; seconds of a batch, a window, and a run of goodput."""

    rounds: int
    batch_s: float
    window_s: float
    goodput_s: float


PRESETS = {"default": Preset(5, 1.0, 1.0, 8.0), "quick": Preset(2, 0.3, 0.3, 3.0)}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; None takes the preset's."""

    out: Path = RESULTS
    preset: str = "default"
    rows: tuple[str, ...] | None = None
    calls: bool = True
    goodput: bool = True
    rounds: int | None = None
    delay_ms: float = 0.2
    executors: int = 2
    nap_ms: float = 20.0
    timeout_ms: int = 250
    load: float = 3.5
    seed: int = 1

    @property
    def defaults(self) -> Preset:
        """The preset in force."""
        return PRESETS[self.preset]

    @property
    def round_count(self) -> int:
        """Rounds of both parts."""
        return self.defaults.rounds if self.rounds is None else self.rounds

    @property
    def chosen(self) -> tuple[Row, ...]:
        """The rows to measure, in the table's order."""
        if not self.calls:
            return ()
        return tuple(row for row in ROWS.values() if self.rows is None or row.name in self.rows)

    @property
    def most_calls(self) -> int:
        """Of a batch, for its memory."""
        return MOST_CALLS

    @property
    def capacity_s(self) -> float:
        """Calls of goodput's entrypoint that one pool can answer in a second."""
        return self.executors * 1000 / self.nap_ms

    @property
    def rate_s(self) -> float:
        """Calls per second that goodput's client makes."""
        return self.load * self.capacity_s

    @property
    def turn_s(self) -> float:
        """What one row takes in one round, by plan."""
        return self.defaults.batch_s + len(CALLERS) * self.defaults.window_s

    @property
    def goodput_turn_s(self) -> float:
        """What goodput with one number of pools takes in one round, by plan."""
        return self.defaults.goodput_s + POOLS_START_S if self.goodput else 0.0

    def expected_s(self) -> float:
        """What the run takes, by plan."""
        starts = sum(START_S * (1 if row.resident else self.round_count) for row in self.chosen)
        latency = len(self.chosen) * self.turn_s * self.round_count
        return starts + latency + len(POOLS) * self.goodput_turn_s * self.round_count

    def places(self) -> tuple[str, ...]:
        """The places of the chosen rows."""
        return tuple(place for place in PLACES if any(row.place == place for row in self.chosen))

    def validate(self) -> None:
        """Raises BenchError for what isn't allowed."""
        check_names("--rows", tuple(ROWS) if self.rows is None else self.rows, ROWS)
        if not self.calls and not self.goodput:
            raise BenchError("--no-calls and --no-goodput leave nothing to measure")
        check_bounds({"--rounds": self.rounds, "--executors": self.executors})
        check_bounds({"--timeout-ms": self.timeout_ms}, least=10)
        check_bounds({"--delay-ms": self.delay_ms}, 0, 1000, "0 to 1000")
        check_bounds({"--nap-ms": self.nap_ms}, 1, 10_000, "1 to 10000")
        check_bounds({"--load": self.load}, 0.1, 100, "0.1 to 100")
