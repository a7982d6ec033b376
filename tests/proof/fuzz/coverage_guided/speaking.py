"""Fuzz targets of what is said on sockets: clients to the supervisor, the fork server to it,
a worker to its clients.
"""

import functools
import os
import socket
from typing import Any

from molt_accel import __version__
from molt_accel.errors import MoltError, Status
from molt_accel.ipc import control
from molt_accel.ipc.frame import encode
from molt_accel.ipc.messages import PING, Attach, Request, Response
from molt_worker.runtime.log import LogSink
from molt_worker.runtime.loop import READ, EventLoop
from molt_worker.runtime.metrics import Counters
from molt_worker.supervisor.shm.bells import Bells
from molt_worker.supervisor.shm.clients import Attachment, Channels, Clients
from tests.proof.fuzz.coverage_guided.taking import Bytes
from tests.support.bells import small_arena
from tests.support.frames import message_saying

_CHANNELS = 12
#: Names of messages, fields and requests, right and wrong ones.
_TYPES = (
    "Attach",
    "Lease",
    "Return",
    "CancelChannel",
    "Detach",
    "LeaseBell",
    "Grant",
    "Recall",
    "Wake",
    "echo",
)
_FIELDS = ("version", "observer", "channels", "count", "channel", "generation", "type", "else")
#: What the pool tells a client of itself.
_FACTS = dict.fromkeys(
    (
        "max_frame_bytes",
        "max_wait_ms",
        "grace_ms",
        "capacity",
        "spin_ns",
        "client_spinners",
        "executors",
        "queue_target_ms",
    ),
    1,
)


class _Owner:
    """A pool that agrees to everything; every third channel is in use."""

    def make_way(self) -> bool:
        return False

    def reload_ms(self) -> int:
        return 0

    def refusal(self, message: Attach) -> MoltError | None:
        return None

    def on_cancel(self) -> None:
        pass

    def on_clients_changed(self) -> None:
        pass

    def pong(self, ping: Request) -> Response:
        return Response(ping.request_id, Status.OK)


class _Desk:
    """What serves the control socket, with connections that never were accepted: they are pairs."""

    def __init__(self) -> None:
        log = LogSink(as_json=True, level="error", fd=2)
        self.loop = EventLoop(log)
        self.channels = Channels(_CHANNELS, lambda channel: channel % 3 != 0)
        self._listener = control.new_socket()
        self._arena_fd = os.memfd_create("molt-fuzz")
        self._bells = Bells(small_arena(), log)
        self.clients = Clients(
            *(self._listener, self._arena_fd, self.channels, self._bells, _FACTS),
            *(self.loop, log, Counters(), _Owner()),
        )

    def close(self) -> None:
        """Let go of its descriptors."""
        self.clients.close()
        self._bells.close()
        self.loop.close()
        os.close(self._arena_fd)

    def connect(self) -> tuple[Attachment, socket.socket]:
        """A client, and its other end."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        near.setblocking(False)
        far.setblocking(False)
        client = Attachment(near, 0)
        self.clients._clients.append(client)
        self.loop.watch(near.fileno(), READ, lambda _: None)
        return client, far

    def check(self) -> None:
        """Each channel is free, or one client's."""
        held = [channel for client in self.clients for channel in client.channels]
        assert sorted([*held, *self.channels._free]) == list(range(_CHANNELS))
        assert all(type(channel) is int for channel in self.channels._free)


_desk = functools.cache(_Desk)


def _value(taken: Bytes, depth: int = 0) -> Any:
    """A field of a message, or something like it."""
    what = taken.number(1) % 8
    if what == 0:
        return __version__
    if what == 1 or depth > 3:
        return [taken.number(1) % 16 for _ in range(taken.number(1) % 16)]
    if what == 2:
        return taken.number(1 + taken.number(1) % 8)
    if what == 3:
        return [_value(taken, depth + 1) for _ in range(taken.number(1) % 4)]
    return [None, True, False, taken.some(5).decode(errors="replace")][what - 4]


def _message(taken: Bytes) -> bytes:
    """A control message: a name and some fields, that fit together or don't."""
    fields = {_FIELDS[taken.number(1) % len(_FIELDS)]: _value(taken) for _ in range(taken.number(1) % 5)}
    return message_saying(**{"type": _TYPES[taken.number(1) % len(_TYPES)], **fields})


def clients(data: bytes) -> None:
    """Whatever two clients say, each channel stays one's, and who breaks the protocol loses his connection."""
    desk, taken = _desk(), Bytes(data)
    ends = [desk.connect() for _ in range(2)]
    while taken:
        how = taken.number(1)
        client, far = ends[how & 1]
        if how & 2:
            raw = taken.some(taken.number(1))
        else:
            raw = (
                encode(Request(taken.number(8), PING if how & 4 else "echo")) if how & 8 else _message(taken)
            )
        if client.connected and raw:
            try:
                far.send(raw)
            except (BlockingIOError, ConnectionError):
                continue
            desk.clients._on_readable(client)
            desk.check()
    for client, far in ends:
        far.close()
        while client.connected:
            desk.clients._on_readable(client)
        for channel in list(client.channels):
            desk.clients.take_back(client, channel)
    desk.check()
    assert not list(desk.clients)
    desk.loop._dropped.clear()


def release() -> None:
    """Let go of what is kept between inputs."""
    if _desk.cache_info().currsize:
        _desk().close()
        _desk.cache_clear()
