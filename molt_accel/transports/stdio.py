"""The stdio transport, client side: a worker process of this client's own, which it talks to by stdin and stdout.

Any number of calls are in flight on one `_Connection`. A call is resolved by the thread that takes it out of the
connection's table: the receiver with the response, `abandon`, or the end of the connection. So a call has one outcome,
and a late response finds no call. A connection that ended is never used again. The next call starts a new worker, and
its frames carry the next connection's number as their generation.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import threading
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import BusyReason, MoltClientClosed, MoltError, MoltWorkerUnavailable
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import FrameError, Item
from molt_accel.ipc.messages import STDIO_FROM_WORKER, BadFrame, Cancel, Request, Response
from molt_accel.ipc.stream import FrameStream
from molt_accel.transports import forks
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.connected import SLACK_S, ConnectedTransport
from molt_accel.transports.connection import BaseConnection, ConnectionState, cancelled_by_close, copy_error
from molt_accel.transports.launcher import how_it_exited, start_stdio_worker

log = logging.getLogger("molt_accel")

_STOP_S: Final = 2.0  #: how long a worker may take to stop, beyond its grace time


class _Connection(BaseConnection):
    """One worker process and the calls in flight on it."""

    def __init__(self, config: Config, number: int) -> None:
        super().__init__(number)
        self.over = threading.Event()  # set when the connection and every call on it have ended
        self._config = config
        self._process = start_stdio_worker(config)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        # The lock guards its sending half.
        self._stream = FrameStream(
            self._stdout.fileno(), self._stdin.fileno(), config.max_frame_bytes, STDIO_FROM_WORKER
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
        # Until its end, even if it takes no calls any more, so that a client never has two workers.
        return self.end_error is None

    def submit(self, request: Request) -> Pending | None:
        """Send a request. Returns None if the connection has ended; then the worker has not got the request."""
        request.generation = self.number
        pending = Pending(request.request_id)
        with self.lock:
            if not self.open:
                return None
            if self._stream.pending_bytes > self._config.max_frame_bytes:
                raise outcomes.busy(BusyReason.UNREAD)
            self._pending[request.request_id] = pending
            sent = False
            try:
                sent = self._send(request)
            finally:
                if not sent:
                    self._pending.pop(request.request_id, None)
        return pending if sent else None

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        with self.lock:
            own = self._pending.get(pending.request_id)
            if own is None or own is not pending:
                return False
            del self._pending[pending.request_id]
            if self.open:
                self._send(Cancel(pending.request_id, self.number))
        own.resolve(error)
        return True

    def _send(self, item: Request | Cancel) -> bool:
        """Send, with the lock held. Returns False if the worker reads no more: it can't have got the whole frame.

        Raises:
            FrameError: the frame is not valid; nothing was sent.
        """
        sent = True
        try:
            self._stream.send(item)
        except FrameError:
            raise
        except BrokenPipeError:
            sent = False
            self.move_to(ConnectionState.DEAF)
        except BaseException:
            # A signal handler raised (Ctrl-C) in the middle. How much was written is not known: nothing can be
            # written behind it, and nothing may be written twice.
            self._process.kill()
            raise
        if self._stream.pending_bytes:
            self._wake()  # to write the rest, or to see that the worker is deaf
        return sent

    def _wake(self) -> None:
        with self.lock, contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._wake_w, b"w")

    def _listen(self) -> MoltError:
        try:
            return self._pump()
        except BaseException:
            self._process.kill()  # nobody would listen to it any more
            raise

    def _pump(self) -> MoltError:
        stream = self._stream
        writing = False
        # Unlike epoll, it has no descriptor of its own, which forked children would inherit.
        poll = select.poll()
        poll.register(stream.read_fd, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while True:
            with self.lock:
                wants_to_write = stream.pending_bytes > 0 and self.open
                if wants_to_write and not writing:
                    poll.register(stream.write_fd, select.POLLOUT)
                elif writing and not wants_to_write:
                    poll.unregister(stream.write_fd)
                writing = wants_to_write
                if self.closing:
                    with forks.close_lock():
                        self._stdin.close()
                deaf = self.state is ConnectionState.DEAF
            ready = poll.poll(SLACK_S * 1000 if deaf else None)
            if not ready and deaf:
                return self._farewell("it closed its stdin")
            for fd, _ in ready:
                if fd == stream.read_fd:
                    got = stream.fill()
                    for item in stream.frames():
                        if isinstance(item, FrameError):
                            self._take_malformed(item)
                        else:
                            self._take(item)
                    if got is None:
                        return self._ended_itself()
                elif fd == self._wake_r:
                    os.read(self._wake_r, 4096)
                else:
                    self._flush()

    def _flush(self) -> None:
        with self.lock:
            try:
                if self.open:
                    self._stream.flush()
            except BrokenPipeError:
                self.move_to(ConnectionState.DEAF)

    def _take(self, item: Item) -> None:
        # Not isinstance(), which takes long where it says no.
        if type(item) is BadFrame:
            log.error("the worker could not read a frame: %s", item.detail)
        elif type(item) is not Response or not item.request_id or item.generation == self.number:
            super()._take(item)  # else it is another connection's

    def _take_malformed(self, error: FrameError) -> None:
        """End the call whose response can't be read. A malformed frame of no call ends the connection."""
        own = error.raw_id and error.raw_generation == self.number
        with self.lock:
            pending = self._pending.pop(error.raw_id, None) if own else None
        if pending is None:
            raise error
        pending.resolve(copy_error(error))

    def _ended_itself(self) -> MoltError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(SLACK_S)
        code = self._exit_code
        return self._farewell("it closed its stdout" if code is None else how_it_exited(code))

    @property
    def _exit_code(self) -> int | None:
        """The worker's exit code; None: it lives, or nobody knows, because this process ignores SIGCHLD."""
        unknown = signal.getsignal(signal.SIGCHLD) is signal.SIG_IGN
        return None if unknown else self._process.returncode

    def _end(self, error: MoltError) -> None:
        with self.lock:
            # A worker that exits with 0 has drained: it has answered all that it read, and never read what is left.
            self._note_end(error, drained=self.was_ready and self._exit_code == 0)
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
        with self.lock, forks.close_lock():
            self._stdin.close()
            self._stdout.close()
            for fd in (self._wake_r, self._wake_w):
                with contextlib.suppress(OSError):
                    os.close(fd)
            self._wake_r = self._wake_w = -1

    def close(self) -> None:
        """Close the worker's stdin, which stops it, and wait until it has stopped."""
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
    """The `Transport` that starts a worker at the first call, and again after it died."""

    shares_worker = False

    @property
    def patience_s(self) -> float:
        return self._config.grace_ms / 1000 + SLACK_S

    def start(self) -> None:
        connection = self._connection
        if connection is not None and not connection.open:
            if self._closed:
                raise MoltClientClosed
            # The worker died just now. Once the receiver thread has noted that, a new one can be started.
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
        return connection is not None and connection.abandon(pending, error)

    def close(self) -> None:
        # Wait for a start, which is short: its worker must be gone when this returns.
        with forks.start_lock():
            self._closed = True
        super().close()
