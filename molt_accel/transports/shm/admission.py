"""Decides which requests of this client its pool takes on, by what stands in the arena. No message is exchanged."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc import outcomes
from molt_accel.ipc.shm._native import entry_id
from molt_accel.ipc.shm.layout import Entry, Gauge, Outcome
from molt_accel.overload.admission import CALM, judge
from molt_accel.overload.estimate import Estimate, is_due
from molt_accel.overload.line import EntryLoad, Wait, expected_wait

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena, Channel

_UNKNOWN: Final = Entry("", 0, 0, 0, 0, 0, 0, CALM, 0)
_SHED: Final = {reason: Gauge.SHED + index for index, reason in enumerate(BusyReason)}


class Admission:
    """The rule of `overload.admission`, for the requests of one connection."""

    def __init__(self, arena: Arena) -> None:
        self._arena = arena

    def refusal(self, entry: str, left_ns: int | None, channel: Channel | None = None) -> MoltBusy | None:
        """Decide on a request.

        Args:
            entry: The entrypoint's name.
            left_ns: The time until its deadline; None: it has none.
            channel: Where it was published; None: not yet. Then it leaves a trace only if it is refused.

        Returns:
            Why it is not taken on, for `count`; None: it is.
        """
        arena = self._arena
        own_id = entry_id(entry)
        own = arena.entry(own_id) or _UNKNOWN
        now_ns = time.monotonic_ns()
        wait = self._wait(own_id, own, now_ns, channel)
        if wait is None:
            return None
        trial = not wait.kin and is_due(own.mean_ns, own.learnt_ns, now_ns)
        verdict = judge(own.standing, now_ns, wait, own.mean_ns, left_ns, arena.target_ns, trial=trial)
        if channel is not None or verdict.reason is not None:
            arena.set_standing(own_id, verdict.standing, False)
        return None if verdict.reason is None else outcomes.busy(verdict.reason, wait.ns)

    def queue_full(self, entry: str, channel: Channel | None = None) -> MoltBusy:
        """The error of a request for which there is no place, not counted yet. `channel`: as for `refusal`."""
        own_id = entry_id(entry)
        wait = self._wait(own_id, self._arena.entry(own_id) or _UNKNOWN, time.monotonic_ns(), channel)
        return outcomes.busy(BusyReason.QUEUE_FULL, wait.ns if wait is not None else 0)

    def busy(self, reason: BusyReason, wait_ns: int = 0) -> MoltBusy:
        """The error of a refused request, counted."""
        return self.count(outcomes.busy(reason, wait_ns))

    def count(self, error: MoltBusy, entry: str = "") -> MoltBusy:
        """Count a refused request, also as one of its entrypoint's if that is given. Returns its error."""
        self._arena.add_counter(Gauge.OUTCOMES + Outcome.Busy)
        self.count_reason(error, entry)
        return error

    def count_reason(self, error: MoltBusy, entry: str) -> None:
        """Count a refused request whose outcome is counted by others."""
        arena = self._arena
        arena.add_counter(_SHED[BusyReason(error.reason)])
        row = arena.entry(entry_id(entry)) if entry else None
        if row is not None:
            arena.set_standing(row.id, row.standing, True)

    def _wait(self, own_id: int, own: Entry, now_ns: int, channel: Channel | None) -> Wait | None:
        """How long a request waits; None: that is not known, because no executor is ready yet."""
        arena = self._arena
        free_in = dict.fromkeys(arena.open_slots(), 0)
        if not free_in:
            return None
        running: dict[int, list[int]] = {}
        rows: dict[int, Entry] = {own_id: own}
        for its_id, slot, began_ns in arena.running():
            row = rows[its_id] = rows.get(its_id) or arena.entry(its_id) or _UNKNOWN
            left_ns = Estimate(row.mean_ns, row.deviation_ns).left_ns(max(0, now_ns - began_ns))
            running.setdefault(its_id, []).append(left_ns)
            if slot in free_in:
                free_in[slot] = left_ns
        turn = own.delay_ns + (arena.next_turn(now_ns) if channel is None else channel.turn)
        ahead = arena.queued(turn) if channel is None else arena.queued(turn, channel.index)
        loads: dict[int, EntryLoad] = {}
        for its_id in {own_id, *ahead}:
            row = rows.get(its_id) or arena.entry(its_id) or _UNKNOWN
            loads[its_id] = EntryLoad(row.mean_ns, row.limit, running.get(its_id, ()))
        return expected_wait(list(free_in.values()), [loads[each] for each in ahead], loads[own_id])
