"""What the supervisor keeps beside the arena."""

from molt_accel.ipc.messages import Detach
from molt_accel.ipc.shm.layout import Gauge
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
