"""What the supervisor keeps beside the arena."""

from molt_accel.ipc.messages import Detach
from molt_accel.ipc.shm._native import ENTRIES, entry_id
from molt_accel.ipc.shm.layout import Gauge
from molt_accel.overload.priority import DELAY_NS, Priority
from molt_worker.entrypoints.exports import Export
from tests.support.shm_testbed import Caller, ShmStage


def test_channels_are_looked_at_once_they_are_granted(stage: ShmStage) -> None:
    stage.start()
    assert stage.arena.in_use == 0
    first = Caller(stage, 3)
    assert stage.arena.in_use == 3
    second = Caller(stage, 2)
    assert stage.arena.in_use == 5
    for caller in (first, second):
        caller.send(Detach())
    assert stage.arena.in_use == 5  # never fewer: an executor may be looking
    assert Caller(stage, 1).channels == [0]


def test_what_was_scribbled_over_is_written_again(stage: ShmStage) -> None:
    stage.start()
    Caller(stage, 3)
    ledger, arena = stage.supervisor._ledger, stage.arena
    ledger[Gauge.SERVING] = 7
    assert arena.gauge(Gauge.SERVING) == 7
    for gauge in (Gauge.SERVING, Gauge.WAKE_NS):
        arena.set_gauge(gauge, 99)
    arena.set_in_use(0)
    ledger.repair()
    assert (arena.gauge(Gauge.SERVING), ledger[Gauge.SERVING], arena.in_use) == (7, 7, 3)
    assert arena.gauge(Gauge.WAKE_NS) == 99  # each look at deadlines writes that


def rows(stage: ShmStage) -> dict[str, tuple[int, int]]:
    return {row.name: (row.delay_ns, row.limit) for row in stage.arena.entries()}


def test_each_export_has_a_row_and_one_that_is_gone_loses_its_limit(stage: ShmStage) -> None:
    ledger = stage.supervisor._ledger
    first = [Export("a", "m:f", priority=Priority.LOW), Export("b", "m:f", max_concurrency=3)]
    assert ledger.name_entries(first) == 0
    normal = DELAY_NS[Priority.NORMAL]
    assert rows(stage) == {"a": (DELAY_NS[Priority.LOW], 0), "b": (normal, 3)}
    assert ledger.name_entries([Export("a", "m:f", max_concurrency=1), Export("c", "m:f")]) == 0
    assert rows(stage) == {"a": (normal, 1), "b": (normal, 0), "c": (normal, 0)}


def test_rows_that_were_scribbled_over_are_written_again(stage: ShmStage) -> None:
    ledger = stage.supervisor._ledger
    ledger.name_entries([Export("a", "m:f", max_concurrency=3)])
    stage.arena.set_entry("a", 7, 0)
    ledger.repair()
    assert rows(stage) == {"a": (DELAY_NS[Priority.NORMAL], 3)}


def test_of_too_many_exports_those_with_limits_have_rows(stage: ShmStage) -> None:
    exports = [Export(f"e{number}", "m:f") for number in range(ENTRIES)]
    limited = [Export(f"l{number}", "m:f", max_concurrency=1) for number in range(5)]
    assert stage.supervisor._ledger.name_entries([*exports, *limited]) == 5
    assert all(stage.arena.entry(entry_id(each.name)) is not None for each in limited)
    assert len(stage.arena.entries()) == ENTRIES


def test_exports_of_now_have_rows_before_those_that_are_gone(stage: ShmStage) -> None:
    ledger = stage.supervisor._ledger
    ledger.name_entries([Export(f"old{number}", "m:f") for number in range(ENTRIES)])
    assert ledger.name_entries([Export("new", "m:f"), Export("narrow", "m:f", max_concurrency=1)]) == 0
    found = rows(stage)
    assert (found["narrow"][1], "new" in found, len(found)) == (1, True, ENTRIES)
