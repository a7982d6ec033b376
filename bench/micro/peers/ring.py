"""The bare ring from Python: channel, slot and doorbells of the native core, no client library and no runner.

The forked process does nothing but claim, unpack, pack and reply. What `Client.call` costs beyond this is the
price of options, deadlines, metrics, a pool that is watched, and of running somebody's code.
"""

from __future__ import annotations

import multiprocessing
import os
import time
from itertools import count
from multiprocessing.process import BaseProcess
from typing import Any

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import pack, unpack
from molt_accel import Config, MoltWorkerUnavailable
from molt_accel.errors import Status
from molt_accel.ipc.frame import DEFAULT_MAX_FRAME_BYTES, Kind
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.ipc.shm import arena
from molt_accel.ipc.shm.layout import Outcome, SlotGauge
from molt_worker.supervisor.shm import spinning

MAX_BYTES = DEFAULT_MAX_FRAME_BYTES
CALL_NS = 30 * 1_000_000_000
PLACES = 1
SERVED = SlotGauge.OUTCOMES + Outcome.Ok
# Looking a member up in an enumeration costs as much as a part of a call.
_REQUEST, _RESPONSE, _OK = Kind.REQUEST, Kind.RESPONSE, Status.OK
_MSGPACK, _RAW = Codec.MSGPACK, Codec.RAW


def _answer(shared: Any) -> None:
    core = arena.native()
    transferred = core.TRANSFERRED
    slot = core.Slot(shared, 0, 1)
    slot.open()
    while slot.next() == core.REQUEST:
        request = slot.receive(MAX_BYTES)
        if not isinstance(request, Request):  # this process ends, and the caller's wait runs out
            raise RuntimeError("a request that can't be read")
        data = request.payload
        if request.codec is _MSGPACK:
            data = pack(unpack(data))
        response = Response(request.request_id, _OK, data, request.codec)
        if slot.reply(response, MAX_BYTES, SERVED) != transferred:
            raise RuntimeError("a reply that is not taken")


class Ring(Peer):
    """One channel, one slot."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._arena: Any = None
        self._channel: Any = None
        self._process: BaseProcess | None = None
        self._ids = count(1)

    def available(self) -> str | None:
        try:
            arena.native()
        except MoltWorkerUnavailable as error:
            return str(error)
        return None

    def start(self) -> None:
        core = arena.native()
        # As a worker of this machine and this configuration would have it: rings as large, spins as long.
        config, limits = Config.load(executors=1), spinning.measure()
        geometry = arena.Geometry.fitting(config.pool_size, config.max_queue, config.arena_mb * 1024 * 1024)
        self._arena, descriptor = arena.create(geometry)
        os.close(descriptor)
        self._arena.set_in_use(1)
        self._arena.spin_ns = limits.spin_ns if config.spin_us is None else config.spin_us * 1000
        self._arena.client_spinners = limits.clients
        self._arena.executor_spinners = limits.executors
        self._arena.set_cpus(limits.cpus, limits.narrow)
        forking = multiprocessing.get_context("fork")  # an arena is inherited, not pickled
        self._process = forking.Process(target=_answer, args=(self._arena,), daemon=True)
        self._process.start()
        self._channel = core.Channel(self._arena, 0, MAX_BYTES)
        self._outcome, self._admitted = core.OUTCOME, core.ADMITTED

    def call(self, payload: object) -> object:
        return unpack(self._exchange(pack(payload), _MSGPACK))

    def call_raw(self, data: bytes) -> object:
        return self._exchange(data, _RAW)

    def _exchange(self, data: bytes, codec: Codec) -> bytes:
        channel = self._channel
        request = Request(next(self._ids), "echo", data, codec)
        if channel.publish(request, PLACES, 0) != self._admitted:
            raise RuntimeError("the request was not published")
        if channel.wait(time.monotonic_ns() + CALL_NS) != self._outcome:
            raise TimeoutError("no answer")
        response = channel.take()
        if response.request_id != request.request_id:
            raise RuntimeError("the answer of another request")
        answer: bytes = response.payload
        return answer

    def stop(self) -> None:
        if self._process is not None:
            self._arena.retire(0)
            self._process.join()
            self._process.close()
            self._process = None
        self._channel = self._arena = None
