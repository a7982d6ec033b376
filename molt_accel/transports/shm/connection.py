"""One attachment to a pool: its control socket, the mapped arena, and a thread that notices the worker's end.

Requests and replies don't pass through the socket. It carries grants of channels, cancels and pings, and its end of
file tells that the worker is gone.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from typing import Final

from molt_accel.config import Config
from molt_accel.durations import NS_PER_MS
from molt_accel.errors import BusyReason, MoltError, MoltWorkerUnavailable
from molt_accel.ipc import control, outcomes
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import Item
from molt_accel.ipc.messages import (
    SHM_FROM_WORKER,
    CancelChannel,
    Detach,
    Draining,
    Grant,
    GrantBell,
    Lease,
    LeaseBell,
    Message,
    Recall,
    Request,
    Return,
)
from molt_accel.ipc.shm.attach import ANSWER_S, handshake
from molt_accel.ipc.shm.layout import Gauge, SlotGauge
from molt_accel.process import role
from molt_accel.transports import forks
from molt_accel.transports.base import Pending
from molt_accel.transports.connection import BaseConnection, ConnectionState
from molt_accel.transports.shm.admission import Admission
from molt_accel.transports.shm.channels import BATCH, ChannelPool
from molt_accel.transports.shm.completion import Completing, CompletionThread
from molt_accel.transports.shm.loops import Loops

log = logging.getLogger("molt_accel")

_QUIET_S: Final = 1.0  #: how long `close` waits for threads that are in the middle of a call


class Connection(BaseConnection):
    """An attachment to a pool.

    Args:
        config: The client's configuration.
        sock: A control socket that is connected to the pool's worker.
        number: Which of its transport's connections it is, from 1 on.

    Raises:
        MoltWorkerUnavailable: the worker refused, or this process can start no thread for it.
    """

    def __init__(self, config: Config, sock: socket.socket, number: int) -> None:
        super().__init__(number)
        self._sock = sock
        self._leasing = threading.Lock()  # one thread asks for channels, the others wait for its answer
        self._granted = threading.Event()
        self._granted_none = False  # whether the last answer was empty
        self._quiet = threading.Event()  # set when the connection closes and no call is under way any more
        self._completion_thread: CompletionThread | None = None
        self.arena, grant = handshake(sock, config.identity(), nested=role.is_nested())
        # From the worker's answer, not from the arena: another client may have scribbled over that.
        self.arena.client_spinners = grant.client_spinners
        self.arena.spin_ns = grant.spin_ns if config.spin_us is None else config.spin_us * 1000
        self.max_frame_bytes = min(config.max_frame_bytes, grant.max_frame_bytes)
        self.max_wait_ms: int = grant.max_wait_ms
        self.grace_ms: int = grant.grace_ms
        self.capacity: int = grant.capacity
        self.worker_started_s = self.arena.gauge(Gauge.STARTED_NS) / 1e9
        self.arena.target_ns = grant.queue_target_ms * NS_PER_MS
        self.arena.executors = grant.executors
        self.admission = Admission(self.arena)
        self.channels = ChannelPool(self.arena, self.max_frame_bytes)
        self.loops = Loops(self.arena, self._ask_for_bell, self._adopt)
        if grant.channels:  # else other clients hold all of them, and the first call asks again
            self.channels.add(grant.channels)
        failpoint("client.attached")
        self.monitor = threading.Thread(target=self._attend, name="molt-monitor", daemon=True)
        try:
            self.monitor.start()
        except RuntimeError as exc:  # no more threads are allowed
            raise MoltWorkerUnavailable(f"can't attend to a worker: {exc}") from exc

    def move_to(self, state: ConnectionState) -> bool:
        moved = super().move_to(state)
        self.channels.tells_of_ends = not self.open
        return moved

    def cancel(self, channel: int, generation: int) -> None:
        """Have the supervisor stop a request that was ABANDONED."""
        # If the message can't be sent, the supervisor still finds the request: it looks once a second.
        with contextlib.suppress(OSError):
            self._send(CancelChannel(channel, generation))

    def ping(self, request: Request) -> Pending | None:
        """Send a request that the supervisor answers itself. Returns None if the connection has ended."""
        pending = Pending(request.request_id)
        with self.lock:
            if not self.open:
                return None
            try:
                self._send(request)
            except BlockingIOError as exc:
                raise MoltWorkerUnavailable("the worker doesn't listen") from exc
            except OSError:
                self.move_to(ConnectionState.DEAF)
                return None
            # Not too late for the answer: the thread that takes it needs the lock, too.
            self._pending[request.request_id] = pending
        return pending

    def forget_ping(self, pending: Pending) -> bool:
        """Take a ping out of the table. Returns False if it has an outcome, or is another connection's."""
        with self.lock:
            known = self._pending.pop(pending.request_id, None) is not None
        if known and not self.open:
            self.call_ended()
        return known

    def lease_more(self) -> None:
        """Ask the worker for more channels, unless one is free by now.

        Raises MoltBusy if there are none left.
        """
        with self._leasing:
            if not self.channels.wants_more:
                return  # another thread has asked
            self.loops.sweep()
            self._granted_none = False
            self._granted.clear()
            with contextlib.suppress(OSError):
                self._send(Lease(BATCH))
                failpoint("client.leasing")
                if not self._granted.wait(ANSWER_S):
                    self.channels.refused()
            if self.open and self._granted_none:
                raise outcomes.busy(BusyReason.NO_CHANNEL)

    @property
    def completion_thread(self) -> CompletionThread:
        """The thread that waits for the calls of event loops; made when it is first needed."""
        with self.lock:
            if self._completion_thread is None:
                self._completion_thread = CompletionThread(self.channels.set_aside)
                if self.closing or self.end_error is not None:
                    self._completion_thread.stop()
            return self._completion_thread

    def _ask_for_bell(self) -> bool:
        try:
            self._send(LeaseBell())
        except OSError:  # the worker doesn't read, or is gone, which is about to be seen
            return False
        failpoint("client.leasing_bell")
        return True

    def _adopt(self, call: Completing) -> None:
        self.completion_thread.add(call)

    def call_ended(self) -> None:
        """Note that a call or a ping has ended. A retired connection lets go of the worker after the last one."""
        if self.channels.in_calls:
            return
        if self.closing:
            self._quiet.set()
        elif self.state in (ConnectionState.FINISHING, ConnectionState.DRAINED) and not self._pending:
            self.close()

    def _send(self, message: Message | Request) -> None:
        with self.lock:
            control.send(self._sock, message)

    def _listen(self) -> MoltError:
        try:
            while True:
                message, fds = control.receive(self._sock, SHM_FROM_WORKER, max_fds=1)
                if message is None:
                    return self._farewell("its control socket was closed")
                if isinstance(message, GrantBell):
                    self.loops.granted(message.bell, fds.pop() if fds else None)
                    continue
                control.close_all(fds)
                self._take(message)
        except OSError as exc:
            return self._farewell(str(exc.strerror))

    def _may_have_served(self) -> bool:
        # An executor may run a request before the supervisor has sent its greeting.
        executors = (self.arena.slot_gauge(slot, SlotGauge.READY_NS) for slot in range(self.arena.slots))
        return self.was_ready or bool(self.arena.gauge(Gauge.SERVING)) or any(executors)

    def _take(self, item: Item) -> None:
        if isinstance(item, Grant):
            self._granted_none = not item.channels
            self.channels.add(item.channels)
            self._granted.set()
        elif isinstance(item, Recall):
            self.loops.sweep()  # if channels come free by that, the next recall finds them
            self._send(Return(self.channels.spare(item.count)))
        elif isinstance(item, Draining):
            self.move_to(ConnectionState.FINISHING)
        else:
            super()._take(item)
        if not self.open:
            self.call_ended()

    def _end(self, error: MoltError) -> None:
        self.was_ready = self._may_have_served()
        with self.lock:
            self._note_end(error, drained=self.state is ConnectionState.FINISHING)
            with forks.close_lock():
                self._sock.close()
            completion_thread = self._completion_thread
        self._resolve_all(error)
        self.arena.close()
        self.channels.wake_all()
        self.loops.end()
        if completion_thread is not None:
            completion_thread.stop()
        self._granted.set()
        self.greeted.set()

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
        self.loops.end()
        if completion_thread is not None:
            completion_thread.stop()
        # Tell the worker only if no thread can be writing to a channel any more: it grants the channels to others at
        # once. If it isn't told, it waits for the end of this process.
        quiet = not self.channels.in_calls or self._quiet.wait(_QUIET_S)
        if quiet and (completion_thread is None or completion_thread.quiet(_QUIET_S)):
            failpoint("client.detaching")
            with contextlib.suppress(OSError):
                self._send(Detach())
            failpoint("client.detached")
        with self.lock, contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        if self.monitor is not threading.current_thread():
            self.monitor.join(ANSWER_S)

    def fail(self, error: MoltError) -> None:
        """Take no new calls, since the worker's memory can't be trusted. Calls under way end as they can.

        After the last of them, `close` tells the worker, as after a drain. Otherwise the worker would keep the channels
        for as long as this process lives.
        """
        log.error("the worker broke the protocol: %s", error)
        self.move_to(ConnectionState.FINISHING)
        self.call_ended()

    def forget(self) -> None:
        self.lock = threading.RLock()  # its holder may not exist in this process
        self._leasing = threading.Lock()
        self.end_error = MoltWorkerUnavailable("this is the parent's connection")
        self.move_to(ConnectionState.FORGOTTEN)
        self.arena.close()
        self._sock.close()
        self.loops.forget()
        self.arena.let_go()  # the child has copies of the parent's calls: ending those must not end the parent's
