"""What is simulated: service times, rules and variants of the rule, several entrypoints, callers that come back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from bench.overload.pool import OK, Call, Pool, Shape
from bench.overload.rules import ByTime, CoDel, FirstCome, Rule, tuned
from bench.overload.traffic import (
    Arrivals,
    Clients,
    Service,
    Source,
    changing,
    exponential,
    fixed,
    on_and_off,
    poisson,
    two_kinds,
)
from molt_accel.overload.priority import Priority

EXECUTORS = 2
LOADS = (0.7, 0.95, 2.0, 5.0)
ONSET_S = 6.0  #: a run that begins with an idle pool of which nothing is known
ONSETS = 8  #: runs of that kind


@dataclass(frozen=True, slots=True)
class Row:
    """Requests of one entrypoint.

    Attributes:
        mean: Seconds that they take on average.
        slo: An answer counts if it comes within so many seconds.
    """

    name: str
    service: Service
    mean: float
    slo: float = 0.25


ROWS = (
    Row("5 ms", fixed(0.005), 0.005),
    Row("20 ms", fixed(0.02), 0.02),
    Row("60 ms", fixed(0.06), 0.06),
    Row("20 ms, exponential", exponential(0.02), 0.02),
    Row("60 ms, exponential", exponential(0.06), 0.06),
    Row("5 ms, a tenth 155 ms", two_kinds(0.005, 0.155, 0.1), 0.02),
    Row("500 ms, exponential", exponential(0.5), 0.5, 1.5),
)

RULES: dict[str, Callable[[], Rule]] = {
    "as it is": ByTime,
    "64 places": FirstCome,
    "CoDel": CoDel,
}


class Variant(NamedTuple):
    """The rule with another constant. None: as it is."""

    target: float | None = None
    interval: float | None = None
    calm: float | None = None
    gain: int | None = None


VARIANTS = {
    "as it is": Variant(),
    "target 50 ms": Variant(target=0.05),
    "target 200 ms": Variant(target=0.2),
    "interval 20 ms": Variant(interval=0.02),
    "interval 100 ms": Variant(interval=0.1),
    "interval 500 ms": Variant(interval=0.5),
    "ends at the first short wait": Variant(calm=0.0),
    "calm after 0.1 s": Variant(calm=0.1),
    "calm after 3 s": Variant(calm=3.0),
    "samples by 1/8": Variant(gain=3),
    "samples by 1/64": Variant(gain=6),
}
#: Loads that variants are held against.
VARIANT_LOADS = (0.95, 2.0, 5.0)


def goodput(calls: list[Call], row: Row, seconds: float) -> float:
    """Answers within the time that counts, as a share of what the pool could answer."""
    good = sum(call.outcome == OK and call.took <= row.slo for call in calls)
    return good * row.mean / (EXECUTORS * seconds)


def steady(
    row: Row, load: float, rule: Rule, shape: Shape, seconds: float, seed: int = 1
) -> dict[str, float]:
    """A run under one load: goodput, share of refusals, waits of those that were answered."""
    calls = Pool([_source(row, load)], shape, rule, seed).run(seconds)
    waits = sorted(call.waited for call in calls if call.outcome == OK)
    return {
        "goodput": goodput(calls, row, seconds),
        "refused": sum(call.outcome != OK for call in calls) / max(1, len(calls)),
        "wait_p50_ms": 1000 * _percentile(waits, 0.5),
        "wait_p99_ms": 1000 * _percentile(waits, 0.99),
    }


def onset(row: Row, load: float, rule: Callable[[], Rule], shape: Shape) -> float:
    """The goodput of runs of 6 s that begin with an idle pool, on average."""
    runs = (Pool([_source(row, load)], shape, rule(), seed).run(ONSET_S) for seed in range(ONSETS))
    return sum(goodput(calls, row, ONSET_S) for calls in runs) / ONSETS


def _source(row: Row, load: float) -> Source:
    return Source("entry", row.service, poisson(load * EXECUTORS / row.mean))


def _percentile(ascending: list[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(share * len(ascending)))] if ascending else 0.0


# -- rules and variants -----------------------------------------------------------------------------------
def compare_rules(seconds: float) -> dict[str, Any]:
    """By rule, row and load."""
    return {
        name: {
            row.name: {
                f"{load:g}": steady(row, load, make(), Shape(), seconds)
                | {"onset": onset(row, load, make, Shape())}
                for load in LOADS
            }
            for row in ROWS
        }
        for name, make in RULES.items()
    }


def compare_variants(seconds: float) -> dict[str, Any]:
    """By variant: by row and load; bursts that pass; how soon a change of load is followed."""
    return dict(_variants(seconds))


def _variants(seconds: float) -> Iterator[tuple[str, Any]]:
    for name, variant in VARIANTS.items():
        shape = Shape() if variant.target is None else Shape(target=variant.target)
        with tuned(variant.interval, variant.calm, variant.gain):
            rows = {
                row.name: {
                    f"{load:g}": steady(row, load, ByTime(), shape, seconds)
                    | {"onset": onset(row, load, ByTime, shape)}
                    for load in VARIANT_LOADS
                }
                for row in ROWS
            }
            yield (
                name,
                {"rows": rows, "burst_ms": longest_burst(shape), "followed_s": followed(shape, seconds)},
            )


def _spread(over: float) -> Arrivals:
    """20 requests, at even distances."""
    return lambda _random: iter([over * number / 20 for number in range(20)])


def longest_burst(shape: Shape) -> int:
    """Over how many ms 20 calls of 50 ms may be spread and all be taken on; -1: not even at once."""
    warm = Shape(target=shape.target, warm=True)
    passes = -1
    for spread in range(0, 501, 10):
        calls = Pool([Source("burst", fixed(0.05), _spread(spread / 1000), deadline=5)], warm).run(6)
        if sum(call.outcome == OK for call in calls) < 20:
            break
        passes = spread
    return passes


def followed(shape: Shape, seconds: float) -> float:
    """After how many seconds goodput is back at 0.9, when requests of 20 ms begin to take 200 ms, at twice the load."""
    change = seconds / 2
    source = Source("entry", changing(fixed(0.02), fixed(0.2), change), poisson(2 * EXECUTORS / 0.02))
    calls = Pool([source], shape).run(seconds)
    good = [call.ended for call in calls if call.outcome == OK and call.service > 0.1 and call.took <= 0.45]
    at = change
    while at + 1 <= seconds:
        if sum(at <= ended < at + 1 for ended in good) >= 0.9 * EXECUTORS / 0.2:
            return at - change
        at += 0.1
    return seconds - change


# -- several entrypoints, and callers ---------------------------------------------------------------------
class Scene(NamedTuple):
    """Sources that share a pool, and what that is an example of."""

    name: str
    sources: list[Source]
    shape: Shape = Shape()


def scenes() -> list[Scene]:
    def load(share: float, mean: float) -> Arrivals:
        return poisson(share * EXECUTORS / mean)

    quick = Source("quick", fixed(0.001), poisson(100))
    slow = fixed(0.5)
    clients = [
        Scene(
            f"48 clients that {'honour Retry-After' if honour else 'hammer'}, a refusal takes 1 ms",
            [Source("entry", fixed(0.1), Clients(48, honour=honour, hammer=0.1))],
            Shape(refusal=0.001),
        )
        for honour in (True, False)
    ]
    return [
        Scene(
            "a quick entry beside slow ones at half of the capacity",
            [quick, Source("slow", slow, load(0.5, 0.5))],
        ),
        Scene("beside slow ones at twice the capacity", [quick, Source("slow", slow, load(2, 0.5))]),
        Scene(
            "the same, the slow ones with max_concurrency=1",
            [quick, Source("slow", slow, load(2, 0.5), limit=1)],
        ),
        Scene(
            "three classes, 2.5 times the capacity together",
            [
                Source("high", fixed(0.02), load(0.5, 0.02), priority=Priority.HIGH),
                Source("normal", fixed(0.02), load(1, 0.02)),
                Source("low", fixed(0.02), load(1, 0.02), priority=Priority.LOW),
            ],
        ),
        Scene(
            "high at twice the capacity, low beside it",
            [
                Source("high", fixed(0.02), load(2, 0.02), priority=Priority.HIGH),
                Source("low", fixed(0.02), load(1, 0.02), priority=Priority.LOW),
            ],
        ),
        Scene("a second at three times the capacity, a second of rest", [_burst(0.02, 3)]),
        Scene(
            "a cold start: the first request of each executor takes 1 s more", [_half(0.02)], Shape(first=1.0)
        ),
        *clients,
    ]


def _burst(mean: float, load: float) -> Source:
    return Source("entry", fixed(mean), on_and_off(load * EXECUTORS / mean, 1, 1))


def _half(mean: float) -> Source:
    return Source("entry", fixed(mean), poisson(0.5 * EXECUTORS / mean))


def play(scene: Scene, seconds: float) -> dict[str, Any]:
    """What becomes of each source's requests, and how busy executors are."""
    calls = Pool(list(scene.sources), scene.shape).run(seconds)
    busy = sum(call.ended - call.began for call in calls if call.began is not None)
    return {
        "busy": busy / (EXECUTORS * seconds),
        "sources": {
            source.name: _told([call for call in calls if call.source is source]) for source in scene.sources
        },
    }


def _told(calls: list[Call]) -> dict[str, float]:
    waits = sorted(call.waited for call in calls if call.outcome == OK)
    return {
        "calls": len(calls),
        "answered": len(waits) / max(1, len(calls)),
        "wait_p50_ms": 1000 * _percentile(waits, 0.5),
        "wait_p99_ms": 1000 * _percentile(waits, 0.99),
    }


# -- the picture ------------------------------------------------------------------------------------------
CURVE_LOADS = (0.5, 0.7, 0.8, 0.9, 0.95, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 4.0, 5.0)
CURVE_ROW = ROWS[1]
WAITS_S = 10.0


def curves(seconds: float) -> dict[str, Any]:
    """Of requests of 20 ms, by rule: goodput by load, and waits by time at three times the capacity."""
    return {
        name: {
            "goodput": [
                round(steady(CURVE_ROW, load, make(), Shape(), seconds)["goodput"], 3) for load in CURVE_LOADS
            ],
            "waits": _waits(make()),
        }
        for name, make in RULES.items()
    }


def _waits(rule: Rule) -> list[list[float]]:
    """When requests that were answered had arrived, in s, and how long they waited, in ms."""
    calls = Pool([_source(CURVE_ROW, 3)], Shape(), rule).run(WAITS_S)
    pairs = sorted((call.at, call.waited) for call in calls if call.outcome == OK)
    return [[round(at, 2), round(1000 * waited, 1)] for at, waited in pairs[::4]]
