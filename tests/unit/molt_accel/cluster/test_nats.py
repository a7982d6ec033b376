"""molt_accel.cluster.nats: a real server, and how one is let in."""

import asyncio
import signal
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


@pytest.fixture
def server(tmp_path: Path) -> Any:
    with NatsServer(tmp_path) as started:
        yield started


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


@pytest.mark.parametrize("url", ["", " , "])
def test_without_a_server_s_url_it_says_so_and_tries_none(url: str) -> None:
    async def main() -> None:
        engine = engine_of(url)
        with pytest.raises(EngineError, match="MOLT_NATS_URL is empty"):
            await engine.connect()
        await engine.close()

    asyncio.run(main())


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
        with pytest.raises(EngineError):
            await draining
        async with asyncio.timeout(PATIENCE_S):
            while not one.connected:
                await asyncio.sleep(0.01)
        await one.flush()
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
