"""A Unix stream socket with a length before each message, as one writes it without any library."""

from __future__ import annotations

import multiprocessing
import socket
import struct
from multiprocessing.process import BaseProcess

from bench.micro.peers.base import Peer, Setup
from bench.micro.wire import PACKED, RAW, pack, unpack

_LENGTH = struct.Struct("<I")
_COPY_BELOW = 64 * 1024


def _send(connection: socket.socket, data: bytes | bytearray) -> None:
    length = _LENGTH.pack(len(data))
    if len(data) < _COPY_BELOW:
        # One system call; the copy costs less than a second one.
        connection.sendall(length + data)
    else:
        connection.sendall(length)
        connection.sendall(data)


def _receive(connection: socket.socket) -> bytearray | None:
    """The next message, or None at the end of the stream."""
    head = connection.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        return None
    (length,) = _LENGTH.unpack(head)
    data = bytearray(length)
    with memoryview(data) as view:
        place = 0
        while place < length:
            got = connection.recv_into(view[place:])
            if not got:
                return None
            place += got
    return data


def _serve(near: socket.socket, listener: socket.socket) -> None:
    # Inherited by the fork; held here as well, the stream would never end.
    near.close()
    with listener:
        connection, _ = listener.accept()
    raw = False
    with connection:
        while (data := _receive(connection)) is not None:
            if len(data) == 1:
                raw = data == RAW
            _send(connection, data if raw else pack(unpack(data)))


class UnixSocket(Peer):
    """One connection to one process that listens on a path."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._process: BaseProcess | None = None

    def start(self) -> None:
        path = str(self.setup.scratch / "echo.sock")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(path)
            listener.listen(1)
            self._process = multiprocessing.Process(
                target=_serve, args=(self._connection, listener), daemon=True
            )
            self._process.start()
        self._connection.connect(path)

    def call(self, payload: object) -> object:
        return unpack(self.call_raw(pack(payload)))

    def call_raw(self, data: bytes) -> object:
        _send(self._connection, data)
        answer = _receive(self._connection)
        if answer is None:
            raise ConnectionError("the other end is gone")
        return answer

    def carry_raw(self, raw: bool) -> None:
        self.call_raw(RAW if raw else PACKED)

    def stop(self) -> None:
        self._connection.close()
        if self._process is not None:
            self._process.join()
            self._process.close()
            self._process = None
