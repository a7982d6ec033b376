"""An executor's way to requests in shared memory: its slot. Requests and replies pass through no other process."""

from __future__ import annotations

import os
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from molt_accel.config import Config
from molt_accel.errors import Status
from molt_accel.ipc import outcomes
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import HEADER_BYTES, PREFIX_BYTES, FrameError, decode, encode, encode_head
from molt_accel.ipc.messages import Hello, Message, Request, Response
from molt_accel.ipc.shm import layout
from molt_accel.ipc.shm.layout import ChannelState, Failure, Gauge, Outcome, SlotGauge
from molt_accel.overload import admission
from molt_accel.overload.estimate import Estimate, is_due
from molt_worker.entrypoints.runner import error_response, too_large
from molt_worker.processes.commands import Recycle, Wake
from molt_worker.runtime import log
from molt_worker.runtime.metrics import request_fields, request_level

if TYPE_CHECKING:
    from molt_accel.ipc.shm._native import Arena

_OK: Final = Status.OK  # looking a member up in an enumeration costs as much as a function call
_SERIAL: Final = int(SlotGauge.SERIAL)
_WAKE_NS: Final = int(Gauge.WAKE_NS)
_OUTCOME_GAUGES: Final = {status: SlotGauge.OUTCOMES + Outcome[status.label] for status in Status}
#: The outcomes are those of `layout.failure_error`.
_FAILURE_GAUGES: Final = {
    Failure.STALLED: SlotGauge.OUTCOMES + Outcome.Timeout,
    Failure.CORRUPT: SlotGauge.OUTCOMES + Outcome.ProtocolError,
}


@dataclass(eq=False)
class ShmEndpoint:
    """Claims requests from the arena, oldest first, and writes replies to it.

    Its socket carries only what the supervisor must know: that the executor is ready or has served enough, or that a
    deadline comes before all others.
    """

    sock: socket.socket
    number: int  #: the executor's
    index: int  #: its slot's
    arena: Arena
    config: Config
    claim: memoryview | None = None  #: where it says which request it has; no client can write there

    def __post_init__(self) -> None:
        from molt_accel.ipc.shm import _native as core

        arena, index = self.arena, self.index
        self._max = self.config.max_frame_bytes
        self._corrupt: type[Exception] = core.Corrupt
        self._transferred = core.TRANSFERRED
        self._unbegun, self._wakes, self._crowded = core.UNBEGUN, core.WAKES, core.CROWDED
        self._bells_lost = core.BELLS_LOST
        self.serial = 0
        self._slot = core.Slot(arena, index, arena.slot_gauge(index, SlotGauge.EPOCH) & 0xFF, self.claim)
        self._shows_entry = False
        self._left = self.config.max_requests
        self._logs_all = self.config.log_level == "debug"
        arena.set_slot_gauge(index, SlotGauge.NUMBER, self.number)
        arena.set_slot_gauge(index, SlotGauge.PID, os.getpid())

    def announce(self) -> None:
        self.arena.set_slot_gauge(self.index, SlotGauge.READY_NS, time.monotonic_ns())
        self._slot.open()
        failpoint("executor.opened")
        self._tell(Hello())

    def _tell(self, message: Message) -> bool:
        """Send the supervisor a message without waiting, because a supervisor that is stopped must not stop requests.

        Returns False if the socket is full of messages that it has not read.
        """
        try:
            # The message is small enough to be taken as a whole or not at all.
            self.sock.send(encode(message), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionError:
            pass  # the supervisor is gone, and so is this process in a moment
        return True

    def receive(self) -> Request | FrameError | None:
        slot = self._slot
        while True:
            try:
                item = slot.take(self._max, _SERIAL, _WAKE_NS, not self._shows_entry)
            except self._corrupt as exc:
                self._give_up(Failure.CORRUPT, str(exc))
                continue
            if type(item) is Request:
                if slot.remarks and not self._heed(item, slot.remarks):
                    continue
                self.serial = slot.serial
                return item
            if item is None:
                return None
            if type(item) is not bytes:
                self._give_up(Failure.STALLED, "the request was not sent on")
                continue
            slot.begin(_SERIAL, 0, _WAKE_NS)
            try:
                decode(item)
            except FrameError as exc:
                return exc
            self._give_up(Failure.CORRUPT, "it is no request")

    def _heed(self, request: Request, remarks: int) -> bool:
        """Do what is unusual about a request. Returns False if it was answered, because nobody would get its result."""
        wakes = remarks & self._wakes
        if remarks & self._unbegun:
            in_ring = PREFIX_BYTES + HEADER_BYTES + len(request.payload) <= self.arena.ring_bytes
            self._show_entry("" if in_ring else request.entry)
            wakes = self._slot.begin(_SERIAL, request.deadline_ns, _WAKE_NS)
        if wakes:
            # If the socket is full, the supervisor will look when it reads the others.
            self._tell(Wake())
        if remarks & self._crowded and self._is_hopeless(request):
            self.answer(request, error_response(request, outcomes.too_late()))
            return False
        return True

    def _is_hopeless(self, request: Request) -> bool:
        now_ns = time.monotonic_ns()
        mean_ns, deviation_ns, learnt_ns = self._slot.usual
        if is_due(mean_ns, learnt_ns, now_ns):
            return False
        least_ns = Estimate(mean_ns, deviation_ns).least_ns()
        return admission.is_hopeless(least_ns, request.deadline_ns - now_ns, self._slot.queued)

    def _show_entry(self, entry: str) -> None:
        """Write the entry into the slot, for observers: in the ring, a large request overwrites its own start."""
        self._shows_entry = bool(entry)
        for at, word in enumerate(layout.entry_words(entry)):
            self.arena.set_slot_gauge(self.index, SlotGauge.ENTRY + at, word)

    def answer(self, request: Request, response: Response) -> None:
        if HEADER_BYTES + len(response.payload) > self._max:
            response = self._fitting(request, response)
        status = response.status
        # Log before the reply is published, as counting does: a client that has its reply must find the line.
        if status is not _OK or self._logs_all:
            fields = request_fields(request, response, status.label)
            log.write_blocking(self.config, request_level(status.label), "request", fields)
        counted = _OUTCOME_GAUGES[status]
        try:
            code = self._slot.reply(response, self._max, counted)
        except self._corrupt as exc:
            self._give_up(Failure.CORRUPT, str(exc), counted)
        else:
            if code == self._transferred:
                pass
            elif code == self._bells_lost:
                hint = "code that it ran has closed descriptors that it had not opened; see os.closerange"
                fields = {"executor": self.number, "hint": hint}
                log.write_blocking(self.config, "warning", "bells_lost", fields)
            else:
                self._give_up(Failure.STALLED, "the reply was not taken", counted)
        if self._left:
            self._left -= 1
            if not self._left and not self._tell(Recycle()):
                self._left = 1  # the supervisor is told after the next request

    def _fitting(self, request: Request, response: Response) -> Response:
        """The error in the place of a response that is over the frame limit."""
        try:
            encode_head(response, self._max)
        except FrameError as exc:
            return too_large(request, response, exc)
        return response

    def _give_up(self, reason: Failure, why: str, counted: int | None = None) -> None:
        """End a request whose bytes don't move. If it was taken away, it is ended already, or this process is killed.

        `counted` is the gauge that has already counted the request for another outcome.
        """
        channel = self._slot.channel
        # Count before the request ends: a client that has its outcome must find it counted.
        self._recount(counted, _FAILURE_GAUGES[reason])
        if not self._slot.fail(layout.failure_word(reason, self.number)):
            self._recount(_FAILURE_GAUGES[reason], counted)
        else:
            log.write_blocking(self.config, "warning", "transfer_failed", {"channel": channel, "error": why})
        while (word := self.arena.word(channel)) and layout.state_of(word) is ChannelState.KILLING:
            if word >> 8 != self._slot.word >> 8:
                return
            signal.pause()

    def _recount(self, before: int | None, after: int | None) -> None:
        """Count a request for another outcome; None: for none."""
        arena, slot = self.arena, self.index
        for fact, step in ((before, -1), (after, 1)):
            if fact is not None:
                arena.set_slot_gauge(slot, fact, (arena.slot_gauge(slot, fact) + step) & layout.MAX_WORD)
