"""pyzmq: a REQ socket here, a REP socket there, over ipc."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess

import zmq

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import END, PACKED, RAW, pack, unpack


def _send(connection: zmq.Socket[bytes], data: bytes | zmq.Frame) -> None:
    # Below its threshold pyzmq copies even so, because the bookkeeping of not copying costs more.
    connection.send(data, copy=False)


def _answer(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as connection:
        connection.bind(address)
        raw = False
        while len(message := connection.recv(copy=False)):
            if len(message) == 1:
                raw = message.buffer == RAW
            _send(connection, message if raw else pack(unpack(message.buffer)))
        connection.send(END)


class ReqRep(Peer):
    """One REQ socket and one process with a REP socket."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._process: BaseProcess | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] | None = None
        self._connection: zmq.Socket[bytes] | None = None

    def start(self) -> None:
        address = f"ipc://{self.setup.scratch}/echo.zmq"
        # Forked before there is a context: contexts don't survive a fork.
        self._process = multiprocessing.Process(target=_answer, args=(address,), daemon=True)
        self._process.start()
        self._context = zmq.Context()
        self._connection = self._context.socket(zmq.REQ)
        self._connection.linger = 0
        self._connection.connect(address)

    def call(self, payload: object) -> object:
        assert self._connection is not None
        _send(self._connection, pack(payload))
        return unpack(self._connection.recv(copy=False).buffer)

    def call_raw(self, data: bytes) -> object:
        assert self._connection is not None
        _send(self._connection, data)
        # A view that keeps its message: what came is not copied once more.
        return self._connection.recv(copy=False).buffer

    def carry_raw(self, raw: bool) -> None:
        self.call_raw(RAW if raw else PACKED)

    def stop(self) -> None:
        if self._connection is not None and self._context is not None:
            self._connection.send(END)
            self._connection.recv()
            self._connection.close()
            self._context.term()
            self._connection = None
        if self._process is not None:
            self._process.join()
            self._process.close()
            self._process = None
