"""What one run is asked to do: its options, the presets, and their validation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.core import BenchError
from bench.core.command import check_bounds
from bench.core.results import RESULTS

CHANNELS = (32, 256, 1024, 4096)
"""In how many granted channels the steps are measured."""
CHANNELS_OF_A_CLIENT = 32
"""How many a client process is granted when it attaches; one of them has a request."""
CLIENTS = (1, 4, 16, 64)
"""With how many client processes calls are made."""
EXECUTORS = 2
PAYLOAD_BYTES = 64
START_S = 0.7
"""For the estimate: what starting a client process costs."""
STEP_S = 3.0
"""For the estimate: what measuring the steps in one number of channels costs, mostly for valgrind."""


@dataclass(frozen=True, slots=True)
class Preset:
    """A named trade between time and certainty; seconds of a batch of one caller, and of a window of all."""

    rounds: int
    batch_s: float
    window_s: float


PRESETS = {"default": Preset(5, 0.5, 1.0), "quick": Preset(2, 0.2, 0.3)}


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line asks for; None takes the preset's."""

    out: Path = RESULTS
    preset: str = "default"
    steps: bool = True
    calls: bool = True
    rounds: int | None = None
    most_clients: int = CLIENTS[-1]

    @property
    def defaults(self) -> Preset:
        """The preset in force."""
        return PRESETS[self.preset]

    @property
    def round_count(self) -> int:
        """How often calls are measured with each number of clients."""
        return self.defaults.rounds if self.rounds is None else self.rounds

    @property
    def clients(self) -> tuple[int, ...]:
        """The numbers of client processes, ascending."""
        return tuple(each for each in CLIENTS if each <= self.most_clients) if self.calls else ()

    def expected_s(self) -> float:
        """What the run takes, by plan."""
        turn_s = self.round_count * (self.defaults.batch_s + self.defaults.window_s)
        steps_s = len(CHANNELS) * STEP_S if self.steps else 0.0
        return steps_s + len(self.clients) * turn_s + max(self.clients, default=0) * START_S

    def validate(self) -> None:
        """Raises BenchError for what isn't allowed."""
        if not self.steps and not self.calls:
            raise BenchError("--no-steps and --no-calls leave nothing to measure")
        check_bounds({"--rounds": self.rounds, "--most-clients": self.most_clients})
