"""What is measured: who calls in which way, and which processors are busy meanwhile; and the row that comes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from bench.attribution.counters import EVENTS, READY


@dataclass(frozen=True, slots=True)
class Row:
    """So many client processes, each with so many threads or tasks.

    Attributes:
        peer: Of the micro benchmark: `shm` calls from threads, `acall` from tasks.
        busy: A condition of `bench.micro.burners.cores_to_burn`.
        spins: False: everybody sleeps at once (`MOLT_SPIN_US=0`).
    """

    title: str
    peer: str = "shm"
    count: int = 1
    clients: int = 1
    busy: str = "idle"
    spins: bool = True

    @property
    def alone(self) -> bool:
        """Whether there is one caller only."""
        return self.count * self.clients == 1

    @property
    def starts_threads(self) -> bool:
        """Whether the callers are threads that end with their calls, and take with them how long they waited."""
        return self.peer == "shm" and self.count > 1


ROWS: Final = (
    Row("one caller, idle machine"),
    Row("the same, nobody stays awake", spins=False),
    Row("one core busy", busy="one"),
    Row("the same, nobody stays awake", busy="one", spins=False),
    Row("every core busy", busy="all"),
    Row("the same, nobody stays awake", busy="all", spins=False),
    Row("16 threads", count=16),
    Row("4 client processes", clients=4),
    Row("`acall`, 1 task", peer="acall"),
    Row("`acall`, 64 tasks", peer="acall", count=64),
)


@dataclass(frozen=True, slots=True)
class Counted:
    """What was counted of a row, and over which time."""

    row: Row
    calls: int
    seconds: float
    client: dict[str, float]
    worker: dict[str, float]


#: What is told of each side, in this order; those in milliseconds as microseconds of a call.
FIGURES: Final = (*EVENTS, READY)
TIMES: Final = {"cpu_ms": "cpu us", READY: "ready us"}


def line(counted: Counted) -> list[str]:
    """A row of the table: calls per second, then of one call both sides' events, microseconds of processor time and of
    waiting for a processor, and how long a lone caller slept, which is the rest.
    """
    calls = counted.calls or 1
    sides = [
        [_short(side[name] / calls * (1000 if name in TIMES else 1)) for name in FIGURES]
        for side in (counted.client, counted.worker)
    ]
    if counted.row.starts_threads:
        sides[0][FIGURES.index(READY)] = "-"
    asleep_us = (counted.seconds * 1000 - sum(counted.client[name] for name in TIMES)) * 1000 / calls
    return [
        counted.row.title,
        f"{counted.calls / counted.seconds:,.0f}",
        *(f"{mine} / {theirs}" for mine, theirs in zip(*sides, strict=True)),
        _short(max(asleep_us, 0.0)) if counted.row.alone else "",
    ]


def _short(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")


def table(all_counted: list[Counted]) -> str:
    """The rows in Markdown."""
    titles = ["", "calls/s", *(TIMES.get(name, name) for name in FIGURES), "asleep us"]
    lines = ["| " + " | ".join(titles) + " |", "|:--|" + "--:|" * (len(titles) - 1)]
    return "\n".join(lines + ["| " + " | ".join(line(each)) + " |" for each in all_counted])
