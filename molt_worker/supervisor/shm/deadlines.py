"""Deadlines and stops: interrupts requests that are late or given up, and kills the executors of those that go on.

Each executor writes into its slot which request it runs, and its deadline. `look` goes through the slots:

| seen | means | done |
|---|---|---|
| CLAIMED; the slot says that this request began, and its deadline has passed | it is late | interrupt |
| CLAIMED; the slot's serial is another one | it has not begun, and its executor says so when it does | nothing |
| ABANDONED (`stop_abandoned`) | its client gave it up | interrupt |

The grace time begins with the interrupt. `look_at_stops` goes through the requests that were interrupted:

| seen | means | done |
|---|---|---|
| the state word is of another request, or nobody has it | it ended | forget it |
| it has not ended, and the grace time runs | | look again when that is over |
| the grace time is over, and an executor says that it has the request | it does not stop | KILLING, then kill |
| the grace time is over, and no executor says so | it ended just now, or its word is forged | for the audit |
| the step to KILLING failed | it ended in this moment | look again soon: its executor may have another |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm import layout
from molt_accel.ipc.shm.layout import HELD, NEVER, ChannelState, Gauge, SlotGauge
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.supervisor.shm.ledger import Ledger, request_serial

#: The least time between two looks at deadlines: what scribblers write into slots must not keep this process busy.
_LOOK_AGAIN_NS: Final = 1_000_000


@dataclass(slots=True)
class Stop:
    """A running request that was told to stop; the grace time runs."""

    word: int  #: the claim, as far as it names slot, epoch and generation
    reason: StopReason
    kill_ns: int

    def is_of(self, word: int) -> bool:
        """Whether a state word still is of the claim that was stopped."""
        return word >> 8 == self.word >> 8 and layout.state_of(word) in HELD


@dataclass(eq=False)
class Deadlines:
    """Stops requests, and kills the executors of those that don't stop."""

    grace_ns: int  #: between interrupt and kill
    loop: EventLoop
    log: LogSink
    pool: Pool
    ledger: Ledger
    _stops: dict[int, Stop] = field(default_factory=dict, init=False)  # by channel

    def look(self, now_ns: int) -> None:
        """Stop requests that are late, and tell the loop when to look again."""
        arena = self.ledger.arena
        # First, so that an executor that sets a deadline during this look sends a `Wake`.
        arena.set_gauge(Gauge.WAKE_NS, NEVER)
        failpoint("supervisor.sweeping")
        for channel, word in self.ledger.held():
            slot = layout.slot_of(word)
            if layout.state_of(word) is not ChannelState.CLAIMED or slot >= arena.slots:
                continue
            if arena.slot_gauge(slot, SlotGauge.SERIAL) != request_serial(channel, word):
                continue
            deadline_ns = arena.slot_gauge(slot, SlotGauge.DEADLINE_NS)
            # If the request still runs now, the deadline was its own, and not that of the executor's next one.
            if 0 < deadline_ns <= now_ns and arena.word(channel) == word:
                self.stop(channel, word, StopReason.TIMED_OUT, now_ns)
        # Also deadlines of requests that have ended: until then, executors need not tell of later ones.
        deadlines = [arena.slot_gauge(slot, SlotGauge.DEADLINE_NS) for slot in range(arena.slots)]
        next_ns = min((deadline_ns for deadline_ns in deadlines if deadline_ns > now_ns), default=NEVER)
        if next_ns != NEVER:
            next_ns = max(next_ns, now_ns + _LOOK_AGAIN_NS)
        arena.set_gauge(Gauge.WAKE_NS, next_ns)
        self.loop.at(0 if next_ns == NEVER else next_ns)

    def stop(self, channel: int, word: int, reason: StopReason, now_ns: int) -> None:
        """Interrupt a request, which begins its grace time. A request that was stopped before is left alone."""
        if self._is_stopped(channel, word):
            return
        stop = self._stops[channel] = Stop(word, reason, now_ns + self.grace_ns)
        self.interrupt(layout.slot_of(word), request_serial(channel, word), reason)
        self.loop.at(stop.kill_ns)

    def stop_abandoned(self, now_ns: int) -> None:
        """Stop what clients gave up. State words tell, also when the client's message was lost on a full socket."""
        for channel, word in self.ledger.held():
            if layout.state_of(word) is ChannelState.ABANDONED:
                self.stop(channel, word, StopReason.CANCELLED, now_ns)

    def look_at_stops(self, now_ns: int) -> list[tuple[int, int]]:
        """Kill executors that have not stopped. Returns channels and state words of requests that no executor has."""
        arena, unheld = self.ledger.arena, []
        for channel, stop in list(self._stops.items()):
            word = arena.word(channel)
            slot, serial = layout.slot_of(word), request_serial(channel, word)
            killing = layout.with_state(word, ChannelState.KILLING)
            if not stop.is_of(word):
                del self._stops[channel]
            elif now_ns < stop.kill_ns:
                self.loop.at(stop.kill_ns)
            elif self.pool.words.claims().get(slot) != serial:
                del self._stops[channel]
                unheld.append((channel, word))
            elif word == killing or arena.step(channel, word, killing):
                failpoint("supervisor.killing")
                self.kill(slot, serial, **self.ledger.request_on(channel))
            else:
                self.loop.at(now_ns + _LOOK_AGAIN_NS)
        return unheld

    def forget(self, channel: int) -> Stop | None:
        """Forget the stop of a channel's request, which is being ended. Returns the stop, if there was one."""
        return self._stops.pop(channel, None)

    def interrupt(self, slot: int, serial: int, reason: StopReason) -> None:
        """Raise in the request with this serial, if the slot's executor has it."""
        executor = self.pool.holder(slot, serial)
        if executor is not None:
            self.pool.interrupt(executor, serial, reason)

    def kill(self, slot: int, serial: int, **about: object) -> None:
        """SIGKILL a slot's executor, if it has this request, which must be KILLING or taken away from it."""
        executor = self.pool.holder(slot, serial)
        if executor is not None:  # else the executor is being killed already
            self.log.log("warning", "executor_killed", executor=executor.number, **about)
            self.pool.kill(executor)

    def _is_stopped(self, channel: int, word: int) -> bool:
        stop = self._stops.get(channel)
        return stop is not None and stop.is_of(word)
