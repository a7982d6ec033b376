"""molt_accel.cluster.nats_client: what is wrong with nats-py does no harm here."""

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from molt_accel.cluster.engine import EngineError, Incoming
from molt_accel.cluster.nats import NatsEngine
from molt_accel.config import Config
from tests.support import nats_jwt
from tests.support.nats_server import PATIENCE_S, NatsServer

Messages = "asyncio.Queue[Incoming]"


def engine_of(url: str, **settings: Any) -> NatsEngine:
    return NatsEngine(Config.load(nats_url=url, **settings), "test")


def test_no_message_is_lost_while_one_of_a_group_leaves_again_and_again(server: NatsServer) -> None:
    async def main() -> None:
        stays, leaves, sends = (engine_of(server.url) for _ in range(3))
        for engine in (stays, leaves, sends):
            await engine.connect()
        got: set[bytes] = set()

        def take(message: Incoming) -> None:
            got.add(message.data)

        await stays.subscribe("work", take, group="g")
        await stays.flush()
        sent = 0

        async def leave_often() -> None:
            for _ in range(150):
                subscription = await leaves.subscribe("work", take, group="g")
                await leaves.flush()
                await subscription.drain()

        leaving = asyncio.create_task(leave_often())
        while not leaving.done():
            await sends.publish("work", b"%d" % sent)
            sent += 1
            await asyncio.sleep(0)
        await leaving
        await sends.flush()
        await stays.flush()
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < sent:
                await asyncio.sleep(0.01)
        for engine in (stays, leaves, sends):
            await engine.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello\n",
        "-----BEGIN USER NKEY SEED-----\nSUAB\n",
        # nats-py would look for the JWT for ever.
        "-----BEGIN USER NKEY SEED-----\n{seed}\n",
        "-----BEGIN NATS USER JWT-----\nx\n-----BEGIN USER NKEY SEED-----\n",
    ],
)
@pytest.mark.parametrize("setting", ["nats_creds", "nats_nkey"])
def test_secrets_that_are_none_are_an_error(tmp_path: Path, setting: str, text: str) -> None:
    config, _ = nats_jwt.write(tmp_path)
    secrets = tmp_path / "secrets"
    secrets.write_text(text.format(seed=nats_jwt.new_pair("user").seed.decode()))

    async def main() -> None:
        with NatsServer(tmp_path, ["-c", str(config)]) as server:
            engine = engine_of(server.url, **{setting: str(secrets)})
            with pytest.raises(EngineError, match=f"MOLT_{setting.upper()} is not what"):
                await asyncio.wait_for(engine.connect(), PATIENCE_S)

    asyncio.run(main())


@pytest.mark.parametrize("scheme", ["tls", "nats"])
def test_where_tls_is_asked_for_nothing_is_told_without_it(tmp_path: Path, scheme: str) -> None:
    """Whoever is in the way can leave out of the server's INFO that it demands TLS."""
    told: list[bytes] = []

    async def in_the_way(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(
            b'INFO {"server_id":"x","version":"2.10.0","proto":1,"max_payload":1024,"headers":true}\r\n'
        )
        told.append(await reader.read(1000))
        writer.close()

    async def main() -> None:
        settings = {"nats_user": "u", "nats_password": "secret"}
        if scheme == "nats":
            settings["nats_ca"] = str(tmp_path / "ca.pem")
            make = [
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-days",
                "2",
                "-subj",
                "/CN=test",
            ]
            make += ["-keyout", str(tmp_path / "ca.key"), "-out", settings["nats_ca"]]
            subprocess.run(make, check=True, capture_output=True, timeout=60)
        async with await asyncio.start_server(in_the_way, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            engine = engine_of(f"{scheme}://127.0.0.1:{port}", **settings)
            with pytest.raises(EngineError, match="TLS is asked for"):
                await engine.connect()
            server.close()
        assert b"".join(told) == b""

    asyncio.run(main())


async def is_back(engine: NatsEngine) -> bool:
    """Whether a server answers. nats-py may take an answer for that to an earlier question, and wait in vain."""
    with contextlib.suppress(EngineError):
        await engine.flush()
        return engine.connected
    return False


def test_a_subscription_that_ended_without_the_server_is_not_asked_for_again(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()

    async def main() -> None:
        one, other = engine_of(server.url), engine_of(server.url)
        await one.connect()
        got: list[Incoming] = []
        subscription = await one.subscribe("work", got.append)
        await one.flush()
        server.process.send_signal(signal.SIGSTOP)
        draining = asyncio.create_task(subscription.drain())
        await asyncio.sleep(0.1)
        server.kill()
        server.start()
        with contextlib.suppress(EngineError):  # unless it was back before it had waited for long
            await draining
        async with asyncio.timeout(PATIENCE_S):
            while not await is_back(one):
                await asyncio.sleep(0.01)
        await other.connect()
        inbox, answers = other.new_inbox(), asyncio.Queue[Incoming]()
        await other.subscribe(inbox, answers.put_nowait)
        await other.publish("work", b"x", inbox)
        assert (await asyncio.wait_for(answers.get(), PATIENCE_S)).unheard
        assert got == []
        await one.close()
        await other.close()

    try:
        asyncio.run(main())
    finally:
        server.kill()


@pytest.mark.parametrize("reason", ["Authorization Violation", "User Authentication Expired"])
def test_who_is_sent_away_with_a_reason_comes_back(reason: str) -> None:
    """For example when a token has run out: it may be a new one by then."""

    async def main() -> None:
        came = 0

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal came
            came += 1
            writer.write(b'INFO {"max_payload": 1048576, "headers": true, "version": "2.10.0"}\r\n')
            while line := await reader.readline():
                if line.startswith(b"PING"):
                    writer.write(b"PONG\r\n")
                    if came == 1:
                        writer.write(f"-ERR '{reason}'\r\n".encode())
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        engine = engine_of(f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await engine.connect()
        async with asyncio.timeout(PATIENCE_S):
            while came < 2 or not engine.connected:
                await asyncio.sleep(0.01)
        await engine.close()
        server.close()
        await server.wait_closed()

    asyncio.run(main())
