"""molt_worker.bridge.bridge: what it takes, when it takes no more, and what it answers, by a broker in this process."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.cluster import wire
from molt_accel.cluster.engine import EngineError, Incoming
from molt_accel.config import Config
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltError,
    MoltInternalError,
    MoltTimeout,
    Status,
    from_wire,
    to_wire,
    wire_status,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import VERSION
from molt_accel.ipc.messages import Codec, Request, Response
from molt_worker.bridge import bridge as module
from molt_worker.bridge import intake
from molt_worker.bridge.bridge import Bridge
from tests.support.broker import Broker, BrokerEngine
from tests.support.scripted_transport import Act, ScriptedTransport, answer, answer_error, end, silence

LIMIT = 1 << 20
PATIENCE_S = 60


class Desk:
    """A bridge of two executors and one place, and a client of it."""

    def __init__(self, *script: Act, max_queue: int = 1) -> None:
        self.broker = Broker()
        self.engine = self.broker.engine()
        self.transport = ScriptedTransport(*script)
        self.bridge = Bridge(
            Config.load(max_frame_bytes=10_000),
            self.engine,
            self.transport,
            ["echo", "other"],
            2,
            max_queue,  # type: ignore[arg-type]
        )
        self.client: BrokerEngine = self.broker.engine()
        self.inbox = self.client.new_inbox()
        self.got: asyncio.Queue[Incoming] = asyncio.Queue()
        self.stop = asyncio.Event()
        self.ids = 0

    async def ask(self, entry: str = "echo", payload: bytes = b"\x01", **fields: Any) -> str:
        """Send a request. Returns where its answer goes."""
        self.ids += 1
        reply = f"{self.inbox}.{self.ids}"
        body = wire.encode_request(Request(self.ids, entry, payload, **fields), LIMIT)
        await self.client.publish(f"molt.{entry}", wire.REQUEST + body, reply)
        return reply

    async def next(self) -> Incoming:
        return await asyncio.wait_for(self.got.get(), PATIENCE_S)

    async def response(self) -> tuple[str, Response]:
        """The next response, and where it came to."""
        while True:
            message = await self.next()
            if message.data[:1] == wire.RESPONSE:
                return message.subject, wire.decode_response(message.data[1:])

    async def error(self) -> MoltError:
        _, response = await self.response()
        return from_wire(response.status, codec.decode(Codec.MSGPACK, response.payload))

    async def serving(self) -> None:
        await until(lambda: "molt.echo" in self.broker.subjects())

    async def full(self) -> None:
        await until(lambda: "molt.echo" not in self.broker.subjects())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0)


def run(test: Callable[[Desk], Awaitable[None]], *script: Act, **settings: Any) -> None:
    async def main() -> None:
        desk = Desk(*script, **settings)
        await desk.client.subscribe(f"{desk.inbox}.*", desk.got.put_nowait)
        serving = asyncio.create_task(desk.bridge.run(desk.stop))
        await desk.serving()
        await test(desk)
        desk.stop.set()
        for call in desk.transport.calls:
            if not call.done:
                call.resolve(Response(call.request_id, Status.OK))
        await asyncio.wait_for(serving, PATIENCE_S)
        assert [each for each in desk.broker.subjects() if each.startswith("molt.")] == []

    asyncio.run(main())


def test_a_request_is_run_by_the_pool_and_answered_by_its_own_id() -> None:
    async def test(desk: Desk) -> None:
        for entry in ("echo", "other"):
            reply = await desk.ask(entry, deadline_ns=0, max_wait_ms=5)
            subject, response = await desk.response()
            assert (subject, response.request_id, response.status) == (reply, desk.ids, Status.OK)
        assert [request.entry for request in desk.transport.submitted] == ["echo", "other"]
        assert [request.max_wait_ms for request in desk.transport.submitted] == [5, 5]
        assert desk.bridge.served["echo"].requests == 1

    run(test, answer("x"))


def test_errors_travel_as_they_are() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask()
        assert isinstance(await desk.error(), MoltTimeout)
        await desk.ask()
        error = await desk.error()
        assert isinstance(error, MoltTimeout)
        assert error.facts["phase"] == "queue"
        assert desk.bridge.served["echo"].errors == 2

    run(test, answer_error(outcomes.timed_out_running()), end(outcomes.expired_in_queue()))


def test_a_full_bridge_takes_no_more_until_executors_can_begin() -> None:
    async def test(desk: Desk) -> None:
        for _ in range(3):
            await desk.ask()
        await desk.full()
        await desk.ask()
        message = await desk.next()
        assert message.unheard
        desk.transport.calls[0].resolve(Response(1, Status.OK))
        await desk.response()
        await desk.serving()

    run(test, silence)


def test_a_full_bridge_says_busy_where_it_listens_all_the_time() -> None:
    async def test(desk: Desk) -> None:
        body = wire.REQUEST + wire.encode_request(Request(99, "echo"), LIMIT)
        for _ in range(3):
            await desk.ask()
        await desk.full()
        await desk.client.publish(f"molt.{wire.FULL}.echo", body, f"{desk.inbox}.99")
        assert isinstance(await desk.error(), MoltBusy)
        assert len(desk.transport.submitted) == 3
        for each in desk.transport.calls:
            each.resolve(Response(each.request_id, Status.OK))
        await desk.serving()  # there is room again: what comes there runs
        desk.transport.calls.clear()
        await desk.client.publish(f"molt.{wire.FULL}.echo", body, f"{desk.inbox}.99")
        await until(lambda: len(desk.transport.submitted) == 4)

    run(test, silence)


def test_what_comes_while_it_leaves_is_refused() -> None:
    async def test(desk: Desk) -> None:
        handler = next(each.handler for each in desk.broker.subscriptions if each.subject == "molt.echo")
        for _ in range(3):
            await desk.ask()
        await desk.full()
        body = wire.encode_request(Request(9, "echo"), LIMIT)
        handler(Incoming("molt.echo", wire.REQUEST + body, f"{desk.inbox}.9"))
        error = await desk.error()
        assert isinstance(error, MoltBusy)
        assert error.reason == BusyReason.QUEUE_FULL

    run(test, silence)


def test_after_a_refusal_of_the_pool_it_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.5)  # so long that a slow machine sees it

    async def test(desk: Desk) -> None:
        await desk.ask()
        assert isinstance(await desk.error(), MoltBusy)
        await desk.full()
        await desk.serving()

    run(test, answer_error(outcomes.busy(BusyReason.QUEUE_DELAY)))


def test_a_cancellation_reaches_the_request() -> None:
    async def test(desk: Desk) -> None:
        reply = await desk.ask()
        await until(lambda: bool(desk.transport.submitted))
        await desk.client.publish(f"molt.{wire.CANCEL}", b"inbox0.77")  # of somebody else
        await desk.client.publish(f"molt.{wire.CANCEL}", b"\xff")
        await desk.client.publish(f"molt.{wire.CANCEL}", reply.encode())
        await until(lambda: bool(desk.transport.abandoned))
        await until(lambda: desk.bridge.in_flight == 0)

    run(test, silence)


def test_a_cancellation_right_behind_its_request_leaves_no_place_taken() -> None:
    async def test(desk: Desk) -> None:
        reply = await desk.ask()
        await desk.client.publish("molt.__cancel__", reply.encode())
        await until(lambda: desk.transport.abandoned != [])
        await until(lambda: desk.bridge.in_flight == 0)

    run(test, silence)


def test_it_says_again_and_again_what_it_still_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)

    async def test(desk: Desk) -> None:
        reply = await desk.ask()
        for _ in range(3):
            message = await desk.next()
            assert (message.subject, message.data) == (reply, wire.TAKEN)

    run(test, silence)


def test_it_says_again_and_again_that_pieces_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BEAT_S", 0.01)
    monkeypatch.setattr(intake, "PATIENCE_S", 0.2)

    async def test(desk: Desk) -> None:
        body = wire.encode_request(Request(5, "echo", bytes(3000)), LIMIT)
        first = next(wire.pieces_of(body, wire.FIRST_PIECE, desk.broker.max_payload))
        await desk.client.publish("molt.echo", first, f"{desk.inbox}.5")
        said = [await desk.next() for _ in range(4)]
        assert [each.data for each in said] == [wire.GO_ON] * 4
        assert [bool(each.reply) for each in said] == [True, False, False, False]

    run(test, silence)


def test_a_request_in_pieces() -> None:
    async def test(desk: Desk) -> None:
        body = wire.encode_request(Request(5, "echo", bytes(3000)), LIMIT)
        first, *rest = wire.pieces_of(body, wire.FIRST_PIECE, desk.broker.max_payload)
        reply = f"{desk.inbox}.5"
        await desk.client.publish("molt.echo", first, reply)
        message = await desk.next()
        assert message.data == wire.GO_ON
        await desk.client.publish(message.reply, b"garbage", f"{desk.inbox}.6")  # of somebody else
        for piece in rest:
            await desk.client.publish(message.reply, wire.NEXT_PIECE + piece[1:], reply)
        _, response = await desk.response()
        assert response.request_id == 5
        assert bytes(desk.transport.submitted[0].payload) == bytes(3000)

    run(test, answer("x"))


def test_a_long_answer_goes_in_pieces() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask()
        pieces, whole = wire.Pieces(LIMIT), None
        while whole is None:
            message = await desk.next()
            assert message.data[:1] == wire.RESPONSE_PIECE
            whole = pieces.add(message.data)
        assert codec.decode(Codec.MSGPACK, wire.decode_response(whole).payload) == "x" * 5000

    run(test, answer("x" * 5000))


def test_an_answer_over_the_limit_is_an_error() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask()
        error = await desk.error()
        assert type(error) is MoltInternalError  # as the pool itself says it
        assert error.detail == "the result is over the frame limit: 20083 bytes, 10000 at most"
        await desk.ask()
        error = await desk.error()
        assert (type(error), error.detail) == (MoltInternalError, "it raised")

    long = MoltInternalError("it raised")
    run(test, answer("x" * 20_000), answer({**to_wire(long), "traceback": "x" * 20_000}, wire_status(long)))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"?",
        wire.REQUEST,
        wire.REQUEST + b"garbage",
        wire.FIRST_PIECE,
        wire.FIRST_PIECE + b"\xff" * 12,
        wire.RESPONSE + b"x",
        wire.REQUEST + wire.encode_response(Response(1), LIMIT),
        wire.REQUEST + wire.encode_request(Request(1, "other"), LIMIT),
        wire.REQUEST + wire.encode_request(Request(1, "__import__"), LIMIT),
    ],
)
def test_garbage_runs_nothing_and_harms_nobody(data: bytes) -> None:
    async def test(desk: Desk) -> None:
        for reply in ("", f"{desk.inbox}.1", "molt.echo", "$SYS.x", f"molt.{wire.CANCEL}"):
            await desk.client.publish("molt.echo", data, reply)
        await desk.client.publish(f"{desk.bridge._pieces_inbox}.1", data, f"{desk.inbox}.1")
        await desk.ask(payload=b"\x05")
        while True:
            _, response = await desk.response()
            if response.request_id == desk.ids and response.status is Status.OK:
                break
        assert [bytes(request.payload) for request in desk.transport.submitted] == [b"\x05"]
        answers = [(subject, sent) for subject, sent, _ in desk.broker.sent if sent[:1] == wire.RESPONSE]
        assert all(subject.startswith(desk.inbox) for subject, sent in answers if sent != data)

    run(test, answer("x"))


def test_a_request_that_comes_twice_runs_once() -> None:
    async def test(desk: Desk) -> None:
        body = wire.REQUEST + wire.encode_request(Request(5, "echo"), LIMIT)
        for _ in range(3):
            await desk.client.publish("molt.echo", body, f"{desk.inbox}.5")
        await until(lambda: bool(desk.transport.submitted))
        await desk.ask("other")
        await until(lambda: len(desk.transport.submitted) == 2)
        assert [each.entry for each in desk.transport.submitted] == ["echo", "other"]

    run(test, silence)


def test_told_to_stop_it_finishes_what_it_has() -> None:
    async def test(desk: Desk) -> None:
        reply = await desk.ask()
        await until(lambda: bool(desk.transport.calls))
        desk.stop.set()
        await desk.full()
        desk.transport.calls[0].resolve(Response(desk.transport.calls[0].request_id, Status.OK))
        assert (await desk.response())[0] == reply

    run(test, silence)


def test_told_to_stop_it_takes_the_other_pieces_of_what_it_has_begun_to_take() -> None:
    async def test(desk: Desk) -> None:
        body = wire.encode_request(Request(5, "echo", bytes(3000)), LIMIT)
        first, *rest = wire.pieces_of(body, wire.FIRST_PIECE, desk.broker.max_payload)
        reply = f"{desk.inbox}.5"
        await desk.client.publish("molt.echo", first, reply)
        message = await desk.next()
        desk.stop.set()
        await desk.full()
        for _ in range(100):  # the pieces are on their way for some turns of the loop
            await asyncio.sleep(0)
        for piece in rest:
            await desk.client.publish(message.reply, wire.NEXT_PIECE + piece[1:], reply)
        _, response = await desk.response()
        assert (response.request_id, response.status) == (5, Status.OK)

    run(test, answer("x"))


def test_told_to_stop_it_does_not_wait_for_pieces_that_do_not_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "PATIENCE_S", 0.05)

    async def test(desk: Desk) -> None:
        body = wire.encode_request(Request(5, "echo", bytes(3000)), LIMIT)
        await desk.client.publish(
            "molt.echo",
            next(wire.pieces_of(body, wire.FIRST_PIECE, desk.broker.max_payload)),
            f"{desk.inbox}.5",
        )
        assert (await desk.next()).data == wire.GO_ON

    run(test, silence)


def test_it_ends_when_its_pool_is_gone() -> None:
    async def main() -> None:
        desk = Desk(answer("x"))
        serving = asyncio.create_task(desk.bridge.run(desk.stop))
        await desk.serving()
        desk.transport.ready = False
        await asyncio.wait_for(serving, PATIENCE_S)
        assert "molt.echo" not in desk.broker.subjects()

    asyncio.run(main())


def test_a_broker_that_is_gone_loses_answers_and_nothing_else() -> None:
    async def test(desk: Desk) -> None:
        await desk.ask()
        await until(lambda: bool(desk.transport.calls))
        desk.broker.up = False
        desk.transport.calls[0].resolve(Response(desk.transport.calls[0].request_id, Status.OK))
        await until(lambda: desk.bridge.in_flight == 0)
        desk.broker.up = True
        await desk.ask()
        await until(lambda: len(desk.transport.calls) == 2)

    run(test, silence)


def test_what_the_pool_exports_now_is_served_and_nothing_else() -> None:
    async def test(desk: Desk) -> None:
        desk.bridge.offer(["echo", "newer"], 1, 0)
        await until(
            lambda: "molt.newer" in desk.broker.subjects() and "molt.other" not in desk.broker.subjects()
        )
        assert "molt.echo" in desk.broker.subjects()
        assert desk.bridge.entries == ["echo", "newer"]
        await desk.ask("newer")
        await desk.full()  # with one request: it has one executor now
        assert set(desk.bridge.served) == {"echo", "other", "newer"}

    run(test, silence)


@pytest.mark.parametrize("pieces", [False, True])
def test_a_request_of_another_version_is_not_taken(pieces: bool) -> None:
    """The answer is no response: its sender could not read one of this version."""

    async def test(desk: Desk) -> None:
        body = bytearray(wire.encode_request(Request(1, "echo", b"x" * (3000 if pieces else 1)), LIMIT))
        body[0] = VERSION + 1
        if pieces:
            first, *rest = wire.pieces_of(bytes(body), wire.FIRST_PIECE, 1000)
            await desk.client.publish("molt.echo", first, f"{desk.inbox}.1")
            go_on = await desk.next()
            assert go_on.data == wire.GO_ON
            for piece in rest:
                await desk.client.publish(go_on.reply, wire.NEXT_PIECE + piece[1:], f"{desk.inbox}.1")
        else:
            await desk.client.publish("molt.echo", wire.REQUEST + bytes(body), f"{desk.inbox}.1")
        assert (await desk.next()).data == wire.OTHER_VERSION + bytes([VERSION])
        assert desk.transport.submitted == []

    run(test)


@pytest.mark.parametrize("reason", [BusyReason.DEADLINE, BusyReason.ENTRY_LIMIT])
def test_a_refusal_that_is_one_entrypoint_s_or_one_request_s_leaves_the_others_served(
    reason: BusyReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAUSE_S", 0.5)

    async def test(desk: Desk) -> None:
        await desk.ask()
        assert isinstance(await desk.error(), MoltBusy)
        if reason == BusyReason.ENTRY_LIMIT:
            await desk.full()
        await desk.ask("other")
        subject, _ = await desk.response()
        assert subject.endswith(".2")
        await desk.serving()

    run(test, answer_error(outcomes.busy(reason)), answer("x"))


def test_what_the_bridge_refuses_itself_is_no_refusal_of_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MOST", 0)
    monkeypatch.setattr(module, "PAUSE_S", 60)

    async def test(desk: Desk) -> None:
        await desk.client.publish("molt.echo", wire.FIRST_PIECE + b"x", f"{desk.inbox}.1")
        assert isinstance(await desk.error(), MoltBusy)
        await desk.ask()
        await desk.response()

    run(test, answer("x"))


def test_who_leaves_waits_for_pieces_only_so_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAST_PIECES_S", 0)

    async def test(desk: Desk) -> None:
        whole = wire.pieces_of(bytes(2000), wire.FIRST_PIECE, 1000)
        await desk.client.publish("molt.echo", next(whole), f"{desk.inbox}.1")
        assert (await desk.next()).data == wire.GO_ON
        desk.stop.set()
        error = await desk.error()
        assert isinstance(error, MoltBusy)
        assert error.reason == BusyReason.STOPPING

    run(test)


def test_nothing_is_asked_for_once_it_has_failed() -> None:
    async def main() -> None:
        desk = Desk(silence)

        async def fail() -> None:
            raise EngineError("NATS does not answer")

        desk.engine.flush = fail  # type: ignore[method-assign]
        with pytest.raises(EngineError):
            await desk.bridge.run(desk.stop)
        assert desk.broker.subjects() == []

    asyncio.run(main())
