"""How long a request will wait: from what runs, and from what is queued before it."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import NamedTuple


class EntryLoad(NamedTuple):
    """One entrypoint, as far as others wait for it. Compared by identity: one object for each entrypoint of a line."""

    usual_ns: int  #: what its requests take
    limit: int  #: how many of them may run at once; 0: as many as there are executors
    running: Sequence[int] = ()  #: for each that runs, what it will still take, in ns


class Wait(NamedTuple):
    """How long a request will wait, in ns."""

    pool_ns: int  #: for an executor; 0: one is idle
    entry_ns: int = 0  #: until its entrypoint may run once more, where that has a limit
    free_ns: int = 0  #: the part of `pool_ns` that nobody before it in the queue is to blame for
    longest_ns: int = 0  #: what the longest of those before it takes
    kin: int = 0  #: how many of its entrypoint are queued before it or run

    @property
    def ns(self) -> int:
        return max(self.pool_ns, self.entry_ns)


def expected_wait(free_in: Sequence[int], ahead: Sequence[EntryLoad], own: EntryLoad) -> Wait:
    """Return how long a request will wait.

    Args:
        free_in: For each executor, in how many ns it will have ended what it runs; 0: it is idle. At least one.
        ahead: The entrypoints of the requests queued before this one, in the order in which they are taken up.
        own: The entrypoint of the request.
    """
    executors = list(free_in)
    heapq.heapify(executors)
    free_ns, longest_ns = executors[0], 0
    started: dict[int, int] = {}
    for entry in ahead:
        if entry.limit:
            count = started.get(id(entry), len(entry.running))
            if count >= entry.limit:
                continue  # the others pass it
            started[id(entry)] = count + 1
        heapq.heapreplace(executors, executors[0] + entry.usual_ns)
        longest_ns = max(longest_ns, entry.usual_ns)
    kin = len(own.running) + sum(entry is own for entry in ahead)
    if not own.limit:
        return Wait(executors[0], 0, free_ns, longest_ns, kin)
    # More places than that stay free, and a client may have written any number.
    limit = min(own.limit, kin + 1)
    places = [*sorted(own.running)[-limit:], *[0] * (limit - len(own.running))]
    heapq.heapify(places)
    for entry in ahead:
        if entry is own:
            heapq.heapreplace(places, places[0] + own.usual_ns)
    return Wait(executors[0], places[0], free_ns, longest_ns, kin)
