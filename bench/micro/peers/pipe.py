"""multiprocessing.Pipe with one forked process at the other end, or several, with a lock for each."""

from __future__ import annotations

import multiprocessing
import os
import threading
from itertools import count
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import END, PACKED, RAW, pack, unpack


def _answer_bytes(connection: Connection) -> None:
    raw = False
    while len(data := connection.recv_bytes()):
        if len(data) == 1:
            raw = data == RAW
        connection.send_bytes(data if raw else pack(unpack(data)))


def _answer_in_own_session(connection: Connection) -> None:
    os.setsid()
    _answer_bytes(connection)


def _answer_objects(connection: Connection) -> None:
    while (value := connection.recv()) != END:
        connection.send(value)


class BytesPipe(Peer):
    """`send_bytes` of the object's msgpack bytes, or of bytes as they are."""

    answer = staticmethod(_answer_bytes)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._processes: list[BaseProcess] = []
        self._connections: list[Connection] = []
        self._locks: list[threading.Lock] = []
        # With one process there is nothing to share; of several, each thread keeps to one, as many to each.
        self._only: Connection | None = None
        self._numbers = count()
        self._of_thread = threading.local()

    def start(self) -> None:
        for _ in range(self.setup.workers):
            near, far = multiprocessing.Pipe()
            process = multiprocessing.Process(target=self.answer, args=(far,), daemon=True)
            process.start()
            far.close()
            self._processes.append(process)
            self._connections.append(near)
            self._locks.append(threading.Lock())
        if self.setup.workers == 1:
            self._only = self._connections[0]

    def call(self, payload: object) -> object:
        if self._only is not None:
            return self.exchange(self._only, payload)
        mine = self._of_thread.__dict__.get("place")
        if mine is None:
            mine = self._of_thread.place = next(self._numbers) % len(self._connections)
        with self._locks[mine]:
            return self.exchange(self._connections[mine], payload)

    def exchange(self, connection: Connection, payload: object) -> object:
        """One call over one connection."""
        connection.send_bytes(pack(payload))
        return unpack(connection.recv_bytes())

    def call_raw(self, data: bytes) -> object:
        # Measured with one caller only, so the first connection is always free.
        connection = self._connections[0]
        connection.send_bytes(data)
        return connection.recv_bytes()

    def carry_raw(self, raw: bool) -> None:
        self.call_raw(RAW if raw else PACKED)

    def end(self, connection: Connection) -> None:
        """Tells the other process to end. Closing is not enough: it may hold copies of other connections."""
        connection.send_bytes(END)

    def stop(self) -> None:
        for connection in self._connections:
            self.end(connection)
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.join()
            process.close()
            connection.close()
        self._processes.clear()
        self._connections.clear()
        self._locks.clear()


class OwnPipe(BytesPipe):
    """The same, but the process at the other end is in a session of its own."""

    answer = staticmethod(_answer_in_own_session)


class PicklePipe(BytesPipe):
    """`send` of the object, which pickles it."""

    answer = staticmethod(_answer_objects)

    def exchange(self, connection: Connection, payload: object) -> object:
        """One call over one connection."""
        connection.send(payload)
        value: object = connection.recv()
        return value

    def end(self, connection: Connection) -> None:
        """Tells the process at the other end to end."""
        connection.send(END)
