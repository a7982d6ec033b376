"""The pool as shared memory uses it: executors take requests by themselves, and say so in their slots."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Final, Protocol

from molt_accel.config import Config
from molt_accel.errors import MoltWorkerCrashed
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Item
from molt_accel.ipc.shm.arena import native
from molt_accel.ipc.shm.layout import MAX_WORD, Outcome, SlotGauge
from molt_worker.entrypoints.exports import ExportTable
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.commands import Recycle, Wake
from molt_worker.processes.handles import ExecutorHandle
from molt_worker.processes.pool import Pool
from molt_worker.processes.shm_endpoint import ShmEndpoint
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.runtime.metrics import Counters

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena


class ShmPoolOwner(Protocol):
    """What the pool tells whoever keeps the arena."""

    def on_exports(self, exports: ExportTable) -> None:
        """The exports were imported, at start or at a reload."""

    def on_start_failed(self, why: str) -> None:
        """The exports can't be imported, so there will never be an executor."""

    def on_executor_ready(self) -> None:
        """An executor has started."""

    def on_deadline_set(self) -> None:
        """A request runs whose deadline comes before the next look at deadlines."""

    def on_executor_reaped(self, slot: int, exit_code: int | None) -> None:
        """Nothing of this slot's executor can touch the arena any more; None: its fork server died with it."""


class ShmPool(Pool):
    """Executors in slots of an arena.

    Args:
        owner: Is told what happens.
        arena: The arena, as long as there are executors.
    """

    def __init__(
        self,
        config: Config,
        loop: EventLoop,
        log: LogSink,
        counters: Counters,
        owner: ShmPoolOwner,
        arena: Arena,
    ) -> None:
        def make_endpoint(sock: socket.socket, number: int, slot: int) -> ShmEndpoint:
            return ShmEndpoint(sock, number, slot, arena, config, self._words.claim_of(slot))

        super().__init__(config, loop, log, counters, make_endpoint, arena.slots)
        self._owner: Final = owner
        self._arena: Final = arena

    def claims(self) -> dict[int, int]:
        """By slot: what its executor says that it has, until it was reaped (`layout.serial_of`).

        It says so where no client can write, before it claims and until it looks for the next request. So what is not
        in here is no executor's, whatever the arena says; what is may have just ended.
        """
        claims = {item.slot: self._words.claim_of(item.slot)[0] for item in self._executors.values()}
        return {slot: serial for slot, serial in claims.items() if serial}

    def stop_request(self, slot: int, serial: int, reason: StopReason) -> None:
        """Interrupt a request softly, if the slot's executor has it; another of the same slot is not touched."""
        executor = self._in_slot(slot, serial)
        if executor is not None:
            self._interrupt(executor, serial, reason)

    def kill_slot(self, slot: int, serial: int, **about: object) -> None:
        """SIGKILL a slot's executor, if it has this request. That must be KILLING, or nobody's any more.

        `about` are fields of the log line.
        """
        executor = self._in_slot(slot, serial)
        if executor is not None:  # else it is being killed
            self._log.log("warning", "executor_killed", executor=executor.number, **about)
            self.kill(executor)

    def _in_slot(self, slot: int, serial: int) -> ExecutorHandle | None:
        found = (item for item in self._living() if item.slot == slot)
        return next(found, None) if self.claims().get(slot) == serial else None

    def retire_replaced(self) -> None:
        """Tell those that were replaced once more to exit: the word that says so may have been scribbled over."""
        for executor in self._living():
            if self._replacements.replaced(executor) and not self._arena.retires(executor.slot):
                self._arena.retire(executor.slot)

    def describe(self) -> dict[str, object]:
        """The pool's part of a health report."""
        core = native()
        living = self._living()
        # As the slots say: an executor may have a request before its greeting was read.
        slots = [self._arena.slot_state(item.slot) for item in living]
        return {
            "size": self.size,
            "idle": slots.count(core.SLOT_IDLE),
            "busy": slots.count(core.SLOT_BUSY),
            "starting": slots.count(core.SLOT_FREE),
            "pids": [item.pid for item in living if item.pid],
        }

    # -- what Pool tells and asks -----------------------------------------------------------------------

    def _on_ready(self, executor: ExecutorHandle) -> None:
        self._owner.on_executor_ready()

    def _on_message(self, executor: ExecutorHandle, message: Item) -> bool:
        if isinstance(message, Wake):
            self._owner.on_deadline_set()
        elif isinstance(message, Recycle):
            self._recycle(executor, "max_requests")
        else:
            return False
        return True

    def _on_closed(self, executor: ExecutorHandle) -> None:
        """What it may still do to the arena is over when it is reaped, and not before."""

    def _on_reaped(self, executor: ExecutorHandle, crash: MoltWorkerCrashed) -> None:
        code = crash.facts.get("exit_code", -int(crash.facts.get("signal", 0)))
        arena, slot = self._arena, executor.slot
        failpoint("supervisor.reaped")
        self._owner.on_executor_reaped(slot, int(code) if crash.facts else None)
        epoch = arena.slot_gauge(slot, SlotGauge.EPOCH)
        arena.reset_slot(slot, SlotGauge.OUTCOMES)
        failpoint("supervisor.resetting_slot")
        arena.set_slot_gauge(slot, SlotGauge.EPOCH, (epoch + 1) & 0xFF)
        arena.set_slot_gauge(slot, SlotGauge.SERVED_BEFORE, self._ended_in(slot))
        # The one that was woken for a request may be the one that died. Now, when it can't be woken once more.
        if arena.ready():
            arena.wake_executor()

    def _on_replaced(self, executor: ExecutorHandle) -> None:
        self._arena.retire(executor.slot)

    def _on_exports(self, exports: ExportTable) -> None:
        self._owner.on_exports(exports)

    def _on_start_failed(self, why: str) -> None:
        self._owner.on_start_failed(why)

    def _served(self, executor: ExecutorHandle) -> int:
        before: int = self._arena.slot_gauge(executor.slot, SlotGauge.SERVED_BEFORE)
        return self._ended_in(executor.slot) - before

    def _ended_in(self, slot: int) -> int:
        """Requests that were ended in a slot, by all the executors that it had."""
        total = sum(self._arena.slot_gauge(slot, SlotGauge.OUTCOMES + outcome) for outcome in Outcome)
        return min(total, MAX_WORD)  # it has to fit a word, whatever somebody has scribbled
