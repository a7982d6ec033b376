"""Frames: makes bytes of requests, responses and control messages, and reads them again. No I/O here.

A frame is a u32 length, a fixed header, the entry name and the payload, all little-endian;
docs/reference/protocol.md has the byte table. The length prefix always says where the next frame begins, so a malformed
frame costs one typed error, and the stream goes on behind it.
"""

from __future__ import annotations

import enum
import operator
import struct
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import msgspec

from molt_accel.errors import MoltProtocolError, Status
from molt_accel.ipc.fields import FIELDS, FORMAT, Of
from molt_accel.ipc.messages import FLAG_COMPILED, Codec, Message, Request, Response

VERSION: Final = 3
#: Default and largest configurable frame: header, entry name and payload, without the length prefix.
DEFAULT_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRY_BYTES: Final = 255

_LENGTH: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct(FORMAT)
_PREFIXED_HEADER: Final = struct.Struct("<I" + _HEADER.format[1:])
HEADER_BYTES: Final = _HEADER.size
_VERSION_BYTE: Final = bytes([VERSION])
PREFIX_BYTES: Final = _LENGTH.size
#: How many bytes of a frame `peek` needs at most.
PEEK_BYTES: Final = PREFIX_BYTES + HEADER_BYTES + MAX_ENTRY_BYTES
_QUOTED: Final = 200  #: longest quotation, in characters, of what the other side sent

#: What a frame carries.
Item = Request | Response | Message
#: Decodes the control messages of one direction; `messages` has them.
Decoder = msgspec.msgpack.Decoder[Any]


class Kind(enum.IntEnum):
    REQUEST = 1
    RESPONSE = 2
    CONTROL = 3


class Fault(enum.StrEnum):
    """What is wrong with a frame."""

    EMPTY = "zero length"
    TOO_LARGE = "over the frame limit"
    TRUNCATED = "shorter than its header says"
    TRAILING = "longer than its header says"
    VERSION = "unknown version"
    KIND = "unknown kind"
    CODEC = "unknown codec"
    STATUS = "unknown status"
    FLAGS = "unknown flags"
    ENTRY = "bad entry name"
    MESSAGE = "not a message that is expected here"
    RANGE = "a field is out of range"


class FrameError(MoltProtocolError):
    """A malformed frame. `fault` says what is wrong with it.

    `raw_id` and `raw_generation` are of the request that it claims to be, so that its sender can be answered; 0 if the
    frame doesn't say.
    """

    def __init__(self, fault: Fault, detail: str = "", raw_id: int = 0, raw_generation: int = 0) -> None:
        super().__init__(f"{fault.value}: {detail}" if detail else fault.value, request_id=format_id(raw_id))
        self.fault = fault
        self.raw_id = raw_id
        self.raw_generation = raw_generation
        self._arguments = (fault, detail, raw_id, raw_generation)

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self._arguments, self.__dict__)


def format_id(request_id: int) -> str:
    """A request id as logs, metrics and errors show it: 16 hexadecimal digits."""
    return f"{request_id:016x}"


class _Head:
    """How a frame of a kind begins, and the fields behind `payload_bytes` that its message has: some in a row."""

    def __init__(self, kind: Of) -> None:
        first = [field.name for field in FIELDS].index("payload_bytes") + 1
        own = [at for at in range(first, len(FIELDS)) if FIELDS[at].of & kind]
        assert own == [*range(own[0], own[-1] + 1)], "the fields of a message stand in a row"
        self.span: Final = slice(own[0], own[-1] + 1)
        self.values: Final = operator.attrgetter(*(FIELDS[at].name for at in own))
        codes = _HEADER.format[1:]
        before, after = (
            f"{struct.calcsize('<' + part)}x" for part in (codes[first : own[0]], codes[own[-1] + 1 :])
        )
        self.pack: Final = struct.Struct(f"<I{codes[:first]}{before}{codes[self.span]}{after}").pack


_OF_REQUEST: Final = _Head(Of.REQUEST)
_OF_RESPONSE: Final = _Head(Of.RESPONSE)


def encode_head(item: Request | Response, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> bytes:
    """Return the part of a frame before its payload: length prefix, header and entry name.

    Raises FrameError for a frame over the limit, a bad entry name, or a field that doesn't fit its width.
    """
    payload_bytes = len(item.payload)
    if type(item) is Request:  # isinstance() takes long with such classes
        try:
            entry = item.entry.encode()
        except UnicodeEncodeError as exc:
            raise FrameError(Fault.ENTRY, "not valid Unicode", item.request_id, item.generation) from exc
        if not 0 < len(entry) <= MAX_ENTRY_BYTES:
            raise FrameError(Fault.ENTRY, _entry_fault(len(entry)), item.request_id, item.generation)
        total = HEADER_BYTES + len(entry) + payload_bytes
        kind, status, flags, head = _REQUEST, 0, 0, _OF_REQUEST
    else:
        entry = b""
        total = HEADER_BYTES + payload_bytes
        kind, status, flags, head = _RESPONSE, item.status, item.flags, _OF_RESPONSE
    if total > max_frame_bytes:
        text = f"{total} bytes, {max_frame_bytes} at most"
        raise FrameError(Fault.TOO_LARGE, text, item.request_id, item.generation)
    try:
        header = head.pack(
            total, VERSION, kind, item.codec, status, len(entry), flags, item.request_id, item.generation,
            payload_bytes, *head.values(item),
        )  # fmt: skip
    except struct.error as exc:
        raise FrameError(Fault.RANGE, str(exc)) from exc
    return header + entry


def _entry_fault(entry_bytes: int) -> str:
    return f"{entry_bytes} bytes, {MAX_ENTRY_BYTES} at most" if entry_bytes else "empty"


def encode_parts(
    item: Item, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES
) -> tuple[bytes, bytes | memoryview]:
    """Return a frame as head and payload; a control message is all in the head. Raises as `encode_head` does."""
    if type(item) is Request or type(item) is Response:
        return encode_head(item, max_frame_bytes), item.payload
    try:
        payload = msgspec.msgpack.encode(item)
    except (ValueError, TypeError, OverflowError) as exc:
        raise FrameError(Fault.RANGE, str(exc)) from exc
    total = HEADER_BYTES + len(payload)
    if total > max_frame_bytes:
        raise FrameError(Fault.TOO_LARGE, f"{total} bytes, {max_frame_bytes} at most")
    header = (total, VERSION, Kind.CONTROL, Codec.MSGPACK, 0, 0, 0, 0, 0, len(payload))
    return _PREFIXED_HEADER.pack(*header, *(0,) * (1 + len(FIELDS) - len(header))) + payload, b""


def encode(item: Item, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> bytes:
    """Return a whole frame, length prefix included. Raises FrameError as `encode_head` does."""
    head, payload = encode_parts(item, max_frame_bytes)
    return head + payload


def decode(body: bytes | bytearray | memoryview, messages: Decoder | None = None) -> Item:
    """Read a frame. The payload is copied out of it.

    Args:
        body: The frame without its length prefix.
        messages: Decodes the control messages that may come here; None: none may.

    Raises:
        FrameError: for anything that is not exactly one valid frame.
    """
    size = len(body)
    if size == 0:
        raise FrameError(Fault.EMPTY)
    if size < HEADER_BYTES:
        raise FrameError(Fault.TRUNCATED, f"{size} bytes, the header alone has {HEADER_BYTES}")
    header = _HEADER.unpack_from(body)
    version, kind, codec, status, entry_bytes, flags, request_id, generation, payload_bytes = header[:9]
    if version != VERSION:
        raise FrameError(Fault.VERSION, f"{version}, this side speaks {VERSION}")
    kind_value = KINDS[kind]
    if kind_value is None:
        raise FrameError(Fault.KIND, str(kind), request_id, generation)
    codec_value = CODECS[codec]
    if codec_value is None or (kind_value is _CONTROL and codec_value is not _MSGPACK):
        raise FrameError(Fault.CODEC, str(codec), request_id, generation)
    status_value = STATUSES[status]
    if status_value is None if kind_value is _RESPONSE else status:
        raise FrameError(Fault.STATUS, f"{status} in a {kind_value.name} frame", request_id, generation)
    if flags & (_UNKNOWN_FLAGS if kind_value is _RESPONSE else _ALL_FLAGS):
        raise FrameError(Fault.FLAGS, f"{flags:#x}", request_id, generation)
    payload_at = HEADER_BYTES + entry_bytes
    expected = payload_at + payload_bytes
    if size != expected:
        fault = Fault.TRUNCATED if size < expected else Fault.TRAILING
        raise FrameError(fault, f"{size} bytes, the header says {expected}", request_id, generation)
    payload = bytes(body[payload_at:])
    if kind_value is _REQUEST:
        if not 0 < entry_bytes <= MAX_ENTRY_BYTES:
            raise FrameError(Fault.ENTRY, _entry_fault(entry_bytes), request_id, generation)
        try:
            entry = str(body[HEADER_BYTES:payload_at], "utf-8")
        except UnicodeDecodeError as exc:
            raise FrameError(Fault.ENTRY, "not valid UTF-8", request_id, generation) from exc
        return Request(request_id, entry, payload, codec_value, generation, *header[_OF_REQUEST.span])
    if entry_bytes:
        raise FrameError(Fault.ENTRY, f"a {kind_value.name} frame has none", request_id, generation)
    if status_value is not None:
        return Response(
            request_id, status_value, payload, codec_value, flags, generation, *header[_OF_RESPONSE.span]
        )
    if messages is None:
        raise FrameError(Fault.MESSAGE, "none is", request_id, generation)
    try:
        message: Message = messages.decode(payload)
    except (ValueError, RecursionError, OverflowError) as exc:  # msgspec's own are ValueErrors
        raise FrameError(Fault.MESSAGE, str(exc)[:_QUOTED], request_id, generation) from exc
    return message


def peek(data: bytes) -> Request | None:
    """Read the request with which these bytes begin, without its payload, of which any part may be missing.

    For a look at a request while an executor works on it. Returns None if there is no valid one.
    """
    if len(data) < PREFIX_BYTES + HEADER_BYTES:
        return None
    (size,) = _LENGTH.unpack_from(data)
    fields = list(_HEADER.unpack_from(data, PREFIX_BYTES))
    end = HEADER_BYTES + fields[4]
    if size != end + fields[8] or len(data) < PREFIX_BYTES + end:
        return None
    fields[8] = 0
    try:
        item = decode(_HEADER.pack(*fields) + data[PREFIX_BYTES + HEADER_BYTES : PREFIX_BYTES + end])
    except FrameError:
        return None
    return item if isinstance(item, Request) else None


def _owner(header: bytearray) -> tuple[int, int]:
    """Request id and generation in the header of a frame that can't be decoded; zeros if it has none."""
    if len(header) < HEADER_BYTES or header[0] != VERSION:
        return 0, 0
    fields = _HEADER.unpack(header)
    return fields[6], fields[7]


_Member = TypeVar("_Member", bound=enum.IntEnum)


def _by_byte(members: Iterable[_Member]) -> tuple[_Member | None, ...]:
    """The member for each value of a byte, or None. A tuple is the fastest table."""
    known = {int(member): member for member in members}
    return tuple(known.get(value) for value in range(256))


KINDS: Final = _by_byte(Kind)
CODECS: Final = _by_byte(Codec)
STATUSES: Final = _by_byte(Status)
# Looking up a member of an enumeration costs more than the rest of a decision.
_REQUEST: Final = Kind.REQUEST
_RESPONSE: Final = Kind.RESPONSE
_CONTROL: Final = Kind.CONTROL
_MSGPACK: Final = Codec.MSGPACK
_UNKNOWN_FLAGS: Final = ~FLAG_COMPILED
_ALL_FLAGS: Final = ~0


class FrameParser:
    """Cuts a byte stream into frames, however the bytes were split.

    It never holds more undecoded bytes than one frame's limit and one `feed`: an oversized frame is reported once, when
    its header is there, and its bytes are dropped as they come.

    Args:
        max_frame_bytes: Largest frame, in bytes.
        messages: Decodes the control messages that may come here; None: none may.
    """

    def __init__(
        self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES, messages: Decoder | None = None
    ) -> None:
        self._max = max_frame_bytes
        self._messages = messages
        self._buffer = bytearray()
        self._skip = 0  # bytes of an oversized frame still to come

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = memoryview(data)[dropped:]
        self._buffer += data

    @property
    def missing(self) -> int:
        """How many more bytes the frame under way needs at least; a hint for the size of the next read."""
        have = len(self._buffer)
        if have < PREFIX_BYTES:
            return PREFIX_BYTES - have
        return PREFIX_BYTES + int(_LENGTH.unpack_from(self._buffer)[0]) - have

    @property
    def mid_frame(self) -> bool:
        """Whether part of a frame was fed; if the stream ends here, that frame is lost."""
        return bool(self._buffer or self._skip)

    def frames(self) -> list[Item | FrameError]:
        """The items of all frames that are complete by now, and an error for each malformed one."""
        buffer = self._buffer
        items: list[Item | FrameError] = []
        at = 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - at >= PREFIX_BYTES:
                (size,) = _LENGTH.unpack_from(buffer, at)
                start = at + PREFIX_BYTES
                if size > self._max:
                    head = buffer[start : start + HEADER_BYTES]
                    if len(head) < min(size, HEADER_BYTES) and head[:1] in (b"", _VERSION_BYTE):
                        break  # a frame of this version: the rest of its header will say which request it is
                    self._skip = max(0, start + size - end)
                    at = min(end, start + size)
                    owner = _owner(head)
                    items.append(FrameError(Fault.TOO_LARGE, f"{size} bytes, {self._max} at most", *owner))
                    continue
                if start + size > end:
                    break
                at = start + size
                with view[start:at] as body:
                    try:
                        items.append(decode(body, self._messages))
                    except FrameError as exc:
                        items.append(exc)
        if at:
            del buffer[:at]
        return items
