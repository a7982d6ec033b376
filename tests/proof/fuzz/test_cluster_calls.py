"""Whatever comes to a client of the cluster, in any order: each call has one outcome, and no false one.

Hosts here say anything at any time: twice, late, to others' calls, of pieces that are not the next. What they have said
of each sending of a request is kept, and a call may only end as it allows.
"""

import asyncio
import struct
from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from molt_accel import codec
from molt_accel.cluster import wire
from molt_accel.cluster.engine import EngineError, Handler, Incoming
from molt_accel.cluster.pulse import SILENCE_S
from molt_accel.config import Config
from molt_accel.errors import (
    BusyReason,
    MoltCancelled,
    MoltError,
    MoltInternalError,
    MoltProtocolError,
    MoltWorkerUnavailable,
    Status,
    from_wire,
    to_wire,
    wire_status,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.transports.cluster import MOST_ASKED, _Call, _Link

MAX_PAYLOAD = 400
LONG = bytes(3000)
PIECES = "molt.__pieces__.host.1"
FULL = "molt.__full__.echo"


class FakeEngine:
    """Keeps what is published."""

    def __init__(self) -> None:
        self.connected = True
        self.turn = False
        self.max_payload = MAX_PAYLOAD
        self.published: list[tuple[str, bytes, str]] = []

    async def connect(self) -> None:
        raise NotImplementedError

    def new_inbox(self) -> str:
        raise NotImplementedError

    async def subscribe(self, subject: str, handler: Handler, *, group: str = "") -> Any:
        raise NotImplementedError

    def publish_now(self, subject: str, data: bytes, reply: str = "") -> bool:
        if not self.connected:
            raise EngineError("down")
        self.turn = not self.turn  # every other one has to wait
        if self.turn:
            self.published.append((subject, data, reply))
        return self.turn

    async def publish(self, subject: str, data: bytes, reply: str = "") -> None:
        await asyncio.sleep(0)
        if not self.connected:
            raise EngineError("down")
        self.published.append((subject, data, reply))

    async def flush(self) -> None:
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError


@dataclass
class Sending:
    """A request was sent: the first message of it, and what was heard of that since."""

    reply: str
    whole: bool  #: else it goes in pieces, and not all are there
    wanted: bool = False  #: the other pieces
    taken: bool = False
    not_run: bool = False  #: a host has said so, or nobody has it
    insists: bool = False  #: it went to hosts that may be full


@dataclass
class Asked:
    """A call, and what the test knows of it."""

    call: _Call
    payload: bytes
    sendings: list[Sending] = field(default_factory=list)
    answers: list[bytes] = field(default_factory=list)  #: pieces of one that may be sent
    in_pieces: bool = False  #: an answer in pieces was begun
    may_end: set[type[MoltError]] = field(default_factory=set)
    given_up: MoltError | None = None
    silent: bool = False


def answer(request_id: int, error: MoltError | None = None, payload: bytes = b"") -> bytes:
    if error is None:
        return wire.encode_response(Response(request_id, Status.OK, payload), 1 << 20)
    data = codec.encode(Codec.MSGPACK, to_wire(error))
    return wire.encode_response(Response(request_id, wire_status(error), data), 1 << 20)


NOT_RUN = st.sampled_from([outcomes.busy(BusyReason.QUEUE_FULL), outcomes.worker_gone()])
RAN = st.sampled_from([MoltInternalError("failed"), MoltWorkerUnavailable("died", facts={"may_have_run": 1})])
any_one = st.integers(0, 5)


class Calls(RuleBasedStateMachine):
    """A connection without a thread: its loop runs when a step says so."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = FakeEngine()
        self.link = _Link(Config.load(nats_url="test", max_frame_bytes=5000), lambda *_: self.engine)
        self.link.inbox = "inbox"
        self.link.made.set()
        self.wrong: list[dict[str, Any]] = []
        self.link.loop.set_exception_handler(lambda _, context: self.wrong.append(context))
        self.asked: list[Asked] = []
        self.seen = 0

    def turn(self, count: int = 12) -> None:
        async def turns() -> None:
            for _ in range(count):
                await asyncio.sleep(0)

        self.link.loop.run_until_complete(turns())
        for subject, data, reply in self.engine.published[self.seen :]:
            self._note_published(subject, data, reply)
        self.seen = len(self.engine.published)

    def _note_published(self, subject: str, data: bytes, reply: str) -> None:
        if data[:1] in (wire.REQUEST, wire.FIRST_PIECE) and subject in ("molt.echo", FULL):
            word = reply.rpartition(".")[2]
            token = int(word.partition("-")[0])
            asked = next(each for each in self.asked if each.call.token == token)
            assert all(each.not_run for each in asked.sendings), "sent again, and it may run already"
            assert len(asked.sendings) < MOST_ASKED + (subject == FULL)
            assert not any(each.insists for each in asked.sendings), "sent again after nobody asked for it"
            asked.sendings.append(Sending(reply, data[:1] == wire.REQUEST, insists=subject == FULL))
        elif subject == PIECES:
            (sending,) = [one for each in self.asked for one in each.sendings if one.reply == reply] or [None]
            assert sending is not None and sending.wanted, "nobody has asked for pieces of this sending"  # noqa: PT018
            whole, offset = struct.unpack_from("<II", data, 1)
            sending.whole |= offset + len(data) - 9 == whole

    def choose(self, number: int) -> tuple[Asked, Sending] | None:
        every = [(asked, sending) for asked in self.asked for sending in asked.sendings]
        return every[-1 - number % len(every)] if every else None

    def deliver(self, reply: str, data: bytes, back: str = "", *, unheard: bool = False) -> None:
        self.link._take(Incoming(reply, data, back, unheard))

    # -- what the client does --

    @rule(long=st.booleans())
    def submit(self, long: bool) -> None:
        payload = LONG if long else b"x"
        request = Request(len(self.asked) + 1, "echo", payload)
        try:
            call = self.link.submit(request)
        except MoltWorkerUnavailable:
            assert not self.engine.connected
            return
        assert call is not None
        self.asked.append(Asked(call, payload))

    @rule(count=st.integers(1, 12))
    def let_run(self, count: int) -> None:
        self.turn(count)

    @precondition(lambda self: self.asked)
    @rule(number=any_one)
    def abandon(self, number: int) -> None:
        asked = self.asked[number % len(self.asked)]
        was_done = asked.call.done
        error = MoltCancelled("enough")
        assert self.link.abandon(asked.call, error) is not was_done
        if not was_done:
            asked.given_up = error

    @rule(up=st.booleans())
    def connect_or_lose(self, up: bool) -> None:
        self.engine.connected = up

    @rule()
    def hear_nothing_for_long(self) -> None:
        for asked in self.asked:
            if not asked.call.done:
                asked.call.heard_s -= 2 * SILENCE_S
                asked.silent = True
        self.link._look()

    # -- what hosts and others say --

    @rule(number=any_one)
    def say_taken(self, number: int) -> None:
        if chosen := self.choose(number):
            chosen[1].taken = True
            self.deliver(chosen[1].reply, wire.TAKEN)

    @rule(number=any_one)
    def say_unheard(self, number: int) -> None:
        if chosen := self.choose(number):
            if not chosen[1].taken:
                chosen[1].not_run = True
            self.deliver(chosen[1].reply, b"", unheard=True)

    @rule(number=any_one, back=st.sampled_from([PIECES, ""]))
    def say_go_on(self, number: int, back: str) -> None:
        if chosen := self.choose(number):
            chosen[1].wanted |= bool(back)
            self.deliver(chosen[1].reply, wire.GO_ON, back)

    @rule(number=any_one)
    def say_ok(self, number: int) -> None:
        if chosen := self.choose(number):
            self._say(*chosen, answer(chosen[0].call.request_id, payload=chosen[0].payload))

    @rule(number=any_one, error=NOT_RUN)
    def say_not_run(self, number: int, error: MoltError) -> None:
        if chosen := self.choose(number):
            chosen[1].not_run = True
            self._say(*chosen, answer(chosen[0].call.request_id, error))

    @rule(number=any_one, error=RAN)
    def say_it_failed(self, number: int, error: MoltError) -> None:
        if chosen := self.choose(number):
            chosen[0].may_end.add(type(error))
            self._say(*chosen, answer(chosen[0].call.request_id, error))

    def _say(self, asked: Asked, sending: Sending, body: bytes) -> None:
        if len(body) < MAX_PAYLOAD:
            self.deliver(sending.reply, wire.RESPONSE + body)
        else:
            if asked.in_pieces:  # pieces of two answers are not one
                asked.may_end.add(MoltProtocolError)
            asked.in_pieces = True
            asked.answers = list(wire.pieces_of(body, wire.RESPONSE_PIECE, MAX_PAYLOAD))

    @rule(number=any_one, place=st.none() | st.integers(0, 3))
    def send_a_piece(self, number: int, place: int | None) -> None:
        """The next one, or any."""
        chosen = self.choose(number)
        if chosen is None or not chosen[0].answers:
            return
        asked, sending = chosen
        if place is None:
            piece = asked.answers.pop(0)
        else:
            piece = asked.answers[place % len(asked.answers)]
            asked.may_end.add(MoltProtocolError)
        self.deliver(sending.reply, piece)

    @rule(number=any_one, data=st.binary(max_size=30))
    def send_garbage(self, number: int, data: bytes) -> None:
        if chosen := self.choose(number):
            chosen[0].may_end.add(MoltProtocolError)
            if data[:1] == wire.OTHER_VERSION and not chosen[1].taken:
                chosen[1].not_run = True
            self.deliver(chosen[1].reply, data)

    @rule(number=any_one)
    def answer_another_s_request(self, number: int) -> None:
        if chosen := self.choose(number):
            self.deliver(chosen[1].reply, wire.RESPONSE + answer(10**9, payload=b"wrong"))

    @rule(
        word=st.sampled_from(["", "x", "-1", "0", "999999", "1-9", "1-", "-", "1-1", "٣"]),
        data=st.binary(max_size=9),
    )
    def send_to_nobody(self, word: str, data: bytes) -> None:
        self.deliver(f"inbox.{word}" if word != "1-1" else "1", data)

    # -- what must hold --

    @invariant()
    def every_outcome_is_allowed(self) -> None:
        assert self.wrong == []
        for asked in self.asked:
            assert (asked.call.token in self.link.calls) is not asked.call.done
            if asked.call.done:
                self._judge(asked)

    def _judge(self, asked: Asked) -> None:
        result = asked.call.result
        if isinstance(result, Response):
            assert result.request_id == asked.call.request_id
            if result.status is Status.OK:
                assert bytes(result.payload) == asked.payload
                return
            result = from_wire(result.status, codec.decode(Codec.MSGPACK, result.payload))
        assert result is not None
        if asked.given_up is not None:
            assert result is asked.given_up
        elif outcomes.was_not_run(result):
            assert all(each.not_run or not each.whole for each in asked.sendings), "it may have run"
        elif asked.silent and isinstance(result, MoltWorkerUnavailable):
            assert result.may_have_run
        else:
            assert isinstance(result, tuple(asked.may_end)), result

    def teardown(self) -> None:
        try:
            self.engine.connected = True
            self.turn()
            self.link.end(MoltCancelled("closed"))
            assert self.link.calls == {}
            assert all(each.call.done for each in self.asked)
            assert self.link.submit(Request(1, "echo")) is None
            self.turn()
            assert self.wrong == []
        finally:
            self.link.loop.close()


TestCalls = Calls.TestCase
