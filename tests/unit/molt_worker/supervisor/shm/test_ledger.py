"""What the supervisor keeps beside the arena."""

from molt_accel.ipc.messages import Detach
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
