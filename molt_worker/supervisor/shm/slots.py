"""The slots of an arena: there, executors take requests by themselves, and say what they do."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from typing import TYPE_CHECKING

from molt_accel.config import Config
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm.layout import MAX_WORD, Outcome, SlotGauge
from molt_worker.processes.handles import ExecutorHandle, StopWords
from molt_worker.processes.shm_endpoint import ShmEndpoint

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena


class Slots:
    """What executors write into their slots, and what is written there for them; the pool's `Delivery`.

    Args:
        words: Where executors say what they have, with a slot for each of the arena's.
    """

    def __init__(self, config: Config, arena: Arena, words: StopWords) -> None:
        self._config = config
        self._arena = arena
        self._words = words

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> ShmEndpoint:
        return ShmEndpoint(sock, number, slot, self._arena, self._config, self._words.claim_of(slot))

    def withdraw(self, executor: ExecutorHandle) -> bool:
        self._arena.retire(executor.slot)
        return False  # it exits by itself when it has no request

    def served(self, executor: ExecutorHandle) -> int:
        before: int = self._arena.slot_gauge(executor.slot, SlotGauge.SERVED_BEFORE)
        return self._ended_in(executor.slot) - before

    def retire_again(self, replaced: Iterable[ExecutorHandle]) -> None:
        """Tell executors whose successors are ready once more to exit: that word may have been scribbled over."""
        for executor in replaced:
            if not self._arena.retires(executor.slot):
                self._arena.retire(executor.slot)

    def reset(self, slot: int) -> None:
        """Make a slot ready for another executor; that which had it was reaped."""
        arena = self._arena
        epoch = arena.slot_gauge(slot, SlotGauge.EPOCH)
        arena.reset_slot(slot, SlotGauge.OUTCOMES)
        failpoint("supervisor.resetting_slot")
        arena.set_slot_gauge(slot, SlotGauge.EPOCH, (epoch + 1) & 0xFF)
        arena.set_slot_gauge(slot, SlotGauge.SERVED_BEFORE, self._ended_in(slot))
        # The one that was woken for a request may be the one that died. Now, when it can't be woken once more.
        if arena.ready():
            arena.wake_executor()

    def describe(self, living: Iterable[ExecutorHandle]) -> dict[str, object]:
        """How many executors are idle, busy and starting, as their slots say.

        The pool does not know that: an executor may have a request before its greeting was read.
        """
        from molt_accel.ipc.shm import _native as core

        states = [self._arena.slot_state(executor.slot) for executor in living]
        names = {"idle": core.SLOT_IDLE, "busy": core.SLOT_BUSY, "starting": core.SLOT_FREE}
        return {name: states.count(state) for name, state in names.items()}

    def outcomes(self, outcome: Outcome) -> int:
        """How many requests ended so, by the word of executors."""
        arena = self._arena
        return sum(arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for slot in range(arena.slots))

    def _ended_in(self, slot: int) -> int:
        """Requests that were ended in a slot, by all the executors that it had."""
        total = sum(self._arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for outcome in Outcome)
        return min(total, MAX_WORD)  # it has to fit a word, whatever somebody has scribbled
