"""How requests reach an executor, and answers leave it: the side of a transport that an executor sees.

The executor's loop is the same for all transports. An endpoint is made in the executor's process, after the fork.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from typing import Protocol

from molt_accel.ipc.frame import Fault, FrameError, Item
from molt_accel.ipc.messages import Hello, Request, Response
from molt_accel.ipc.stream import FrameStream
from molt_worker.entrypoints.runner import too_large


class Endpoint(Protocol):
    """An executor's way to requests. Its calls block, and they raise BrokenPipeError if nobody is at the other end."""

    #: What the stop word calls the request that was received last: a number from 1 on that no recent request had.
    serial: int

    def announce(self) -> None:
        """Say that the executor is ready."""

    def receive(self) -> Request | FrameError | None:
        """The next request, or what is wrong with it; None: the executor must exit."""

    def answer(self, request: Request, response: Response) -> None:
        """Send the response to a request."""


#: Makes an executor's endpoint from its socket, number and slot. It is called in the executor.
MakeEndpoint = Callable[[socket.socket, int, int], Endpoint]


class SocketEndpoint:
    """Requests come through the executor's blocking socket, from a supervisor that has parsed them before."""

    def __init__(self, sock: socket.socket, max_frame_bytes: int) -> None:
        self._sock = sock  # kept open by this reference
        self._stream = FrameStream(sock.fileno(), sock.fileno(), max_frame_bytes)
        self.serial = 0
        self._received: deque[Item | FrameError] = deque()

    def announce(self) -> None:
        self._stream.send(Hello())

    def receive(self) -> Request | None:
        while not self._received:
            if self._stream.fill() is None:
                return None
            self._received.extend(self._stream.frames())
        item = self._received.popleft()
        if isinstance(item, Request):
            self.serial = item.generation  # on this socket the supervisor's number of the request
            return item
        # The supervisor sends only requests that it has parsed, so this is a bug.
        raise item if isinstance(item, FrameError) else FrameError(Fault.KIND, "it is no request")

    def answer(self, request: Request, response: Response) -> None:
        try:
            self._stream.send(response)
        except FrameError as exc:
            if exc.fault is not Fault.TOO_LARGE:
                raise
            self._stream.send(too_large(request, response, exc))
