"""Deadlines and stops: who is late or given up is interrupted, and killed if that does not help in the grace time.

Executors write what they run and until when into their slots. `look` goes through those:

| seen | means | done |
|---|---|---|
| CLAIMED; the slot says that this request began, and its deadline has passed | it is late | interrupt |
| CLAIMED; the slot's serial is another one | it has not begun, and its executor says so when it does | nothing |
| ABANDONED (`stop_abandoned`) | its client gave it up | interrupt |

With the interrupt the grace time begins. `look_at_stops` goes through the requests that were interrupted:

| seen | means | done |
|---|---|---|
| the state word is of another request, or nobody has it | it ended | forget it |
| it has not ended, and the grace time runs | | look again when that is over |
| the grace time is over, and an executor says that it has the request | it does not stop | KILLING, then kill |
| the grace time is over, and no executor says so | it ended just now, or its word is forged | for the audit |
| the step to KILLING failed | it ended in this moment | look again soon: its executor may have another |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.shm.layout import (
    HELD,
    NEVER,
    ChannelState,
    Gauge,
    SlotGauge,
    generation_of,
    serial_of,
    slot_of,
    state_of,
    with_state,
)
from molt_worker.entrypoints.request import StopReason
from molt_worker.processes.pool import Pool
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import EventLoop
from molt_worker.supervisor.shm.ledger import Ledger

#: The least time between two looks at deadlines: what slots say must not keep this process busy.
_LOOK_AGAIN_NS: Final = 1_000_000


@dataclass(slots=True)
class Stop:
    """A running request that was told to stop; the grace time runs."""

    word: int  #: the claim, as far as it names slot, epoch and generation
    reason: StopReason
    kill_ns: int

    def is_of(self, word: int) -> bool:
        """Whether a state word still is of the claim that was stopped."""
        return word >> 8 == self.word >> 8 and state_of(word) in HELD


class Deadlines:
    """Stops requests, and kills the executors of those that don't stop.

    Args:
        grace_ns: Between interrupt and kill.
    """

    def __init__(self, grace_ns: int, loop: EventLoop, log: LogSink, pool: Pool, ledger: Ledger) -> None:
        self._grace_ns = grace_ns
        self._loop = loop
        self._log = log
        self._pool = pool
        self._ledger = ledger
        self._stops: dict[int, Stop] = {}  # by channel

    def look(self, now_ns: int) -> None:
        """Stop what is late, and find out when to look again."""
        arena = self._ledger.arena
        # First, so that an executor that sets a deadline during the look tells of it.
        arena.set_gauge(Gauge.WAKE_NS, NEVER)
        failpoint("supervisor.sweeping")
        for channel, word in self._ledger.held():
            slot = slot_of(word)
            if state_of(word) is not ChannelState.CLAIMED or slot >= arena.slots:
                continue
            if self._is_stopped(channel, word):
                continue
            if arena.slot_gauge(slot, SlotGauge.SERIAL) != serial_of(channel, generation_of(word)):
                continue
            deadline_ns = arena.slot_gauge(slot, SlotGauge.DEADLINE_NS)
            # If it still runs, the deadline was its own.
            if 0 < deadline_ns <= now_ns and arena.word(channel) == word:
                self.stop(channel, word, StopReason.TIMED_OUT, now_ns)
        # Also those of requests that have ended: the next ones end later, and need not tell until then.
        deadlines = [arena.slot_gauge(slot, SlotGauge.DEADLINE_NS) for slot in range(arena.slots)]
        next_ns = min((deadline_ns for deadline_ns in deadlines if deadline_ns > now_ns), default=NEVER)
        if next_ns != NEVER:
            next_ns = max(next_ns, now_ns + _LOOK_AGAIN_NS)
        arena.set_gauge(Gauge.WAKE_NS, next_ns)
        self._loop.at(0 if next_ns == NEVER else next_ns)

    def stop(self, channel: int, word: int, reason: StopReason, now_ns: int) -> None:
        """Interrupt a request; its grace time begins. Once is enough."""
        if self._is_stopped(channel, word):
            return
        stop = self._stops[channel] = Stop(word, reason, now_ns + self._grace_ns)
        self.interrupt(slot_of(word), serial_of(channel, generation_of(word)), reason)
        self._loop.at(stop.kill_ns)

    def stop_abandoned(self, now_ns: int) -> None:
        """Stop what clients gave up. State words say that, also where a message of it was lost on a full socket."""
        for channel, word in self._ledger.held():
            if state_of(word) is ChannelState.ABANDONED:
                self.stop(channel, word, StopReason.CANCELLED, now_ns)

    def look_at_stops(self, now_ns: int) -> list[tuple[int, int]]:
        """Kill what has not stopped. Returns channels and words of what is held, but by no executor."""
        arena, unheld = self._ledger.arena, []
        for channel, stop in list(self._stops.items()):
            word = arena.word(channel)
            slot, serial = slot_of(word), serial_of(channel, generation_of(word))
            if not stop.is_of(word):
                del self._stops[channel]
            elif now_ns < stop.kill_ns:
                self._loop.at(stop.kill_ns)
            elif self._pool.words.claims().get(slot) != serial:
                del self._stops[channel]
                unheld.append((channel, word))
            elif state_of(word) is ChannelState.KILLING or arena.step(
                channel, word, with_state(word, ChannelState.KILLING)
            ):
                failpoint("supervisor.killing")
                self.kill(slot, serial, **self._ledger.request_on(channel))
            else:
                self._loop.at(now_ns + _LOOK_AGAIN_NS)
        return unheld

    def forget(self, channel: int) -> Stop | None:
        """A channel's request is being ended. Returns its stop, if it was stopped."""
        return self._stops.pop(channel, None)

    def interrupt(self, slot: int, serial: int, reason: StopReason) -> None:
        """Raise in a request, if the slot's executor has it; another one of the same slot is not touched."""
        executor = self._pool.holder(slot, serial)
        if executor is not None:
            self._pool.interrupt(executor, serial, reason)

    def kill(self, slot: int, serial: int, **about: object) -> None:
        """SIGKILL a slot's executor, if it has this request. That must be KILLING, or nobody's any more.

        `about` are fields of the log line.
        """
        executor = self._pool.holder(slot, serial)
        if executor is not None:  # else it is being killed
            self._log.log("warning", "executor_killed", executor=executor.number, **about)
            self._pool.kill(executor)

    def _is_stopped(self, channel: int, word: int) -> bool:
        stop = self._stops.get(channel)
        return stop is not None and stop.is_of(word)
