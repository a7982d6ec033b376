"""The slots of an arena: what is written there for executors, and read of them."""

from types import SimpleNamespace
from typing import Any

from molt_accel.ipc.shm.layout import MAX_WORD, Outcome, SlotGauge
from molt_worker.processes.commands import Recycle
from tests.support.handover import core
from tests.support.shm_testbed import Caller, ShmStage


def test_a_slot_is_given_to_another_epoch_after_everything_was_put_right(stage: ShmStage) -> None:
    player, _ = stage.start()
    player.take()
    watched = stage.watch(
        "set_failure", "step", "ring_client", "reset_slot", "set_slot_gauge", "wake_executor"
    )
    slot = player.index
    player.die()
    names = [name for name, *_ in watched.done]
    assert names == ["set_failure", "step", "ring_client", "reset_slot", "set_slot_gauge", "set_slot_gauge"]
    assert stage.arena.slot_gauge(slot, SlotGauge.EPOCH) == 1
    assert stage.arena.slot_state(slot) == core.SLOT_FREE
    (successor,) = stage.play_those_that_start()
    assert successor.number == 3
    assert successor.index != slot  # it was asked for before the other was reaped


def test_epochs_go_round(stage: ShmStage) -> None:
    player, _ = stage.start()
    stage.arena.set_slot_gauge(player.index, SlotGauge.EPOCH, 255)
    player.die()
    assert stage.arena.slot_gauge(player.index, SlotGauge.EPOCH) == 0


def test_after_a_death_somebody_is_woken_for_what_is_queued_but_not_the_dead(stage: ShmStage) -> None:
    """The one that died may have been woken for it; and may still stand there as if it slept."""
    player, _ = stage.start()
    Caller(stage, 2).publish()
    watched = stage.watch("reset_slot", "wake_executor")
    player.die()
    assert watched.done == [("reset_slot", player.index, SlotGauge.OUTCOMES), ("wake_executor",)]


def test_where_nothing_is_queued_nobody_is_woken(stage: ShmStage) -> None:
    player, _ = stage.start()
    watched = stage.watch("wake_executor")
    player.die()
    assert watched.done == []


def test_a_reaped_executor_s_slot_is_cleared_for_the_next(stage: ShmStage) -> None:
    player, _ = stage.start()
    assert (player.index, stage.arena.slot_gauge(0, SlotGauge.NUMBER)) == (0, player.number)
    player.die()
    assert stage.arena.slot_gauge(0, SlotGauge.NUMBER) == 0
    assert stage.supervisor.pool.words.left == stage.arena.slots - 2


def test_one_that_was_replaced_exits_when_it_has_no_request(stage: ShmStage) -> None:
    player, _ = stage.start()
    player.child.send(Recycle())
    stage.turn()
    assert stage.supervisor._counters.recycled == 1
    stage.play_those_that_start()
    assert player.slot.next() == core.RETIRE
    assert not player.killed()
    player.die(0)
    assert stage.supervisor._counters.executor_deaths == 0


def test_what_earlier_executors_of_a_slot_served_is_not_the_next_one_s(stage: ShmStage) -> None:
    player, _ = stage.start()
    executor = stage.supervisor.pool._executors[player.number]
    served = stage.supervisor._slots.served
    for outcome, count in ((Outcome.Ok, 5), (Outcome.Timeout, 2)):
        stage.arena.set_slot_gauge(0, SlotGauge.OUTCOMES + outcome, count)
    assert served(executor) == 7
    player.die()
    assert stage.arena.slot_gauge(0, SlotGauge.SERVED_BEFORE) == 7
    stage.arena.set_slot_gauge(0, SlotGauge.OUTCOMES + Outcome.Ok, 6)
    assert served(executor) == 1  # as whoever comes next in the slot


def test_counts_that_a_client_has_written_keep_no_slot_from_its_next_executor(stage: ShmStage) -> None:
    player, _ = stage.start()
    for outcome in Outcome:
        stage.arena.set_slot_gauge(0, SlotGauge.OUTCOMES + outcome, MAX_WORD)
    player.die()
    assert stage.arena.slot_gauge(0, SlotGauge.SERVED_BEFORE) == MAX_WORD
    assert stage.supervisor.pool.words.left == stage.arena.slots - 2


def test_what_is_said_of_executors_is_what_the_slots_say(stage: ShmStage) -> None:
    def said() -> dict[str, object]:
        return stage.supervisor._slots.describe(stage.supervisor.pool.living())

    stage.supervisor.pool.start_forkserver()
    stage.forkserver.loaded()
    stage.turn()
    assert said() == {"idle": 0, "busy": 0, "starting": 2}
    player, _ = stage.play_those_that_start()
    player.take(Caller(stage, 1))
    assert said() == {"idle": 1, "busy": 1, "starting": 0}


def test_one_that_was_replaced_is_told_again_if_that_was_written_over(stage: ShmStage) -> None:
    player, _ = stage.start()
    replaced: Any = SimpleNamespace(slot=player.index)
    stage.supervisor._slots.retire_again([replaced])
    assert stage.arena.retires(player.index)
