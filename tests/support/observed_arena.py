"""An arena with channels and slots, all in the test's process, and the view of it that an observer has."""

import mmap
import os
import time
from typing import Any

from molt_accel.errors import Status
from molt_accel.ipc.messages import Request, Response
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import Gauge, Outcome, SlotGauge
from molt_worker.supervisor.shm import snapshot
from molt_worker.supervisor.shm.snapshot import Running

RING = 4096
_S = 1_000_000_000


class Stage:
    """An arena with a client's channels and executors' slots, all in this process; and a view of it."""

    def __init__(self) -> None:
        self.core = arenas.native()
        fd = os.memfd_create("status")
        os.ftruncate(fd, self.core.arena_size(8, 4, RING))
        self.memory = mmap.mmap(fd, 0)
        self.arena = self.core.Arena(self.memory, 8, 4, RING)
        self.view = arenas.view(fd)
        self.arena.set_in_use(8)
        self.arena.spin_ns = 0
        for fact, value in {
            Gauge.PID: os.getpid(),
            Gauge.STARTED_NS: time.monotonic_ns() - 5 * _S,
            Gauge.CAPACITY: 16,
            Gauge.POOL_SIZE: 2,
            Gauge.WAKE_NS: 2**64 - 1,
        }.items():
            self.arena.set_gauge(fact, value)

    def request(self, channel: int, entry: str = "work", payload: bytes = b"x", deadline_ns: int = 0) -> None:
        frame = Request(1 + channel, entry, payload, deadline_ns=deadline_ns)
        assert self.core.Channel(self.arena, channel, 2**20).publish(frame, 16, 0) == self.core.ADMITTED

    def executor(self, slot: int, number: int, epoch: int = 0) -> Any:
        """An executor that has started. Its process id is this process's."""
        self.arena.set_slot_gauge(slot, SlotGauge.NUMBER, number)
        self.arena.set_slot_gauge(slot, SlotGauge.PID, os.getpid())
        self.arena.set_slot_gauge(slot, SlotGauge.EPOCH, epoch)
        executor = self.core.Slot(self.arena, slot, epoch)
        executor.open()
        return executor

    def run(self, executor: Any) -> Request:
        assert executor.next() == self.core.REQUEST
        request: Request = executor.receive(2**20)
        executor.begin(SlotGauge.SERIAL, request.deadline_ns, Gauge.WAKE_NS)
        return request

    def answer(self, executor: Any, status: Status = Status.OK, **spans: int) -> None:
        response = Response(1, status, b"y", **spans)  # type: ignore[arg-type]
        fact = SlotGauge.OUTCOMES + Outcome[status.label]
        assert executor.reply(response, 2**20, fact) == self.core.TRANSFERRED

    def scribble(self, channel: int, at: int, data: bytes) -> None:
        """Change bytes of a request in its ring, counted from the frame's length prefix."""
        start = self.memory.find(self.arena.request_bytes(channel, RING))
        assert start >= 0
        self.memory[start + at : start + at + len(data)] = data

    def take(self) -> snapshot.Snapshot:
        """A look through the view, whose memory can't be written to."""
        return snapshot.take(self.view)

    def running(self) -> Running | None:
        (executor,) = self.take().executors
        return executor.running
