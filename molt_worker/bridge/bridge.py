"""Between a messaging system and the pool of this host: takes requests, has the pool run them, and answers.

The pool decides on each request as on any other: deadlines, cancellation, Busy, crashes. The bridge adds two things: it
takes no more requests while the pool is full, so that others get them; and it says again and again which it still has.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from molt_accel.call import attempt
from molt_accel.cluster import wire
from molt_accel.cluster.engine import Engine, EngineError, Handler, Incoming, Subscription
from molt_accel.cluster.pulse import BEAT_S
from molt_accel.config import Config
from molt_accel.errors import BusyReason, MoltBusy, MoltError, MoltInternalError, MoltInvalidInput, Status
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import Fault, FrameError
from molt_accel.ipc.messages import Request, Response
from molt_accel.transports.base import Transport
from molt_accel.waits import CallEnd, Wait, adrive
from molt_worker.bridge.intake import Intake
from molt_worker.entrypoints.runner import error_response, too_large

log = logging.getLogger("molt_worker")

#: The queue group: of the bridges that serve an entrypoint, one gets each request.
GROUP: Final = "molt"
#: After a refusal of the pool nothing new is asked for, for at least so long, in s.
PAUSE_S: Final = 0.1
#: Whoever is told to stop waits for the other pieces of requests for so long, in s.
LAST_PIECES_S: Final = 20.0
#: A request that usually takes less is waited for on the loop, if it is the only one: for so long at most, in s.
QUICK_NS: Final = 500_000
QUICK_S: Final = 0.001
#: Refusals that say nothing of the pool, and of other requests: there was no time for this one.
_ITS_OWN: Final = frozenset({BusyReason.DEADLINE})
_NOT_SENT: Final = "an answer was not sent: %s"
_Subscriptions = dict[str, Subscription]


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

    entry: str
    reply: str
    request: Request  #: with an id of the bridge's own, as clients' may meet
    their_id: int
    task: asyncio.Task[None] | None = None
    since_s: float = field(default_factory=time.monotonic)


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
        self._executors = executors
        self._most = executors + max_queue
        # By the subject of the answer, which is one request's alone.
        self._running: Final[dict[str, _Running]] = {}
        self._sending: Final[set[asyncio.Task[None]]] = set()
        self._intake: Final = Intake(config.max_frame_bytes)
        self._entries: list[str] = list(entries)
        self._subscriptions: Final[dict[str, Subscription]] = {}
        #: Of entrypoints of which the pool runs as many as it may.
        self._rests_until_s: Final[dict[str, float]] = {}
        #: Where requests come that no bridge asks for: of each entrypoint, all the time.
        self._listening: Final[dict[str, Subscription]] = {}
        self._refused_s = 0.0  # when the pool refused a request
        self._refusal = outcomes.busy(BusyReason.QUEUE_FULL)  # the last one
        self._changed: Final = asyncio.Event()
        self._next_id = 0
        own = engine.new_inbox().rpartition(".")[2]  # nobody can guess it
        self._pieces_inbox: Final = f"{config.nats_subject}.{wire.PIECES}.{own}"

    @property
    def in_flight(self) -> int:
        """How many requests the pool has from here."""
        return len(self._running)

    @property
    def entries(self) -> list[str]:
        """The entrypoints that are served now. `served` has also those that were."""
        return self._entries

    def offer(self, entries: Sequence[str], executors: int, max_queue: int) -> None:
        """Serve these entrypoints from now on, and no others: the pool is not what it was."""
        for entry in entries:
            self.served.setdefault(entry, Served())
        self._entries = list(entries)
        self._executors, self._most = executors, executors + max_queue
        self._changed.set()

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
            await self._leave(self._listening, list(self._listening))  # first, as it would say Busy
            await self._leave(self._subscriptions, list(self._subscriptions))
            pieces_until_s = time.monotonic() + LAST_PIECES_S
            while self._running or self._sending or self._intake.under_way:
                if time.monotonic() >= pieces_until_s:
                    self._refuse_pieces()
                ends = [*self._tasks(), *self._sending]
                if ends:
                    await asyncio.wait(ends, timeout=PAUSE_S if self._intake.under_way else None)
                else:
                    await asyncio.sleep(PAUSE_S)  # the other pieces come
            await self._engine.flush()
        finally:
            beating.cancel()
            stopping.cancel()
            for each in self._tasks():
                each.cancel()
            # Nobody may be asked for what nobody serves.
            for subscription in [*self._subscriptions.values(), *self._listening.values(), *others]:
                with contextlib.suppress(Exception):
                    await subscription.drain()

    def _tasks(self) -> list[asyncio.Task[None]]:
        return [each.task for each in self._running.values() if each.task is not None]

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
        now_s = time.monotonic()
        wanted = [
            entry
            for entry in ([] if self._is_full else self._entries)
            if self._rests_until_s.get(entry, 0.0) <= now_s
        ]
        prefix = self._config.nats_subject
        await self._have(self._listening, self._entries, f"{prefix}.{wire.FULL}", self._full_handler)
        await self._have(self._subscriptions, wanted, prefix, self._handler)

    async def _have(
        self,
        subscriptions: _Subscriptions,
        entries: Iterable[str],
        prefix: str,
        handler: Callable[[str], Handler],
    ) -> None:
        """Be subscribed for these entrypoints, and for no others."""
        await self._leave(subscriptions, subscriptions.keys() - set(entries))
        for entry in entries:
            if entry not in subscriptions:
                subject = wire.subject_of(prefix, entry)
                subscriptions[entry] = await self._engine.subscribe(subject, handler(entry), group=GROUP)

    async def _leave(self, subscriptions: _Subscriptions, entries: Iterable[str]) -> None:
        leaving = [subscriptions.pop(entry) for entry in entries]
        await asyncio.gather(*(each.drain() for each in leaving), return_exceptions=True)

    # -- what comes --

    def _full_handler(self, entry: str) -> Handler:
        take = self._handler(entry)

        def take_or_refuse(message: Incoming) -> None:
            if entry in self._subscriptions:  # there is room by now
                take(message)
            elif self._may_be_answered(message.reply):
                self._refuse_bytes(entry, self._refusal, message.reply)

        return take_or_refuse

    def _handler(self, entry: str) -> Handler:
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
            except (FrameError, MoltBusy) as exc:
                self._refuse_bytes(entry, exc, message.reply)

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
        except (FrameError, MoltBusy) as exc:
            self._refuse_bytes(entry, exc, reply)

    def _take_cancel(self, message: Incoming) -> None:
        running = self._running.get(message.data.decode("ascii", "replace"))
        if running is not None and running.task is not None:
            running.task.cancel()

    def _may_be_answered(self, reply: str) -> bool:
        """Whether answers may go there: not to requests of others, nor to the system's own subjects."""
        if not reply.isprintable():  # it can't be published to
            return False
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
        self._next_id += 1
        running = _Running(entry, reply, request, request.request_id)
        request.request_id = self._next_id
        steps = self._serve(running)
        try:
            step = next(steps)
            if self._is_quick(entry) and isinstance(step, CallEnd) and step.pending.wait(QUICK_S):
                step = steps.send(True)
        except StopIteration:
            return
        running.task = asyncio.create_task(adrive(steps, step))
        self._running[reply] = running
        running.task.add_done_callback(lambda _: self._ended(running, steps))
        self._look()

    def _is_quick(self, entry: str) -> bool:
        """Whether to wait for a request here, which saves the ways to the completion thread and back.

        Nobody else needs the loop then.
        """
        return not self._running and self.served[entry].usually_ns < QUICK_NS

    def _serve(self, running: _Running) -> Generator[Wait, Any, None]:
        """Have the pool run a request, and answer it."""
        request = running.request
        began_ns = time.monotonic_ns()
        try:
            response, error = yield from attempt(self._transport, request, None)
        except Exception as exc:
            log.exception("a request of %s failed in the bridge", running.entry)
            response, error = None, MoltInternalError(f"the bridge failed: {exc}")
        if response is None:
            assert error is not None
            response = error_response(request, error)
        response.request_id = running.their_id
        self._count(running.entry, response, time.monotonic_ns() - began_ns)
        if isinstance(error, MoltBusy):
            self._refusal = error
            self._make_way(running.entry, error)
        self._answer(running.reply, response)

    def _ended(self, running: _Running, steps: Generator[Wait, Any, None]) -> None:
        steps.close()  # a task that is cancelled before its first step has not done so
        del self._running[running.reply]
        self._look()

    def _count(self, entry: str, response: Response, took_ns: int) -> None:
        served = self.served[entry]
        served.requests += 1
        served.nanoseconds += took_ns
        if response.status is Status.BUSY:
            served.busy += 1
        elif response.status is not Status.OK:
            served.errors += 1
            served.last_error = response.status.label

    def _make_way(self, entry: str, refusal: MoltBusy) -> None:
        """Leave requests to others for a while: all of them, or those that are as the one that the pool has refused."""
        if refusal.reason in _ITS_OWN:
            return
        if refusal.reason == BusyReason.ENTRY_LIMIT:
            self._rests_until_s[entry] = time.monotonic() + PAUSE_S
            self._changed.set()
        else:
            self._refused_s = time.monotonic()
            self._look()

    # -- answers --

    def _refuse_bytes(self, entry: str, error: FrameError | MoltBusy, reply: str) -> None:
        """Refuse what has not become a request. Its id may not be known; then the answer has 0."""
        if isinstance(error, MoltBusy):
            self._refuse(entry, 0, error, reply)
        elif error.fault is Fault.VERSION:
            self._send(reply, [wire.NOT_MINE])  # its sender could not read a response of this version
        else:
            self._refuse(entry, error.raw_id, MoltInvalidInput(error.detail), reply)

    def _refuse(self, entry: str, request_id: int, error: MoltError, reply: str) -> None:
        response = error_response(Request(request_id, entry), error)
        self._count(entry, response, 0)
        self._answer(reply, response)

    def _refuse_pieces(self) -> None:
        """Refuse what is still coming in pieces: others can have it."""
        for entry, reply in self._intake.give_up():
            self._refuse(entry, 0, outcomes.busy(BusyReason.STOPPING), reply)

    def _answer(self, reply: str, response: Response) -> None:
        self._send(reply, self._messages_of(response))

    def _messages_of(self, response: Response) -> list[bytes]:
        try:
            body = wire.encode_response(response, self._config.max_frame_bytes)
        except FrameError as exc:
            shorter = too_large(Request(response.request_id, ""), response, exc)
            body = wire.encode_response(shorter, self._config.max_frame_bytes)
        if len(body) < self._engine.max_payload:
            return [wire.RESPONSE + body]
        return list(wire.pieces_of(body, wire.RESPONSE_PIECE, self._engine.max_payload))

    def _send(self, subject: str, messages: list[bytes], reply: str = "") -> None:
        try:
            if len(messages) == 1 and self._engine.publish_now(subject, messages[0], reply):
                return
        except EngineError as exc:
            log.warning(_NOT_SENT, exc)
            return
        task = asyncio.create_task(self._publish(subject, messages, reply))
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)

    async def _publish(self, subject: str, messages: list[bytes], reply: str) -> None:
        try:
            for message in messages:
                await self._engine.publish(subject, message, reply)
        except EngineError as exc:
            log.warning(_NOT_SENT, exc)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S / 2)
            before_s = time.monotonic() - BEAT_S / 2
            for reply, running in list(self._running.items()):
                if running.since_s < before_s:
                    self._send(reply, [wire.TAKEN])
            for reply in self._intake.replies:  # over a slow link pieces take long
                self._send(reply, [wire.GO_ON])
