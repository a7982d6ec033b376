"""The handler whose cost the studies choose: how many iterations take a millisecond here, and who serves it."""

from __future__ import annotations

import time
from statistics import median

from bench.demo.load.warmup import Target, warm_up
from bench.demo.studies.testbed import Testbed, Variant

WARMUPS = 40
WARMUP_MS = 2.0


def iterations_per_ms(seconds: float = 0.5) -> float:
    """How many of the handler's iterations take a millisecond of processor time here, in Python."""
    from demo.molt_worker_app.cost import spend
    from demo.molt_worker_app.schema import Cost

    spend(Cost(200))
    until = time.monotonic() + seconds
    found = []
    while time.monotonic() < until:
        started = time.process_time()
        spend(Cost(2000))
        found.append(2000 / ((time.process_time() - started) * 1000))
    return median(found)


def path_of(variant: Variant) -> str:
    """The path at which a variant serves the handler. In an event loop, by a view that waits without a thread."""
    way = variant.peer or ("offload" if variant.offload else "baseline")
    return f"/cost/{way}{'-async' if variant.asgi and way != 'baseline' else ''}/"


def url_of(testbed: Testbed, variant: Variant, iterations: float) -> str:
    """The URL of the handler at so many iterations, on the server of a variant."""
    return f"{testbed.url(variant, path_of(variant))}?iterations={round(iterations)}"


def warm(testbed: Testbed, variant: Variant, per_ms: float) -> None:
    """Has the server of a variant serve the handler some times. Raises BenchError if it doesn't answer well."""
    port = testbed.server(variant).port
    query = f"iterations={round(WARMUP_MS * per_ms)}"
    warm_up(Target(variant.name, port, path_of(variant), "GET", (query,)), WARMUPS, 2)
