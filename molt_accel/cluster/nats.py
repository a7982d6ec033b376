"""NATS as the messaging system: nats-py, configured by MOLT_NATS_*. Imported only where that is asked for.

Waiting for a lost server never ends, with pauses that grow: a bridge has nothing better to do, and a client's calls are
told at once. What a client publishes meanwhile is refused and not kept, since a request that is sent later than its
caller knows has a deadline that is wrong.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from typing import Any, Final

from molt_accel.cluster.engine import EngineError, Handler, Incoming, Subscription
from molt_accel.cluster.nats_client import CONNECT_S, Client, DrainedSubscription, check_secrets
from molt_accel.config import Config

# nats_client says what to install where it is missing.
import nats.errors  # isort: skip
from nats.aio.msg import Msg  # isort: skip

log = logging.getLogger("molt_accel")

RECONNECT_S: Final = 1  #: between two tries to come back to one server
PING_S: Final = 5  #: how often an idle connection is tried; two without an answer end it
#: So many bytes may wait for the socket before publishing waits too: half of what nats-py allows (MAX_PENDING_SIZE).
_UNSENT_BYTES: Final = 1024 * 1024
_NO_RESPONDERS: Final = "503"


class _GivenUpError(Exception):
    """None of the servers has let this connection in."""


class NatsEngine:
    """The `Engine` for NATS.

    Args:
        config: Its servers, and how to be let in.
        name: What the server's own views call this connection.
    """

    def __init__(self, config: Config, name: str) -> None:
        self._config = config
        self._name = name
        self._client = Client(self._config)
        self._tries_left = 0  # while it connects for the first time: one for each server

    @property
    def client(self) -> Client:
        """nats-py's own, for what only NATS has: its service API."""
        return self._client

    @property
    def connected(self) -> bool:
        return bool(self._client.is_connected)

    @property
    def max_payload(self) -> int:
        return int(self._client.max_payload)

    async def connect(self) -> None:
        servers = [each.strip() for each in self._config.nats_url.split(",") if each.strip()]
        if not servers:
            raise EngineError("MOLT_NATS_URL is empty: it names NATS servers, as in nats://127.0.0.1:4222")
        self._tries_left = len(servers)
        self._client = Client(self._config)
        try:
            await self._client.connect(
                servers,
                name=self._name,
                connect_timeout=CONNECT_S,
                reconnect_time_wait=RECONNECT_S,
                max_reconnect_attempts=-1,
                ping_interval=PING_S,
                max_outstanding_pings=2,
                error_cb=self._note,
                disconnected_cb=self._disconnected,
                reconnected_cb=self._reconnected,
                **self._how_to_be_let_in(),
            )
        except (nats.errors.Error, OSError, TimeoutError, ValueError, _GivenUpError) as exc:
            await self.close()
            raise EngineError(f"can't reach NATS at {self._servers}: {exc or type(exc).__name__}") from exc
        self._tries_left = 0

    @property
    def _servers(self) -> str:
        """Where the servers are, without the passwords that a URL may have."""
        return ", ".join(each.rpartition("@")[2] for each in self._config.nats_url.split(","))

    def _how_to_be_let_in(self) -> dict[str, Any]:
        config = self._config
        check_secrets(config)
        options: dict[str, Any] = {}
        if config.nats_creds:
            options["user_credentials"] = config.nats_creds
        if config.nats_nkey:
            options["nkeys_seed"] = config.nats_nkey
        if config.nats_user:
            options["user"], options["password"] = config.nats_user, config.nats_password
        if config.nats_ca or config.nats_cert:
            try:
                context = ssl.create_default_context(cafile=config.nats_ca or None)
                if config.nats_cert:
                    context.load_cert_chain(config.nats_cert, config.nats_key or None)
            except (OSError, ssl.SSLError) as exc:
                raise EngineError(
                    f"MOLT_NATS_CA, MOLT_NATS_CERT or MOLT_NATS_KEY can't be read: {exc}"
                ) from exc
            options["tls"] = context
        return options

    def new_inbox(self) -> str:
        return str(self._client.new_inbox())

    async def subscribe(self, subject: str, handler: Handler, *, group: str = "") -> Subscription:
        async def take(message: Msg) -> None:
            headers = message.headers
            unheard = headers is not None and headers.get("Status") == _NO_RESPONDERS
            handler(Incoming(message.subject, message.data, message.reply, unheard))

        try:
            # The bounds are the bridge's and the client's own: they answer for what they take.
            made = await self._client.subscribe(
                subject, queue=group, cb=take, pending_msgs_limit=-1, pending_bytes_limit=-1
            )
        except nats.errors.Error as exc:
            raise EngineError(f"can't subscribe to {subject}: {exc or type(exc).__name__}") from exc
        return DrainedSubscription(self._client, made)

    def publish_now(self, subject: str, data: bytes, reply: str = "") -> bool:
        if self._client.pending_data_size + len(data) > _UNSENT_BYTES:
            return False
        # nats-py's `publish` waits only for room, which there is.
        try:
            self.publish(subject, data, reply).send(None)
        except StopIteration:
            return True
        raise AssertionError("nats-py's publish has waited although there is room")

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        if not self.connected:
            raise EngineError(f"the connection to NATS at {self._servers} is lost")
        try:
            await self._client.publish(subject, data, reply=reply)
        except (nats.errors.Error, OSError) as exc:
            raise EngineError(f"can't publish to {subject}: {exc or type(exc).__name__}") from exc

    async def flush(self) -> None:
        try:
            await self._client.flush()
        except (nats.errors.Error, OSError, TimeoutError, RuntimeError) as exc:
            raise EngineError(
                f"NATS at {self._servers} does not answer: {exc or type(exc).__name__}"
            ) from exc

    async def close(self) -> None:
        try:
            await self._client.close()
        except AssertionError:
            log.debug("there is no connection to NATS to leave")  # nats-py says it so of one that never began
        except asyncio.CancelledError:
            # While it tries to come back, nats-py ends a task of its own that waits for the same socket, and hears of
            # that as if it was cancelled itself.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
        except (nats.errors.Error, OSError, TimeoutError, RuntimeError) as exc:
            # RuntimeError: nats-py also writes to a socket that is gone, which uvloop refuses.
            log.debug("leaving NATS: %s", exc)

    def forget(self) -> None:
        # nats-py can't be asked: all that it does goes through the loop, which is the parent's.
        writer = getattr(getattr(self._client, "_transport", None), "_bare_io_writer", None)
        sock = None if writer is None else writer.get_extra_info("socket")
        if sock is None or sock.fileno() < 0:
            return
        # The number stays in use, since objects that know it may close it, or take it out of the loop's epoll, which
        # parent and child share.
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(null, sock.fileno(), inheritable=False)
        os.close(null)

    async def _note(self, error: Exception) -> None:
        if self._tries_left:
            # nats-py would try for ever to connect for the first time. What this raises ends that.
            self._tries_left -= 1
            if not self._tries_left:
                raise _GivenUpError(str(error) or type(error).__name__) from error
        elif self.connected:  # else it is told once that the connection is lost
            log.warning("NATS at %s: %s", self._servers, error or type(error).__name__)

    async def _disconnected(self) -> None:
        if not self._client.is_closed:
            log.warning("the connection to NATS at %s is lost; trying to come back", self._servers)

    async def _reconnected(self) -> None:
        log.warning("back at NATS at %s", self._servers)
