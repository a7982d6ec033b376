"""What several hosts have to cost and give, as criteria that a run reaches or doesn't."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.cluster.figures import Measured
from bench.cluster.options import POOLS
from bench.core.criteria import Criterion
from bench.core.statistics import Spread

MOST_OVER_BARE = 1.5
LEAST_OF_POOLS = 2.7
Figure = Callable[[Measured], Spread | None]


def criteria() -> Iterator[Criterion[Measured]]:
    """All criteria, also those of rows that a run leaves out."""

    def p50(over: str, under: str) -> Figure:
        return lambda measured: measured.latency_ratio(over, under)

    for row, title in (("call", "Client.call"), ("acall", "Client.acall")):
        yield Criterion(
            f"p50_{row}_nats",
            f"loopback: p50 of {title} / bare NATS",
            "<=",
            MOST_OVER_BARE,
            p50(row, "nats"),
        )
    yield Criterion(
        "p50_call_nats_uvloop",
        "loopback: p50 of Client.call / bare NATS on uvloop",
        "<=",
        MOST_OVER_BARE,
        p50("call", "nats-uvloop"),
    )
    for row, title in (("ray", "Ray actor"), ("celery", "Celery with Redis")):
        yield Criterion(
            f"p50_call_{row}",
            f"loopback: p50 of Client.call / {title}",
            "<",
            1.0,
            p50("call", row),
        )
    most, least = max(POOLS), min(POOLS)
    yield Criterion(
        "goodput_pools",
        f"answers in time per second, {most} pools / {least} pool",
        ">=",
        LEAST_OF_POOLS,
        lambda measured: measured.goodput_ratio(most, least),
    )
