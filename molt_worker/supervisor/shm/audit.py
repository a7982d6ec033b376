"""The audit: the arena held against what is known outside of it, and requests ended that no executor has.

Any client can write to any word of the arena. But executors say which request they have in memory that no client can
map (`StopWords.claims`), and which client was granted which channel is known here. So scribbling costs the requests
that it hits, and nobody else, and nothing of it stays. What changes while it is looked at is left for the next time.

| state word of a channel | known | means | done |
|---|---|---|---|
| CLAIMED | an executor has the request | it runs | nothing |
| ABANDONED | an executor has it | the message that tells of it may have been lost | stop it |
| KILLING | an executor has it | if not this process, somebody wants its executor to wait for ever | stop it |
| one of these three | no executor has it | it is forged | FAILED (was ABANDONED: IDLE) |
| IDLE | | it is free | nothing |
| any other state | a client was granted the channel | it is the client's | nothing |
| anything else | an executor has a request on this channel | it may still write | look again |
| anything else | no executor has one | it is scribbled | IDLE |

| what an executor says that it has | means | done |
|---|---|---|
| the state word agrees, or is still READY | it runs, or is about to be claimed | nothing |
| the state word does not agree | it ends just now, or was taken away: an orphan | interrupt; the grace time begins |
| it does not agree when the grace time is over | nobody waits for it, and it has no deadline | kill |

| a request whose executor was reaped | done | counted |
|---|---|---|
| ABANDONED | IDLE | Cancelled |
| it was stopped as late | FAILED, as timed out | Timeout |
| it was stopped for another reason | FAILED | Cancelled |
| any other | FAILED, with the exit code | WorkerCrashed, and logged |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm.layout import (
    HELD,
    ChannelState,
    Failure,
    Gauge,
    Outcome,
    SlotGauge,
    failed_executor,
    failure_error,
    failure_word,
    generation_of,
    idle_word,
    serial_of,
    slot_of,
    state_of,
    with_state,
)
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.supervisor.shm.clients import Clients
from molt_worker.supervisor.shm.deadlines import Deadlines
from molt_worker.supervisor.shm.ledger import Ledger
from molt_worker.supervisor.shm.slots import Slots

#: How often the arena is audited while there are clients, who all can write to it.
_AUDIT_NS: Final = 1_000_000_000
#: How often a step is tried anew on a word that changes meanwhile. Honest ones change it once.
_TRIES: Final = 4


@dataclass(slots=True)
class Orphan:
    """An executor whose request was taken away from it; the grace time runs."""

    serial: int
    kill_ns: int


class Audit:
    """Repairs the arena, and ends requests that no executor has.

    Args:
        grace_ns: Between interrupt and kill of an orphan.
    """

    def __init__(
        self,
        grace_ns: int,
        loop: EventLoop,
        log: LogSink,
        pool: Pool,
        slots: Slots,
        ledger: Ledger,
        deadlines: Deadlines,
    ) -> None:
        self._grace_ns = grace_ns
        self._loop = loop
        self._log = log
        self._pool = pool
        self._slots = slots
        self._ledger = ledger
        self._deadlines = deadlines
        self._orphans: dict[int, Orphan] = {}  # by slot
        self._due_ns = 0  # when to audit next; 0: when there is a client

    def on_timers(self, now_ns: int, clients: Clients) -> None:
        """Audit if it is time for that."""
        if self._due_ns and now_ns >= self._due_ns:
            self.run(now_ns, clients)
        self._loop.at(self._due_ns)

    def run(self, now_ns: int, clients: Clients) -> None:
        """Hold the arena against what is known, and repair what doesn't agree."""
        arena = self._ledger.arena
        self._ledger.repair()
        self._slots.retire_again(self._pool.replaced())
        granted = {channel for client in clients for channel in client.channels}
        settled = True
        for (
            channel,
            word,
        ) in self._ledger.words():  # before the claims: an executor claims after it has said so
            state = state_of(word)
            if state in HELD:
                if not self.end_forged(channel, word) and state is not ChannelState.CLAIMED:
                    self._deadlines.stop(channel, word, StopReason.CANCELLED, now_ns)
            elif state is ChannelState.IDLE or (channel in granted and isinstance(state, ChannelState)):
                continue
            elif self._pool.words.is_claimed(channel):
                settled = False
            elif arena.step(channel, word, idle_word(word)):
                self._log.log("warning", "arena_repaired", channel=channel, state=int(state))
                arena.ring_client(channel)
        self._look_at_orphans(now_ns)
        settled = settled and not self._orphans and not self._ledger.held()
        self._due_ns = self._loop.at(now_ns + _AUDIT_NS) if clients.count or not settled else 0

    def end_forged(self, channel: int, word: int) -> bool:
        """End a request that its word, read before, says is held, but that no executor has. False if one has."""
        if serial_of(channel, generation_of(word)) in self._pool.words.claims().values():
            return False
        self._end(channel, word, failure_word(Failure.CORRUPT, 0))
        return True

    def end_of_dead(self, slot: int, exit_code: int | None) -> None:
        """End the request of a slot's executor, which was reaped; None: its fork server died with it."""
        executor = self._ledger.arena.slot_gauge(slot, SlotGauge.NUMBER)
        crash = failure_word(Failure.FORKSERVER_DIED, executor)
        if exit_code is not None:
            crash = failure_word(Failure.CRASHED, executor, exit_code)
        self._orphans.pop(slot, None)
        claim = self._pool.words.claims().get(slot)
        for channel, word in self._ledger.held():
            # An executor says so before it claims a request, so another may have been faster.
            if slot_of(word) == slot and serial_of(channel, generation_of(word)) == claim:
                self._end(channel, word, crash)

    def _end(self, channel: int, claimed: int, crash: int) -> None:
        """End a request that no executor has: its own is dead, or never was. `claimed` is its word."""
        arena = self._ledger.arena
        stop = self._deadlines.forget(channel)
        for _ in range(_TRIES):
            word = arena.word(channel)
            state = state_of(word)
            if word >> 8 != claimed >> 8 or state not in HELD:
                return
            request = self._ledger.request_on(channel)  # as long as it is its own
            forged = crash & 0xFF == Failure.CORRUPT
            outcome = Outcome.ProtocolError if forged else Outcome.WorkerCrashed
            if state is ChannelState.ABANDONED:
                outcome, after = Outcome.Cancelled, idle_word(word)
            else:
                after, reason = with_state(word, ChannelState.FAILED), crash
                if stop is not None and stop.is_of(word):
                    outcome = Outcome.Cancelled
                    if stop.reason is StopReason.TIMED_OUT:
                        outcome = Outcome.Timeout
                        reason = failure_word(Failure.TIMED_OUT, failed_executor(crash))
                arena.set_failure(channel, reason)
            failpoint("supervisor.repairing")
            if arena.step(channel, word, after):  # else its client has given up just now
                failpoint("supervisor.failed")
                arena.ring_client(channel)
                arena.add_counter(Gauge.OUTCOMES + outcome)
                if outcome is Outcome.WorkerCrashed:
                    error = failure_error(crash, str(request.get("entry", "?"))).detail
                    number = failed_executor(crash)
                    self._log.log("error", "executor_crashed", executor=number, error=error, **request)
                return

    def _look_at_orphans(self, now_ns: int) -> None:
        claims = self._pool.words.claims()
        for slot in self._orphans.keys() - claims.keys():
            del self._orphans[slot]
        for slot, serial in claims.items():
            word = self._ledger.arena.word(serial >> 32)
            state = state_of(word)
            orphan = self._orphans.pop(slot, None)
            if serial_of(serial >> 32, generation_of(word)) == serial and (
                state is ChannelState.READY or (slot_of(word) == slot and state in HELD)
            ):
                continue
            if orphan is None or orphan.serial != serial:
                self._orphans[slot] = Orphan(serial, now_ns + self._grace_ns)
                self._deadlines.interrupt(slot, serial, StopReason.CANCELLED)
            elif now_ns < orphan.kill_ns:
                self._orphans[slot] = orphan
            else:
                self._deadlines.kill(slot, serial, why="its request was taken away")
