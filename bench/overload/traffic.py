"""What comes to a simulated pool: when requests arrive, and how long they take. Times are seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from molt_accel.durations import NS_PER_S
from molt_accel.overload.priority import Priority

#: Draws how long a request runs, in seconds, that arrives at a time.
Service = Callable[[Random, float], float]
#: The times at which requests arrive, ascending, without end or with one.
Arrivals = Callable[[Random], Iterator[float]]


# -- how long requests take -------------------------------------------------------------------------------
def fixed(seconds: float) -> Service:
    return lambda _random, _at: seconds


def exponential(mean: float) -> Service:
    return lambda random, _at: random.expovariate(1 / mean)


def two_kinds(short: float, long: float, share_of_long: float) -> Service:
    """Requests of one entrypoint that differ: its estimate is right for none of them."""
    return lambda random, _at: long if random.random() < share_of_long else short


def changing(before: Service, after: Service, at: float) -> Service:
    """One service time, and from a time on another."""
    return lambda random, now: (before if now < at else after)(random, now)


# -- when they arrive -------------------------------------------------------------------------------------
def poisson(rate: float, start: float = 0.0, stop: float = float("inf")) -> Arrivals:
    """So many requests a second, at random, between two times."""

    def arrivals(random: Random) -> Iterator[float]:
        at = start
        while (at := at + random.expovariate(rate)) < stop:
            yield at

    return arrivals


def bursts(size: int, every: float, start: float = 0.0) -> Arrivals:
    """So many requests at once, every so often."""

    def arrivals(_random: Random) -> Iterator[float]:
        at = start
        while True:
            yield from [at] * size
            at += every

    return arrivals


def once(size: int, at: float = 0.0) -> Arrivals:
    """One burst."""
    return lambda _random: iter([at] * size)


def on_and_off(rate: float, on: float, off: float) -> Arrivals:
    """So many requests a second at random, with pauses."""

    def arrivals(random: Random) -> Iterator[float]:
        at = 0.0
        while True:
            at += random.expovariate(rate)
            periods, within = divmod(at, on)
            yield periods * (on + off) + within

    return arrivals


@dataclass(frozen=True, slots=True)
class Clients:
    """Callers of which each has one request at a time, and thinks before the next.

    Attributes:
        think: How long, on average, in seconds.
        honour: A refused one comes back when Retry-After says; False: after `hammer` seconds.
    """

    count: int
    think: float = 0.0
    honour: bool = True
    hammer: float = 0.01


@dataclass(frozen=True, slots=True)
class Source:
    """The requests of one entrypoint.

    Attributes:
        deadline: Seconds from its arrival; 0: none.
        limit: `max_concurrency`; None: none.
    """

    name: str
    service: Service
    arrivals: Arrivals | Clients
    deadline: float = 0.0
    limit: int | None = None
    priority: Priority = Priority.NORMAL


def ns(seconds: float) -> int:
    return round(seconds * NS_PER_S)
