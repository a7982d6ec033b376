"""The shared-memory transport, client side: calls on leased channels, one hop from an executor.

One step on the channel's state word decides the outcome of a call: the executor's, the supervisor's, or `give_up` on
this side. The thread that waits for the call then takes the outcome; no other thread reads a reply.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from molt_accel import codec
from molt_accel.durations import NS_PER_MS
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltClientClosed,
    MoltError,
    MoltProtocolError,
    MoltWorkerUnavailable,
    WorkerVanished,
    status_label,
    to_wire,
    wire_status,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.failpoint import failpoint
from molt_accel.ipc.frame import encode_head
from molt_accel.ipc.messages import PING, U32_MAX, WORKER_DEFAULT_WAIT, Codec, Request, Response
from molt_accel.ipc.shm._native import (
    BAD_FRAME,
    BUSY,
    CLOSED,
    OUTCOME,
    UNDECIDED,
    WAITING,
    ChannelCall,
    Corrupt,
)
from molt_accel.ipc.shm.layout import NEVER, ChannelState, Gauge, Outcome, failed_executor, failure_error
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending, PendingCall
from molt_accel.transports.connected import SLACK_S, ConnectedTransport
from molt_accel.transports.connection import ConnectionState, cancelled_by_close, copy_error
from molt_accel.transports.launcher import NeverListened, attach_or_start
from molt_accel.transports.shm.connection import Connection

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Future

_ATTACH_TRIES: Final = 5  #: how often the client tries to attach when the worker goes away meanwhile
#: How many leased channels may turn out not to be IDLE before one call gives the arena up as corrupt.
_PUBLISH_TRIES: Final = 40


def _failed(word: int, entry: str, request_id: int) -> Response:
    """Make the response that a failure word stands for."""
    error = failure_error(word, entry)
    payload = codec.encode(Codec.MSGPACK, to_wire(error))
    return Response(request_id, wire_status(error), payload, executor=failed_executor(word), in_flight=1)


class ShmCall(ChannelCall):
    """A call on its channel; a `PendingCall`. One thread waits for it, an event loop, or the completion thread.

    `ChannelCall` has the usual course; here is what else may befall a call.
    """

    __slots__ = ()
    connection: Final[Connection]  # type: ignore[misc]

    def on_done(self, callback: Callable[[], object]) -> None:
        # From now on the completion thread waits for the call.
        if self.callback is None and not self.done:
            completion_thread = self.connection.completion_thread
            self.callback = callback
            self.waited_for = True
            try:
                completion_thread.add(self)
            except BaseException as exc:
                self.waited_for = False
                self.callback = None
                if isinstance(exc, RuntimeError):  # no more threads are allowed
                    why = f"can't wait for the call: {exc}"
                    raise MoltWorkerUnavailable(why, facts={"may_have_run": 1}) from exc
                raise
        else:
            self.callback = callback
        if self.done:
            callback()

    def ended_in(self, loop: AbstractEventLoop, until_ns: int) -> Future[None] | None:
        if self.callback is not None:  # the completion thread waits for it
            return None
        loop_calls = self.connection.loops.of(loop)
        return None if loop_calls is None else loop_calls.add(self, until_ns)

    def poll(self) -> int:
        """For the completion thread: move on without waiting. Returns 0 at the end, else when to look again (ns)."""
        try:
            if not self.done:
                self.advance(0)
        except BaseException as exc:
            self.fail(exc)
            raise
        finally:
            if self.done:
                self.release()
                if self.callback is not None:
                    self.callback()
        return 0 if self.done else self.look_ns

    def fail(self, bug: BaseException) -> None:
        """End the call, because it can't be moved on."""
        self.result = MoltProtocolError(f"the call failed: {type(bug).__name__}: {bug}")

    def go_on(self, code: int, until_ns: int) -> None:
        """Wait on: what ended the wait so far is not the call's outcome."""
        channel = self.channel
        try:
            while True:
                if code == OUTCOME:
                    self.take()
                    return
                if code == CLOSED:
                    self._connection_lost()
                    return
                now_ns = time.monotonic_ns()
                if now_ns >= self.look_ns:
                    self._look(now_ns)
                    if self.done:
                        return
                if now_ns >= until_ns:
                    return
                code = channel.wait(min(until_ns, self.look_ns))
        except Corrupt as exc:
            self.distrust(exc)

    def take(self) -> None:
        """Take the outcome that the channel has."""
        try:
            self.take_other(self.channel.take())
        except Corrupt as exc:
            self.distrust(exc)

    def take_other(self, got: Response | int | None) -> None:
        """End the call by what was in its channel."""
        if type(got) is Response:
            if got.request_id == self.request_id:
                self.result = got
            else:
                self.distrust("the reply is another request's")
        elif type(got) is int:
            self.result = _failed(got, self.entry, self.request_id)
        else:
            self._given_up()

    def _given_up(self) -> None:
        """There is no outcome in the channel: another thread gave up, or the worker takes this client for gone."""
        # Another thread that gave up sets the outcome before it lets go of the lock.
        with self.connection.lock:
            if self.done:
                return
            if self.connection.closing:
                self.result = cancelled_by_close()
            else:
                why = "the worker has let go of this client"
                self.result = MoltWorkerUnavailable(why, facts={"may_have_run": 1})

    def distrust(self, why: object) -> None:
        connection = self.connection
        if connection.state is ConnectionState.FORGOTTEN:  # a forked child's copy of a call of its parent's
            self.result = copy_error(
                connection.end_error or MoltWorkerUnavailable("this is the parent's call")
            )
            return
        self.result = MoltProtocolError(str(why))
        connection.fail(MoltProtocolError(str(why)))

    def _look(self, now_ns: int) -> None:
        """Act on a time that only matters while the request is queued: its deadline, or the wait for a place."""
        self.look_ns = NEVER
        if now_ns >= self.deadline_ns:
            self.abandon(outcomes.expired_in_queue(), only_queued=True)
        elif self.channel.excess(self.connection.capacity):
            error = self.connection.admission.queue_full(self.entry, self.channel)
            if self.abandon(error, only_queued=True):
                self.connection.admission.count_reason(error, self.entry)
        else:  # it has a place by now
            self.look_ns = self.deadline_ns

    def _connection_lost(self) -> None:
        """End the call, because its connection has ended."""
        connection = self.connection
        with connection.lock:
            if self.done:
                return
            state = self.channel.give_up()
            if state in (ChannelState.DONE, ChannelState.FAILED):
                self.take()
            elif connection.closing:
                self.result = cancelled_by_close()
            elif state == ChannelState.READY:
                self.lost = True
            else:
                self.result = copy_error(connection.end_error or outcomes.worker_gone())
                self.result.facts["may_have_run"] = 1

    def abandon(self, error: MoltError, *, only_queued: bool = False) -> bool:
        """End the call from this side, on any thread.

        Returns False if it has ended by itself, or with `only_queued` if it has left the queue.
        """
        connection = self.connection
        ended = False
        with connection.lock:
            if not self.done:
                state = self.channel.give_up(only_queued, self.published)
                running = state in (ChannelState.CLAIMED, ChannelState.KILLING)
                ended = state == ChannelState.READY or (running and not only_queued)
                if ended:
                    self.result = error
                elif not running and not self.waited_for and not self.done:
                    self.take()
        if ended:
            if state == ChannelState.READY:
                connection.arena.add_counter(Gauge.OUTCOMES + Outcome[status_label(error)])
            elif state == ChannelState.CLAIMED:
                failpoint("client.cancelling")
                connection.cancel(self.channel.index, self.published)
        # The thread that waits gives the channel back, even if it comes only now. Without one, this thread does.
        if self.loop_calls is not None:
            if ended:
                self.loop_calls.ended(self)
        elif self.callback is not None:
            if ended:
                connection.completion_thread.wake()
        elif self.done and not self.waited_for:
            self.release()
        return ended


class ShmTransport(ConnectedTransport[Connection]):
    """The `Transport` that attaches to the named pool, and starts it if nobody serves it."""

    shares_worker = True

    @property
    def patience_s(self) -> float:
        connection = self._connection
        grace_ms = self._config.grace_ms if connection is None else connection.grace_ms
        return grace_ms / 1000 + SLACK_S

    @property
    def max_wait_ms(self) -> int:
        connection = self._connection
        return self._config.max_wait_ms if connection is None else connection.max_wait_ms

    def start(self) -> None:
        connection = self._ready_connection()
        if connection.channels.wants_more:
            connection.lease_more()

    def _connect(self, number: int) -> Connection:
        greenlets.check_for_shared_memory()  # each time: a server may patch the process that it forks
        tries_left = _ATTACH_TRIES
        while True:
            try:
                sock = attach_or_start(self._config, self._policy.not_before_s)
                try:
                    return Connection(self._config, sock, number)
                except BaseException:
                    sock.close()
                    raise
            except (WorkerVanished, NeverListened):
                tries_left -= 1
                if not tries_left:
                    raise

    def submit(self, request: Request, tries: int = _PUBLISH_TRIES) -> PendingCall | None:
        connection = self._connection
        if connection is None or not connection.open:
            if self._closed:
                raise MoltClientClosed
            return None
        if request.entry == PING:
            return connection.ping(request)
        wait_ms = request.max_wait_ms
        if wait_ms == WORKER_DEFAULT_WAIT:
            wait_ms = connection.max_wait_ms
        waiting = self._room_to_wait(request) if wait_ms else 0
        begun = connection.channels.begin(ShmCall, connection, request, connection.capacity, waiting)
        if isinstance(begun, ShmCall):
            return begun
        if begun is None:
            if connection.channels.wants_more or not connection.open:
                return None
            # One that may wait is counted when it ends as Busy.
            make = outcomes.busy if wait_ms else connection.admission.busy
            raise make(BusyReason.IN_FLIGHT)
        verdict, call = begun
        if verdict == WAITING:
            call.look_ns = min(call.look_ns, time.monotonic_ns() + wait_ms * NS_PER_MS)
            return call
        refusal = None
        if verdict == UNDECIDED:
            refusal = self._decide(connection, call, request)
            if refusal is None:
                return call
        call.release()
        if refusal is not None:
            raise refusal
        if verdict == BUSY:
            raise connection.admission.count(connection.admission.queue_full(request.entry))
        if verdict == BAD_FRAME:
            encode_head(request, connection.max_frame_bytes)  # raises, and says what is wrong
        # A process has scribbled over the state word; the channel is kept until it is IDLE.
        if tries:
            return self.submit(request, tries - 1)
        error = MoltProtocolError("a channel is in use that should be free")
        connection.fail(error)
        raise error

    def _decide(self, connection: Connection, call: ShmCall, request: Request) -> MoltBusy | None:
        """Refuse a published request that would have to wait for too long, or tell the executors of it."""
        failpoint("client.undecided")
        channel = call.channel
        left_ns = request.deadline_ns - time.monotonic_ns() if request.deadline_ns else None
        try:
            refusal = connection.admission.refusal(request.entry, left_ns, channel)
        except BaseException:  # Ctrl-C; what a process has scribbled
            channel.give_up()
            call.release()
            raise
        # An executor may have looked around and taken it up meanwhile: then it is running.
        if refusal is not None and channel.give_up(only_queued=True) == ChannelState.READY:
            return connection.admission.count(refusal, request.entry)
        channel.announce()
        return None

    def refusal(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        connection = self._connection
        if connection is None or not connection.open:
            return None
        admission = connection.admission
        refusal = admission.refusal(entry, left_ns)
        return None if refusal is None else admission.count(refusal, entry)

    def busy(self, reason: BusyReason, wait_ns: int) -> MoltBusy:
        connection = self._connection
        if connection is None or not connection.open:
            return super().busy(reason, wait_ns)
        return connection.admission.busy(reason, wait_ns)

    def _room_to_wait(self, request: Request) -> int:
        """How many requests may wait in the arena before this one: any, but not before those in the line."""
        if self.line.holds_back(request.request_id):
            raise outcomes.busy(BusyReason.QUEUE_FULL)
        return U32_MAX

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        if isinstance(pending, ShmCall):
            return pending.abandon(error)
        if isinstance(pending, Pending) and any(
            connection.forget_ping(pending) for connection in self._connections
        ):
            pending.resolve(error)
            return True
        return False
