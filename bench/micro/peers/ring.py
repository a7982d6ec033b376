"""The bare ring from Python: channel, seat and doorbells of the native core, and no client library.

The forked process does nothing but claim, unpack, pack and reply. What `Client.call` costs beyond this is the
price of deadlines, frames, metrics and of running somebody's code.
"""

from __future__ import annotations

import multiprocessing
import os
import struct
import time
from multiprocessing.process import BaseProcess
from typing import Any

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import pack, unpack
from molt_accel import Config, MoltWorkerUnavailable
from molt_accel.ipc import arena
from molt_worker import spinning

MAX_BYTES = 64 * 1024 * 1024
CALL_NS = 30 * 1_000_000_000
_LENGTH = struct.Struct("<I")


def _answer(shared: Any) -> None:
    core = arena.native()
    seat = core.Seat(shared, 0, 1)
    seat.open()
    while seat.next() == core.REQUEST:
        data = pack(unpack(seat.receive(MAX_BYTES)))
        seat.reply(_LENGTH.pack(len(data)), data)


class Ring(Peer):
    """One channel, one seat."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._arena: Any = None
        self._channel: Any = None
        self._process: BaseProcess | None = None

    def available(self) -> str | None:
        try:
            arena.native()
        except MoltWorkerUnavailable as error:
            return str(error)
        return None

    def start(self) -> None:
        core = arena.native()
        # The geometry of a pool of one executor, so that its rings are as large.
        self._arena, descriptor = arena.create(arena.Geometry.fitting(executors=1, places=64))
        os.close(descriptor)
        self._arena.in_use = 1
        # As long as a worker of this machine and this configuration would.
        limits, configured = spinning.measure(), Config.load().spin_us
        self._arena.spin_ns = limits.spin_ns if configured is None else configured * 1000
        self._arena.client_spinners = limits.clients
        self._arena.executor_spinners = limits.executors
        forking = multiprocessing.get_context("fork")  # an arena is inherited, not pickled
        self._process = forking.Process(target=_answer, args=(self._arena,), daemon=True)
        self._process.start()
        self._channel = core.Channel(self._arena, 0, MAX_BYTES)
        self._outcome = core.OUTCOME

    def call(self, payload: object) -> object:
        data = pack(payload)
        channel = self._channel
        channel.publish(_LENGTH.pack(len(data)), data, 64, 0)
        if channel.wait(time.monotonic_ns() + CALL_NS) != self._outcome:
            raise TimeoutError("no answer")
        return unpack(channel.take())

    def stop(self) -> None:
        if self._process is not None:
            self._arena.retire(0)
            self._process.join()
            self._process.close()
            self._process = None
        self._channel = self._arena = None
