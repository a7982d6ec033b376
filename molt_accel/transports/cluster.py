"""The transport to pools on other hosts: a thread with an event loop and one connection to the messaging system.

A call is resolved by whoever takes it out of the table: the loop with its answer or because nothing was heard of it
for too long, `abandon`, or `close`. So it has one outcome, and what comes late finds no call. A request is sent once;
only one that was certainly not run, such as a Busy one, is sent again, for another host to take.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Final

from molt_accel import codec
from molt_accel.cluster import wire
from molt_accel.cluster.engine import Engine, EngineError, Incoming
from molt_accel.cluster.loop import new_event_loop
from molt_accel.cluster.pulse import LOOK_S, SILENCE_S
from molt_accel.config import Config
from molt_accel.errors import (
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltError,
    MoltIncompatible,
    MoltStartFailed,
    MoltWorkerUnavailable,
    Status,
    from_wire,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import VERSION, FrameError
from molt_accel.ipc.messages import Codec, Request
from molt_accel.transports import forks
from molt_accel.transports import monkeypatch as greenlets
from molt_accel.transports.base import Pending, PendingCall, RefusesNothing, Result
from molt_accel.transports.connection import copy_error
from molt_accel.transports.launcher import RestartPolicy
from molt_accel.transports.line import Line

log = logging.getLogger("molt_accel")

START_S: Final = 5.0  #: how long connecting may take
SLACK_S: Final = 0.5  #: how long after deadline and grace time an answer may still be on its way
#: So many hosts are asked in a row, if each says Busy.
MOST_ASKED: Final = 4
_STOP_S: Final = 2.0


class _Call(Pending):
    """A call in flight."""

    __slots__ = (
        "answer",
        "asked",
        "busy",
        "heard_s",
        "insists",
        "reply",
        "request",
        "rest",
        "taken",
        "token",
    )

    def __init__(self, request: Request, token: int, reply: str) -> None:
        super().__init__(request.request_id)
        self.request = request
        self.token = token
        #: Where answers go: another subject each time that it is sent, so that what comes late is not taken for new.
        self.reply = reply
        self.heard_s = time.monotonic()  #: when it was sent, or something was heard of it
        self.taken = False  #: a host has said that it has it
        self.asked = 1
        self.insists = False  #: nobody asks for it, and it goes to one that may be full
        self.busy: MoltBusy | None = None  #: of the hosts that refused it, the one that is free first
        self.rest: Iterator[bytes] | None = None  #: pieces that are to be sent when a host asks for them
        self.answer: wire.Pieces | None = None  #: what came of an answer in pieces


class _Link:
    """One connection, its thread, and the calls in flight on it. `close` and the loop's thread end it."""

    def __init__(self, config: Config, open_engine: Callable[[Config, str], Engine]) -> None:
        self.calls: Final[dict[int, _Call]] = {}
        self.inbox = ""
        self.engine: Final = open_engine(config, "molt client")
        self.error: MoltWorkerUnavailable | None = None  #: why it could not be made
        self.made = threading.Event()
        self.told = (
            threading.Lock()
        )  #: taken by the one of all that waited who tells the policy that it failed
        self._config = config
        self._ended = False
        self._tokens = 0
        self._looked_s = 0.0  # when `_look` was called
        self._lock = threading.Lock()
        self._tasks: Final[set[asyncio.Task[None]]] = set()  # which the loop itself keeps only weakly
        self.loop: Final = new_event_loop()
        self._stopping = asyncio.Event()
        self.thread: Final = threading.Thread(target=self._run, name="molt-cluster", daemon=True)

    @property
    def ended(self) -> bool:
        return self._ended

    @property
    def usable(self) -> bool:
        return not self._ended and self.made.is_set() and self.error is None

    def submit(self, request: Request) -> _Call | None:
        """Send a request. None: the link has ended. Raises MoltWorkerUnavailable and FrameError: nothing was sent."""
        if not self.engine.connected:
            raise MoltWorkerUnavailable("the connection to NATS is lost")
        body = wire.encode_request(request, self._config.max_frame_bytes)
        with self._lock:
            if self._ended:
                return None
            self._tokens += 1
            call = self.calls[self._tokens] = _Call(request, self._tokens, f"{self.inbox}.{self._tokens}")
            self.loop.call_soon_threadsafe(self._send, call, body)
        return call

    def abandon(self, call: _Call, error: MoltError) -> bool:
        if self.calls.pop(call.token, None) is None:
            return False
        with self._lock:
            if not self._ended:
                self.loop.call_soon_threadsafe(self._cancel, call)
        call.resolve(error)
        return True

    def end(self, error: MoltError) -> None:
        """End all calls, have their hosts stop them, and then end the link. Any thread."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            ended = [call for token in list(self.calls) if (call := self.calls.pop(token, None)) is not None]
            for call in ended if self.loop.is_running() else ():
                self.loop.call_soon_threadsafe(self._cancel, call)
            if not self.loop.is_closed():
                self.loop.call_soon_threadsafe(self._stopping.set)
        for call in ended:
            call.resolve(copy_error(error))

    # -- on the loop's thread --

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._live())
        except BaseException as exc:
            log.exception("the thread of the connection to NATS failed")
            why = f"the connection to NATS failed: {exc!r}"
            self.error = self.error or MoltWorkerUnavailable(why)
            self.end(MoltWorkerUnavailable(why, facts={"may_have_run": 1}))  # what was sent may have run
        finally:
            self.end(self.error or outcomes.worker_gone("the connection to NATS has ended"))
            self.made.set()
            self.loop.run_until_complete(self._tidy_up())
            with self._lock:
                self.loop.close()

    async def _live(self) -> None:
        try:
            async with asyncio.timeout(START_S):
                await self.engine.connect()
                self.inbox = self.engine.new_inbox()
                await self.engine.subscribe(f"{self.inbox}.*", self._take)
                await self.engine.flush()
        except (EngineError, TimeoutError) as exc:
            self.error = MoltWorkerUnavailable(str(exc) or f"NATS does not answer within {START_S:g} s")
            await self.engine.close()
            return
        self.made.set()
        while not self._stopping.is_set():
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._stopping.wait()
            except TimeoutError:
                self._look()
        for task in list(self._tasks):  # cancellations that are on their way
            await asyncio.wait([task], timeout=_STOP_S)
        await self.engine.close()

    async def _tidy_up(self) -> None:
        """End what nats-py has left, so that its sockets are closed with the loop."""
        left = asyncio.all_tasks(self.loop) - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await asyncio.sleep(0)  # transports close in the loop's next turn

    def _do(self, what: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _send(self, call: _Call, body: bytes) -> None:
        first = wire.REQUEST + body
        if len(first) > self.engine.max_payload:
            call.rest = wire.pieces_of(body, wire.FIRST_PIECE, self.engine.max_payload)
            first = next(call.rest)
        call.heard_s = time.monotonic()
        prefix = self._config.nats_subject
        subject = wire.subject_of(f"{prefix}.{wire.FULL}" if call.insists else prefix, call.request.entry)
        message = subject, first, call.reply
        try:
            if self.engine.publish_now(*message):
                return
        except EngineError as exc:
            self._was_not_sent(call, exc)
        else:
            self._do(self._publish(call, message))

    async def _publish(self, call: _Call, message: tuple[str, bytes, str]) -> None:
        try:
            await self.engine.publish(*message)
        except EngineError as exc:
            self._was_not_sent(call, exc)

    def _was_not_sent(self, call: _Call, error: EngineError) -> None:
        # A host that has it from an earlier try has refused it.
        self._end_call(call, call.busy or MoltWorkerUnavailable(str(error)))

    async def _send_rest(self, call: _Call, pieces: Iterator[bytes], subject: str, reply: str) -> None:
        try:
            for piece in pieces:
                if call.done or call.reply != reply:
                    return
                await self.engine.publish(subject, wire.NEXT_PIECE + piece[1:], reply)
        except EngineError as exc:
            if call.reply == reply:  # the whole has not arrived, so nobody can have run it
                self._end_call(call, MoltWorkerUnavailable(str(exc)))

    def _cancel(self, call: _Call) -> None:
        async def cancel() -> None:
            subject = f"{self._config.nats_subject}.{wire.CANCEL}"
            try:
                await self.engine.publish(subject, call.reply.encode())
            except EngineError as exc:
                log.debug("a cancellation was not sent: %s", exc)

        self._do(cancel())

    def _take(self, message: Incoming) -> None:
        token = message.subject.rpartition(".")[2].partition("-")[0]
        call = self.calls.get(int(token)) if token.isdecimal() else None
        if call is None or message.subject != call.reply:
            return  # it has ended, or is sent again
        if message.unheard:
            nobody = MoltWorkerUnavailable(
                f"nobody serves {call.request.entry!r} at {self._config.nats_subject!r} on NATS: no bridge of a pool "
                "that exports it is there"
            )
            if call.taken:
                return
            if call.insists:
                self._end_call(call, call.busy or nobody)
            else:  # perhaps all are full
                call.insists = True
                self._send_again(call)
            return
        call.heard_s = time.monotonic()
        kind, data = message.data[:1], message.data[1:]
        try:
            if kind == wire.RESPONSE:
                self._take_response(call, data)
            elif kind == wire.RESPONSE_PIECE:
                call.answer = call.answer or wire.Pieces(self._config.max_frame_bytes)
                whole = call.answer.add(message.data)
                if whole is not None:
                    self._take_response(call, whole)
            elif kind == wire.OTHER_VERSION and not call.taken:
                self._ask_another(call, _other_version(data))
            elif kind == wire.TAKEN:
                call.taken = True
            elif kind == wire.GO_ON and call.rest is not None and message.reply:
                self._do(self._send_rest(call, call.rest, message.reply, call.reply))
                call.rest = None
        except FrameError as exc:
            exc.facts["may_have_run"] = 1
            self._end_call(call, copy_error(exc))

    def _take_response(self, call: _Call, data: bytes) -> None:
        response = wire.decode_response(data)
        if response.request_id not in (0, call.request.request_id):  # 0: the request was refused unread
            return  # it is of whoever sent it, and not this call's
        if response.status is Status.OK:
            self._end_call(call, response)
            return
        error = from_wire(response.status, codec.decode(Codec.MSGPACK, response.payload))
        if not outcomes.was_not_run(error):
            self._end_call(call, response)
            return
        if isinstance(error, MoltBusy) and (
            call.busy is None or error.retry_after_s < call.busy.retry_after_s
        ):
            call.busy = error
        self._ask_another(call, response)

    def _ask_another(self, call: _Call, refusal: Result) -> None:
        """Send a request again that a host has refused, if there is time; else it ends with that, or as Busy."""
        left_ns = call.request.deadline_ns - time.monotonic_ns() if call.request.deadline_ns else 1
        if call.asked < MOST_ASKED and left_ns > 0 and not call.insists:
            self._send_again(call)
        else:
            self._end_call(call, call.busy or refusal)

    def _send_again(self, call: _Call) -> None:
        call.rest = call.answer = None
        call.taken = False
        call.asked += 1
        call.reply = f"{self.inbox}.{call.token}-{call.asked}"
        self._send(call, wire.encode_request(call.request, self._config.max_frame_bytes))

    def _end_call(self, call: _Call, result: Result) -> None:
        if self.calls.pop(call.token, None) is not None:
            call.resolve(result)

    def _look(self) -> None:
        """End calls of which nothing was heard for too long."""
        now_s = time.monotonic()
        last_s, self._looked_s = self._looked_s, now_s
        if now_s - last_s > SILENCE_S / 2:
            return  # this process was stopped: what has come meanwhile is read first
        for call in list(self.calls.values()):
            if now_s - call.heard_s > SILENCE_S:
                why = f"nothing was heard for {SILENCE_S:g} s of the host that has the request"
                self._end_call(call, MoltWorkerUnavailable(why, facts={"may_have_run": 1}))


def _other_version(said: bytes) -> MoltIncompatible:
    theirs = f"version {said[0]}" if said else "another version"
    return MoltIncompatible(
        f"the hosts that were asked speak {theirs} of the protocol, this side speaks {VERSION}: pools and "
        "clients must be of one release; while two are deployed, give each a MOLT_NATS_SUBJECT of its own"
    )


def _open_nats(config: Config, name: str) -> Engine:
    try:
        from molt_accel.cluster.nats import NatsEngine
    except ImportError as exc:
        raise MoltStartFailed(str(exc)) from exc
    return NatsEngine(config, name)


class ClusterTransport(RefusesNothing):
    """The `Transport` to pools on other hosts.

    Args:
        config: Names the servers (MOLT_NATS_URL) and the subject.
        open_engine: Makes the connection; for tests and other messaging systems.
    """

    def __init__(self, config: Config, open_engine: Callable[[Config, str], Engine] = _open_nats) -> None:
        self._config = config
        self._open_engine = open_engine
        self._closed = False
        self._link: _Link | None = None
        self._policy = RestartPolicy()
        self.line = Line()
        self.overflow = None
        forks.register(self)

    @property
    def ready(self) -> bool:
        link = self._link
        return link is not None and link.usable

    @property
    def patience_s(self) -> float:
        return self._config.grace_ms / 1000 + SLACK_S

    @property
    def max_wait_ms(self) -> int:
        return self._config.max_wait_ms

    def start(self) -> None:
        with forks.start_lock():
            if self._closed:
                raise MoltClientClosed
            link = self._link
            if link is None or link.ended:
                if self._policy.failed_starts:
                    self._policy.check(time.monotonic())
                greenlets.check_for_nats()
                link = _Link(self._config, self._open_engine)
                try:
                    link.thread.start()
                except RuntimeError as exc:
                    raise MoltWorkerUnavailable(f"can't attend to a connection: {exc}") from exc
                self._link = link
        link.made.wait()  # others may wait for the same one
        if link.error is not None:
            if link.told.acquire(blocking=False):
                self._policy.died(time.monotonic(), 0.0, link.error, was_ready=False)
            raise copy_error(link.error)
        self._policy = RestartPolicy()

    def wait_ready(self, timeout_s: float) -> None:
        """Connect. Whether a pool is there a call finds out."""
        self.start()

    def submit(self, request: Request) -> PendingCall | None:
        link = self._link
        return link.submit(request) if link is not None and link.usable else None

    def abandon(self, pending: PendingCall, error: MoltError) -> bool:
        link = self._link
        return link is not None and isinstance(pending, _Call) and link.abandon(pending, error)

    def close(self) -> None:
        with forks.start_lock():
            self._closed = True
            link = self._link
        if link is not None:
            link.end(MoltCancelled("the client was closed"))
            if link.thread is not threading.current_thread():
                link.thread.join(2 * _STOP_S)

    def after_fork_in_child(self) -> None:
        """Forget the parent's connection. The next call makes one of this process's own."""
        if self._link is not None:
            self._link.engine.forget()
        self._link = None
        self._policy = RestartPolicy()
        self.line = Line()
