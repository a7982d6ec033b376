"""Makes measured figures and results documents of the micro benchmark."""

from typing import Any

from bench.core.cpu import Surroundings
from bench.micro.options import LAYOUTS, Layout, Options
from bench.micro.peers.table import PEERS, row
from bench.micro.report.document import KIND, build
from bench.micro.report.figures import Batch, Idle, Measured, Window
from tests.bench.support.demo import heading

SMALL = 64
MIB = 1024 * 1024


def batch(
    peer: str, us: float, *, condition: str = "idle", size: int = SMALL, round_: int = 0, slow: int = 1
) -> Batch:
    """A batch whose median is `us`; a tenth of its calls take `slow` times as long.

    A call takes `us` of processor time, half of it in the caller.
    """
    samples = [round(us * 1000)] * 360 + [round(slow * us * 1000)] * 40
    cpu_ns = round(us * 1000) * len(samples)
    mean_ns = sum(samples) / len(samples)
    return Batch(peer, condition, size, round_, len(samples), mean_ns, samples, cpu_ns, cpu_ns // 2, 25.0)


def window(peer: str, calls: int, *, layout: Layout = LAYOUTS[0], round_: int = 0) -> Window:
    """A window of a tenth of a second in which each call took 10 us of processor time."""
    return Window(peer, layout, round_, calls, 0.1, calls * 10_000, 30.0)


def measured(rounds: int = 2, **factors: float) -> Measured:
    """What a run gives in which each peer's call takes as many microseconds as `factors` says."""
    made = Measured()
    for number in range(rounds):
        # A round in which all of the machine is slower must not change any ratio.
        pace = 1 + number
        for peer, us in factors.items():
            for condition in ("idle", "one", "all", "quota"):
                made.batches.append(batch(peer, us * pace, condition=condition, round_=number, slow=2))
            made.batches.append(batch(peer, 100 * us * pace, size=MIB, round_=number))
            if PEERS[peer].raw:
                made.batches.append(batch(row(peer, raw=True), 40 * us * pace, size=MIB, round_=number))
            for layout in LAYOUTS:
                if PEERS[peer].callers == layout.kind:
                    made.windows.append(window(peer, round(10_000 / us / pace), layout=layout, round_=number))
    made.idle = {peer: Idle(peer, 3, 10.0, 10_000_000) for peer in factors}
    return made


def options(**changes: Any) -> Options:
    """Options whose run measures what `measured` makes."""
    return Options(
        **{"sizes": (SMALL, MIB), "conditions": ("idle", "one", "all", "quota"), "rounds": 3, **changes}
    )


def document(figures: Measured, *, chosen: Options | None = None, **changes: Any) -> dict[str, Any]:
    """A whole results document about `figures`; `changes` are put over what `build` is given."""
    given: dict[str, Any] = {"settings": {"MOLT_SPIN_US": "20"}, "not_run": {}, "failed": {}, "left_out": {}}
    given["left_over"] = []
    given["surroundings"] = {"idle": Surroundings(10.0, 0.0, 0.0)}
    return build(heading(KIND), chosen or options(), figures, **(given | changes))
