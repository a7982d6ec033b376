"""A supervisor of stdio whose client and executors the test plays: its descriptors are real, but nothing is forked."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.frame import FrameParser, Item, encode
from molt_accel.ipc.messages import (
    STDIO_FROM_WORKER,
    BadFrame,
    Cancel,
    Codec,
    Hello,
    Request,
    Response,
    StartFailed,
)
from molt_worker.processes.pool import Pool
from molt_worker.supervisor.stdio.supervisor import StdioSupervisor
from tests.support.scripted_forkserver import FakeExecutor, FakeForkserver, Stage

GRACE_MS = 100_000
#: The generation that the client gives all of its requests.
GENERATION = 500


class Scene:
    """A supervisor and its client, which has read the greeting; executors have started unless the test starts them."""

    def __init__(self, make_stage: Callable[..., Stage], *, start: bool = True, **options: Any) -> None:
        self.near, self.client = socket.socketpair()
        self._parser = FrameParser(messages=STDIO_FROM_WORKER)
        defaults = {"max_queue": 2, "grace_ms": GRACE_MS, "max_frame_bytes": 64 * 1024}
        self.stage = make_stage(self._make_pool, **{**defaults, **options})
        self.client.setblocking(False)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)  # so that a client can be too slow
        self.near.setblocking(False)
        if start:
            self.forkserver: FakeForkserver = self.stage.start()
            (greeting,) = self.heard()
            assert greeting == Hello()

    def _make_pool(self, stage: Stage) -> Pool:
        fd = self.near.fileno()
        self.supervisor = StdioSupervisor(stage.config, fd, fd, stage.sink)
        stage.loop.close()
        stage.loop, stage.counters = self.supervisor._loop, self.supervisor._counters
        stage.settle = self.supervisor.settle
        return self.supervisor.pool

    def turn(self) -> None:
        self.stage.turn()

    def pass_ms(self, ms: float) -> None:
        """Have the supervisor look at everything that has a time, as if so much had passed."""
        self.supervisor.on_timers(time.monotonic_ns() + int(ms * 1e6))
        self.turn()

    def ask(self, request_id: int, entry: str = "echo", payload: bytes = b"", **fields: Any) -> None:
        frame = Request(request_id, entry, payload, generation=GENERATION)
        for name, value in fields.items():
            setattr(frame, name, value)
        self.say(frame)

    def say(self, frame: Item) -> None:
        self.client.sendall(encode(frame))
        self.turn()

    def cancel(self, request_id: int, generation: int = GENERATION) -> None:
        self.say(Cancel(request_id, generation))

    def heard(self) -> list[Any]:
        while True:
            try:
                data = self.client.recv(1 << 20)
            except BlockingIOError:
                break
            if not data:
                break
            self._parser.feed(data)
            self.turn()
        return self._parser.frames()

    def outcomes(self) -> list[tuple[int, str, Any]]:
        """Responses that came: request id, status or error, payload or text. Each under the client's generation."""
        found: list[tuple[int, str, Any]] = []
        for frame in self.heard():
            if isinstance(frame, BadFrame):
                found.append((0, "BadFrame", frame.detail))
                continue
            if isinstance(frame, StartFailed):
                found.append((0, "StartFailed", frame.error["detail"]))
                continue
            assert frame.generation == GENERATION
            payload: Any = codec.decode(Codec.MSGPACK, frame.payload) if frame.payload else None
            if frame.status is Status.OK:
                found.append((frame.request_id, "Ok", payload))
            else:
                found.append((frame.request_id, payload["error"], payload["detail"]))
        return found

    def given(self, number: int) -> list[tuple[int, int, int, int]]:
        """Requests that an executor was given: id, serial, and what is queued and in flight."""
        frames: list[Any] = self.forkserver.children[number].received()
        return [(f.request_id, f.generation, f.queue_depth, f.in_flight) for f in frames]

    def answer(self, number: int, serial: int, status: Status = Status.OK, text: str = "done") -> None:
        payload: object = text if status is Status.OK else {"error": "MoltCancelled", "detail": text}
        child = self.forkserver.children[number]
        child.send(Response(0, status, codec.encode(Codec.MSGPACK, payload), generation=serial))
        self.turn()

    def child(self, number: int) -> FakeExecutor:
        return self.forkserver.children[number]

    def close(self) -> None:
        self.client.close()
        self.near.close()


MakeScene = Callable[..., Scene]


@pytest.fixture
def make_scene(make_stage: Callable[..., Stage]) -> Iterator[MakeScene]:
    scenes: list[Scene] = []

    def make(**options: Any) -> Scene:
        scenes.append(Scene(make_stage, **options))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()
