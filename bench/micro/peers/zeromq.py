"""pyzmq: a REQ socket here, a REP socket there, over ipc."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess

import zmq

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import pack, unpack

_END = b""


def _send(connection: zmq.Socket[bytes], data: bytes) -> None:
    # Below its threshold pyzmq copies even so, because the bookkeeping of not copying costs more.
    connection.send(data, copy=False)


def _answer(address: str) -> None:
    with zmq.Context() as context, context.socket(zmq.REP) as connection:
        connection.bind(address)
        while (data := connection.recv(copy=False).buffer) != _END:
            _send(connection, pack(unpack(data)))
        connection.send(_END)


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

    def stop(self) -> None:
        if self._connection is not None and self._context is not None:
            self._connection.send(_END)
            self._connection.recv()
            self._connection.close()
            self._context.term()
            self._connection = None
        if self._process is not None:
            self._process.join()
            self._process.close()
            self._process = None
