"""Between a messaging system and the pool of this host: takes requests, has the pool run them, and answers.

The pool decides on each request as on any other: deadlines, cancellation, Busy, crashes. The bridge adds two things: it
takes no more requests while the pool is full, so that others get them; and it says again and again which it still has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from molt_accel.call import attempt
from molt_accel.cluster import wire
from molt_accel.cluster.engine import Engine, EngineError, Incoming, Subscription
from molt_accel.cluster.pulse import BEAT_S
from molt_accel.config import Config
from molt_accel.errors import BusyReason, MoltError, MoltInternalError, Status
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import Request, Response
from molt_accel.transports.base import PendingCall, Transport
from molt_accel.waits import adrive
from molt_worker.bridge.intake import Intake
from molt_worker.entrypoints.runner import error_response

log = logging.getLogger("molt_worker")

#: The queue group: of the bridges that serve an entrypoint, one gets each request.
GROUP: Final = "molt"
#: After a refusal of the pool nothing new is asked for, for at least so long, in s.
PAUSE_S: Final = 0.1
#: A request that usually takes less is waited for on the loop, if it is the only one: for so long at most, in s.
QUICK_NS: Final = 500_000
QUICK_S: Final = 0.001


@dataclass
class Served:
    """What was served of one entrypoint, for statistics."""

    requests: int = 0
    errors: int = 0
    busy: int = 0
    nanoseconds: int = 0
    last_error: str = ""

    @property
    def usually_ns(self) -> int:
        """What a request takes on average; 0: none was served yet."""
        return self.nanoseconds // max(1, self.requests)


@dataclass
class _Running:
    """A request that the pool has."""

    task: asyncio.Task[None]
    since_s: float = field(default_factory=time.monotonic)


class _Quick:
    """A pool's transport for one request, whose end is waited for where it is sent."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.patience_s = transport.patience_s
        self.start = transport.start
        self.abandon = transport.abandon

    def submit(self, request: Request) -> PendingCall | None:
        pending = self._transport.submit(request)
        if pending is not None:
            pending.wait(QUICK_S)
        return pending


class Bridge:
    """One pool's bridge. All of it runs on one event loop.

    Args:
        config: The subject, and the limits of frames.
        engine: The messaging system, connected.
        transport: The pool's, started.
        entries: The entrypoints to serve.
        executors: How many the pool has.
        max_queue: Places in its queue.
    """

    def __init__(
        self,
        config: Config,
        engine: Engine,
        transport: Transport,
        entries: Sequence[str],
        executors: int,
        max_queue: int,
    ) -> None:
        self.served: Final = {entry: Served() for entry in entries}
        self._config: Final = config
        self._engine: Final = engine
        self._transport: Final = transport
        self._executors: Final = executors
        self._most: Final = executors + max_queue
        # By the subject of the answer, which is one request's alone.
        self._running: Final[dict[str, _Running]] = {}
        self._sending: Final[set[asyncio.Task[None]]] = set()
        self._intake: Final = Intake(config.max_frame_bytes)
        self._subscriptions: list[Subscription] = []
        self._refused_s = 0.0  # when the pool refused a request
        self._changed: Final = asyncio.Event()
        self._next_id = 0
        own = engine.new_inbox().rpartition(".")[2]  # nobody can guess it
        self._pieces_inbox: Final = f"{config.nats_subject}.{wire.PIECES}.{own}"

    @property
    def in_flight(self) -> int:
        """How many requests the pool has from here."""
        return len(self._running)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set or the pool is gone; then take no more, finish, and return. Raises EngineError."""
        others = [
            await self._engine.subscribe(f"{self._config.nats_subject}.{wire.CANCEL}", self._take_cancel),
            await self._engine.subscribe(f"{self._pieces_inbox}.*", self._take_piece),
        ]
        beating = asyncio.create_task(self._beat())
        stopping = asyncio.create_task(stop.wait())
        try:
            await self._take_or_leave()
            await self._engine.flush()  # the server knows of it
            log.info("bridge_ready subject=%s entries=%d", self._config.nats_subject, len(self.served))
            while not stop.is_set() and self._transport.ready:
                await self._take_or_leave()
                self._changed.clear()
                changed = asyncio.create_task(self._changed.wait())
                await asyncio.wait([changed, stopping], timeout=PAUSE_S, return_when=asyncio.FIRST_COMPLETED)
                changed.cancel()
            await self._leave()
            while self._running or self._sending or self._intake.under_way:
                ends = [*(each.task for each in self._running.values()), *self._sending]
                await asyncio.wait(ends) if ends else await asyncio.sleep(PAUSE_S)  # the other pieces come
            await self._engine.flush()
        finally:
            beating.cancel()
            stopping.cancel()
            for each in self._running.values():
                each.task.cancel()
            for subscription in others:
                with contextlib.suppress(Exception):
                    await subscription.drain()

    # -- what is asked for --

    @property
    def _is_full(self) -> bool:
        if self._subscriptions:
            return len(self._running) >= self._most or self._refused_s > time.monotonic() - PAUSE_S
        # Not again before what it has is what executors can begin with.
        return len(self._running) > self._executors or self._refused_s > time.monotonic() - PAUSE_S

    def _look(self) -> None:
        """Have requests asked for, or no longer, if that is to change."""
        if self._is_full is bool(self._subscriptions):
            self._changed.set()

    async def _take_or_leave(self) -> None:
        if not self._engine.connected:
            return
        if self._is_full:
            await self._leave()
        elif not self._subscriptions:
            for entry in self.served:
                subject = wire.subject_of(self._config.nats_subject, entry)
                self._subscriptions.append(
                    await self._engine.subscribe(subject, self._handler(entry), group=GROUP)
                )

    async def _leave(self) -> None:
        leaving, self._subscriptions = self._subscriptions, []
        await asyncio.gather(*(each.drain() for each in leaving), return_exceptions=True)

    # -- what comes --

    def _handler(self, entry: str) -> Any:
        def take(message: Incoming) -> None:
            if not self._may_be_answered(message.reply):
                return  # nobody would hear of it
            kind, body = message.data[:1], message.data[1:]
            try:
                if kind == wire.FIRST_PIECE:
                    key = self._next_key()
                    whole = self._intake.begin(key, entry, message.reply, message.data)
                    if whole is None:
                        self._send(message.reply, [wire.GO_ON], reply=f"{self._pieces_inbox}.{key}")
                        return
                    body = whole
                elif kind != wire.REQUEST:
                    return
                self._begin(entry, body, message.reply)
            except FrameError as exc:
                self._refuse(entry, exc.raw_id, exc, message.reply)

        return take

    def _take_piece(self, message: Incoming) -> None:
        key = message.subject.rpartition(".")[2]
        owner = self._intake.owner_of(key)
        if owner is None or message.reply != owner[1]:
            return
        entry, reply = owner
        try:
            whole = self._intake.add(key, message.data)
            if whole is not None:
                self._begin(entry, whole, reply)
        except FrameError as exc:
            self._refuse(entry, exc.raw_id, exc, reply)

    def _take_cancel(self, message: Incoming) -> None:
        reply = message.data.decode("ascii", "replace")
        running = self._running.get(reply)
        if running is not None:
            running.task.cancel()
            # A task that has not begun ends without a step of its own.
            running.task.add_done_callback(lambda _: self._forget(reply, running))

    def _may_be_answered(self, reply: str) -> bool:
        """Whether answers may go there: not to requests of others, nor to the system's own subjects."""
        return bool(reply) and not reply.startswith(("$", f"{self._config.nats_subject}."))

    def _next_key(self) -> str:
        self._next_id += 1
        return str(self._next_id)

    def _begin(self, entry: str, body: bytes, reply: str) -> None:
        request = wire.decode_request(body)
        if request.entry != entry:
            raise FrameError(Fault.ENTRY, f"{request.entry!r} was sent to the subject of {entry!r}")
        if reply in self._running:
            return  # sent a second time
        if len(self._running) >= self._most:
            self._refuse(entry, request.request_id, outcomes.busy(BusyReason.QUEUE_FULL), reply)
            return
        self._running[reply] = _Running(asyncio.create_task(self._serve(entry, request, reply)))
        self._look()

    async def _serve(self, entry: str, request: Request, reply: str) -> None:
        their_id = request.request_id
        # Nobody else waits for the loop then: to wait here saves the ways to the completion thread and back.
        is_quick = len(self._running) == 1 and self.served[entry].usually_ns < QUICK_NS
        began_ns = time.monotonic_ns()
        self._next_id += 1
        request.request_id = self._next_id
        try:
            response, error = await adrive(
                attempt(_Quick(self._transport) if is_quick else self._transport, request, None)
            )
            if response is None:
                assert error is not None
                response = error_response(request, error)
            response.request_id = their_id
            self._count(entry, response, time.monotonic_ns() - began_ns)
            await self._publish(reply, self._messages_of(response))
        except Exception as exc:
            log.exception("a request of %s failed in the bridge", entry)
            self._answer(
                reply,
                error_response(Request(their_id, entry), MoltInternalError(f"the bridge failed: {exc}")),
            )
        finally:
            self._running.pop(reply, None)
            self._look()

    def _forget(self, reply: str, running: _Running) -> None:
        if self._running.get(reply) is running:
            del self._running[reply]
            self._look()

    def _count(self, entry: str, response: Response, took_ns: int) -> None:
        served = self.served[entry]
        served.requests += 1
        served.nanoseconds += took_ns
        if response.status is Status.BUSY:
            served.busy += 1
            self._refused_s = time.monotonic()
        elif response.status is not Status.OK:
            served.errors += 1
            served.last_error = response.status.label

    # -- answers --

    def _refuse(self, entry: str, request_id: int, error: MoltError, reply: str) -> None:
        response = error_response(Request(request_id, entry), error)
        self._count(entry, response, 0)
        self._answer(reply, response)

    def _answer(self, reply: str, response: Response) -> None:
        self._send(reply, self._messages_of(response))

    def _messages_of(self, response: Response) -> list[bytes]:
        try:
            body = wire.encode_response(response, self._config.max_frame_bytes)
        except FrameError as exc:
            body = wire.encode_response(
                error_response(Request(response.request_id, ""), exc), self._config.max_frame_bytes
            )
        if len(body) < self._engine.max_payload:
            return [wire.RESPONSE + body]
        return list(wire.pieces_of(body, wire.RESPONSE_PIECE, self._engine.max_payload))

    def _send(self, subject: str, messages: list[bytes], reply: str = "") -> None:
        task = asyncio.create_task(self._publish(subject, messages, reply))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, subject: str, messages: list[bytes], reply: str = "") -> None:
        try:
            for message in messages:
                await self._engine.publish(subject, message, reply)
        except EngineError as exc:
            log.warning("an answer was not sent: %s", exc)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S / 2)
            before_s = time.monotonic() - BEAT_S / 2
            for reply, running in list(self._running.items()):
                if running.since_s < before_s:
                    self._send(reply, [wire.TAKEN])
            for reply in self._intake.replies:  # over a slow link pieces take long
                self._send(reply, [wire.GO_ON])
