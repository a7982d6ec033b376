"""The stdio transport, client side: a worker process of one's own, spoken to through its stdin and stdout.

Any number of calls are in flight on one `_Connection`. Whoever takes a call out of the connection's table (the
receiver thread with its response, `abandon`, or the connection's end) is the one who resolves it, so a call has
one outcome and a late response finds nobody. A connection that ended is never used again; the next call starts a
new worker, whose frames carry the next generation.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import selectors
import signal
import subprocess
import threading
import time
import weakref
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
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
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.launcher import RestartPolicy, start_stdio_worker

log = logging.getLogger("molt_accel")

#: How long past deadline and grace an answer may take before this side gives up on it.
_SLACK_S: Final = 0.25
#: How long a worker that was told to stop may take, beyond its grace time.
_STOP_S: Final = 2.0


def _exit_text(process: subprocess.Popen[bytes]) -> str:
    code = process.returncode
    if code is None:
        return "it closed its stdout"
    if code >= 0:
        return f"it exited with code {code}"
    names = {int(known): f" ({known.name})" for known in signal.Signals}  # real-time signals have none
    return f"it was killed by signal {-code}{names.get(-code, '')}"


class _Connection:
    """One worker process and the calls in flight on it."""

    def __init__(self, config: Config, generation: int) -> None:
        self.generation = generation
        self.started_s = time.monotonic()
        self.greeted = threading.Event()  # set by the worker's greeting and by the connection's end
        self.over = threading.Event()  # set when the connection has ended and every call on it with it
        self.ended: MoltError | None = None
        self.ended_s = 0.0
        self.was_ready = False
        self.drained = False  # it ended by itself, with nothing left to answer
        self._config = config
        # Guards _pending, the sending half of _stream, and ended. Reentrant, because a signal handler or the
        # garbage collector may close the client on a thread that holds it.
        self._lock = threading.RLock()
        self._pending: dict[int, Pending] = {}
        self._fatal = ""
        self._closing = False
        self._deaf = False  # the worker closed its stdin: nothing can be sent any more
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
        self.receiver = threading.Thread(target=self._receive, name="molt-receiver", daemon=True)
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
    def takes_requests(self) -> bool:
        """Whether a request can be sent, as far as is known."""
        return self.ended is None and not self._closing and not self._deaf

    # -- calls ------------------------------------------------------------------------------------------

    def submit(self, request: Request) -> Pending | None:
        """Send a request; None if the connection has ended, and then the worker has not got it."""
        request.generation = self.generation
        pending = Pending(request.request_id, self.generation)
        with self._lock:
            if not self.takes_requests:
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
        with self._lock:
            pending = self._pending.pop(request_id, None)
            if pending is None:
                return False
            if self.takes_requests:
                self._send(Cancel(request_id, self.generation))
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
            self._deaf = True
            return False
        except BaseException:
            # A signal handler raised (Ctrl-C) in the middle of it. How much was written is not known, so
            # nothing can be written behind it, and what was may not be written twice.
            self._process.kill()
            raise
        return True

    # -- the receiver thread ----------------------------------------------------------------------------

    def _wake(self) -> None:
        with self._lock, contextlib.suppress(OSError):  # full: it is awake; closed: it has ended
            os.write(self._wake_w, b"w")

    def _receive(self) -> None:
        error: MoltError
        try:
            error = self._pump()
        except MoltProtocolError as exc:
            log.error("the worker broke the protocol and is stopped: %s", exc)
            self._process.kill()
            error = exc
        except Exception as exc:  # a bug here must end the calls in flight, not leave them waiting
            log.exception("the receiver failed; the worker is stopped")
            self._process.kill()
            error = MoltWorkerUnavailable(f"the connection failed: {type(exc).__name__}")
        self._end(error)

    def _pump(self) -> MoltError:
        """Move frames until the worker closes its end; returns what that means for the calls in flight."""
        stream = self._stream
        writing = False
        # Unlike epoll, poll has no descriptor of its own, which forked children would inherit.
        with selectors.PollSelector() as selector:
            selector.register(stream.read_fd, selectors.EVENT_READ)
            selector.register(self._wake_r, selectors.EVENT_READ)
            while True:
                with self._lock:
                    if self._closing and self._process.stdin is not None and not self._process.stdin.closed:
                        if writing:
                            selector.unregister(stream.write_fd)
                            writing = False
                        self._process.stdin.close()
                    want = stream.pending_bytes > 0 and not self._closing and not self._deaf
                if want != writing:
                    if want:
                        selector.register(stream.write_fd, selectors.EVENT_WRITE)
                    else:
                        selector.unregister(stream.write_fd)
                    writing = want
                ready = selector.select(_SLACK_S if self._deaf else None)
                if not ready and self._deaf:
                    return MoltWorkerUnavailable("the worker is gone: it closed its stdin")
                for key, _ in ready:
                    if key.fd == stream.read_fd:
                        got = stream.fill()
                        for item in stream.frames():
                            self._take(item)
                        if got is None:
                            return self._farewell()
                    elif key.fd == stream.write_fd:
                        with self._lock:
                            try:
                                if not self._closing:
                                    stream.flush()
                            except BrokenPipeError:
                                self._deaf = True
                    else:
                        os.read(self._wake_r, 4096)

    def _take(self, item: Item | FrameError) -> None:
        if isinstance(item, Response) and item.request_id:
            if item.generation != self.generation:
                return  # another connection's
            with self._lock:
                pending = self._pending.pop(item.request_id, None)
            if pending is not None:  # else it is late: the call has ended on this side
                pending.resolve(item)
        elif isinstance(item, FrameError):
            self._take_malformed(item)
        elif isinstance(item, Hello):
            self.was_ready = True
            self.greeted.set()
        elif isinstance(item, StartFailed):
            self._fatal = from_wire(Status.INTERNAL_ERROR, item.error).detail
        elif isinstance(item, BadFrame):
            log.error("the worker could not read a frame: %s", item.detail)
        else:
            raise MoltProtocolError(f"unexpected {type(item).__name__} from the worker")

    def _take_malformed(self, error: FrameError) -> None:
        """One call's response can't be read: that call's error. A frame that is nobody's ends the connection."""
        with self._lock:
            pending = self._pending.pop(error.raw_id, None) if error.raw_id else None
        if pending is None or error.raw_generation != self.generation:
            raise error
        pending.resolve(_copy(error))

    def _farewell(self) -> MoltError:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_SLACK_S)
        if self._closing:
            return MoltCancelled("the client was closed")
        if self._fatal:
            return MoltWorkerUnavailable(f"the worker can't start: {self._fatal}")
        return MoltWorkerUnavailable(f"the worker is gone: {_exit_text(self._process)}")

    def _resolve_all(self, error: MoltError) -> None:
        with self._lock:
            left = list(self._pending.values())
            self._pending.clear()
        for pending in left:
            pending.resolve(_copy(error))

    def _end(self, error: MoltError) -> None:
        # A worker that drained has answered all that it read, so what is left here it never read.
        self.drained = self.was_ready and self._process.returncode == 0
        if isinstance(error, MoltWorkerUnavailable) and self.was_ready and not self.drained:
            error.facts["may_have_run"] = 1
        with self._lock:
            self.ended_s = time.monotonic()
            self.ended = error
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
        with self._lock:
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
        with self._lock:
            self._closing = True
        self._resolve_all(MoltCancelled("the client was closed"))
        self._wake()
        if self.receiver is not threading.current_thread():
            self.receiver.join(self._config.grace_ms / 1000 + 2 * _STOP_S)
            if self.receiver.is_alive():
                self._process.kill()
                self.receiver.join(_STOP_S)

    def forget(self) -> None:
        """In a forked child: let go of the parent's worker without a word to it."""
        self._lock = threading.RLock()  # its holder may not exist in this process
        self._close_pipes()
        self._process.returncode = 0  # not this process's child: nothing to reap here


def _copy(error: MoltError) -> MoltError:
    """Each caller raises an exception object of its own: tracebacks must not pile up on a shared one."""
    cls = MoltProtocolError if isinstance(error, FrameError) else type(error)
    return cls(error.detail, facts=error.facts)


class StdioTransport:
    """Starts a worker at the first call and again when it died; see `molt_accel.transports.base.Transport`."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._closed = False
        self._generation = 0
        self._connection: _Connection | None = None
        self._policy = RestartPolicy()
        _transports.add(self)

    @property
    def ready(self) -> bool:
        connection = self._connection
        return connection is not None and connection.ended is None

    @property
    def patience_s(self) -> float:
        return self._config.grace_ms / 1000 + _SLACK_S

    def start(self) -> None:
        connection = self._connection
        if connection is not None and not connection.takes_requests:
            if self._closed:
                raise MoltWorkerUnavailable("the client is closed")
            # It died unnoticed till now. Its receiver is about to say so; then there is a new one to start.
            connection.over.wait(2 * _SLACK_S)
        self._ready_connection()

    def _ready_connection(self) -> _Connection:
        connection = self._connection
        if connection is not None and connection.ended is None:
            return connection
        greenlets.check_for_pipes()
        with _start_lock:
            if self._closed:
                raise MoltWorkerUnavailable("the client is closed")
            connection = self._connection
            if connection is not None:
                if connection.ended is None:
                    return connection  # another thread has started it
                lived_s = math.inf if connection.drained else connection.ended_s - connection.started_s
                self._policy.died(
                    connection.ended_s, lived_s, connection.ended.detail, was_ready=connection.was_ready
                )
                self._connection = None
            now = time.monotonic()
            self._policy.check(now)
            self._generation += 1
            try:
                connection = self._connection = _Connection(self._config, self._generation)
            except MoltWorkerUnavailable as exc:
                self._policy.died(now, 0.0, exc.detail, was_ready=False)
                raise
            if self._closed:  # by a signal handler on this thread, which found no connection to close
                connection.close()
                raise MoltWorkerUnavailable("the client is closed")
            return connection

    def submit(self, request: Request) -> Pending | None:
        connection = self._connection
        return None if connection is None else connection.submit(request)

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        connection = self._connection
        if connection is None or connection.generation != pending.generation:
            return False  # its connection has ended, and with it the call
        return connection.abandon(pending.request_id, error)

    def wait_ready(self, timeout_s: float) -> None:
        connection = self._ready_connection()
        if not connection.greeted.wait(timeout_s):
            raise MoltWorkerUnavailable(f"the worker was not ready within {timeout_s:g} s")
        if connection.ended is not None:
            raise _copy(connection.ended)

    def close(self) -> None:
        with _start_lock:
            self._closed = True
            connection = self._connection
        if connection is not None:
            connection.close()

    def after_fork_in_child(self) -> None:
        """Forget the parent's worker; the next call starts one of this process's own."""
        self._policy = RestartPolicy()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.forget()


_transports: Final[weakref.WeakSet[StdioTransport]] = weakref.WeakSet()
# Held while a worker is started, and by a fork: the pipes of a worker that is being started just then are
# known to nobody who could close them in the child. Reentrant, because a signal handler or the garbage
# collector may fork or close a client on a thread that holds it.
_start_lock = threading.RLock()


def _after_fork_in_child() -> None:
    global _start_lock
    _start_lock = threading.RLock()
    for transport in list(_transports):
        transport.after_fork_in_child()


os.register_at_fork(
    before=lambda: _start_lock.acquire(),
    after_in_parent=lambda: _start_lock.release(),
    after_in_child=_after_fork_in_child,
)
