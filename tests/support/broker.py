"""A messaging system in this process: an `Engine` for unit tests, whose loops may be of different threads."""

import asyncio
import itertools
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from molt_accel.cluster.engine import EngineError, Handler, Incoming

_inboxes = itertools.count(1)


@dataclass(eq=False)
class BrokerSubscription:
    broker: "Broker"
    subject: str
    handler: Handler
    group: str
    loop: asyncio.AbstractEventLoop

    def matches(self, subject: str) -> bool:
        if self.subject.endswith(".*"):
            return subject.rpartition(".")[0] == self.subject[:-2]
        return subject == self.subject

    async def drain(self) -> None:
        with self.broker.lock:
            if self in self.broker.subscriptions:
                self.broker.subscriptions.remove(self)
        await asyncio.sleep(0)  # what was on its way has come


@dataclass
class Broker:
    """Where all engines meet. `sent` has what was published: subject, data, reply."""

    max_payload: int = 1000
    up: bool = True
    sent: list[tuple[str, bytes, str]] = field(default_factory=list)
    subscriptions: list[BrokerSubscription] = field(default_factory=list)
    lock: threading.RLock = field(default_factory=threading.RLock)

    def deliver(self, subject: str, data: bytes, reply: str) -> None:
        with self.lock:
            self.sent.append((subject, data, reply))
            chosen: dict[object, BrokerSubscription] = {}
            for each in self.subscriptions:
                if each.matches(subject):
                    chosen.setdefault(each.group or each, each)
        for each in chosen.values():
            each.loop.call_soon_threadsafe(each.handler, Incoming(subject, data, reply))
        if not chosen and reply:
            self.tell_unheard(reply)

    def tell_unheard(self, reply: str) -> None:
        for each in self.subscriptions:
            if each.matches(reply):
                each.loop.call_soon_threadsafe(each.handler, Incoming(reply, b"", "", unheard=True))

    def engine(self, *_: object) -> "BrokerEngine":
        return BrokerEngine(self)

    def subjects(self) -> list[str]:
        with self.lock:
            return [each.subject for each in self.subscriptions]


class BrokerEngine:
    """One connection to a broker."""

    def __init__(self, broker: Broker, on_publish: Callable[[str], None] | None = None) -> None:
        self.broker = broker
        self.closed = False
        self.forgotten = False
        self._on_publish = on_publish

    @property
    def connected(self) -> bool:
        return self.broker.up and not self.closed

    @property
    def max_payload(self) -> int:
        return self.broker.max_payload

    async def connect(self) -> None:
        if not self.broker.up:
            raise EngineError("the broker is down")

    def new_inbox(self) -> str:
        return f"inbox{next(_inboxes)}"

    async def subscribe(self, subject: str, handler: Handler, *, group: str = "") -> BrokerSubscription:
        made = BrokerSubscription(self.broker, subject, handler, group, asyncio.get_running_loop())
        with self.broker.lock:
            self.broker.subscriptions.append(made)
        return made

    def publish_now(self, subject: str, data: bytes, reply: str = "") -> bool:
        if not self.connected:
            raise EngineError("the broker is down")
        assert len(data) <= self.max_payload
        self.broker.deliver(subject, data, reply)
        return True

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        self.publish_now(subject, data, reply)

    async def flush(self) -> None:
        await asyncio.sleep(0)

    async def close(self) -> None:
        self.closed = True

    def forget(self) -> None:
        self.forgotten = True
