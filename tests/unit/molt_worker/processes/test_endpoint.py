"""The executor's side of stdio's socket pair."""

import socket
from collections.abc import Iterator

import pytest

from molt_accel import codec
from molt_accel.errors import Status
from molt_accel.ipc.frame import Fault, FrameError, FrameParser, Item, encode
from molt_accel.ipc.messages import Codec, Hello, Request, Response
from molt_worker.processes.commands import FROM_EXECUTOR
from molt_worker.processes.endpoint import SocketEndpoint
from tests.support.errors import raised

MAX_BYTES = 4096


class Ends:
    def __init__(self) -> None:
        self.supervisor, self._executor = socket.socketpair()
        self.endpoint = SocketEndpoint(self._executor, MAX_BYTES)

    def received(self) -> Item:
        parser = FrameParser(messages=FROM_EXECUTOR)
        parser.feed(self.supervisor.recv(65536))
        (item,) = parser.frames()
        assert not isinstance(item, FrameError)
        return item

    def close(self) -> None:
        self.supervisor.close()
        self._executor.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    ends = Ends()
    yield ends
    ends.close()


def request(serial: int, payload: bytes = b"\xc0") -> Request:
    return Request(serial << 8, "echo", payload, generation=serial)


def test_it_announces_the_executor(ends: Ends) -> None:
    ends.endpoint.announce()
    assert ends.received() == Hello()


def test_requests_come_in_order_and_then_the_end(ends: Ends) -> None:
    ends.supervisor.sendall(b"".join(encode(request(serial)) for serial in (1, 2, 3)))
    ends.supervisor.shutdown(socket.SHUT_WR)
    got = [ends.endpoint.receive() for _ in range(4)]
    assert [frame and frame.request_id for frame in got] == [1 << 8, 2 << 8, 3 << 8, None]


def test_a_request_that_comes_in_pieces_is_waited_for(ends: Ends) -> None:
    data = encode(request(1, payload=b"x" * 3000))
    ends.supervisor.sendall(data[:10])
    ends.supervisor.sendall(data[10:])
    got = ends.endpoint.receive()
    assert got is not None
    assert got.payload == b"x" * 3000


def test_the_serial_is_the_number_that_the_supervisor_gave_it(ends: Ends) -> None:
    ends.supervisor.sendall(encode(request(41)))
    ends.endpoint.receive()
    assert ends.endpoint.serial == 41


def test_a_frame_that_cant_be_read_is_a_bug(ends: Ends) -> None:
    ends.supervisor.sendall(encode(request(1, payload=b"x" * MAX_BYTES)))
    with pytest.raises(FrameError):
        ends.endpoint.receive()


@pytest.mark.parametrize("item", [Response(1), Hello()])
def test_what_is_no_request_is_a_bug(ends: Ends, item: Item) -> None:
    ends.supervisor.sendall(encode(item))
    with pytest.raises(FrameError):
        ends.endpoint.receive()


def test_a_result_that_is_too_large_is_replaced_by_an_error(ends: Ends) -> None:
    asked = request(7)
    ends.endpoint.answer(asked, Response(asked.request_id, Status.OK, b"x" * MAX_BYTES, generation=7))
    got = ends.received()
    assert isinstance(got, Response)
    assert (got.request_id, got.generation, got.status) == (asked.request_id, 7, Status.INTERNAL_ERROR)
    assert codec.decode(Codec.MSGPACK, got.payload)["detail"].startswith("the result is ")


def test_a_response_that_is_wrong_otherwise_is_a_bug(ends: Ends) -> None:
    asked = request(7)
    error = raised(
        FrameError, ends.endpoint.answer, asked, Response(asked.request_id, Status.OK, queue_us=2**32)
    )
    assert error.fault is not Fault.TOO_LARGE


def test_when_the_supervisor_is_gone_an_answer_is_a_broken_pipe(ends: Ends) -> None:
    ends.supervisor.close()
    asked = request(7)
    with pytest.raises(BrokenPipeError):
        ends.endpoint.answer(asked, Response(asked.request_id, Status.OK))
