"""A simulated pool: queue and rule are the real ones, executors are numbers, and time is that of the next event."""

from __future__ import annotations

import heapq
import itertools
import random as global_random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from bench.overload.rules import AT_HAND_OUT, ByTime, Rule
from bench.overload.traffic import Clients, Source, ns
from molt_accel.durations import NS_PER_S
from molt_accel.errors import BusyReason
from molt_accel.ipc.messages import Codec
from molt_accel.ipc.outcomes import busy
from molt_worker.entrypoints.exports import Export
from molt_worker.supervisor.stdio.admission import Admission, Running
from molt_worker.supervisor.stdio.queue import BoundedQueue, Verdict

OK = "ok"
LATE = "late"  #: its deadline passed, in the queue or while it ran
_START_NS = 1_000 * NS_PER_S


@dataclass(frozen=True, slots=True)
class Shape:
    """What a pool is.

    Attributes:
        target: The rule's, in seconds.
        warm: What requests take is known when it starts; False: nothing is.
        first: How much longer an executor's first request takes, in seconds.
        refusal: Processor time that a refusal takes from the executors, in seconds.
    """

    executors: int = 2
    target: float = 0.1
    warm: bool = False
    first: float = 0.0
    refusal: float = 0.0


@dataclass(slots=True, eq=False)
class Call:
    """A request, and in the end what became of it. Times are seconds from the start."""

    source: Source
    at: float
    service: float
    free: int = 0  #: executors that could have run it when it arrived
    began: float | None = None
    ended: float = 0.0
    outcome: str = ""  #: OK, LATE or the reason of its refusal
    retry_after: int = 0
    again: Callable[[Call], None] | None = None

    @property
    def took(self) -> float:
        """From its arrival to its end."""
        return self.ended - self.at

    @property
    def waited(self) -> float:
        """From its arrival to when it was taken up, or to its end."""
        return (self.began if self.began is not None else self.ended) - self.at


class Pool:
    """Simulates; `run` may be called once."""

    def __init__(
        self, sources: list[Source], shape: Shape | None = None, rule: Rule | None = None, seed: int = 1
    ) -> None:
        self._sources, self._rule = sources, rule if rule is not None else ByTime()
        self._shape = shape if shape is not None else Shape()
        self._random = Random(seed)
        global_random.seed(seed)  # `busy` draws by how much Retry-After differs
        self._running: dict[int, Running] = {}
        self._idle = list(range(self._shape.executors))
        self._fresh = set(self._idle)
        self._admission = Admission(ns(self._shape.target), self._running)
        self._admission.set_exports(
            Export(each.name, "m:f", Codec.RAW, max_concurrency=each.limit, priority=each.priority)
            for each in sources
        )
        self._queue: BoundedQueue[Call] = BoundedQueue(
            self._rule.max_queue,
            1,
            lambda call: self._admission.order(call.source.name, _START_NS + ns(call.at)),
        )
        self._debt = 0.0
        self._now = 0.0
        self._events: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._numbers = itertools.count()
        self._calls: list[Call] = []
        if self._shape.warm:
            self._warm_up()

    def run(self, seconds: float) -> list[Call]:
        """Let so much time pass. Returns the calls that have ended, in the order of their ends."""
        for source in self._sources:
            if isinstance(source.arrivals, Clients):
                for _ in range(source.arrivals.count):
                    self._at(self._think(source.arrivals), self._visit, source)
            else:
                self._follow(source, source.arrivals(self._random))
        events = self._events
        while events and events[0][0] < seconds:
            self._now, _, step, what = heapq.heappop(events)
            step(*what)
        return self._calls

    def _warm_up(self) -> None:
        for source in self._sources:
            for _ in range(50):
                self._admission.learn(source.name, self._ns(), ns(source.service(self._random, 0.0)))

    def _at(self, when: float, step: Callable[..., None], *what: Any) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), step, what))

    def _ns(self) -> int:
        return _START_NS + ns(self._now)

    # -- arrivals ---------------------------------------------------------------------------------------
    def _follow(self, source: Source, times: Iterator[float]) -> None:
        """Let the next request of a stream arrive, and see to the one after it."""
        when = next(times, None)
        if when is not None:
            self._at(when, self._next_of, source, times)

    def _next_of(self, source: Source, times: Iterator[float]) -> None:
        self._follow(source, times)
        self._arrive(Call(source, self._now, source.service(self._random, self._now)))

    def _think(self, clients: Clients) -> float:
        return self._random.expovariate(1 / clients.think) if clients.think else 0.0

    def _visit(self, source: Source) -> None:
        call = Call(source, self._now, source.service(self._random, self._now))
        call.again = self._return
        self._arrive(call)

    def _return(self, call: Call) -> None:
        clients = call.source.arrivals
        assert isinstance(clients, Clients)
        if call.outcome in (OK, LATE):
            pause = self._think(clients)
        else:
            pause = call.retry_after if clients.honour else clients.hammer
            # A little at random: in lockstep with what runs, one and the same caller would be first each time.
            pause *= self._random.uniform(0.9, 1.1)
        self._at(self._now + pause, self._visit, call.source)

    # -- as the supervisor does -------------------------------------------------------------------------
    def _arrive(self, call: Call) -> None:
        name, rule, now = call.source.name, self._rule, self._ns()
        passed = self._admission.at_limit()
        nobody = self._queue.empty or all(each.source.name in passed for each in self._queue)
        call.free = len(self._idle) if name not in passed else 0
        if call.free and nobody:
            rule.at_once(self._admission, name, now)
            self._begin(call)
            return
        ahead = [each.source.name for each in self._queue.before(self._admission.order(name, now))]
        deadline = now + ns(call.source.deadline) if call.source.deadline else 0
        refusal = rule.on_arrival(self._admission, name, now, deadline, ahead, len(self._idle))
        if refusal is not None:
            self._refuse(call, refusal.reason, refusal.wait_ns)
        elif self._queue.offer(id(call), call, 0, may_wait=False) is Verdict.BUSY:
            self._refuse(call, BusyReason.QUEUE_FULL)
        elif call.source.deadline:
            self._at(call.at + call.source.deadline, self._expire, call)

    def _refuse(self, call: Call, reason: BusyReason, wait_ns: int = 0) -> None:
        self._debt += self._shape.refusal
        call.retry_after = busy(reason, wait_ns).retry_after_s
        self._end(call, reason.value)

    def _begin(self, call: Call) -> None:
        executor = self._idle.pop()
        self._running[executor] = Running(call.source.name, self._ns())
        call.began = self._now
        takes = call.service + self._debt + (self._shape.first if executor in self._fresh else 0.0)
        self._debt = 0.0
        self._fresh.discard(executor)
        left = call.at + call.source.deadline - self._now if call.source.deadline else takes
        self._at(self._now + min(takes, left), self._answer, executor, call, takes > left)

    def _answer(self, executor: int, call: Call, stopped: bool) -> None:
        since_ns = self._running.pop(executor).since_ns
        self._idle.append(executor)
        self._admission.learn(call.source.name, self._ns(), self._ns() - since_ns, stopped=stopped)
        self._end(call, LATE if stopped else OK)
        self._dispatch()

    def _dispatch(self) -> None:
        while self._idle and (call := self._take()) is not None:
            left = ns(call.at + call.source.deadline - self._now) if call.source.deadline else None
            waited = ns(self._now - call.at)
            queued = len(self._queue)
            if self._rule.on_hand_out(self._admission, call.source.name, self._ns(), waited, left, queued):
                self._begin(call)
            elif left is not None:
                self._end(call, LATE)
            else:
                self._refuse(call, AT_HAND_OUT)

    def _take(self) -> Call | None:
        passed = self._admission.at_limit()
        return self._queue.take(lambda each: each.source.name not in passed)

    def _expire(self, call: Call) -> None:
        if not call.outcome and call.began is None:
            self._queue.remove(id(call))
            self._end(call, LATE)

    def _end(self, call: Call, outcome: str) -> None:
        call.ended, call.outcome = self._now, outcome
        self._calls.append(call)
        if call.again is not None:
            call.again(call)
