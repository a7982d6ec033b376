"""molt_accel.cluster.wire: what travels comes back as it was, and garbage is told as such."""

import contextlib
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel.cluster import wire
from molt_accel.cluster.wire import Pieces, pieces_of, subject_of
from molt_accel.errors import Status
from molt_accel.ipc import frame
from molt_accel.ipc.frame import PREFIX_BYTES, Fault, FrameError
from molt_accel.ipc.messages import Codec, Request, Response
from tests.support.errors import raised

LIMIT = 1 << 20


@pytest.mark.parametrize(
    ("entry", "subject"),
    [
        ("list_items", "molt.list_items"),
        ("shop.list", "molt.shop.list"),
        ("a b", "molt.a%20b"),
        ("a*", "molt.a%2A"),
        (">", "molt.%3E"),
        (".a", "molt.%2Ea"),
        ("a..b", "molt.a%2E%2Eb"),
        ("ä", "molt.%C3%A4"),
    ],
)
def test_an_entry_s_subject(entry: str, subject: str) -> None:
    assert subject_of("molt", entry) == subject


@given(st.text(min_size=1, max_size=60))
def test_any_entry_has_a_subject_that_nats_allows(entry: str) -> None:
    try:
        entry.encode()
    except UnicodeEncodeError:
        return
    words = subject_of("molt", entry).split(".")
    assert words[0] == "molt"
    assert all(words)
    assert not set("".join(words)) & set(" *>\t\r\n\0")


def test_a_request_travels_with_the_time_that_is_left() -> None:
    now_ns = time.monotonic_ns()
    sent = Request(
        7, "echo", b"payload", Codec.JSON, generation=3, deadline_ns=now_ns + 10**12, sent_ns=5, max_wait_ms=9
    )
    got = wire.decode_request(wire.encode_request(sent, LIMIT))
    assert (got.request_id, got.entry, bytes(got.payload), got.codec) == (7, "echo", b"payload", Codec.JSON)
    assert (got.generation, got.max_wait_ms) == (0, 9)
    assert got.sent_ns >= now_ns
    # By this host's clock, and later by what the way has taken.
    assert now_ns + 10**12 <= got.deadline_ns <= time.monotonic_ns() + 10**12


def test_no_deadline_stays_none_and_one_that_is_over_does_not_become_none() -> None:
    assert wire.decode_request(wire.encode_request(Request(1, "echo"), LIMIT)).deadline_ns == 0
    over = wire.decode_request(wire.encode_request(Request(1, "echo", deadline_ns=1), LIMIT))
    assert 0 < over.deadline_ns <= time.monotonic_ns()


def test_a_response_travels_whole() -> None:
    sent = Response(7, Status.OK, b"result", Codec.RAW, queue_us=1, handler_us=2, exec_us=3, executor=4)
    got = wire.decode_response(wire.encode_response(sent, LIMIT))
    assert (got.request_id, bytes(got.payload), got.codec) == (7, b"result", Codec.RAW)
    assert (got.queue_us, got.handler_us, got.exec_us, got.executor) == (1, 2, 3, 4)


def test_one_is_not_taken_for_the_other() -> None:
    request, response = (
        wire.encode_request(Request(1, "echo"), LIMIT),
        wire.encode_response(Response(1, Status.OK), LIMIT),
    )
    assert raised(FrameError, wire.decode_request, response).fault is Fault.KIND
    assert raised(FrameError, wire.decode_response, request).fault is Fault.KIND


def test_what_fits_no_frame_is_refused() -> None:
    assert (
        raised(FrameError, wire.encode_request, Request(1, "echo", bytes(100)), 80).fault is Fault.TOO_LARGE
    )


@given(st.binary(max_size=200))
def test_garbage_is_a_frame_error_or_a_request(data: bytes) -> None:
    for decode in (wire.decode_request, wire.decode_response):
        with contextlib.suppress(FrameError):
            decode(data)


@given(st.binary(min_size=1, max_size=500), st.integers(10, 200))
def test_a_frame_comes_together_again(body: bytes, max_payload: int) -> None:
    pieces = Pieces(1000)
    messages = list(pieces_of(body, wire.FIRST_PIECE, max_payload))
    assert all(len(each) <= max_payload for each in messages)
    assert [pieces.add(each) for each in messages] == [None] * (len(messages) - 1) + [body]


def test_pieces_that_are_not_the_next_ones_are_refused() -> None:
    first, second, third = pieces_of(bytes(30), wire.FIRST_PIECE, 19)
    for messages in ([second], [first, third], [first, first], [first[:5]], [first, second[:9]]):
        pieces = Pieces(1000)
        for each in messages[:-1]:
            pieces.add(each)
        raised(FrameError, pieces.add, messages[-1])
    other = next(pieces_of(bytes(40), wire.FIRST_PIECE, 19))
    pieces = Pieces(1000)
    pieces.add(first)
    raised(FrameError, pieces.add, other)


def test_a_frame_that_would_be_too_long_is_refused_at_its_first_piece() -> None:
    first = next(pieces_of(bytes(2000), wire.FIRST_PIECE, 100))
    assert raised(FrameError, Pieces(1999).add, first).fault is Fault.TOO_LARGE


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_garbage_in_pieces_is_told_as_such_and_never_too_long(messages: list[bytes]) -> None:
    pieces = Pieces(100)
    for each in messages:
        try:
            whole = pieces.add(each)
        except FrameError:
            continue
        assert whole is None or len(whole) <= 100


def test_a_deadline_that_fits_no_clock_is_refused() -> None:
    body = frame.encode(Request(1, "echo", b"", deadline_ns=2**64 - 1), 1000)[PREFIX_BYTES:]
    with pytest.raises(FrameError, match="no deadline"):
        wire.decode_request(body)
