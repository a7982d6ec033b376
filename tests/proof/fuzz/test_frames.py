"""Frames under fire: whatever bytes come, in whatever pieces, a parser gives frames or frame errors."""

from typing import Any

import msgspec
from hypothesis import given, note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from molt_accel.errors import Status
from molt_accel.ipc.frame import (
    HEADER_BYTES,
    MAX_ENTRY_BYTES,
    PREFIX_BYTES,
    Fault,
    FrameError,
    FrameParser,
    Item,
    decode,
    encode,
)
from molt_accel.ipc.messages import FLAG_COMPILED, BadFrame, Cancel, Codec, Hello, Message, Request, Response

LIMIT = 400
#: The control messages that may come.
MESSAGES = msgspec.msgpack.Decoder(Hello | Cancel | BadFrame)
#: What an item is compared by: an error by what it says of itself.
Seen = Item | tuple[Fault, str, int, int]

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
_BOTH = {"request_id": u64, **dict.fromkeys(("generation", "queue_depth", "in_flight"), u32)}
_OF_REQUEST = {"deadline_ns": u64, "sent_ns": u64, "max_wait_ms": u32}
_SPANS = ("queue_us", "decode_us", "handler_us", "encode_us", "exec_us")
_OF_RESPONSE = dict.fromkeys((*_SPANS, "executor"), u32)
texts = st.text(st.characters(codec="utf-8"), max_size=50)


def _fits(entry: str) -> bool:
    return len(entry.encode()) <= MAX_ENTRY_BYTES


def requests(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Request]:
    """Every request that is valid."""
    entry = st.text(st.characters(codec="utf-8"), min_size=1).filter(_fits)
    fields = {**_BOTH, **_OF_REQUEST, "codec": st.sampled_from(Codec)}
    return st.builds(Request, entry=entry, payload=payload, **fields)


def responses(payload: st.SearchStrategy[bytes]) -> st.SearchStrategy[Response]:
    """Every response that is valid."""
    fields = {**_BOTH, **_OF_RESPONSE, "codec": st.sampled_from(Codec), "status": st.sampled_from(Status)}
    return st.builds(Response, payload=payload, flags=st.sampled_from([0, FLAG_COMPILED]), **fields)


controls: st.SearchStrategy[Message] = st.one_of(
    st.builds(Hello), st.builds(Cancel, u64, st.integers(0, 2**32 - 1)), st.builds(BadFrame, texts)
)


def frames(payload: st.SearchStrategy[bytes] | None = None) -> st.SearchStrategy[Any]:
    """Everything that a frame can carry."""
    payload = st.binary() if payload is None else payload
    return st.one_of(requests(payload), responses(payload), controls)


_valid = frames().map(encode)


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    """A valid frame with some bytes changed; the length prefix as well, sometimes."""
    data = bytearray(draw(_valid))
    first = draw(st.sampled_from([0, PREFIX_BYTES]))
    for _ in range(draw(st.integers(1, 3))):
        data[draw(st.integers(first, min(len(data), 100) - 1))] = draw(st.integers(0, 255))
    return bytes(data)


@st.composite
def _framed_noise(draw: st.DrawFn) -> bytes:
    body = draw(st.binary(max_size=2 * HEADER_BYTES))
    return len(body).to_bytes(PREFIX_BYTES, "little") + body


pieces = st.one_of(_valid, _mutated(), _framed_noise(), st.binary(max_size=100))
streams = st.lists(pieces, max_size=6).map(b"".join)


def comparable(items: list[Item | FrameError]) -> list[Seen]:
    """Items that can be compared: exceptions have no equality."""
    return [
        (item.fault, item.detail, item.raw_id, item.raw_generation) if isinstance(item, FrameError) else item
        for item in items
    ]


def encodes_to(item: Item, body: bytes) -> bool:
    """Whether an item that was read of a body is written as that, or as another form of the same.

    msgpack has several forms of one message, and fields of the header that a kind doesn't have are ignored.
    """
    again = encode(item)[PREFIX_BYTES:]
    return again == body or decode(again, MESSAGES) == item


def parse(data: bytes, cuts: list[int], limit: int = LIMIT) -> tuple[list[Seen], bool]:
    """What comes of a stream that is cut at these places; whether it ends inside a frame."""
    parser = FrameParser(limit, MESSAGES)
    items: list[Item | FrameError] = []
    for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
        parser.feed(data[start:end])
        assert len(parser._buffer) <= limit + PREFIX_BYTES + (end - start)
        items += parser.frames()
        assert len(parser._buffer) <= limit + PREFIX_BYTES
        assert parser.mid_frame or (len(parser._buffer), parser.missing) == (0, PREFIX_BYTES)
        assert parser.frames() == []
    return comparable(items), parser.mid_frame


@given(frames(st.binary(max_size=2000)))
def test_a_frame_comes_back_as_it_was(frame: Item) -> None:
    data = encode(frame)
    assert int.from_bytes(data[:PREFIX_BYTES], "little") == len(data) - PREFIX_BYTES
    assert decode(data[PREFIX_BYTES:], MESSAGES) == frame
    assert decode(memoryview(data)[PREFIX_BYTES:], MESSAGES) == frame


@given(st.lists(frames(), max_size=8), st.data())
def test_frames_come_back_however_their_bytes_are_split(sent: list[Item], data: st.DataObject) -> None:
    stream = b"".join(map(encode, sent))
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    assert parse(stream, cuts, 10_000) == (sent, False)


@given(streams, st.data())
def test_any_split_of_any_bytes_gives_the_same_items(stream: bytes, data: st.DataObject) -> None:
    whole = parse(stream, [])
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=20).map(sorted))
    assert parse(stream, cuts) == whole
    assert parse(stream, list(range(len(stream)))) == whole


@given(st.binary(max_size=3 * HEADER_BYTES))
def test_decoding_noise_gives_a_frame_or_a_frame_error(body: bytes) -> None:
    try:
        frame = decode(body, MESSAGES)
    except FrameError as exc:
        note(exc.detail)
    else:
        assert encodes_to(frame, body)


@given(_mutated())
def test_a_damaged_frame_is_a_frame_error_or_a_frame_that_encodes_to_the_same_bytes(data: bytes) -> None:
    try:
        frame = decode(data[PREFIX_BYTES:], MESSAGES)
    except FrameError as exc:
        note(exc.detail)
    else:
        assert encodes_to(frame, data[PREFIX_BYTES:])


@given(
    st.lists(st.one_of(_framed_noise(), _mutated().filter(lambda data: len(data) <= LIMIT)), max_size=5),
    frames(),
)
def test_a_valid_frame_is_found_behind_any_malformed_ones(bad: list[bytes], good: Item) -> None:
    """As long as their length prefixes are true."""
    framed = b"".join(
        (len(data) - PREFIX_BYTES).to_bytes(PREFIX_BYTES, "little") + data[PREFIX_BYTES:] for data in bad
    )
    items, mid_frame = parse(framed + encode(good), [], 10_000)
    assert items[-1] == good
    assert len(items) == len(bad) + 1
    assert not mid_frame


any_number = st.integers(-(2**65), 2**65)


def _numbers(*fields: str) -> st.SearchStrategy[dict[str, int]]:
    return st.dictionaries(st.sampled_from(sorted({*_BOTH, *fields})), any_number, max_size=3)


@given(
    st.tuples(
        requests(st.binary()),
        st.builds(
            lambda numbers, entry: {**numbers, "entry": entry},
            _numbers(*_OF_REQUEST),
            st.text(max_size=300) | st.text(st.characters(), max_size=3),
        ),
    )
    | st.tuples(responses(st.binary()), _numbers("flags", *_OF_RESPONSE))
)
def test_encoding_anything_gives_bytes_that_decode_or_a_frame_error(
    changed: tuple[Request | Response, dict[str, Any]],
) -> None:
    frame = msgspec.structs.replace(changed[0], **changed[1])
    try:
        data = encode(frame, 10_000)
    except FrameError as exc:
        assert exc.fault in (Fault.ENTRY, Fault.RANGE)  # noqa: PT017 - either end is right
    else:
        if getattr(frame, "flags", 0) in (0, FLAG_COMPILED):
            assert decode(data[PREFIX_BYTES:]) == frame


class ParserMachine(RuleBasedStateMachine):
    """A parser fed in pieces, beside a model: the list of what was put in, and how far it has come."""

    @initialize()
    def begin(self) -> None:
        self.parser = FrameParser(LIMIT, MESSAGES)
        self.unsent = b""
        self.expected: list[Seen] = []
        self.received: list[Seen] = []
        self.last_feed = 0

    @rule(frame=frames(st.binary(max_size=500)))
    def put_frame(self, frame: Item) -> None:
        data = encode(frame)
        size = len(data) - PREFIX_BYTES
        self.unsent += data
        if size <= LIMIT:
            self.expected.append(frame)
        else:
            text = f"over the frame limit: {size} bytes, {LIMIT} at most"
            owner = (0, 0) if isinstance(frame, Message) else (frame.request_id, frame.generation)
            self.expected.append((Fault.TOO_LARGE, text, *owner))

    @rule()
    def put_empty(self) -> None:
        self.unsent += bytes(PREFIX_BYTES)
        self.expected.append((Fault.EMPTY, "zero length", 0, 0))

    @rule(body=st.binary(min_size=1, max_size=HEADER_BYTES - 1))
    def put_stub(self, body: bytes) -> None:
        self.unsent += len(body).to_bytes(PREFIX_BYTES, "little") + body
        text = f"shorter than its header says: {len(body)} bytes, the header alone has {HEADER_BYTES}"
        self.expected.append((Fault.TRUNCATED, text, 0, 0))

    @rule(size=st.integers(0, 600))
    def feed(self, size: int) -> None:
        piece, self.unsent = self.unsent[:size], self.unsent[size:]
        before = len(self.parser._buffer)
        self.parser.feed(piece)
        assert len(self.parser._buffer) <= before + len(piece)
        self.last_feed += len(piece)

    @rule()
    def take(self) -> None:
        self.received += comparable(self.parser.frames())
        self.last_feed = 0

    @rule()
    def drain(self) -> None:
        self.feed(len(self.unsent))
        self.take()
        assert self.received == self.expected
        assert not self.parser.mid_frame

    @invariant()
    def nothing_is_invented_reordered_or_hoarded(self) -> None:
        if hasattr(self, "parser"):
            assert self.received == self.expected[: len(self.received)]
            assert len(self.parser._buffer) <= LIMIT + PREFIX_BYTES + self.last_feed

    def teardown(self) -> None:
        if hasattr(self, "parser"):
            self.drain()


TestParser = ParserMachine.TestCase
