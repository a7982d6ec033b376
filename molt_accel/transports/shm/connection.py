"""One attachment to a pool: its control socket, the mapped arena, and a thread that notices the worker's end.

Requests and replies never pass through here. The socket carries what happens beside them: channels granted,
cancels, pings, and the end of file by which the kernel tells that the worker is gone.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
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
from molt_accel.ipc import control
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import FrameError, Item
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
from molt_accel.transports.shm.channels import BATCH, ChannelPool
from molt_accel.transports.shm.completion import CompletionThread

log = logging.getLogger("molt_accel")

#: How long `close` waits for threads in the middle of a call to leave.
_QUIET_S: Final = 1.0


def copy_error(error: MoltError) -> MoltError:
    """Each caller raises an exception object of its own: tracebacks must not pile up on a shared one."""
    cls = MoltProtocolError if isinstance(error, FrameError) else type(error)
    return cls(error.detail, facts=error.facts)


class Connection:
    """An attachment that calls can be made on, until it has `ended`.

    Raises:
        MoltWorkerUnavailable: the worker refused, or this process can't attend to it.
    """

    def __init__(self, config: Config, sock: socket.socket, generation: int) -> None:
        self.generation = generation
        self.ended: MoltError | None = None
        self.ended_s = 0.0
        self.open = True  #: requests can be published here, as far as is known
        self.was_ready = False
        self.retired = False  #: the worker drains: no new calls here
        self.forgotten = False  #: it is the connection of the process that this one was forked from
        self.greeted = threading.Event()  #: set by the worker's greeting and by the connection's end
        #: Held for what ends a call from this side, and for control messages. Reentrant, because a signal handler or
        #: the garbage collector may close the client on a thread that holds it.
        self.lock = threading.RLock()
        self._sock = sock
        self._pings: dict[int, Pending] = {}
        self._leasing = threading.Lock()  # one asks, the others wait for what it gets
        self._granted = threading.Event()
        self._refused = False  # the last answer granted none
        self._closing = False
        self._quiet = threading.Event()  # closing, and no call is under way any more
        self._fatal = ""
        self._completion_thread: CompletionThread | None = None
        self.arena, grant = handshake(sock)
        # As the worker says, and not as the arena does: others may have scribbled over that.
        self.arena.client_spinners = grant.client_spinners
        self.arena.spin_ns = grant.spin_ns if config.spin_us is None else config.spin_us * 1000
        self.max_frame_bytes = min(config.max_frame_bytes, grant.max_frame_bytes)
        self.max_wait_ms: int = grant.max_wait_ms
        self.grace_ms: int = grant.grace_ms
        self.capacity: int = grant.capacity
        self.pool_started_s = self.arena.gauge(Gauge.STARTED_NS) / 1e9
        self.channels = ChannelPool(self.arena, self.max_frame_bytes)
        if grant.channels:  # none at all says only that others have them, who may part with some
            self.channels.add(grant.channels)
        failpoint("client.attached")
        self.monitor = threading.Thread(target=self._watch, name="molt-monitor", daemon=True)
        try:
            self.monitor.start()
        except RuntimeError as exc:  # no more threads are allowed
            raise MoltWorkerUnavailable(f"can't attend to a worker: {exc}") from exc

    @property
    def closing(self) -> bool:
        """Whether this side has closed it."""
        return self._closing

    # -- what calls need --------------------------------------------------------------------------------

    def cancel(self, channel: int, generation: int) -> None:
        """Have the supervisor stop a request that was ABANDONED."""
        # Lost only with the worker itself, or where it reads nothing just now; it sees that by itself, once a second.
        with contextlib.suppress(OSError):
            self._send(CancelChannel(channel, generation))

    def ping(self, request: Request) -> Pending | None:
        """Send a request that the supervisor answers itself; None if the connection has ended."""
        pending = Pending(request.request_id, self.generation)
        with self.lock:
            if not self.open:
                return None
            self._pings[request.request_id] = pending
            try:
                self._send(request)
            except BlockingIOError as exc:
                del self._pings[request.request_id]
                raise MoltWorkerUnavailable("the worker doesn't listen") from exc
            except OSError:  # its end is about to be seen
                del self._pings[request.request_id]
                self.open = False
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
            self._refused = False
            self._granted.clear()
            with contextlib.suppress(OSError):
                self._send(Lease(BATCH))
                failpoint("client.leasing")
                if not self._granted.wait(ANSWER_S):
                    self.channels.refused()
            if self.open and self._refused:
                raise MoltBusy("the worker has no channel left for this client", facts={"retry_after_s": 1})

    @property
    def completion_thread(self) -> CompletionThread:
        """The thread that waits for the calls of event loops."""
        with self.lock:
            if self._completion_thread is None:
                self._completion_thread = CompletionThread(self.channels.set_aside)
                if self._closing or self.ended is not None:
                    self._completion_thread.stop()
            return self._completion_thread

    def call_ended(self) -> None:
        """A call or a ping has ended. After the last one, a connection whose worker drains lets go of the worker."""
        if self.channels.in_calls:
            return
        if self._closing:
            self._quiet.set()
        elif self.retired and not self._pings:
            self.close()

    def _send(self, message: Message | Request) -> None:
        with self.lock:
            control.send(self._sock, message)

    # -- the monitor thread -----------------------------------------------------------------------------

    def _watch(self) -> None:
        error: MoltError
        try:
            while True:
                message, _ = control.receive(self._sock, SHM_FROM_WORKER)
                if message is None:
                    break
                self._take(message)
            error = self._farewell()
        except OSError as exc:
            error = MoltWorkerUnavailable(f"the worker is gone: {exc.strerror}")
        except MoltProtocolError as exc:
            log.error("the worker broke the protocol: %s", exc)
            error = exc
        except Exception as exc:  # a bug here must end the calls in flight, not leave them waiting
            log.exception("the monitor of a worker failed")
            error = MoltWorkerUnavailable(f"the connection failed: {type(exc).__name__}")
        self._end(error)

    def _farewell(self) -> MoltError:
        if self._closing:
            return MoltCancelled("the client was closed")
        if self._fatal:
            return MoltWorkerUnavailable(f"the worker can't start: {self._fatal}")
        return MoltWorkerUnavailable("the worker is gone: its control socket was closed")

    def _take(self, message: Item) -> None:
        if isinstance(message, Response) and message.request_id:
            with self.lock:
                pending = self._pings.pop(message.request_id, None)
            if pending is not None:
                pending.resolve(message)
            if not self.open:
                self.call_ended()
        elif isinstance(message, StartFailed):
            self._fatal = from_wire(Status.INTERNAL_ERROR, message.error).detail
        elif isinstance(message, Hello):
            self.was_ready = True
            self.greeted.set()
        elif isinstance(message, Grant):
            self._refused = not message.channels
            self.channels.add(message.channels)
            self._granted.set()
        elif isinstance(message, Recall):
            self._send(Return(self.channels.spare(message.count)))
        elif isinstance(message, Draining):
            self.retired = True
            self.open = False
            self.call_ended()
        else:
            raise MoltProtocolError(f"unexpected {type(message).__name__} from the worker")

    def _end(self, error: MoltError) -> None:
        # A request may be run before the greeting has come: executors don't wait for the supervisor to send it.
        self.was_ready = self.was_ready or bool(self.arena.gauge(Gauge.SERVING)) or self._has_executors()
        if isinstance(error, MoltWorkerUnavailable) and self.was_ready:
            error.facts["may_have_run"] = 1
        with self.lock:
            self.ended_s = time.monotonic()
            self.ended = error
            self.open = False
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
        """Let go of the worker. Calls in flight end as cancelled."""
        with self.lock:
            if self._closing:
                return
            self._closing = True
            self.open = False
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
        self.retired = True
        self.open = False
        self.call_ended()

    def _shut_down(self) -> None:
        with self.lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def forget(self) -> None:
        """In a forked child: let go of the parent's connection without a word to the worker."""
        self.lock = threading.RLock()  # its holder may not exist in this process
        self._leasing = threading.Lock()
        self.ended = MoltWorkerUnavailable("this is the parent's connection")
        self.forgotten = True
        self.open = False
        self.arena.close()
        self._sock.close()
        self.arena.let_go()  # the parent's calls are copied too, and what ends them here must not end them there
