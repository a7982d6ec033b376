"""The seam to a messaging system: what clients and bridges need of one. `nats` is the one that there is.

All methods run on one event loop. Messages from one connection to one subscription keep their order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol


class Incoming(NamedTuple):
    """A message that came."""

    subject: str
    data: bytes
    reply: str  #: where an answer goes; empty: nobody waits for one
    unheard: bool = False  #: it is no message, but says that nobody listens where `subject` is the reply of


#: Takes a message. Called on the loop; it must not block, and awaits nothing.
Handler = Callable[[Incoming], None]


class Subscription(Protocol):
    async def drain(self) -> None:
        """Take no more messages. Returns when the handler has had those that had come."""


class EngineError(Exception):
    """The messaging system can't be reached, or refuses. The text says which and why."""


class Engine(Protocol):
    @property
    def connected(self) -> bool:
        """Whether messages can be sent now. False while it tries to come back."""

    @property
    def max_payload(self) -> int:
        """The most bytes that one message may have."""

    async def connect(self) -> None:
        """Connect. Raises EngineError. A connection that is lost later comes back by itself, with its subscriptions."""

    def new_inbox(self) -> str:
        """Return a subject that nobody can guess, for answers."""

    async def subscribe(self, subject: str, handler: Handler, *, group: str = "") -> Subscription:
        """Have messages handled. Of those in one group, one gets each message."""

    def publish_now(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Send a message without waiting, which saves a turn of the loop.

        Returns False, and has sent nothing, while so much is still to be sent that `publish` has to wait. Raises
        EngineError: it was not sent.
        """

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        """Send a message. Raises EngineError: it was not sent."""

    async def flush(self) -> None:
        """Return when the server has all that was sent and subscribed. Raises EngineError."""

    async def close(self) -> None:
        """Send what is to be sent, and leave."""

    def forget(self) -> None:
        """In a forked child: let go of the parent's connection, and tell the server nothing. Not on the loop."""
