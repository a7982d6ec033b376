"""The two loops that measure: calls one after another for latency, calls in a window for throughput."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

Call = Callable[[object], object]

LEAST_CALLS = 3
"""So many calls are made however slow they are: fewer are no measurement."""
KEPT = 4001
"""Samples of a batch that are passed on: enough for its percentiles."""


def latency(call: Call, payload: object, *, calls: int, limit_s: float, pause_s: float = 0.0) -> list[int]:
    """Times up to `calls` calls one after another, for about `limit_s` seconds, in nanoseconds each."""
    clock = time.perf_counter_ns
    samples: list[int] = []
    until = clock() + round(limit_s * 1e9)
    for _ in range(calls):
        begun = clock()
        call(payload)
        ended = clock()
        samples.append(ended - begun)
        if ended > until and len(samples) >= LEAST_CALLS:
            break
        if pause_s:
            time.sleep(pause_s)
    return samples


def thinned(samples: Sequence[int], keep: int = KEPT) -> list[int]:
    """The samples in ascending order; of more than `keep` those at even distances, with both ends."""
    ordered = sorted(samples)
    if len(ordered) <= keep:
        return ordered
    last = len(ordered) - 1
    return [ordered[round(place * last / (keep - 1))] for place in range(keep)]


def throughput(call: Call, payload: object, *, threads: int, start_at_ns: int, window_s: float) -> int:
    """How many calls `threads` threads complete between `start_at_ns` and the end of the window.

    The start is a time of CLOCK_MONOTONIC, which is one clock for all processes of a machine. Raises what a
    call raised.
    """
    clock = time.monotonic_ns
    until = start_at_ns + round(window_s * 1e9)
    counts = [0] * threads
    failures: list[BaseException] = []

    def run(number: int) -> None:
        done = 0
        try:
            time.sleep(max(0, start_at_ns - clock()) / 1e9)
            while clock() < until:
                call(payload)
                # A call that ends behind the window belongs to no window.
                if clock() <= until:
                    done += 1
        except BaseException as error:
            failures.append(error)
        counts[number] = done

    if threads == 1:
        run(0)
    else:
        workers = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if failures:
        raise failures[0]
    return sum(counts)
