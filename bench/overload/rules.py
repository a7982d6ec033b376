"""The rules that are compared. A pool asks its rule for each request that would have to wait, and at each hand-out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Protocol

from bench.overload.traffic import ns
from molt_accel.errors import BusyReason
from molt_accel.overload import admission, estimate
from molt_worker.supervisor.stdio.admission import Admission, Refusal


class Rule(Protocol):
    """Times are nanoseconds."""

    max_queue: int

    def on_arrival(
        self, pool: Admission, name: str, now: int, deadline: int, ahead: Sequence[str], idle: int
    ) -> Refusal | None:
        """Why a request is not taken on; None: it is. `ahead`: what is taken up before it."""

    def at_once(self, pool: Admission, name: str, now: int) -> None:
        """A request did not have to wait."""

    def on_hand_out(
        self, pool: Admission, name: str, now: int, waited: int, left: int | None, queued: int
    ) -> bool:
        """Whether a request that has been taken up is run. `left`: until its deadline; None: it has none."""


class ByTime:
    """The rule itself, through the module that the supervisor of stdio asks."""

    max_queue = 64

    def on_arrival(
        self, pool: Admission, name: str, now: int, deadline: int, ahead: Sequence[str], idle: int
    ) -> Refusal | None:
        return pool.refusal(name, now, deadline, ahead, idle)

    def at_once(self, pool: Admission, name: str, now: int) -> None:
        pool.began_at_once(name, now)

    def on_hand_out(
        self, pool: Admission, name: str, now: int, waited: int, left: int | None, queued: int
    ) -> bool:
        del waited
        return left is None or not pool.is_hopeless(name, now, left, queued)


class FirstCome:
    """A bounded queue and nothing else."""

    def __init__(self, max_queue: int = 64) -> None:
        self.max_queue = max_queue

    def on_arrival(
        self, pool: Admission, name: str, now: int, deadline: int, ahead: Sequence[str], idle: int
    ) -> Refusal | None:
        del pool, name, now, deadline, ahead, idle
        return None

    def at_once(self, pool: Admission, name: str, now: int) -> None:
        pass

    def on_hand_out(
        self, pool: Admission, name: str, now: int, waited: int, left: int | None, queued: int
    ) -> bool:
        del pool, name, now, waited, left, queued
        return True


class CoDel(FirstCome):
    """CoDel as its authors wrote it (RFC 8289), with requests for packets: who is taken up after too long a wait, while
    all were for an interval, is refused, and then others at shorter and shorter distances."""

    def __init__(self, max_queue: int = 64, target: float = 0.1, interval: float = 0.1) -> None:
        super().__init__(max_queue)
        self._target, self._interval = ns(target), ns(interval)
        self._above_at = 0  #: when waits will have been over the target for an interval; 0: they are not
        self._dropping = False
        self._next = 0
        self._count = self._last_count = 0

    def on_hand_out(
        self, pool: Admission, name: str, now: int, waited: int, left: int | None, queued: int
    ) -> bool:
        del pool, name, left
        stands = False
        if waited < self._target or not queued:
            self._above_at = 0
        elif not self._above_at:
            self._above_at = now + self._interval
        else:
            stands = now >= self._above_at
        if not stands:
            self._dropping = False
            return True
        if self._dropping:
            if now < self._next:
                return True
            self._count += 1
        else:
            self._dropping = True
            recently = now - self._next < 16 * self._interval
            delta = self._count - self._last_count
            self._count = delta if delta > 1 and recently else 1
            self._last_count = self._count
            self._next = now
        self._next += round(self._interval / self._count**0.5)
        return False


@contextmanager
def tuned(
    interval: float | None = None, calm: float | None = None, gain: int | None = None
) -> Iterator[None]:
    """Runs what is inside with other constants of the rule: seconds, and the weight of a sample as a shift."""
    given = (
        (admission, "INTERVAL_NS", None if interval is None else ns(interval)),
        (admission, "CALM_NS", None if calm is None else ns(calm)),
        (estimate, "GAIN_SHIFT", gain),
    )
    with ExitStack() as stack:
        for module, name, value in given:
            if value is not None:
                stack.callback(setattr, module, name, getattr(module, name))
                setattr(module, name, value)
        yield


#: What a refusal at the hand-out counts as.
AT_HAND_OUT = BusyReason.QUEUE_DELAY
