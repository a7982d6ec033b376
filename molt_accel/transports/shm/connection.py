"""One attachment to a pool: its control socket, the mapped arena, and a thread that notices the worker's end.

Requests and replies never pass through here. The socket carries what happens beside them: channels granted,
cancels, pings, and the end of file by which the kernel tells that the worker is gone.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import Final

from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltError,
    MoltProtocolError,
    MoltWorkerUnavailable,
    Status,
    from_wire,
)
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import (
    SHM_FROM_WORKER,
    CancelChannel,
    Detach,
    Draining,
    Grant,
    Hello,
    Lease,
    Message,
    Recall,
    Request,
    Response,
    Return,
    StartFailed,
)
from molt_accel.ipc.shm.attach import ANSWER_S, handshake
from molt_accel.ipc.shm.layout import Gauge, SlotGauge
from molt_accel.transports.base import Pending
from molt_accel.transports.connection import BaseConnection, ConnectionState, copy_error
from molt_accel.transports.shm.channels import BATCH, ChannelPool
from molt_accel.transports.shm.completion import CompletionThread

log = logging.getLogger("molt_accel")

#: How long `close` waits for threads in the middle of a call to leave.
_QUIET_S: Final = 1.0


class Connection(BaseConnection):
    """An attachment to a pool.

    Args:
        config: The client's configuration.
        sock: A control socket that is connected to the pool's worker.
        number: Which of its transport's connections it is.

    Raises:
        MoltWorkerUnavailable: the worker refused, or this process can't attend to it.
    """

    def __init__(self, config: Config, sock: socket.socket, number: int) -> None:
        super().__init__(number)
        self._sock = sock
        self._pings: dict[int, Pending] = {}
        self._leasing = threading.Lock()  # one asks, the others wait for what it gets
        self._granted = threading.Event()
        self._granted_none = False  # the last answer's
        self._quiet = threading.Event()  # closing, and no call is under way any more
        self._completion_thread: CompletionThread | None = None
        self.arena, grant = handshake(sock)
        # As the worker says, and not as the arena does: others may have scribbled over that.
        self.arena.client_spinners = grant.client_spinners
        self.arena.spin_ns = grant.spin_ns if config.spin_us is None else config.spin_us * 1000
        self.max_frame_bytes = min(config.max_frame_bytes, grant.max_frame_bytes)
        self.max_wait_ms: int = grant.max_wait_ms
        self.grace_ms: int = grant.grace_ms
        self.capacity: int = grant.capacity
        self.worker_started_s = self.arena.gauge(Gauge.STARTED_NS) / 1e9
        self.channels = ChannelPool(self.arena, self.max_frame_bytes)
        if grant.channels:  # else other clients hold all; they may return some, so the first call asks again
            self.channels.add(grant.channels)
        failpoint("client.attached")
        self.monitor = threading.Thread(target=self._attend, name="molt-monitor", daemon=True)
        try:
            self.monitor.start()
        except RuntimeError as exc:  # no more threads are allowed
            raise MoltWorkerUnavailable(f"can't attend to a worker: {exc}") from exc

    # -- what calls need --------------------------------------------------------------------------------

    def cancel(self, channel: int, generation: int) -> None:
        """Have the supervisor stop a request that was ABANDONED."""
        # Lost only with the worker itself, or where it reads nothing just now; it sees that by itself, once a second.
        with contextlib.suppress(OSError):
            self._send(CancelChannel(channel, generation))

    def ping(self, request: Request) -> Pending | None:
        """Send a request that the supervisor answers itself; None if the connection has ended."""
        pending = Pending(request.request_id, self.number)
        with self.lock:
            if not self.open:
                return None
            self._pings[request.request_id] = pending
            try:
                self._send(request)
            except BlockingIOError as exc:
                del self._pings[request.request_id]
                raise MoltWorkerUnavailable("the worker doesn't listen") from exc
            except OSError:
                del self._pings[request.request_id]
                self.move_to(ConnectionState.DEAF)
                return None
        return pending

    def forget_ping(self, pending: Pending) -> bool:
        """Take a ping out of the table; False if it has an outcome, or is another connection's."""
        with self.lock:
            known = self._pings.pop(pending.request_id, None) is not None
        if known and not self.open:
            self.call_ended()
        return known

    def lease_more(self) -> None:
        """See to it that a channel is free, if it can be.

        Raises:
            MoltBusy: there are none left.
        """
        with self._leasing:
            if not self.channels.wants_more:
                return  # another thread has got some
            self._granted_none = False
            self._granted.clear()
            with contextlib.suppress(OSError):
                self._send(Lease(BATCH))
                failpoint("client.leasing")
                if not self._granted.wait(ANSWER_S):
                    self.channels.refused()
            if self.open and self._granted_none:
                raise MoltBusy("the worker has no channel left for this client", facts={"retry_after_s": 1})

    @property
    def completion_thread(self) -> CompletionThread:
        """The thread that waits for the calls of event loops."""
        with self.lock:
            if self._completion_thread is None:
                self._completion_thread = CompletionThread(self.channels.set_aside)
                if self.closing or self.end_error is not None:
                    self._completion_thread.stop()
            return self._completion_thread

    def call_ended(self) -> None:
        """A call or a ping has ended. After the last one, a retired connection lets go of the worker."""
        if self.channels.in_calls:
            return
        if self.closing:
            self._quiet.set()
        elif self.state in (ConnectionState.RETIRED, ConnectionState.DRAINED) and not self._pings:
            self.close()

    def _send(self, message: Message | Request) -> None:
        with self.lock:
            control.send(self._sock, message)

    # -- the monitor thread -----------------------------------------------------------------------------

    def _listen(self) -> MoltError:
        try:
            while True:
                message, _ = control.receive(self._sock, SHM_FROM_WORKER)
                if message is None:
                    return self._farewell("its control socket was closed")
                self._take(message)
        except OSError as exc:
            return MoltWorkerUnavailable(f"the worker is gone: {exc.strerror}")

    def _take(self, message: Item) -> None:
        if isinstance(message, Response) and message.request_id:
            with self.lock:
                pending = self._pings.pop(message.request_id, None)
            if pending is not None:
                pending.resolve(message)
            if not self.open:
                self.call_ended()
        elif isinstance(message, StartFailed):
            self._start_failure = from_wire(Status.INTERNAL_ERROR, message.error).detail
        elif isinstance(message, Hello):
            self.was_ready = True
            self.greeted.set()
        elif isinstance(message, Grant):
            self._granted_none = not message.channels
            self.channels.add(message.channels)
            self._granted.set()
        elif isinstance(message, Recall):
            self._send(Return(self.channels.spare(message.count)))
        elif isinstance(message, Draining):
            self.move_to(ConnectionState.RETIRED)
            self.call_ended()
        else:
            raise MoltProtocolError(f"unexpected {type(message).__name__} from the worker")

    def _end(self, error: MoltError) -> None:
        # A request may be run before the greeting has come: executors don't wait for the supervisor to send it.
        self.was_ready = self.was_ready or bool(self.arena.gauge(Gauge.SERVING)) or self._has_executors()
        with self.lock:
            self._note_end(error, drained=self.state is ConnectionState.RETIRED)
            pings = list(self._pings.values())
            self._pings.clear()
            self._sock.close()
            completion_thread = self._completion_thread
        for pending in pings:
            pending.resolve(copy_error(error))
        self.arena.close()
        self.channels.wake_all()
        if completion_thread is not None:
            completion_thread.stop()
        self._granted.set()
        self.greeted.set()

    def _has_executors(self) -> bool:
        return any(self.arena.slot_gauge(slot, SlotGauge.READY_NS) for slot in range(self.arena.slots))

    # -- the end ----------------------------------------------------------------------------------------

    def close(self) -> None:
        with self.lock:
            if self.closing:
                return
            if not self.move_to(ConnectionState.CLOSING):
                self.move_to(ConnectionState.CLOSED)  # the worker had ended before
            completion_thread = self._completion_thread
        self.channels.shut()
        self.arena.close()
        self.channels.wake_all()
        if completion_thread is not None:
            completion_thread.stop()
        # Only when no thread can be writing to a channel any more may the worker be told so. Otherwise it waits for
        # the end of this process before it grants them to others.
        quiet = not self.channels.in_calls or self._quiet.wait(_QUIET_S)
        if quiet and (completion_thread is None or completion_thread.quiet(_QUIET_S)):
            failpoint("client.detaching")
            with contextlib.suppress(OSError):
                self._send(Detach())
            failpoint("client.detached")
        self._shut_down()
        if self.monitor is not threading.current_thread():
            self.monitor.join(ANSWER_S)

    def fail(self, error: MoltError) -> None:
        """The worker's memory can't be trusted: nothing new here. What is under way ends as it can, each for itself.

        Then the worker is told that its channels are not used any more, as after a drain: without a word they were kept
        for as long as this process lives.
        """
        log.error("the worker broke the protocol: %s", error)
        self.move_to(ConnectionState.RETIRED)
        self.call_ended()

    def _shut_down(self) -> None:
        with self.lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        self.lock = threading.RLock()  # its holder may not exist in this process
        self._leasing = threading.Lock()
        self.end_error = MoltWorkerUnavailable("this is the parent's connection")
        self.move_to(ConnectionState.FORGOTTEN)
        self.arena.close()
        self._sock.close()
        self.arena.let_go()  # the parent's calls are copied too, and what ends them here must not end them there
