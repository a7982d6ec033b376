"""The entrypoints of a pool: what the rule is told of them, and what is remembered."""

import pytest

from molt_accel.errors import BusyReason
from molt_accel.overload.admission import INTERVAL_NS
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.entrypoints.exports import Export
from molt_worker.supervisor.stdio.admission import Admission, Running

MS = 1_000_000
NOW = 40 * MS
TARGET = 100 * MS


def export(name: str, limit: int | None = None, priority: Priority = Priority.NORMAL) -> Export:
    return Export(name, "m:f", max_concurrency=limit, priority=priority)


@pytest.fixture
def running() -> dict[int, Running]:
    return {}


@pytest.fixture
def admission(running: dict[int, Running]) -> Admission:
    admission = Admission(TARGET, running)
    admission.set_exports([export("plain"), export("limited", 1), export("low", None, Priority.LOW)])
    for name in ("plain", "limited", "low"):
        for _ in range(20):
            admission.learn(name, NOW, 60 * MS)
    return admission


def test_a_deadline_counts_what_runs_what_is_queued_and_itself(
    admission: Admission, running: dict[int, Running]
) -> None:
    running |= {1: Running("plain", 0), 2: Running("plain", 20 * MS)}
    for ahead, needed in ((0, 80), (1, 100), (2, 140)):
        before = ["plain"] * ahead
        now = 40 * MS  # so 20 and 40 ms are left of what runs
        late = admission.refusal("plain", now, now + needed * MS - 1, before, 0)
        assert late == (BusyReason.DEADLINE, (needed - 60) * MS)
        assert admission.refusal("plain", now, now + needed * MS, before, 0) is None


def test_nobody_is_refused_while_no_executor_is_ready_or_one_is_idle(
    admission: Admission, running: dict[int, Running]
) -> None:
    assert admission.refusal("plain", 10, 11, ["plain"] * 50, 0) is None
    running[1] = Running("plain", 0)
    assert admission.refusal("plain", 10, 11, [], 1) is None


def test_one_that_need_not_wait_ends_what_was_seen_before(
    admission: Admission, running: dict[int, Running]
) -> None:
    """So a queue that others have filled meanwhile is new to it, and passes for a burst."""
    running[1] = Running("plain", 1000 * MS)
    assert admission.refusal("plain", 1000 * MS, 0, ["plain"] * 9, 0) is None
    admission.began_at_once("plain", 2000 * MS)
    running[1] = Running("low", 2001 * MS)
    assert admission.refusal("plain", 2001 * MS, 0, ["low"] * 9, 0) is None
    late = admission.refusal("plain", 2001 * MS + INTERVAL_NS, 0, ["low"] * 9, 0)
    assert late is not None
    assert late.reason is BusyReason.QUEUE_DELAY


def test_who_is_over_its_limit_is_named_and_passed(admission: Admission, running: dict[int, Running]) -> None:
    assert admission.at_limit() == set()
    running[1] = Running("limited", 0)
    assert admission.at_limit() == {"limited"}
    assert admission.refusal("plain", 10, 11, ["limited"] * 9, 1) is None
    assert admission.refusal("limited", 10, 11, [], 1) == (BusyReason.DEADLINE, 60 * MS - 10)


def test_while_nothing_is_known_nobody_is_refused(running: dict[int, Running]) -> None:
    admission = Admission(TARGET, running)
    running[1] = Running("new", 0)
    for now in range(0, 10_000 * MS, 1000 * MS):
        assert admission.refusal("new", now, now + 1, ["new"] * 60, 0) is None


def test_new_exports_keep_what_was_learnt(admission: Admission) -> None:
    admission.set_exports([export("plain", 2, Priority.HIGH), export("new")])
    rows = admission.report([])
    assert list(rows) == ["plain"]
    assert (rows["plain"]["usual_ms"], rows["plain"]["limit"], rows["plain"]["priority"]) == (60.0, 2, "high")


def test_each_class_has_its_numbers(admission: Admission) -> None:
    assert admission.order("plain", 7) == 7 + DELAY_NS[Priority.NORMAL]
    assert admission.order("low", 7) == 7 + DELAY_NS[Priority.LOW]
    assert admission.order("unknown", 7) == 7 + DELAY_NS[Priority.NORMAL]


def test_only_what_has_something_to_tell_is_reported(running: dict[int, Running]) -> None:
    admission = Admission(TARGET, running)
    admission.set_exports(
        [export("idle"), export("limited", 3), export("runs"), export("waits"), export("shed")]
    )
    running[1] = Running("runs", 0)
    admission.count("shed")
    admission.count("unknown")
    rows = admission.report(["waits", "waits"])
    assert {name: (row["running"], row["queued"], row["refused"]) for name, row in rows.items()} == {
        "limited": (0, 0, 0),
        "runs": (1, 0, 0),
        "waits": (0, 2, 0),
        "shed": (0, 0, 1),
    }


def test_an_estimate_that_was_too_high_is_found_out_though_no_executor_is_idle(
    admission: Admission, running: dict[int, Running]
) -> None:
    later = NOW + 250 * MS  # more than four times of what it takes
    running |= {1: Running("plain", later - 50 * MS), 2: Running("plain", later)}
    assert admission.is_hopeless("low", NOW + 1, 1 * MS, 1)
    assert not admission.is_hopeless("low", later, 1 * MS, 1)
    for ahead, refusal in (([], None), (["low"], BusyReason.DEADLINE)):
        found = admission.refusal("low", later, later + 30 * MS, ahead, 0)
        assert (found and found.reason) == refusal
    admission.learn("low", later, 60 * MS)
    found = admission.refusal("low", later, later + 30 * MS, [], 0)
    assert found is not None
    assert found.reason is BusyReason.DEADLINE
