"""The slots of an arena, one for each executor. Executors take requests by themselves, and write what they do there."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from molt_accel.config import Config
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm.layout import MAX_WORD, Outcome, SlotGauge
from molt_worker.processes.handles import ExecutorHandle, StopWords
from molt_worker.processes.shm_endpoint import ShmEndpoint

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena


@dataclass(eq=False)
class Slots:
    """Reads what executors write into their slots, and writes what they read there; the pool's `Delivery`."""

    config: Config
    arena: Arena
    words: StopWords  #: the executors' claims, with a slot for each of the arena's
    descriptors: tuple[int, ...] = ()  #: see `Delivery`

    def make_endpoint(self, sock: socket.socket, number: int, slot: int) -> ShmEndpoint:
        return ShmEndpoint(sock, number, slot, self.arena, self.config, self.words.claim_of(slot))

    def withdraw(self, executor: ExecutorHandle) -> bool:
        self.arena.retire(executor.slot)
        return False  # the executor exits by itself when it has no request

    def served(self, executor: ExecutorHandle) -> int:
        before: int = self.arena.slot_gauge(executor.slot, SlotGauge.SERVED_BEFORE)
        return self._ended_in(executor.slot) - before

    def retire_again(self, replaced: Iterable[ExecutorHandle]) -> None:
        """Tell replaced executors once more to exit: a client may have written over the word that told them."""
        for executor in replaced:
            if not self.arena.retires(executor.slot):
                self.arena.retire(executor.slot)

    def reset(self, slot: int) -> None:
        """Make a slot ready for another executor, once the one that had it was reaped."""
        arena = self.arena
        epoch = arena.slot_gauge(slot, SlotGauge.EPOCH)
        arena.reset_slot(slot, SlotGauge.OUTCOMES)
        failpoint("supervisor.resetting_slot")
        arena.set_slot_gauge(slot, SlotGauge.EPOCH, (epoch + 1) & 0xFF)
        arena.set_slot_gauge(slot, SlotGauge.SERVED_BEFORE, self._ended_in(slot))
        # The executor that was woken for a request may be the one that died. It can't be woken instead of another now.
        if arena.ready():
            arena.wake_executor()

    def describe(self, living: Iterable[ExecutorHandle]) -> dict[str, object]:
        """How many executors are idle, busy and starting, as their slots say.

        The pool doesn't know: an executor may have a request before the pool has read that it is ready.
        """
        from molt_accel.ipc.shm import _native as core

        states = [self.arena.slot_state(executor.slot) for executor in living]
        names = {"idle": core.SLOT_IDLE, "busy": core.SLOT_BUSY, "starting": core.SLOT_FREE}
        return {name: states.count(state) for name, state in names.items()}

    def outcomes(self, outcome: Outcome) -> int:
        """How many requests ended with this outcome, as executors have counted."""
        arena = self.arena
        return sum(arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for slot in range(arena.slots))

    def _ended_in(self, slot: int) -> int:
        """How many requests all the executors that have had a slot have ended."""
        total = sum(self.arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for outcome in Outcome)
        return min(total, MAX_WORD)  # a client may have written anything, and it has to fit a word
