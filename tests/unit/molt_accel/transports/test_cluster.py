"""molt_accel.transports.cluster: one outcome for each call, whatever the hosts do, told by a broker in this process."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from molt_accel import codec
from molt_accel.call import make_call
from molt_accel.cluster import wire
from molt_accel.cluster.engine import EngineError
from molt_accel.config import Config
from molt_accel.errors import (
    BusyReason,
    MoltBusy,
    MoltCancelled,
    MoltClientClosed,
    MoltError,
    MoltIncompatible,
    MoltInvalidInput,
    MoltProtocolError,
    MoltStartFailed,
    MoltTimeout,
    MoltWorkerUnavailable,
    Status,
    to_wire,
    wire_status,
)
from molt_accel.ipc import outcomes
from molt_accel.ipc.frame import VERSION, FrameError
from molt_accel.ipc.messages import Codec, Request, Response
from molt_accel.options import CallOptions
from molt_accel.transports import cluster as module
from molt_accel.transports.cluster import MOST_ASKED, ClusterTransport
from molt_accel.waits import drive
from tests.support.broker import Broker, BrokerEngine
from tests.support.errors import raised
from tests.support.processes import in_thread

PATIENCE_S = 60
Answer = Callable[[Request, str], bytes | None]


def ok(request: Request, reply: str) -> bytes:
    return answer_of(Response(request.request_id, Status.OK, bytes(request.payload)))


def answer_of(response: Response) -> bytes:
    return wire.RESPONSE + wire.encode_response(response, 1 << 20)


def refused(error: MoltError) -> Answer:
    return lambda request, reply: answer_of(
        Response(request.request_id, wire_status(error), codec.encode(Codec.MSGPACK, to_wire(error)))
    )


def silent(request: Request, reply: str) -> None:
    return None


class Host:
    """A bridge as the client sees it: answers by a script, whose last act goes for all further requests."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.script: list[Answer] = [ok]
        self.requests: list[Request] = []
        self.replies: list[str] = []
        self.cancelled: list[str] = []
        self.asked = threading.Event()
        broker.deliver_to(self.take)

    def take(self, subject: str, data: bytes, reply: str) -> None:
        if subject == f"molt.{wire.CANCEL}":
            self.cancelled.append(data.decode())
        elif data[:1] == wire.REQUEST:
            request = wire.decode_request(data[1:])
            self.requests.append(request)
            self.replies.append(reply)
            self.asked.set()
            act = self.script[min(len(self.requests), len(self.script)) - 1]
            answer = act(request, reply)
            if answer is not None:
                self.broker.deliver(reply, answer, "")


class OneHostBroker(Broker):
    """A broker whose subjects below ``molt`` are one host's, for as long as it has one."""

    host: Callable[[str, bytes, str], None] | None = None

    def deliver_to(self, host: Callable[[str, bytes, str], None]) -> None:
        self.host = host

    def deliver(self, subject: str, data: bytes, reply: str) -> None:
        if subject.startswith("molt.") and self.host is not None:
            self.sent.append((subject, data, reply))
            self.host(subject, data, reply)
        else:
            super().deliver(subject, data, reply)


@pytest.fixture
def broker() -> OneHostBroker:
    return OneHostBroker()


@pytest.fixture
def host(broker: OneHostBroker) -> Host:
    return Host(broker)


@pytest.fixture
def transport(broker: OneHostBroker) -> Iterator[ClusterTransport]:
    made = ClusterTransport(Config.load(transport="nats", nats_url="test"), broker.engine)
    yield made
    made.close()


def call(transport: ClusterTransport, payload: Any = "x", **options: Any) -> Any:
    made = CallOptions(entry="echo", **{"timeout_ms": PATIENCE_S * 1000, **options})
    return drive(make_call(transport, made, payload)).value


def test_the_first_call_connects_and_answers_find_their_calls(
    transport: ClusterTransport, host: Host
) -> None:
    assert not transport.ready
    assert call(transport) == "x"
    assert transport.ready
    assert [call(transport, number) for number in range(20)] == list(range(20))
    assert {request.entry for request in host.requests} == {"echo"}


def test_a_broker_that_is_down_is_told_and_tried_again_later(
    transport: ClusterTransport, broker: OneHostBroker, host: Host
) -> None:
    broker.up = False
    error = raised(MoltWorkerUnavailable, call, transport)
    assert "the broker is down" in error.detail
    assert not error.may_have_run
    broker.up = True
    until = time.monotonic() + PATIENCE_S
    while time.monotonic() < until:
        try:
            assert call(transport) == "x"
        except MoltWorkerUnavailable:
            continue
        break
    broker.up = False  # the connection is lost, and comes back by itself
    assert not raised(MoltWorkerUnavailable, call, transport).may_have_run
    broker.up = True
    assert call(transport) == "x"


def test_one_failed_connection_counts_once_for_all_that_waited_for_it(broker: OneHostBroker) -> None:
    """Else one of many calls is followed by the pause after many failed connections: half a minute."""
    waiting = threading.Barrier(21)

    class Slow(BrokerEngine):
        async def connect(self) -> None:
            await asyncio.to_thread(waiting.wait, PATIENCE_S)
            await asyncio.sleep(0.2)  # the last of them gets to its wait
            raise EngineError("the broker is down")

    transport = ClusterTransport(Config.load(transport="nats", nats_url="test"), lambda *_: Slow(broker))

    def one() -> None:
        waiting.wait(PATIENCE_S)
        raised(MoltWorkerUnavailable, transport.start)

    def begins() -> None:
        raised(MoltWorkerUnavailable, transport.start)

    threads = [in_thread(begins), *(in_thread(one) for _ in range(20))]
    for each in threads:
        each.join(PATIENCE_S)
    assert transport._policy.failed_starts == 1
    transport.close()


def test_nobody_there_is_told_at_once(transport: ClusterTransport) -> None:
    error = raised(MoltWorkerUnavailable, call, transport)
    assert "nobody serves 'echo'" in error.detail
    assert not error.may_have_run


def test_after_busy_others_are_asked_and_the_first_that_is_free_is_told(
    transport: ClusterTransport, host: Host
) -> None:
    later = MoltBusy("busy", facts={"reason": "queue_full", "retry_after_s": 9})
    sooner = MoltBusy("busy", facts={"reason": "queue_delay", "retry_after_s": 2})
    host.script = [refused(later), ok]
    assert call(transport) == "x"
    assert len(host.requests) == 2
    host.requests.clear()
    host.script = [refused(later), refused(sooner), refused(later)]
    error = raised(MoltBusy, call, transport)
    assert (error.retry_after_s, error.reason) == (2, "queue_delay")
    assert len(host.requests) == MOST_ASKED


def test_what_comes_late_of_a_host_that_refused_it_is_not_the_next_one_s(
    transport: ClusterTransport, host: Host, broker: OneHostBroker
) -> None:
    busy = refused(outcomes.busy(BusyReason.QUEUE_FULL))

    def twice(request: Request, reply: str) -> bytes | None:
        broker.deliver(reply, busy(request, reply) or b"", "")
        return busy(request, reply)

    def at_last(request: Request, reply: str) -> bytes:
        broker.deliver(host.replies[0], busy(request, reply) or b"", "")
        broker.deliver(host.replies[0], wire.TAKEN, "")
        return ok(request, reply)

    host.script = [twice, at_last]
    assert call(transport) == "x"
    assert len(host.requests) == len(set(host.replies)) == 2


def test_after_busy_nobody_there_is_busy(
    transport: ClusterTransport, host: Host, broker: OneHostBroker
) -> None:
    busy = outcomes.busy(BusyReason.QUEUE_FULL)

    def act(request: Request, reply: str) -> bytes | None:
        broker.host = None  # it leaves, as full ones do
        return refused(busy)(request, reply)

    host.script = [act]
    assert raised(MoltBusy, call, transport).reason == "queue_full"


def test_a_host_whose_pool_is_gone_has_not_run_it(transport: ClusterTransport, host: Host) -> None:
    host.script = [refused(MoltWorkerUnavailable("gone")), ok]
    assert call(transport) == "x"
    host.requests.clear()
    host.script = [refused(MoltWorkerUnavailable("gone", facts={"may_have_run": 1})), ok]
    assert raised(MoltWorkerUnavailable, call, transport).may_have_run
    assert len(host.requests) == 1


def test_a_host_of_which_nothing_is_heard_is_lost_and_may_have_run_it(
    transport: ClusterTransport, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.05)
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    host.script = [silent]
    assert raised(MoltWorkerUnavailable, call, transport).may_have_run


def test_what_was_sent_may_have_run_if_the_connection_s_thread_fails(
    transport: ClusterTransport, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(link: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "LOOK_S", 0.01)
    host.script = [silent]
    transport.start()
    pending = transport.submit(Request(5, "echo"))
    assert pending is not None
    assert host.asked.wait(PATIENCE_S)
    monkeypatch.setattr(module._Link, "_look", fail)
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, MoltWorkerUnavailable)
    assert pending.result.may_have_run


def test_a_host_that_says_that_it_is_at_it_is_not_lost(
    transport: ClusterTransport, host: Host, broker: OneHostBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_S", 0.01)
    looks = []
    look = module._Link._look

    def watched(link: Any) -> None:
        for each in link.calls.values():
            each.heard_s -= module.SILENCE_S / 2  # time flies
        look(link)
        looks.append(1)
        broker.deliver(host.replies[-1], wire.TAKEN, "") if host.replies else None
        if len(looks) == 20:
            broker.deliver(host.replies[-1], ok(host.requests[-1], ""), "")

    monkeypatch.setattr(module._Link, "_look", watched)
    host.script = [silent]
    assert call(transport) == "x"


def test_who_was_stopped_for_long_reads_first_what_has_come_meanwhile(
    transport: ClusterTransport, host: Host
) -> None:
    def act(request: Request, reply: str) -> bytes:
        link = transport._link
        assert link is not None
        link._looked_s -= 100
        link.calls[int(reply.rpartition(".")[2])].heard_s -= 100
        link._look()
        return ok(request, reply)

    host.script = [act]
    assert call(transport) == "x"


def test_a_deadline_ends_a_call_that_is_not_answered(transport: ClusterTransport, host: Host) -> None:
    host.script = [silent]
    raised(MoltTimeout, call, transport, timeout_ms=20)
    wait_for(lambda: host.cancelled == host.replies)


def wait_for(condition: Callable[[], bool]) -> None:
    until = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def test_an_abandoned_call_is_cancelled_there(transport: ClusterTransport, host: Host) -> None:
    host.script = [silent]
    transport.start()
    pending = transport.submit(Request(5, "echo"))
    assert pending is not None
    assert host.asked.wait(PATIENCE_S)
    error = MoltCancelled("enough")
    assert transport.abandon(pending, error)
    assert pending.result is error
    assert not transport.abandon(pending, error)
    wait_for(lambda: host.cancelled == host.replies)
    host.broker.deliver(host.replies[0], ok(host.requests[0], ""), "")  # it comes late


def test_closing_ends_all_calls_and_refuses_more(transport: ClusterTransport, host: Host) -> None:
    host.script = [silent]
    transport.start()
    pending = transport.submit(Request(5, "echo"))
    assert pending is not None
    transport.close()
    assert pending.wait(PATIENCE_S)
    assert isinstance(pending.result, MoltCancelled)
    raised(MoltClientClosed, call, transport)
    transport.close()


def test_answers_to_others_and_garbage_change_nothing(
    transport: ClusterTransport, host: Host, broker: OneHostBroker
) -> None:
    def act(request: Request, reply: str) -> bytes:
        inbox = reply.rpartition(".")[0]
        for subject in (f"{inbox}.999", f"{inbox}.x", f"{inbox}.-1"):
            broker.deliver(subject, ok(request, ""), "")
        for data in (b"", b"?", wire.GO_ON, wire.TAKEN, ok(Request(request.request_id + 1, "echo"), "")):
            broker.deliver(reply, data, "")
        return ok(request, reply)

    host.script = [act]
    assert call(transport) == "x"


def test_an_answer_that_is_no_frame_is_a_protocol_error(transport: ClusterTransport, host: Host) -> None:
    host.script = [lambda request, reply: wire.RESPONSE + b"garbage"]
    raised(MoltProtocolError, call, transport)


def test_long_frames_go_and_come_in_pieces(
    transport: ClusterTransport, host: Host, broker: OneHostBroker
) -> None:
    pieces = wire.Pieces(1 << 20)
    waits: list[str] = []

    def take(subject: str, data: bytes, reply: str) -> None:
        if data[:1] == wire.FIRST_PIECE:
            waits.append(reply)
            pieces.add(data)
            super(OneHostBroker, broker).deliver(reply, wire.GO_ON, "molt.__pieces")
        elif subject == "molt.__pieces":
            whole = pieces.add(data)
            if whole is not None:
                request = wire.decode_request(whole)
                answer = wire.encode_response(
                    Response(request.request_id, Status.OK, bytes(request.payload)), 1 << 20
                )
                for piece in wire.pieces_of(answer, wire.RESPONSE_PIECE, broker.max_payload):
                    super(OneHostBroker, broker).deliver(reply, piece, "")

    broker.deliver_to(take)
    assert call(transport, "x" * 5000) == "x" * 5000
    assert len(waits) == 1


def test_a_request_that_fits_no_frame_is_the_caller_s_fault(broker: OneHostBroker, host: Host) -> None:
    transport = ClusterTransport(
        Config.load(transport="nats", nats_url="test", max_frame_bytes=5000), broker.engine
    )
    transport.start()
    raised(FrameError, transport.submit, Request(1, "echo", bytes(6000)))
    transport.close()
    assert host.requests == []


def test_it_refuses_nothing_itself(transport: ClusterTransport) -> None:
    assert transport.refusal("echo", 1) is None
    assert transport.busy(BusyReason.IN_FLIGHT, 0).reason == "in_flight"
    transport.wait_ready(1)
    assert transport.ready


def test_hosts_of_another_version_have_not_run_it_and_another_one_is_asked(
    transport: ClusterTransport, host: Host
) -> None:
    theirs = wire.OTHER_VERSION + bytes([VERSION + 1])
    host.script = [lambda request, reply: theirs, ok]
    assert call(transport) == "x"
    assert len(host.requests) == 2
    for said, version in ((theirs, f"version {VERSION + 1} "), (wire.OTHER_VERSION, "another version ")):
        host.requests.clear()
        host.script = [lambda request, reply, said=said: said]  # type: ignore[misc]
        error = raised(MoltIncompatible, call, transport)
        assert not error.may_have_run
        assert version in error.detail
        assert "MOLT_NATS_SUBJECT" in error.detail
        assert len(host.requests) == MOST_ASKED


def test_a_forked_child_begins_without_a_connection(transport: ClusterTransport, host: Host) -> None:
    assert call(transport) == "x"
    link = transport._link
    transport.after_fork_in_child()
    assert not transport.ready
    assert link is not None
    assert isinstance(link.engine, BrokerEngine)
    assert link.engine.forgotten
    assert call(transport) == "x"
    link.end(MoltCancelled("the parent's"))
    link.thread.join(PATIENCE_S)


def test_threads_that_call_first_at_once_share_one_connection(
    broker: OneHostBroker, host: Host, transport: ClusterTransport
) -> None:
    made: list[object] = []

    def open_engine(*arguments: object) -> Any:
        made.append(arguments)
        return broker.engine()

    transport._open_engine = open_engine
    barrier = threading.Barrier(8)

    def first() -> None:
        barrier.wait()
        assert call(transport) == "x"

    threads = [in_thread(first) for _ in range(8)]
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_without_nats_py_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "molt_accel.cluster.nats", None)
    transport = ClusterTransport(Config.load(transport="nats", nats_url="nats://127.0.0.1:1"))
    for _ in range(2):
        assert not raised(MoltStartFailed, transport.start).may_have_run
    transport.close()


def test_a_request_that_was_refused_unread_has_ended(transport: ClusterTransport, host: Host) -> None:
    """A host that could not read it does not know its id."""
    error = MoltInvalidInput("over the frame limit")
    refusal = Response(0, wire_status(error), codec.encode(Codec.MSGPACK, to_wire(error)))
    host.script = [lambda request, reply: answer_of(refusal)]
    assert raised(MoltInvalidInput, call, transport).detail == "over the frame limit"
