"""nats-py's client, with what it lacks. Only this knows nats-py's inner names; the tests say if they change."""

from __future__ import annotations

import logging
import re
import types
from pathlib import Path
from typing import Any, Final

from molt_accel.cluster.engine import EngineError
from molt_accel.config import Config

try:
    import nats.errors
    import nkeys
    from nats.aio.client import Client as NatsClient
    from nats.aio.subscription import Subscription as NatsSubscription
    from nats.protocol import parser
except ImportError as exc:
    raise ImportError(f"calls to other hosts need nats-py ({exc}): pip install 'molt-accel[nats]'") from exc

log = logging.getLogger("molt_accel")

#: What stands in a credentials file before the JWT, and before the seed.
_HEADS: Final = (b"BEGIN NATS USER JWT", b"BEGIN USER NKEY SEED")
CONNECT_S: Final = 2  #: how long a server may take to accept a connection


class _Parser(parser.Parser):
    """nats-py's parser, by the server's idea of what parts a line: spaces.

    nats-py's own (2.16) parts it at vertical tabs and form feeds too. A subject may have them, so whoever publishes one
    in a reply subject would have each connection ended that gets the message.
    """

    parse = types.FunctionType(
        parser.Parser.parse.__code__,
        {
            **vars(parser),
            "MSG_RE": re.compile(rb"\AMSG ([^ \r\n]+) (\d+) (([^ \r\n]+) )?(\d+)\r\n"),
            "HMSG_RE": re.compile(rb"\AHMSG ([^ \r\n]+) (\d+) (([^ \r\n]+) )?(\d+) (\d+)\r\n"),
        },
        argdefs=parser.Parser.parse.__defaults__,
    )


class Client(NatsClient):
    """nats-py's client, with what it lacks (2.16)."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self._config_of_molt = config
        self._ps = _Parser(self)

    async def _process_msg(self, *message: Any) -> None:
        """Handle a message.

        nats-py's own stops reading, and stays connected, at one that it can't make out (`_read_loop`): a subject that
        is no UTF-8, or odd headers. Anybody may publish such a one.
        """
        try:
            await super()._process_msg(*message)
        except Exception as exc:
            log.debug("a message that can't be read is dropped: %r", exc)

    async def _process_err(self, err_msg: str) -> None:
        """Handle what the server complains of.

        nats-py's own leaves for good when the server ends the connection with a reason, such as a token that has run
        out. It might be let in again.
        """
        if self.is_connecting or parser.PERMISSIONS_ERR in err_msg:
            await super()._process_err(err_msg)
        else:
            await self._process_op_err(nats.errors.Error(f"nats: {err_msg}"))

    async def flush(self, timeout: int = CONNECT_S) -> None:
        """Wait until the server has all that was sent before.

        nats-py's own writes its PING to the socket at once, and may leave what was sent before in a list that a task
        writes later (`_send_ping` and `_flusher`). So the answer says nothing of that, and a subscription that is
        drained loses the requests that come between the PING and the UNSUB behind it. By the first answer the task has
        run.
        """
        await super().flush(timeout)
        await super().flush(timeout)

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Look at what a server says of itself, before it is told anything: on each new connection, and later.

        nats-py speaks TLS only if this says that it must, whatever the URL is. So whoever is in the way could leave
        that out, and be told the password.
        """
        if initial_connection:
            assert self._current_server is not None
            if self._current_server.uri.scheme == "tls" or "tls" in self.options:
                if not info.get("tls_required") and not info.get("tls_available"):
                    raise nats.errors.Error("TLS is asked for, and the server has none")
                info["tls_required"] = True
            check_secrets(self._config_of_molt)  # they may have been replaced since the last connection
        await super()._process_info(info, initial_connection)


def check_secrets(config: Config) -> None:
    """See that nats-py will understand its files. It reads on for ever where a credentials file has no JWT.

    Raises nats.errors.Error, OSError: it would not.
    """
    for setting, name in (("MOLT_NATS_CREDS", config.nats_creds), ("MOLT_NATS_NKEY", config.nats_nkey)):
        if not name:
            continue
        try:
            lines = Path(name).read_bytes().split(b"\n")
        except OSError as exc:
            raise nats.errors.Error(f"{setting} can't be read: {exc}") from exc
        if setting == "MOLT_NATS_CREDS":
            heads = [next((at for at, line in enumerate(lines) if head in line), -1) for head in _HEADS]
            seed = lines[heads[1] + 1 :][:1] if min(heads) >= 0 else []
        else:
            seed = [b"\n".join(lines)]
        try:
            nkeys.from_seed(bytearray(seed[0].strip())).wipe()
        except (nkeys.NkeysError, LookupError, ValueError) as exc:
            raise nats.errors.Error(f"{setting} is not what it should be: {name}") from exc


class DrainedSubscription:
    """nats-py's subscription, which ends when it is drained, also while the server does not answer.

    nats-py's own (2.16, `_drain`) stays among those that it asks for again when it is back at a server, and can't be
    ended any more.
    """

    def __init__(self, client: NatsClient, made: NatsSubscription) -> None:
        self._client = client
        self._made = made

    async def drain(self) -> None:
        number = self._made._id
        failed: Exception | None = None
        try:
            await self._made.drain()  # type: ignore[no-untyped-call]
        except (nats.errors.Error, OSError, TimeoutError, RuntimeError) as exc:
            failed = exc
            self._client._remove_sub(number)
            self._made._stop_processing()
        # Perhaps it came back meanwhile, and has asked for it again. Else the server takes no notice of this.
        if self._client.is_connected:
            await self._client._send_unsubscribe(number)
        if failed is not None:
            raise EngineError(f"NATS does not answer: {failed or type(failed).__name__}") from failed
