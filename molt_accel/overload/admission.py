"""The rule of admission: whether a request is taken on, by the time that it would wait.

A request that can't end before its deadline is refused at once. A burst passes; a queue that stands is cut down to the
target. That is CoDel's distinction (Nichols and Jacobson, "Controlling Queue Delay", 2012), decided on arrival and by
the expected wait, since whoever is refused later has waited for nothing. Other than CoDel's, shedding goes on until
nothing had to be refused for a while: ended at the first short wait, the queue fills again and again. Why the constants
are what they are: docs/explanation/overload.md.

`judge` is a function of its arguments. Clients call it for shared memory, the supervisor for stdio, and the simulator.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from molt_accel.durations import NS_PER_MS
from molt_accel.errors import BusyReason
from molt_accel.overload.line import Wait

#: How long requests may stand in the queue; the default of MOLT_WORKER_QUEUE_TARGET_MS.
DEFAULT_TARGET_MS: Final = 100
#: A queue that has been over its target for so long stands. A burst has arrived by then, as a whole.
INTERVAL_NS: Final = 50 * NS_PER_MS
#: Shedding ends when no request had to be refused for so long.
CALM_NS: Final = 1000 * NS_PER_MS

#: What is remembered of an entrypoint between two of its requests, in one word: 0: its queue is short. An even time in
#: ns: since then it has been over its target. An odd one: it is being shed, and a request was refused then.
Standing = int
CALM: Final = 0
_SHEDDING: Final = 1


class Verdict(NamedTuple):
    """What becomes of a request, and of the entrypoint's word."""

    reason: BusyReason | None  #: None: it is taken on
    standing: Standing


def is_shedding(standing: Standing) -> bool:
    return bool(standing & _SHEDDING)


def judge(
    standing: Standing,
    now_ns: int,
    wait: Wait,
    usual_ns: int,
    left_ns: int | None,
    target_ns: int,
    *,
    trial: bool = False,
) -> Verdict:
    """Decide on a request.

    Args:
        standing: The entrypoint's word.
        now_ns: By CLOCK_MONOTONIC.
        wait: How long the request would wait.
        usual_ns: What it will take once it runs; 0: not known.
        left_ns: The time until its deadline; None: it has none.
        target_ns: How long requests may stand in the queue; 0: as long as they like.
        trial: What it will take is to be found out: it need not fit what is left.
    """
    wait_ns = wait.ns
    takes_ns = 0 if trial else usual_ns
    if wait_ns and left_ns is not None and wait_ns + takes_ns > left_ns:
        return Verdict(BusyReason.DEADLINE, standing)
    if not target_ns:
        return Verdict(None, CALM)
    is_refused, standing = stands(standing, now_ns, _is_over(wait, usual_ns, target_ns))
    if not is_refused:
        return Verdict(None, standing)
    reason = BusyReason.ENTRY_LIMIT if wait.entry_ns > wait.pool_ns else BusyReason.QUEUE_DELAY
    return Verdict(reason, standing)


def stands(standing: Standing, now_ns: int, is_over: bool) -> tuple[bool, Standing]:
    """Whether a request is refused, which would wait for too long (`is_over`), and what is remembered then.

    It is if requests did so for an interval. Then each one that would is, until none had to be for a while.
    """
    since_ns = standing & ~_SHEDDING
    if is_shedding(standing) and now_ns - since_ns >= CALM_NS:
        standing = CALM
    if not is_over:
        return False, standing if is_shedding(standing) else CALM
    if standing == CALM:
        return False, now_ns & ~_SHEDDING
    if not is_shedding(standing) and now_ns - since_ns < INTERVAL_NS:
        return False, standing
    return True, now_ns | _SHEDDING


def _is_over(wait: Wait, usual_ns: int, target_ns: int) -> bool:
    """Whether a request would wait for longer than the target, and not only because requests are long.

    Who runs for half a second waits for one that runs as long, however few there are. And a quick request beside slow
    ones waits for one of those to end: to refuse it for that would leave the pool to the slow ones.
    """
    allowed_ns = max(target_ns, usual_ns)
    if wait.entry_ns > allowed_ns:
        return True
    return wait.pool_ns > max(allowed_ns, wait.longest_ns, wait.free_ns + target_ns // 2)


def is_hopeless(least_ns: int, left_ns: int, queued: int) -> bool:
    """Whether an executor shall not begin a request that it has just taken up, because it can't end in time.

    With nothing else queued it is run all the same: that harms nobody, and is how an estimate that was too high is
    found out.
    """
    return queued > 0 and left_ns < least_ns
