"""molt_accel.ipc.frame: against the protocol's vectors and byte table, and the parser."""

import json
import re
import struct
from typing import Any

import msgspec
import pytest

from molt_accel.errors import Status
from molt_accel.ipc import frame as module
from molt_accel.ipc.frame import (
    DEFAULT_MAX_FRAME_BYTES,
    HEADER_BYTES,
    PREFIX_BYTES,
    Fault,
    FrameError,
    FrameParser,
    Item,
    Kind,
    decode,
    encode,
    encode_head,
    format_id,
    peek,
)
from molt_accel.ipc.messages import (
    PING,
    RESERVED_PREFIX,
    SHM_FROM_CLIENT,
    STDIO_FROM_CLIENT,
    STDIO_FROM_WORKER,
    BadFrame,
    Cancel,
    Codec,
    Hello,
    Message,
    Request,
    Response,
    StartFailed,
)
from tests.support import ROOT
from tests.support.errors import raised
from tests.support.frames import message_of

REFERENCE = ROOT / "docs" / "reference"
VECTORS: dict[str, Any] = json.loads((REFERENCE / "protocol_vectors.json").read_text(encoding="utf-8"))
PROTOCOL = (REFERENCE / "protocol.md").read_text(encoding="utf-8")

each_valid = pytest.mark.parametrize("vector", VECTORS["valid"], ids=lambda vector: vector["name"])
each_invalid = pytest.mark.parametrize("vector", VECTORS["invalid"], ids=lambda vector: vector["name"])


#: The control messages that may come from each side.
MESSAGES = {"client": STDIO_FROM_CLIENT, "worker": STDIO_FROM_WORKER}


def item_of(vector: dict[str, Any]) -> Item:
    fields = dict(vector["frame"])
    kind = fields.pop("kind")
    if kind == "CONTROL":
        message: Message = msgspec.convert(fields["message"], MESSAGES[vector["from"]].type)
        return message
    fields |= {"codec": Codec[fields["codec"]], "payload": bytes.fromhex(fields.pop("payload_hex"))}
    if kind == "REQUEST":
        return Request(**fields)
    return Response(**fields | {"status": Status[fields["status"]]})


# -- vectors --------------------------------------------------------------------------------------------
def test_the_vectors_are_of_this_version_and_cover_everything() -> None:
    assert VECTORS["version"] == module.VERSION
    items = [item_of(vector) for vector in VECTORS["valid"]]
    responses = [item for item in items if isinstance(item, Response)]
    assert {type(item) for item in items} == {Request, Response, Hello, StartFailed, BadFrame, Cancel}
    assert {item.codec for item in items if not isinstance(item, Message)} == set(Codec)
    assert {response.status for response in responses} == set(Status)
    assert {Fault[vector["fault"]] for vector in VECTORS["invalid"]} == set(Fault) - {Fault.RANGE}
    for vector, item in zip(VECTORS["valid"], items, strict=True):
        fields = {"message"} if isinstance(item, Message) else {*item.__struct_fields__} - {"payload"}
        assert {*vector["frame"]} - {"payload_hex"} == {"kind", *fields}


@each_valid
def test_a_vector_s_fields_encode_to_its_bytes(vector: dict[str, Any]) -> None:
    assert encode(item_of(vector)).hex() == vector["hex"]


@each_valid
def test_a_vector_s_bytes_decode_to_its_fields(vector: dict[str, Any]) -> None:
    data = bytes.fromhex(vector["hex"])
    assert int.from_bytes(data[:4], "little") == len(data) - 4
    for wrap in (bytes, bytearray, memoryview):
        assert decode(wrap(data[4:]), MESSAGES[vector["from"]]) == item_of(vector)


@pytest.mark.parametrize("messages", [None, STDIO_FROM_CLIENT])
def test_a_message_where_it_is_not_expected_is_malformed(messages: Any) -> None:
    assert raised(FrameError, decode, encode(Hello())[PREFIX_BYTES:], messages).fault is Fault.MESSAGE


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 100_000,
        b"\x81\xa1x" + b"\x91" * 100_000,
        b"\xdd" + b"\xff" * 4,
        b"\xdf" + b"\xff" * 4,
        b"\x83\xa4type\xa6Return\xa8channels\xdd" + b"\xff" * 4,
        b"\x81\xa4type\xdb\x00\x01\x00\x00" + b"x" * 65536,
        b"\x81\xa4type\xa1\xff",
    ],
    ids=["deep", "deep in a field", "long", "large", "long field", "long name", "no Unicode"],
)
def test_a_deep_or_huge_message_costs_one_short_error(payload: bytes) -> None:
    error = raised(FrameError, decode, message_of(payload)[PREFIX_BYTES:], SHM_FROM_CLIENT)
    assert error.fault is Fault.MESSAGE
    assert len(error.detail) < 300


@each_invalid
def test_a_malformed_vector_is_one_error_and_the_stream_goes_on(vector: dict[str, Any]) -> None:
    parser = FrameParser(vector["max_frame_bytes"], STDIO_FROM_CLIENT)
    good = Request(1, "x")
    parser.feed(bytes.fromhex(vector["hex"]) + encode(good))
    error, following = parser.frames()
    assert isinstance(error, FrameError)
    assert (error.fault, error.raw_id, error.raw_generation) == (
        Fault[vector["fault"]],
        vector["request_id"],
        vector["generation"],
    )
    assert error.request_id == format_id(vector["request_id"])
    assert following == good
    assert not parser.mid_frame


def test_the_vectors_shown_in_the_document_are_those_of_the_file() -> None:
    by_name = {vector["name"]: vector["hex"] for vector in VECTORS["valid"]}
    shown = re.findall(r"\(`([^`]+)`\)[^`]*:\n\n```text\n([0-9a-f \n]+)```", PROTOCOL)
    assert [name for name, _ in shown] == ["hello", "request", "ok response"]
    for name, text in shown:
        assert "".join(text.split()) == by_name[name]


# -- the byte table of docs/reference/protocol.md -------------------------------------------------------
_CODES = {"u8": "B", "u16": "H", "u32": "I", "u64": "Q"}
_ROW = r"^\| (\d+) \| (\d+) \| (u\d+) \| `(\w+)` \| [^|]+ \| (?:yes|-) \| (?:yes|-) \| (?:yes|-) \|$"
TABLE = [
    (int(offset), int(size), kind, name)
    for offset, size, kind, name in re.findall(_ROW, PROTOCOL, re.MULTILINE)
]


def test_the_documented_header_is_the_implemented_one() -> None:
    documented = "<" + "".join(_CODES[row[2]] for row in TABLE)
    implemented = re.sub(r"(\d+)(\w)", lambda match: match[2] * int(match[1]), module._HEADER.format)
    assert documented == implemented
    assert (HEADER_BYTES, PREFIX_BYTES) == (80, 4)


def test_the_documented_offsets_and_sizes_add_up() -> None:
    end = 0
    for offset, size, kind, _ in TABLE:
        assert (offset, size) == (end, struct.calcsize(_CODES[kind]))
        end += size
    assert end == HEADER_BYTES


_COUNTED = ("version", "kind", "entry_bytes", "payload_bytes")


@pytest.mark.parametrize(
    ("offset", "size", "name"), [(row[0], row[1], row[3]) for row in TABLE if row[3] not in _COUNTED]
)
def test_a_field_lies_where_the_document_says(offset: int, size: int, name: str) -> None:
    special = {"codec": Codec.RAW, "status": Status.INTERNAL_ERROR}
    value = special.get(name, 2 ** (8 * size) - 2)
    plain: Request | Response = Request(0, "e", max_wait_ms=0)
    if name not in Request.__struct_fields__:
        plain = Response(0)
    header = encode(msgspec.structs.replace(plain, **{name: value}))[PREFIX_BYTES:]
    assert int.from_bytes(header[offset : offset + size], "little") == value
    unchanged = encode(plain)[PREFIX_BYTES:]
    assert header[:offset] + header[offset + size :] == unchanged[:offset] + unchanged[offset + size :]


def test_the_counted_fields_lie_where_the_document_says() -> None:
    header = encode(Request(0, "größe", b"x" * 300))[PREFIX_BYTES:]
    at = {row[3]: header[row[0] : row[0] + row[1]] for row in TABLE}
    assert {name: int.from_bytes(at[name], "little") for name in _COUNTED} == {
        "version": module.VERSION, "kind": Kind.REQUEST, "entry_bytes": len("größe".encode()),
        "payload_bytes": 300,
    }  # fmt: skip


def test_the_document_lists_every_kind_codec_status_and_fault_with_its_value() -> None:
    for kind in Kind:
        assert f"| {int(kind)} | {kind.name.lower()} |" in PROTOCOL
    for codec in Codec:
        assert f"| {int(codec)} | `{codec.label}` |" in PROTOCOL
    for status in Status:
        assert f"| {int(status)} | `{status.label}` |" in PROTOCOL
    for fault in Fault:
        assert f"`{fault.name}` |" in PROTOCOL or fault is Fault.RANGE
    assert f"| `{PING}` |" in PROTOCOL
    assert PING.startswith(RESERVED_PREFIX)


# -- encoding -------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("changes", "fault", "text"),
    [
        ({"entry": ""}, Fault.ENTRY, "bad entry name: empty"),
        ({"entry": "e" * 256}, Fault.ENTRY, "bad entry name: 256 bytes, 255 at most"),
        ({"entry": "ß" * 128}, Fault.ENTRY, "bad entry name: 256 bytes, 255 at most"),
        ({"entry": "\udc80"}, Fault.ENTRY, "bad entry name: not valid Unicode"),
        ({"payload": b"x" * 117}, Fault.TOO_LARGE, "over the frame limit: 201 bytes, 200 at most"),
    ],
)
def test_what_no_receiver_would_take_is_not_encoded(changes: dict[str, Any], fault: Fault, text: str) -> None:
    frame = msgspec.structs.replace(Request(7, "echo", generation=2), **changes)
    error = raised(FrameError, encode, frame, 200)
    assert (error.fault, str(error), error.raw_id, error.raw_generation) == (fault, text, 7, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"request_id": 2**64}, {"request_id": -1}, {"generation": 2**32}, {"deadline_ns": -1},
        {"max_wait_ms": 2**32}, {"queue_us": 2**32}, {"executor": -1}, {"flags": 2**16},
    ],
)  # fmt: skip
def test_a_number_that_does_not_fit_is_a_range_error(changes: dict[str, Any]) -> None:
    plain = Request(7, "echo") if {*changes} <= {*Request.__struct_fields__} else Response(7)
    assert raised(FrameError, encode, msgspec.structs.replace(plain, **changes)).fault is Fault.RANGE


@pytest.mark.parametrize("message", [Cancel(2**64, 1), BadFrame("\udc80")])
def test_a_message_that_msgpack_has_no_form_for_is_a_range_error(message: Message) -> None:
    assert raised(FrameError, encode, message).fault is Fault.RANGE


def test_a_message_over_the_limit_is_not_encoded() -> None:
    size = len(encode(BadFrame("why"))) - PREFIX_BYTES
    assert encode(BadFrame("why"), size)
    assert raised(FrameError, encode, BadFrame("why"), size - 1).fault is Fault.TOO_LARGE


def test_a_frame_of_exactly_the_limit_goes_through() -> None:
    frame = Request(1, "e", b"x" * (200 - HEADER_BYTES - 1))
    parser = FrameParser(200)
    parser.feed(encode(frame, 200))
    assert parser.frames() == [frame]


def test_the_head_is_everything_before_the_payload() -> None:
    frame = Request(1, "echo", memoryview(b"payload"))
    assert encode_head(frame) + b"payload" == encode(frame)


def test_the_default_limit_is_64_mib() -> None:
    assert DEFAULT_MAX_FRAME_BYTES == 64 * 1024 * 1024
    parser = FrameParser()
    parser.feed(struct.pack("<I", DEFAULT_MAX_FRAME_BYTES + 1) + bytes(HEADER_BYTES))
    (error,) = parser.frames()
    assert isinstance(error, FrameError)
    assert str(error) == "over the frame limit: 67108865 bytes, 67108864 at most"


# -- the parser -----------------------------------------------------------------------------------------
def test_a_decoded_payload_is_a_copy_of_its_own() -> None:
    body = bytearray(encode(Request(1, "e", b"payload"))[PREFIX_BYTES:])
    frame = decode(body)
    assert isinstance(frame, Request)
    body[-7:] = b"changed"
    assert (frame.payload, type(frame.payload)) == (b"payload", bytes)


def test_missing_says_how_much_the_frame_under_way_still_needs() -> None:
    data = encode(Request(1, "e", b"x" * 1000))
    parser = FrameParser()
    needed = []
    for at, size in ((0, 2), (2, 2), (4, 500)):
        needed.append(parser.missing)
        parser.feed(data[at : at + size])
        assert parser.frames() == []
    assert [*needed, parser.missing] == [4, 2, len(data) - 4, len(data) - 504]
    assert parser.mid_frame
    parser.feed(data[504:])
    assert [item.payload for item in parser.frames() if isinstance(item, Request)] == [b"x" * 1000]
    assert (parser.missing, parser.mid_frame, len(parser._buffer)) == (4, False, 0)


@pytest.mark.parametrize("step", [1, 7, 100, 5000])
def test_an_oversized_frame_is_reported_once_and_its_bytes_are_dropped(step: int) -> None:
    large = encode(Request(5, "e", b"x" * 4000, generation=3))
    good = Request(6, "after")
    data = large + encode(good)
    parser = FrameParser(200)
    items = []
    for at in range(0, len(data), step):
        parser.feed(data[at : at + step])
        items += parser.frames()
        assert len(parser._buffer) <= 200 + PREFIX_BYTES
    error, following = items
    assert isinstance(error, FrameError)
    assert (error.fault, error.raw_id, error.raw_generation) == (Fault.TOO_LARGE, 5, 3)
    assert following == good


def test_an_oversized_frame_is_known_by_its_header_before_its_payload_comes() -> None:
    parser = FrameParser(200)
    parser.feed(encode(Request(5, "e", b"x" * 4000))[: PREFIX_BYTES + HEADER_BYTES])
    (error,) = parser.frames()
    assert isinstance(error, FrameError)
    assert error.raw_id == 5
    assert parser.mid_frame
    assert len(parser._buffer) == 0


def test_a_limit_below_the_header_s_size_is_kept_too() -> None:
    parser = FrameParser(10)
    parser.feed(struct.pack("<I", 11) + bytes(11) + struct.pack("<I", 0))
    too_large, empty = parser.frames()
    assert isinstance(too_large, FrameError)
    assert isinstance(empty, FrameError)
    assert (too_large.fault, empty.fault) == (Fault.TOO_LARGE, Fault.EMPTY)


def test_ids_are_shown_as_16_hexadecimal_digits() -> None:
    assert [format_id(0), format_id(255), format_id(2**64 - 1)] == ["0" * 16, "00000000000000ff", "f" * 16]


@pytest.mark.parametrize("off_by", [-1, 1, 2**31])
def test_a_look_at_a_request_sees_nothing_where_its_sizes_disagree(off_by: int) -> None:
    data = bytearray(encode(Request(7, entry="echo", payload=b"abc")))
    assert peek(bytes(data[:-3])) is not None  # any part of the payload may be missing
    size = int.from_bytes(data[:PREFIX_BYTES], "little")
    data[:PREFIX_BYTES] = (size + off_by).to_bytes(PREFIX_BYTES, "little")
    assert peek(bytes(data)) is None
