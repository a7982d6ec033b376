"""The audit: compares the arena with what the supervisor knows, repairs it, and ends requests that no executor has.

Any client can write to any word of the arena. But executors write which request they have into memory that no client
can map (`StopWords.claims`), and the supervisor knows which channels it has granted to whom. So a client that scribbles
harms the requests that it hits, and no others. A word that changes during the audit is left for the next one.

| state word of a channel | known | means | done |
|---|---|---|---|
| CLAIMED | an executor has the request | it runs | nothing |
| ABANDONED | an executor has it | the message that tells of it may have been lost | stop it |
| KILLING | an executor has it | this process set it, or a client forged it, so that the executor waits | stop it |
| one of these three | no executor has it | it is forged | FAILED (was ABANDONED: IDLE) |
| IDLE | | it is free | unmarked: executors and clients look at marked channels only |
| any other state | a client was granted the channel | it is the client's | nothing |
| anything else | an executor has a request on this channel | it may still write | look again |
| anything else | no executor has one | it is scribbled | IDLE |
| not IDLE, and not marked | | its client is between two steps or has died there, or somebody has scribbled | marked |

| what an executor says that it has | means | done |
|---|---|---|
| the state word agrees, or is still READY | it runs, or is about to be claimed | nothing |
| the state word does not agree | it ends just now, or was taken away: an orphan | interrupt; the grace time begins |
| it does not agree when the grace time is over | nobody waits for it, and it has no deadline | kill |

| what a slot says that it runs, of an entrypoint with a limit | means | done |
|---|---|---|
| nobody has the slot | it is forged | freed |
| its executor has a request of another entrypoint | it is forged | freed |
| its executor has no request | it is forged, or it is about to claim one | nothing: it frees it at its next look |

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

from molt_accel.durations import NS_PER_S
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm import layout
from molt_accel.ipc.shm.layout import HELD, ChannelState, Failure, Gauge, Outcome, SlotGauge
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.supervisor.shm.clients import Clients
from molt_worker.supervisor.shm.deadlines import Deadlines
from molt_worker.supervisor.shm.ledger import Ledger, request_serial
from molt_worker.supervisor.shm.slots import Slots

#: How often the arena is audited while there are clients, which all can write to it.
_AUDIT_NS: Final = NS_PER_S
#: How often to try again when the word changes meanwhile. Clients that keep the protocol change it once.
_TRIES: Final = 4


@dataclass(eq=False)
class Audit:
    """Repairs the arena, and ends requests that no executor has."""

    grace_ns: int  #: between interrupt and kill of an executor whose request was taken away
    loop: EventLoop
    log: LogSink
    pool: Pool
    slots: Slots
    ledger: Ledger
    deadlines: Deadlines

    def __post_init__(self) -> None:
        #: When to kill executors whose request was taken away, by slot and serial.
        self._orphans: dict[tuple[int, int], int] = {}
        self._due_ns = 0  # when to audit next; 0: when there is a client

    def on_timers(self, now_ns: int, clients: Clients) -> None:
        """Run the audit, if it is time for that."""
        if self._due_ns and now_ns >= self._due_ns:
            self.run(now_ns, clients)
        self.loop.at(self._due_ns)

    def run(self, now_ns: int, clients: Clients) -> None:
        """Compare the arena with what is known, and repair what doesn't agree."""
        arena = self.ledger.arena
        self.ledger.repair()
        self.slots.retire_again(self.pool.replaced())
        granted = {channel for client in clients for channel in client.channels}
        settled = True
        # The words are read before the claims: an executor writes its claim before it changes the word.
        for channel, word in self.ledger.words():
            state = layout.state_of(word)
            if state in HELD:
                if not self.end_forged(channel, word) and state is not ChannelState.CLAIMED:
                    self.deadlines.stop(channel, word, StopReason.CANCELLED, now_ns)
            elif channel in granted and isinstance(state, ChannelState):
                continue
            elif self.pool.words.is_claimed(channel):
                settled = False
            elif arena.step(channel, word, layout.idle_word(word)):
                self.log.log("warning", "arena_repaired", channel=channel, state=int(state))
                arena.ring_client(channel)
        arena.mend_marks()
        self._look_at_orphans(now_ns)
        self._look_at_places()
        settled = settled and not self._orphans and not self.ledger.held()
        self._due_ns = self.loop.at(now_ns + _AUDIT_NS) if clients.count or not settled else 0

    def end_forged(self, channel: int, word: int) -> bool:
        """End a request whose word, which was read before, is in HELD, if no executor has it. False if one has it."""
        if request_serial(channel, word) in self.pool.words.claims().values():
            return False
        self._end(channel, word, layout.failure_word(Failure.CORRUPT, 0))
        return True

    def end_of_dead(self, slot: int, exit_code: int | None) -> None:
        """End the request of a slot's executor, which was reaped. Exit code None: its fork server died."""
        executor = self.ledger.arena.slot_gauge(slot, SlotGauge.NUMBER)
        crash = layout.failure_word(Failure.FORKSERVER_DIED, executor)
        if exit_code is not None:
            crash = layout.failure_word(Failure.CRASHED, executor, exit_code)
        claim = self.pool.words.claims().get(slot, -1)
        self._orphans.pop((slot, claim), None)
        for channel, word in self.ledger.held():
            # An executor writes its claim before it changes the word, so another executor may have been faster.
            if layout.slot_of(word) == slot and request_serial(channel, word) == claim:
                self._end(channel, word, crash)

    def _end(self, channel: int, claimed: int, crash: int) -> None:
        """End a request that no executor has. `claimed` is its word, `crash` the failure word if it was not stopped."""
        arena = self.ledger.arena
        stop = self.deadlines.forget(channel)
        for _ in range(_TRIES):
            word = arena.word(channel)
            state = layout.state_of(word)
            if word >> 8 != claimed >> 8 or state not in HELD:
                return
            request = self.ledger.request_on(channel)  # now, while the channel is this request's
            forged = crash & 0xFF == Failure.CORRUPT
            outcome = Outcome.ProtocolError if forged else Outcome.WorkerCrashed
            if state is ChannelState.ABANDONED:
                outcome, after = Outcome.Cancelled, layout.idle_word(word)
            else:
                after, reason = layout.with_state(word, ChannelState.FAILED), crash
                if stop is not None and stop.is_of(word):
                    outcome = Outcome.Cancelled
                    if stop.reason is StopReason.TIMED_OUT:
                        outcome = Outcome.Timeout
                        arena.learn_of(channel)  # its executor was killed and couldn't tell
                        reason = layout.failure_word(Failure.TIMED_OUT, layout.failed_executor(crash))
                arena.set_failure(channel, reason)
            failpoint("supervisor.repairing")
            if arena.step(channel, word, after):  # else the client has given the request up just now
                failpoint("supervisor.failed")
                arena.ring_client(channel)
                arena.add_counter(Gauge.OUTCOMES + outcome)
                if outcome is Outcome.WorkerCrashed:
                    error = layout.failure_error(crash, str(request.get("entry", "?"))).detail
                    number = layout.failed_executor(crash)
                    self.log.log("error", "executor_crashed", executor=number, error=error, **request)
                return

    def _look_at_places(self) -> None:
        """Free the places of entrypoints with a limit that executors do not take, though their slots say so.

        An executor that has no request sees to its own slot, whenever it looks for one.
        """
        arena = self.ledger.arena
        claims = self.pool.words.claims()
        for slot in range(arena.slots):
            holds = arena.holds(slot)
            if not holds:
                continue
            forged = not self.pool.words.is_lent(slot)
            if (serial := claims.get(slot)) is not None:
                channel = serial >> 32
                word = arena.word(channel)
                runs = request_serial(channel, word) == serial and layout.state_of(word) in HELD
                forged = runs and layout.slot_of(word) == slot and holds != arena.entry_of(channel)
            if forged:
                arena.let_go_of(slot, holds)

    def _look_at_orphans(self, now_ns: int) -> None:
        before, self._orphans = self._orphans, {}
        for slot, serial in self.pool.words.claims().items():
            word = self.ledger.arena.word(serial >> 32)
            state = layout.state_of(word)
            is_its_own = state is ChannelState.READY or (state in HELD and layout.slot_of(word) == slot)
            if is_its_own and request_serial(serial >> 32, word) == serial:
                continue
            kill_ns = before.get((slot, serial))
            if kill_ns is None:
                self._orphans[slot, serial] = now_ns + self.grace_ns
                self.deadlines.interrupt(slot, serial, StopReason.CANCELLED)
            elif now_ns < kill_ns:
                self._orphans[slot, serial] = kill_ns
            else:
                self.deadlines.kill(slot, serial, why="its request was taken away")
