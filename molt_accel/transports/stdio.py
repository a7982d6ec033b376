"""The stdio transport, client side: a worker process of one's own, spoken to through its stdin and stdout.

Any number of calls are in flight on one `_Connection`. Whoever takes a call out of the connection's table (the
receiver thread with its response, `abandon`, or the connection's end) is the one who resolves it, so a call has
one outcome and a late response finds nobody. A connection that ended is never used again; the next call starts a
new worker, and its frames carry the next connection's number as their generation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import subprocess
import threading
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltClientClosed,
    MoltError,
    MoltProtocolError,
    MoltWorkerUnavailable,
    Status,
    from_wire,
)
from molt_accel.ipc.frame import FrameError, Item
from molt_accel.ipc.messages import (
    STDIO_FROM_WORKER,
    BadFrame,
    Cancel,
    Hello,
    Request,
    Response,
    StartFailed,
)
from molt_accel.ipc.stream import FrameStream
from molt_accel.transports import forks
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.connected import SLACK_S, ConnectedTransport
from molt_accel.transports.connection import (
    BaseConnection,
    ConnectionState,
    cancelled_by_close,
    copy_error,
)
from molt_accel.transports.launcher import how_it_exited, start_stdio_worker

log = logging.getLogger("molt_accel")

#: How long a worker that was told to stop may take, beyond its grace time.
_STOP_S: Final = 2.0


class _Connection(BaseConnection):
    """One worker process and the calls in flight on it."""

    def __init__(self, config: Config, number: int) -> None:
        super().__init__(number)
        self.over = threading.Event()  # set when the connection has ended and every call on it with it
        self._config = config
        self._pending: dict[int, Pending] = {}  # guarded by the lock, as is the sending half of _stream
        self._process = start_stdio_worker(config)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stream = FrameStream(
            self._process.stdout.fileno(),
            self._process.stdin.fileno(),
            config.max_frame_bytes,
            STDIO_FROM_WORKER,
        )
        self._wake_r = self._wake_w = -1
        self.receiver = threading.Thread(target=self._attend, name="molt-receiver", daemon=True)
        try:
            self._wake_r, self._wake_w = os.pipe()
            os.set_blocking(self._wake_w, False)
            self.receiver.start()
        except (OSError, RuntimeError) as exc:  # no more descriptors or threads are allowed
            self._process.kill()
            self._process.wait()
            self._close_pipes()
            raise MoltWorkerUnavailable(f"can't attend to a worker: {exc}") from exc

    @property
    def usable(self) -> bool:
        # Until its end: its successor is started only then, so that a client has one worker.
        return self.end_error is None

    # -- calls ------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Pending | None:
        """Send a request; None if the connection has ended, and then the worker has not got it."""
        request.generation = self.number
        pending = Pending(request.request_id, self.number)
        with self.lock:
            if not self.open:
                return None
            if self._stream.pending_bytes > self._config.max_frame_bytes:
                raise MoltBusy("the worker doesn't take requests as fast as they come")
            self._pending[request.request_id] = pending
            try:
                sent = self._send(request)
            except BaseException:
                self._pending.pop(request.request_id, None)
                raise
            if not sent:
                self._pending.pop(request.request_id, None)
            unsent = self._stream.pending_bytes
        if unsent:
            self._wake()
        return pending if sent else None

    def abandon(self, request_id: int, error: MoltError) -> bool:
        with self.lock:
            pending = self._pending.pop(request_id, None)
            if pending is None:
                return False
            if self.open:
                self._send(Cancel(request_id, self.number))
            unsent = self._stream.pending_bytes
        if unsent:
            self._wake()
        pending.resolve(error)
        return True

    def _send(self, item: Request | Cancel) -> bool:
        """Send, with the lock held. False if the worker reads no more: it can't have got the whole frame.

        Raises:
            FrameError: the frame is not valid; nothing was sent.
        """
        try:
            self._stream.send(item)
        except FrameError:
            raise
        except BrokenPipeError:
            self.move_to(ConnectionState.DEAF)
            return False
        except BaseException:
            # A signal handler raised (Ctrl-C) in the middle of it. How much was written is not known, so
            # nothing can be written behind it, and what was may not be written twice.
            self._process.kill()
            raise
        return True

    # -- the receiver thread ----------------------------------------------------------------------------

    def _wake(self) -> None:
        with self.lock, contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._wake_w, b"w")

    def _listen(self) -> MoltError:
        try:
            return self._pump()
        except BaseException:
            self._process.kill()  # it would go on without anybody who listens
            raise

    def _pump(self) -> MoltError:
        stream = self._stream
        writing = False
        # Unlike epoll, poll has no descriptor of its own, which forked children would inherit.
        with selectors.PollSelector() as selector:
            selector.register(stream.read_fd, selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while True:
                with self.lock:
                    if self.closing and self._process.stdin is not None and not self._process.stdin.closed:
                        if writing:
                            selector.unregister(stream.write_fd)
                            writing = False
                        self._process.stdin.close()
                    want = stream.pending_bytes > 0 and self.open
                    deaf = self.state is ConnectionState.DEAF
                if want != writing:
                    if want:
                        selector.register(stream.write_fd, selectors.EVENT_WRITE)
                    else:
                        selector.unregister(stream.write_fd)
                    writing = want
                ready = selector.select(SLACK_S if deaf else None)
                if not ready and deaf:
                    return MoltWorkerUnavailable("the worker is gone: it closed its stdin")
                for key, _ in ready:
                    if key.fd == stream.read_fd:
                        got = stream.fill()
                        for item in stream.frames():
                            self._take(item)
                        if got is None:
                            return self._ended_itself()
                    elif key.fd == stream.write_fd:
                        with self.lock:
                            try:
                                if self.open:
                                    stream.flush()
                            except BrokenPipeError:
                                self.move_to(ConnectionState.DEAF)
                    else:
                        os.read(self._wake_r, 4096)

    def _take(self, item: Item | FrameError) -> None:
        if isinstance(item, Response) and item.request_id:
            if item.generation != self.number:
                return  # another connection's
            with self.lock:
                pending = self._pending.pop(item.request_id, None)
            if pending is not None:  # else it is late: the call has ended on this side
                pending.resolve(item)
        elif isinstance(item, FrameError):
            self._take_malformed(item)
        elif isinstance(item, Hello):
            self.was_ready = True
            self.greeted.set()
        elif isinstance(item, StartFailed):
            self._start_failure = from_wire(Status.INTERNAL_ERROR, item.error).detail
        elif isinstance(item, BadFrame):
            log.error("the worker could not read a frame: %s", item.detail)
        else:
            raise MoltProtocolError(f"unexpected {type(item).__name__} from the worker")

    def _take_malformed(self, error: FrameError) -> None:
        """One call's response can't be read: that call's error. A frame that is nobody's ends the connection."""
        with self.lock:
            pending = self._pending.pop(error.raw_id, None) if error.raw_id else None
        if pending is None or error.raw_generation != self.number:
            raise error
        pending.resolve(copy_error(error))

    def _ended_itself(self) -> MoltError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SLACK_S)
        code = self._process.returncode
        return self._farewell("it closed its stdout" if code is None else how_it_exited(code))

    def _resolve_all(self, error: MoltError) -> None:
        with self.lock:
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            pending.resolve(copy_error(error))

    def _end(self, error: MoltError) -> None:
        with self.lock:
            # A worker that exits with 0 has drained: it has answered all that it read, so what is left it never read.
            self._note_end(error, drained=self.was_ready and self._process.returncode == 0)
        self._resolve_all(error)
        self.over.set()
        self.greeted.set()
        self._close_pipes()
        try:
            self._process.wait(self._config.grace_ms / 1000 + _STOP_S)
        except subprocess.TimeoutExpired:
            log.warning("worker %d didn't stop in time and is killed", self._process.pid)
            self._process.kill()
            self._process.wait()

    def _close_pipes(self) -> None:
        with self.lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.close()
            self._process.stdout.close()
            for fd in (self._wake_r, self._wake_w):
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._wake_r = self._wake_w = -1

    # -- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        """Close the worker's stdin, which stops it, and wait for that."""
        self.move_to(ConnectionState.CLOSING)
        self._resolve_all(cancelled_by_close())
        self._wake()
        if self.receiver is not threading.current_thread():
            self.receiver.join(self._config.grace_ms / 1000 + 2 * _STOP_S)
            if self.receiver.is_alive():
                self._process.kill()
                self.receiver.join(_STOP_S)

    def forget(self) -> None:
        self.lock = threading.RLock()  # its holder may not exist in this process
        self.move_to(ConnectionState.FORGOTTEN)
        self._close_pipes()
        self._process.returncode = 0  # not this process's child: nothing to reap here


class StdioTransport(ConnectedTransport[_Connection]):
    """Starts a worker at the first call and again when it died; see `molt_accel.transports.base.Transport`."""

    shares_worker = False

    @property
    def patience_s(self) -> float:
        return self._config.grace_ms / 1000 + SLACK_S

    def start(self) -> None:
        connection = self._connection
        if connection is not None and not connection.open:
            if self._closed:
                raise MoltClientClosed
            # It died unnoticed till now. Its receiver is about to say so; then there is a new one to start.
            connection.over.wait(2 * SLACK_S)
        self._ready_connection()

    def _ready_connection(self) -> _Connection:
        if not self.ready:
            greenlets.check_for_pipes()
        return super()._ready_connection()

    def _connect(self, number: int) -> _Connection:
        return _Connection(self._config, number)

    def submit(self, request: Request) -> Pending | None:
        connection = self._connection
        return None if connection is None else connection.submit(request)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        connection = self._connection
        if connection is None or connection.number != pending.connection_number:
            return False  # its connection has ended, and with it the call
        return connection.abandon(pending.request_id, error)

    def close(self) -> None:
        with forks.start_lock():  # a start is short here, and what it makes must be gone when this returns
            self._closed = True
        super().close()
