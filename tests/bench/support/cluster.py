"""Makes measured figures and results documents of the benchmark of several hosts."""

from typing import Any

from bench.cluster.figures import Measured, Run
from bench.cluster.options import CALLERS, PAYLOAD_BYTES, POOLS, Options
from bench.cluster.report.document import KIND, build
from bench.cluster.rows import ROWS
from bench.core.cpu import Surroundings
from bench.micro.report.figures import Window
from tests.bench.support.demo import heading
from tests.bench.support.micro import batch

#: p50 of each row, us.
USUAL = {
    "shm": 10.0, "nats": 200.0, "nats-uvloop": 170.0, "call": 280.0, "acall": 260.0, "ray": 700.0, "celery": 2000.0,
    "far-link": 450.0, "far-nats": 600.0, "far-call": 700.0, "far-acall": 690.0,
}  # fmt: skip


def goodput(pools: int, in_time: int, *, round_: int = 0, behind_ms: float = 1.0) -> Run:
    """Ten seconds under 350 calls/s, all of which that are not in time are Busy."""
    return Run(
        pools,
        round_,
        10.0,
        {"in_time": in_time, "busy": 3500 - in_time},
        own=980,
        others=[in_time - 980] if pools > 1 else [],
        ordered_ns=[20_000_000, 40_000_000, 60_000_000],
        behind_ms=behind_ms,
        client_cpu_s=1.0,
        bridges_cpu_s=2.0,
    )


def measured(rounds: int = 2, of_pools: int = 950, **p50_us: float) -> Measured:
    """What a run gives in which rows take what `p50_us` says, and each pool answers `of_pools` calls in time."""
    made = Measured()
    for number in range(rounds):
        # A round in which all of the machine is slower must not change any ratio.
        pace = 1 + number
        for row, us in p50_us.items():
            made.calls.batches.append(
                batch(row, us * pace, condition=ROWS[row].place, size=PAYLOAD_BYTES, round_=number)
            )
            for layout in CALLERS:
                made.calls.windows.append(Window(row, layout, number, round(10_000 / us), 0.1, 0))
        made.runs += [goodput(pools, 980 + (pools - 1) * of_pools, round_=number) for pools in POOLS]
    return made


def document(figures: Measured, *, chosen: Options | None = None, **changes: Any) -> dict[str, Any]:
    """A whole results document about `figures`; `changes` are put over what `build` is given."""
    given: dict[str, Any] = {"settings": {}, "not_run": {}, "failed": {}, "left_over": []}
    given["surroundings"] = {"calls": Surroundings(10.0, 0.0, 0.0)}
    return build(heading(KIND), chosen or Options(rounds=3), figures, **(given | changes))
