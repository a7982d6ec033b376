"""A pool that does what a test tells it: a real arena, slots and the control socket's other end, all here."""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.config import Config
from molt_accel.errors import Status
from molt_accel.ipc import control
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import (
    SHM_FROM_CLIENT,
    Attach,
    Attached,
    Codec,
    Grant,
    GrantBell,
    Hello,
    Request,
    Response,
    StartFailed,
)
from molt_accel.ipc.shm import arena as arenas
from molt_accel.ipc.shm.layout import ChannelState, Gauge, idle_word, state_of
from molt_accel.transports.shm.connection import Connection
from molt_accel.transports.shm.transport import ShmTransport
from tests.support.processes import closing_all

#: Longer than anything here takes on a slow machine.
PATIENCE_S = 30.0


class FakePool:
    """Everything of a pool but its processes.

    Args:
        channels: How many there are, and are granted at once.
        places: Of its queue.
        executors: How many slots count as idle: requests beyond them need places.
    """

    def __init__(self, channels: int = 8, capacity: int = 4, executors: int = 1) -> None:
        self.arena, self._arena_fd = arenas.create(arenas.Geometry(channels, 4, 4096))
        self.arena.set_in_use(channels)
        self.set(Gauge.CAPACITY, capacity)
        self.set(Gauge.CLIENT_LIMIT, channels)
        self.granted = list(range(channels))
        core = arenas.native()
        self.slots = [core.Slot(self.arena, index, 0) for index in range(executors)]
        for slot in self.slots:
            slot.open()
        self.sock: socket.socket | None = None  #: the worker's end of the last connection
        self.connections: list[Connection] = []
        self._ends: list[socket.socket] = []
        self.bells: list[int] = []  #: the writing ends that there are
        self._attaching: list[threading.Thread] = []

    def set(self, fact: Gauge, value: int) -> None:
        self.arena.set_gauge(fact, value)

    # -- attaching --------------------------------------------------------------------------------------
    def serve(self) -> socket.socket:
        """The client's end of a new connection, on which it is about to be granted what there is."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        far.settimeout(PATIENCE_S)
        self.sock = far
        self._ends.append(far)

        def attach() -> None:
            asked, _ = control.receive(far, SHM_FROM_CLIENT)
            if asked is None:  # it was closed before
                return
            assert isinstance(asked, Attach)
            arena = self.arena
            attached = Attached(
                self.granted,
                max_frame_bytes=100_000,
                max_wait_ms=0,
                grace_ms=50,
                capacity=arena.gauge(Gauge.CAPACITY),
                spin_ns=arena.gauge(Gauge.SPIN_NS),
                client_spinners=arena.gauge(Gauge.CLIENT_SPINNERS),
                executors=1,
                queue_target_ms=100,
            )
            control.send(far, attached, (self._arena_fd,))

        self._attaching.append(threading.Thread(target=attach))
        self._attaching[-1].start()
        return near

    def connection(self, **config: Any) -> Connection:
        self.connections.append(
            Connection(Config(transport="shm", **config), self.serve(), len(self.connections) + 1)
        )
        return self.connections[-1]

    def transport(self, **config: Any) -> ShmTransport:
        """A transport that attaches to it. `attach_or_start` of its module must be `attach`."""
        return ShmTransport(Config(transport="shm", **config))

    def attach(self, config: Config, not_before_s: float = 0.0) -> socket.socket:
        return self.serve()

    # -- the supervisor's side --------------------------------------------------------------------------
    def tell(self, message: Item) -> None:
        assert self.sock is not None
        control.send(self.sock, message)

    def greet(self) -> None:
        self.tell(Hello())

    def new_bell(self) -> tuple[int, int]:
        """Another bell: its number, and the reading end, which its reader closes."""
        reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.bells.append(writing)
        self.arena.use_bells(self.bells)
        return len(self.bells) - 1, reading

    def lend_bell(self) -> int:
        """Answer a client that asks for a bell. Returns the bell's number."""
        bell, reading = self.new_bell()
        assert self.sock is not None
        control.send(self.sock, GrantBell(bell), (reading,))
        os.close(reading)
        return bell

    def grant(self, *channels: int) -> None:
        self.tell(Grant(list(channels)))

    def fail_start(self, why: str) -> None:
        self.tell(StartFailed({"error": "MoltWorkerUnavailable", "detail": why}))

    def hear(self) -> Item | None:
        assert self.sock is not None
        return control.receive(self.sock, SHM_FROM_CLIENT)[0]

    def heard(self) -> list[Item]:
        return list(iter(self.hear, None))

    def hang_up(self) -> None:
        assert self.sock is not None
        self.sock.close()

    def states(self) -> list[ChannelState]:
        words = [self.arena.word(channel) for channel in range(self.arena.channels)]
        return [state for state in map(state_of, words) if state is not ChannelState.IDLE]

    def take_away(self, channel: int) -> None:
        """Make a channel IDLE, whatever it was: the client counts as gone."""
        word = self.arena.word(channel)
        assert self.arena.step(channel, word, idle_word(word))

    # -- the executors' side ----------------------------------------------------------------------------
    def claim(self, slot: int = 0) -> Request:
        taken = self.slots[slot]
        assert taken.next() == arenas.native().REQUEST
        request: Request = taken.receive(100_000)
        assert isinstance(request, Request)
        return request

    def reply(self, request: Request, value: object = None, slot: int = 0, **fields: Any) -> bool:
        known = {"payload": codec.encode(Codec.MSGPACK, value), "status": Status.OK, **fields}
        response = Response(known.pop("request_id", request.request_id), **known)
        code: int = self.slots[slot].reply(response, 100_000, 16)
        return code == arenas.native().TRANSFERRED

    def serving(self, answer: Callable[[Request], object], requests: int) -> threading.Thread:
        """Serve so many requests on a thread, with what `answer` makes of them."""

        def work() -> None:
            for _ in range(requests):
                request = self.claim()
                self.reply(request, answer(request))

        thread = threading.Thread(target=work)
        thread.start()
        return thread

    def close(self) -> None:
        """Close everything, and wait until all connections have seen it."""
        for thread in self._attaching:
            thread.join(PATIENCE_S)
        for end in self._ends:
            end.close()
        self.arena.use_bells(())
        control.close_all(self.bells)
        for connection in self.connections:
            connection.monitor.join(PATIENCE_S)
        os.close(self._arena_fd)


MakePool = Callable[..., FakePool]


@pytest.fixture
def make_pool() -> Iterator[MakePool]:
    with closing_all(FakePool) as make:
        yield make


@pytest.fixture
def fake(make_pool: MakePool) -> FakePool:
    return make_pool()
