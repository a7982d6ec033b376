"""molt_accel.cluster.nats: a real server, and how one is let in."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from molt_accel.cluster.engine import EngineError, Incoming
from molt_accel.cluster.nats import NatsEngine
from molt_accel.config import Config
from tests.support.nats_server import PATIENCE_S, NatsServer

Messages = "asyncio.Queue[Incoming]"


def engine_of(url: str, **settings: Any) -> NatsEngine:
    return NatsEngine(Config.load(nats_url=url, **settings), "test")


def test_messages_go_to_one_of_a_group_and_answers_back(server: NatsServer) -> None:
    async def main() -> None:
        one, other = engine_of(server.url), engine_of(server.url)
        await one.connect()
        await other.connect()
        assert one.connected
        assert one.max_payload == 1 << 20
        got: asyncio.Queue[Incoming] = asyncio.Queue()
        inbox = one.new_inbox()
        await one.subscribe(f"{inbox}.*", got.put_nowait)
        served: list[bytes] = []

        def serve(message: Incoming) -> None:
            served.append(message.data)
            asyncio.get_running_loop().create_task(other.publish(message.reply, b"answer"))

        subscriptions = [await other.subscribe("work", serve, group="g") for _ in range(2)]
        await other.flush()
        await one.publish("work", b"x", f"{inbox}.1")
        message = await asyncio.wait_for(got.get(), PATIENCE_S)
        assert (message.subject, message.data, message.unheard) == (f"{inbox}.1", b"answer", False)
        assert served == [b"x"]
        for each in subscriptions:
            await each.drain()
        await one.publish("work", b"x", f"{inbox}.2")
        message = await asyncio.wait_for(got.get(), PATIENCE_S)
        assert (message.subject, message.unheard) == (f"{inbox}.2", True)
        await one.close()
        await other.close()
        assert not one.connected
        with pytest.raises(EngineError):
            await one.publish("work", b"x")

    asyncio.run(main())


def test_what_can_not_be_sent_now_is_not_sent_and_is_sent_later(server: NatsServer) -> None:
    async def main() -> None:
        engine = engine_of(server.url)
        await engine.connect()
        got: list[bytes] = []
        await engine.subscribe("work", lambda message: got.append(message.data[:1]))
        await engine.flush()
        piece = bytes(500_000)
        sent = 0
        while engine.publish_now("work", piece):  # the loop has no turn to write any of it
            sent += 1
        assert sent == 2
        await engine.publish("work", b"x" + piece)
        async with asyncio.timeout(PATIENCE_S):
            while len(got) < sent + 1:
                await asyncio.sleep(0.01)
        assert got == [b"\0"] * sent + [b"x"]
        assert engine.publish_now("work", piece)
        await engine.close()
        with pytest.raises(EngineError):
            engine.publish_now("work", piece)

    asyncio.run(main())


def test_closing_while_the_server_is_lost_is_no_cancellation(server: NatsServer) -> None:
    async def main() -> None:
        engine = engine_of(server.url)
        await engine.connect()
        inner = engine.client.close

        async def close() -> None:
            await inner()
            raise asyncio.CancelledError  # as if a task of nats-py had been cancelled with the socket

        engine.client.close = close  # type: ignore[method-assign]
        await engine.close()

        async def wait() -> None:
            await asyncio.Event().wait()

        engine.client.close = wait  # type: ignore[method-assign]
        closing = asyncio.create_task(engine.close())
        await asyncio.sleep(0)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

    asyncio.run(main())


def test_a_server_that_is_not_there_is_named_without_its_password() -> None:
    async def main() -> None:
        with pytest.raises(EngineError) as caught:
            await engine_of("nats://user:secret@127.0.0.1:1").connect()
        assert "127.0.0.1:1" in str(caught.value)
        assert "secret" not in str(caught.value)

    asyncio.run(main())


def test_of_several_servers_one_is_enough(server: NatsServer) -> None:
    async def main() -> None:
        engine = engine_of(f"nats://127.0.0.1:1,{server.url}")
        await engine.connect()
        await engine.close()

    asyncio.run(main())


def test_credentials_that_can_t_be_read_are_an_error(tmp_path: Path) -> None:
    async def main() -> None:
        for settings in ({"nats_ca": "nowhere"}, {"nats_creds": str(tmp_path / "nowhere")}):
            engine = engine_of("nats://127.0.0.1:1", **settings)
            with pytest.raises(EngineError):
                await engine.connect()
            await engine.close()  # of what was never open

    asyncio.run(main())


def test_without_a_server_s_url_it_says_so_and_tries_none() -> None:
    async def main() -> None:
        engine = engine_of("")
        with pytest.raises(EngineError, match="MOLT_NATS_URL is empty"):
            await engine.connect()
        await engine.close()

    asyncio.run(main())
