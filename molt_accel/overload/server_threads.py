"""When calls may not take more of a server's threads, so that views that call nobody still find one.

A WSGI server with threads has so many, and each holds one request. If all of them wait for a pool that has more to do
than it can, a view that needs a millisecond waits with them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from molt_accel.overload.admission import Standing, stands


def _none() -> int:
    return 0


class ServerThreads:
    """The threads that this process serves requests with.

    Attributes:
        count: How many there are; 0: that is not known, or nothing is bounded by it.
        waiting: Says how many requests wait for one of them.
    """

    __slots__ = ("count", "waiting")

    def __init__(self) -> None:
        self.count = 0
        self.waiting: Callable[[], int] = _none


#: Of this process. Who serves it sets it; see `molt_accel.django.server`.
SERVER_THREADS: Final = ServerThreads()


def too_many(calls: int, threads: int) -> bool:
    """Whether calls hold more than three quarters of the threads."""
    return 4 * calls > 3 * threads


def wait_ns(in_pool: int, executors: int, usual_ns: int) -> int:
    """How long the last of a process's calls to a pool waits for an executor at least, in ns."""
    return max(0, in_pool - executors) * usual_ns // executors


def judge(
    standing: Standing,
    now_ns: int,
    calls: int,
    threads: int,
    waiting: int,
    in_pool: int,
    executors: int,
    usual_ns: int,
    target_ns: int,
) -> tuple[int, Standing]:
    """Decide on a call, by what this process has under way.

    Args:
        standing: What is remembered of the queue before the threads; see `molt_accel.overload.admission.stands`.
        now_ns: By CLOCK_MONOTONIC.
        calls: Its calls to all pools, this one included.
        threads: What it serves with.
        waiting: How many requests wait for one of them. They may be of any view, and count as if they called too.
        in_pool: Its calls to this call's pool, this one included.
        executors: Of the pool.
        usual_ns: What calls to it usually take once they run; 0: not known.
        target_ns: How long requests may stand in the queue; 0: as long as they like.

    Returns:
        How long the call would wait, if it is refused for that; 0: it is taken on. And what is remembered then.
        It is taken on where an executor may be idle, and where it would wait for less than half the target: then its
        thread is back soon. But then the queue may stand before the threads, where no pool sees it.
    """
    if not target_ns or not too_many(calls, threads) or in_pool <= executors:
        return 0, stands(standing, now_ns, False)[1]
    waits_ns = wait_ns(in_pool, executors, usual_ns)
    if 2 * waits_ns > target_ns:
        return waits_ns, standing
    waits_ns = wait_ns(in_pool + waiting, executors, usual_ns)
    is_refused, standing = stands(standing, now_ns, waits_ns > target_ns)
    return waits_ns if is_refused else 0, standing
