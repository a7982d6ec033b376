"""Runs a bridge, or a client's one call, and sends itself a signal at a step.

    python -m tests.integration.cluster.steps.launcher STEP SIGNAL FILE bridge --name POOL --nats URL
    python -m tests.integration.cluster.steps.launcher STEP SIGNAL FILE client JSON

The file is made by whoever gets to the step; it is done once. STEP may be empty: nothing befalls it. Silence is noticed
sooner than in production, since tests wait for it.
"""

import functools
import inspect
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, Final

from molt_accel.cluster import pulse
from tests.integration.cluster.steps.table import BEAT_S, LOOK_S, SILENCE_S

if __name__ == "__main__":  # before other modules take the values
    pulse.BEAT_S, pulse.LOOK_S, pulse.SILENCE_S = BEAT_S, LOOK_S, SILENCE_S  # type: ignore[misc]

from nats.aio.client import Client as NatsClient
from nats.aio.subscription import Subscription

from molt_accel import Client, MoltError
from molt_accel.cluster import wire
from molt_accel.cluster.nats import NatsEngine
from molt_accel.transports.cluster import _Link
from molt_accel.transports.shm.transport import ShmTransport
from molt_worker.bridge.bridge import Bridge
from molt_worker.bridge.intake import Intake
from molt_worker.cli.main import main as molt_worker

Condition = Callable[..., bool]


def hit() -> None:
    """Be hit, unless somebody was."""
    try:
        with open(sys.argv[3], "x") as file:
            file.write(str(os.getpid()))
    except FileExistsError:
        return
    signal.raise_signal(int(sys.argv[2]))  # of this thread: it acts before this returns


def always(*_: Any) -> bool:
    return True


def before(owner: type, method: str, counts: Condition = always) -> None:
    """Be hit when the method is called with arguments that count."""
    inner = getattr(owner, method)
    if inspect.iscoroutinefunction(inner):

        @functools.wraps(inner)
        async def later(*args: Any, **kwargs: Any) -> Any:
            if counts(*args):
                hit()
            return await inner(*args, **kwargs)

        setattr(owner, method, later)
        return

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        if counts(*args):
            hit()
        return inner(*args, **kwargs)

    setattr(owner, method, outer)


def after(owner: type, method: str, counts: Condition = always) -> None:
    """Be hit when the method has done what it does, with arguments that count."""
    inner = getattr(owner, method)

    @functools.wraps(inner)
    def outer(*args: Any, **kwargs: Any) -> Any:
        done = inner(*args, **kwargs)
        if counts(*args):
            hit()
        return done

    setattr(owner, method, outer)


def sent(kind: bytes, nth: int = 1) -> None:
    """Be hit when the server has the n-th message of this kind."""
    inner, inner_now = NatsEngine.publish, NatsEngine.publish_now
    counted = nth_time(nth)

    async def publish(self: NatsEngine, subject: str, data: bytes, reply: str = "") -> None:
        await inner(self, subject, data, reply)
        if data[:1] == kind and counted():
            await self.flush()
            hit()

    def publish_now(self: NatsEngine, subject: str, data: bytes, reply: str = "") -> bool:
        return data[:1] != kind and inner_now(self, subject, data, reply)

    NatsEngine.publish, NatsEngine.publish_now = publish, publish_now  # type: ignore[method-assign]


def nth_time(nth: int) -> Condition:
    """Hold from the n-th time on that it is asked."""
    asked = 0

    def holds(*_: Any) -> bool:
        nonlocal asked
        asked += 1
        return asked >= nth

    return holds


def of_kind(kind: bytes) -> Condition:
    return lambda _self, message: message.data[:1] == kind


ARMED: Final[dict[str, Callable[[], None]]] = {
    "bridge.received": lambda: before(Bridge, "_begin"),
    "bridge.first_piece": lambda: after(Intake, "begin"),
    "bridge.go_on": lambda: sent(wire.GO_ON),
    "bridge.mid_request": lambda: after(Intake, "add", nth_time(3)),
    "bridge.begun": lambda: before(Bridge, "_serve"),
    "bridge.given": lambda: after(ShmTransport, "submit", lambda _, request: request.entry == "note"),
    "bridge.told": lambda: sent(wire.TAKEN),
    "bridge.answered": lambda: after(Bridge, "_count"),
    "bridge.mid_answer": lambda: sent(wire.RESPONSE_PIECE, 2),
    "bridge.sent": lambda: sent(wire.RESPONSE),
    "bridge.leaving": lambda: before(Subscription, "drain"),
    "bridge.unsubscribed": lambda: before(NatsClient, "_remove_sub"),
    "bridge.cancel": lambda: before(Bridge, "_take_cancel"),
    "bridge.cancelled": lambda: after(Bridge, "_take_cancel"),
    "client.sending": lambda: before(_Link, "_send"),
    "client.sent": lambda: sent(wire.REQUEST),
    "client.first_piece": lambda: sent(wire.FIRST_PIECE),
    "client.go_on": lambda: before(_Link, "_send_rest"),
    "client.mid_request": lambda: sent(wire.NEXT_PIECE, 2),
    "client.told": lambda: after(_Link, "_take", of_kind(wire.TAKEN)),
    "client.mid_answer": lambda: after(wire.Pieces, "add", nth_time(2)),
    "client.answered": lambda: before(_Link, "_take_response"),
    "client.refused": lambda: before(_Link, "_send", nth_time(2)),
    "client.cancelling": lambda: before(_Link, "_cancel"),
}


def call(order: dict[str, Any]) -> None:
    """Make one call, and print its outcome: one line."""

    def check() -> bool:
        return os.path.exists(order["cancel"])

    with Client(transport="nats", nats_url=order["nats"]) as client:
        outcome: dict[str, Any]
        try:
            got = client.call(
                "note",
                {**order["payload"], "pad": bytes(order["request_bytes"])},
                timeout_ms=order["timeout_ms"],
                idempotent=order["idempotent"],
                cancel_check=check,
            )
            outcome = {"kind": "Ok", "nonce": got["nonce"]}
        except MoltError as error:
            outcome = {
                "kind": type(error).__name__,
                "may_have_run": getattr(error, "may_have_run", None),
                "detail": str(error),
            }
        print(json.dumps(outcome), flush=True)


def main() -> int:
    step, command = sys.argv[1], sys.argv[4:]
    if step:
        ARMED[step]()
    if command[0] == "client":
        call(json.loads(command[1]))
        return 0
    return molt_worker(command)


if __name__ == "__main__":
    sys.exit(main())
