"""What the calls are held against: NATS' own request and reply, and one byte over TCP."""

from __future__ import annotations

import asyncio
import importlib
import socket
from importlib.util import find_spec

from nats.aio.client import Client as NatsClient

from bench.cluster.names import LINK_PORT_BEHIND, SUBJECT, UVLOOP_SUBJECT
from bench.micro.peers.base import Peer, Setup
from bench.micro.peers.looped import Looped
from bench.micro.wire import pack

_PATIENCE_S = 30.0


class Nats(Looped):
    """nats-py, bytes that were packed before."""

    subject = SUBJECT

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._client = NatsClient()
        self._packed: tuple[object, bytes] = (None, b"")

    async def astart(self) -> None:
        await self._client.connect(self.setup.at)

    async def acall(self, payload: object) -> object:
        if self._packed[0] is not payload:
            self._packed = (payload, pack(payload))
        answer = await self._client.request(self.subject, self._packed[1], timeout=_PATIENCE_S)
        return payload if answer.data == self._packed[1] else answer.data

    async def astop(self) -> None:
        if self._client.is_connected:
            await self._client.close()


class NatsOnUvloop(Nats):
    """The same on uvloop, whose absence makes the row unavailable."""

    subject = UVLOOP_SUBJECT

    def new_loop(self) -> asyncio.AbstractEventLoop:
        loop: asyncio.AbstractEventLoop = importlib.import_module("uvloop").new_event_loop()
        return loop

    def available(self) -> str | None:
        return None if find_spec("uvloop") else "uvloop isn't installed"


class Link(Peer):
    """A byte there and back over TCP: what the network itself takes. It has one connection, and so one caller."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._socket: socket.socket | None = None

    def start(self) -> None:
        host, _, port = self.setup.at.rpartition("/")[2].partition(":")
        self._socket = socket.create_connection((host, int(port) + LINK_PORT_BEHIND), _PATIENCE_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def call(self, payload: object) -> object:
        assert self._socket is not None
        self._socket.sendall(b"x")
        return payload if self._socket.recv(1) == b"x" else None

    def stop(self) -> None:
        if self._socket is not None:
            self._socket.close()
