"""molt_accel.transports.shm.admission: what a client makes of an arena, and what it counts."""

import time
import types
from typing import Any

import pytest

from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc.messages import Request
from molt_accel.ipc.shm.layout import Gauge, Outcome
from molt_accel.overload.admission import CALM, INTERVAL_NS, is_shedding
from molt_accel.overload.line import Wait
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_accel.transports.shm import admission
from molt_accel.transports.shm.admission import Admission
from tests.support.handover import MAX_BYTES, channel_of, core, new_arena, request, slot_of

MS = 1_000_000
NORMAL = DELAY_NS[Priority.NORMAL]


class Pool:
    """An arena with executors, and a client's requests in it."""

    def __init__(self, executors: int = 2, target_ms: int = 100) -> None:
        self.arena = new_arena(channels=16, slots=4)
        self.arena.executors, self.arena.target_ns = executors, target_ms * MS
        self.slots = [slot_of(self.arena, index) for index in range(executors)]
        self.admission = Admission(self.arena)
        self._next = 0

    def entry(
        self, name: str, takes_ms: float = 0, priority: Priority = Priority.NORMAL, limit: int = 0
    ) -> None:
        self.arena.set_entry(name, DELAY_NS[priority], limit)
        if takes_ms:
            self.arena.learn(core.entry_id(name), int(takes_ms * MS), False)

    def publish(self, name: str) -> Any:
        channel = channel_of(self.arena, self._next)
        self._next += 1
        assert channel.publish(request(self._next, entry=name), 1000, 0) in (core.ADMITTED, core.UNDECIDED)
        return channel

    def run(self, name: str, slot: int) -> None:
        """Have an executor take up a request of an entrypoint, which must be the next."""
        self.publish(name)
        assert self.slots[slot].next() == core.REQUEST
        got = self.slots[slot].receive(MAX_BYTES)
        assert isinstance(got, Request)
        assert got.entry == name

    def wait(self, name: str, channel: Any = None) -> Wait | None:
        entry = core.entry_id(name)
        row = self.arena.entry(entry)
        return self.admission._wait(entry, row, time.monotonic_ns(), channel)

    def standing(self, name: str) -> int:
        standing: int = self.arena.entry(core.entry_id(name)).standing
        return standing


def ms(wait: Wait | None) -> tuple[int, int]:
    """In whole ms, rounded up: some microseconds have passed."""
    assert wait is not None
    return -(-wait.pool_ns // MS), -(-wait.entry_ns // MS)


# -- how long a request waits -----------------------------------------------------------------------------
def test_where_no_executor_is_ready_the_wait_is_not_known_and_nothing_is_refused() -> None:
    pool = Pool(executors=0)
    pool.entry("work", 10_000)
    for _ in range(3):
        pool.publish("work")
    assert pool.wait("work") is None
    assert pool.admission.refusal("work", 1, pool.publish("work")) is None


def test_an_idle_executor_is_no_wait_though_another_is_busy() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    pool.run("work", 0)
    assert ms(pool.wait("work")) == (0, 0)


def test_what_runs_and_what_is_queued_before_it_is_the_wait() -> None:
    pool = Pool()
    pool.entry("long", 60_000)
    pool.entry("work", 30_000)
    pool.run("long", 0)
    pool.run("work", 1)
    assert ms(pool.wait("work"))[0] in range(29_000, 30_001)
    pool.publish("long")
    assert ms(pool.wait("work"))[0] in range(59_000, 60_001)
    pool.publish("work")
    assert ms(pool.wait("work"))[0] in range(89_000, 90_001)


def test_a_request_does_not_wait_for_itself_nor_for_those_behind_it() -> None:
    pool = Pool(executors=1)
    pool.entry("work", 30_000)
    pool.run("work", 0)
    own = pool.publish("work")
    pool.publish("work")
    assert ms(pool.wait("work", own))[0] in range(29_000, 30_001)


def test_a_higher_class_does_not_wait_for_the_lower() -> None:
    pool = Pool(executors=1)
    pool.entry("low", 50_000, Priority.LOW)
    pool.entry("high", 30_000, Priority.HIGH)
    pool.run("high", 0)
    for _ in range(3):
        pool.publish("low")
    assert ms(pool.wait("high"))[0] in range(29_000, 30_001)
    assert ms(pool.wait("low"))[0] > 150_000


def test_an_entrypoint_at_its_limit_waits_for_its_own() -> None:
    pool = Pool()
    pool.entry("slow", 50_000, limit=1)
    pool.run("slow", 0)
    pool.publish("slow")
    pool_ms, entry_ms = ms(pool.wait("slow"))
    assert pool_ms == 0
    assert entry_ms in range(99_000, 100_001)


# -- what is refused --------------------------------------------------------------------------------------
def overloaded(pool: Pool, name: str = "work") -> Any:
    """A request that waits for longer than the target, and has done so for longer than a burst."""
    for _ in range(len(pool.slots)):
        pool.publish(name)
    for slot in pool.slots:
        assert slot.next() == core.REQUEST
    for _ in pool.slots:
        pool.publish(name)
    pool.arena.set_standing(core.entry_id(name), (time.monotonic_ns() - INTERVAL_NS) & ~1, False)
    return pool.publish(name)


def test_a_standing_queue_is_refused_and_counted() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    error = pool.admission.refusal("work", None, overloaded(pool))
    assert isinstance(error, MoltBusy)
    assert pool.arena.gauge(Gauge.OUTCOMES + Outcome.Busy) == 0  # an executor may be taking it up
    assert pool.admission.count(error, "work") is error
    assert error.reason == BusyReason.QUEUE_DELAY
    assert error.retry_after_s in range(10, 21)
    assert is_shedding(pool.standing("work"))
    assert pool.arena.entry(core.entry_id("work")).refused == 1
    assert pool.arena.gauge(Gauge.OUTCOMES + Outcome.Busy) == 1
    shed = [pool.arena.gauge(Gauge.SHED + index) for index in range(len(BusyReason))]
    assert dict(zip(BusyReason, shed, strict=True)) == dict.fromkeys(BusyReason, 0) | {
        BusyReason.QUEUE_DELAY: 1
    }


def test_who_is_refused_before_anything_was_published_keeps_shedding_going() -> None:
    """Else shedding would end while many are refused so."""
    pool = Pool()
    pool.entry("work", 5000)
    overloaded(pool)
    error = pool.admission.refusal("work", None)
    assert error is not None
    assert error.reason == BusyReason.QUEUE_DELAY
    assert is_shedding(pool.standing("work"))


def test_who_is_not_refused_before_anything_was_published_changes_nothing() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    overloaded(pool)
    pool.arena.set_standing(core.entry_id("work"), CALM, False)
    assert pool.admission.refusal("work", None) is None
    assert pool.standing("work") == CALM


def test_the_first_that_would_wait_for_too_long_is_part_of_a_burst() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    channel = overloaded(pool)
    pool.arena.set_standing(core.entry_id("work"), CALM, False)
    assert pool.admission.refusal("work", None, channel) is None
    assert pool.standing("work") not in (CALM, 1)


def test_a_deadline_that_can_not_be_met_is_a_reason() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    channel = overloaded(pool)
    pool.arena.set_standing(core.entry_id("work"), CALM, False)
    error = pool.admission.refusal("work", 9000 * MS, channel)
    assert error is not None
    assert error.reason == BusyReason.DEADLINE


def test_a_limit_is_a_reason_of_its_own() -> None:
    pool = Pool()
    pool.entry("slow", 5000, limit=1)
    pool.run("slow", 0)
    pool.publish("slow")
    pool.arena.set_standing(core.entry_id("slow"), (time.monotonic_ns() - INTERVAL_NS) & ~1, False)
    error = pool.admission.refusal("slow", None, pool.publish("slow"))
    assert error is not None
    assert error.reason == BusyReason.ENTRY_LIMIT


def test_an_entrypoint_of_which_nothing_is_known_is_taken_on() -> None:
    pool = Pool()
    pool.entry("work", 5000)
    overloaded(pool)
    assert pool.admission.refusal("unknown", None, pool.publish("unknown")) is None


@pytest.mark.parametrize("reason", BusyReason)
def test_each_reason_has_its_counter(reason: BusyReason) -> None:
    pool = Pool()
    assert pool.admission.busy(reason).reason == reason
    assert pool.arena.gauge(Gauge.SHED + list(BusyReason).index(reason)) == 1
    assert Gauge.SHED + len(BusyReason) <= Gauge.OUTCOMES


def test_a_full_queue_says_when_it_is_worked_off() -> None:
    pool = Pool(executors=1)
    pool.entry("work", 5000)
    pool.run("work", 0)
    pool.publish("work")
    error = pool.admission.queue_full("work")
    assert (error.reason, error.retry_after_s in range(10, 21)) == (BusyReason.QUEUE_FULL, True)


def test_an_estimate_that_was_too_high_is_found_out_though_no_executor_is_idle(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = Pool()
    pool.entry("busy", 3000)
    pool.entry("once slow", 400)
    for slot in range(2):
        pool.run("busy", slot)
    left_ns = 1200 * MS  # in 2 s executors are busy for 1 s more
    now_ns = time.monotonic_ns()
    clock = types.SimpleNamespace(monotonic_ns=lambda: now_ns + later_ns)
    monkeypatch.setattr(admission, "time", clock)
    later_ns = 1550 * MS
    assert refused(pool.admission.refusal("once slow", left_ns)) == "deadline"
    later_ns = 2000 * MS
    assert pool.admission.refusal("once slow", left_ns) is None
    pool.publish("once slow")  # one at a time
    assert refused(pool.admission.refusal("once slow", left_ns)) == "deadline"


def refused(error: MoltBusy | None) -> str:
    return error.reason if error is not None else ""
