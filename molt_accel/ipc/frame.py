"""Frames: the unit that client, supervisor and executors exchange. Bytes in, frames out; no I/O here.

A frame is a u32 length, a fixed header of 80 bytes, the entry name and the payload, all little-endian;
docs/reference/protocol.md has the byte table. A length prefix always says where the next frame begins, so
a malformed frame costs one typed error and the stream goes on behind it.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable
from typing import Final, TypeVar

import msgspec

from molt_accel.errors import MoltProtocolError, Status
from molt_accel.ipc.fields import FORMAT

VERSION: Final = 1
#: Default and largest configurable frame: header, entry name and payload, without the length prefix.
DEFAULT_MAX_FRAME_BYTES: Final = 64 * 1024 * 1024
MAX_ENTRY_BYTES: Final = 255
#: "As the worker is configured", in the field `max_wait_ms`.
WORKER_DEFAULT_WAIT: Final = 0xFFFF_FFFF
FLAG_COMPILED: Final = 1

U32_MAX: Final = 0xFFFF_FFFF
_LENGTH: Final = struct.Struct("<I")
_HEADER: Final = struct.Struct(FORMAT)
_PREFIXED_HEADER: Final = struct.Struct("<I" + _HEADER.format[1:])
HEADER_BYTES: Final = _HEADER.size
_VERSION_BYTE: Final = bytes([VERSION])
PREFIX_BYTES: Final = _LENGTH.size
#: How much of a frame `peek` needs at most.
PEEK_BYTES: Final = PREFIX_BYTES + HEADER_BYTES + MAX_ENTRY_BYTES


class Kind(enum.IntEnum):
    """What a frame is for."""

    REQUEST = 1
    RESPONSE = 2
    #: For the peer itself, never for an entrypoint, and without a response; the entry name says what.
    CONTROL = 3


class Codec(enum.IntEnum):
    """How a payload is encoded."""

    MSGPACK = 1
    JSON = 2
    RAW = 3

    @property
    def label(self) -> str:
        """The codec's name in manifests and options, for example ``msgpack``."""
        return self.name.lower()


#: Control: a worker or executor is ready.
HELLO: Final = "__hello__"
#: Control: end the request of this id and generation.
CANCEL: Final = "__cancel__"
#: A request that the supervisor answers itself.
PING: Final = "__ping__"
#: Names that begin so are not for entrypoints.
RESERVED_PREFIX: Final = "__"


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
    RANGE = "a field is out of range"


class FrameError(MoltProtocolError):
    """A malformed frame. `fault` says what is wrong with it.

    `raw_id` and `raw_generation` are the request's that it claims to be, so that its sender can be answered;
    0 where the frame doesn't say.
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


class Frame(msgspec.Struct, gc=False):
    """One frame. Times are nanoseconds of CLOCK_MONOTONIC (absolute) or microseconds (spans).

    Requests use `deadline_ns` (0: none), `sent_ns` and `max_wait_ms`; responses use `status`, `flags` and
    everything from `queue_us` on; `queue_depth` and `in_flight` are stamped when a request is handed out.
    """

    kind: Kind
    request_id: int
    entry: str = ""
    payload: bytes | memoryview = b""
    codec: Codec = Codec.MSGPACK
    status: Status | None = None
    flags: int = 0
    generation: int = 0
    deadline_ns: int = 0
    sent_ns: int = 0
    max_wait_ms: int = WORKER_DEFAULT_WAIT
    queue_depth: int = 0
    in_flight: int = 0
    queue_us: int = 0
    decode_us: int = 0
    handler_us: int = 0
    encode_us: int = 0
    exec_us: int = 0
    executor: int = 0


def encode_head(frame: Frame, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> bytes:
    """Everything of a frame before its payload: length prefix, header and entry name.

    Raises:
        FrameError: over the limit, a bad entry name, or a field that doesn't fit its width.
    """
    try:
        entry = frame.entry.encode()
    except UnicodeEncodeError as exc:
        raise FrameError(Fault.ENTRY, "not valid Unicode", frame.request_id, frame.generation) from exc
    if len(entry) > MAX_ENTRY_BYTES:
        text = f"{len(entry)} bytes, {MAX_ENTRY_BYTES} at most"
        raise FrameError(Fault.ENTRY, text, frame.request_id, frame.generation)
    if not entry and frame.kind is not _RESPONSE:
        raise FrameError(Fault.ENTRY, "empty", frame.request_id, frame.generation)
    payload_bytes = len(frame.payload)
    total = HEADER_BYTES + len(entry) + payload_bytes
    if total > max_frame_bytes:
        text = f"{total} bytes, {max_frame_bytes} at most"
        raise FrameError(Fault.TOO_LARGE, text, frame.request_id, frame.generation)
    try:
        header = _PREFIXED_HEADER.pack(
            total,
            VERSION,
            frame.kind,
            frame.codec,
            frame.status or 0,
            len(entry),
            frame.flags,
            frame.request_id,
            frame.generation,
            payload_bytes,
            frame.deadline_ns,
            frame.sent_ns,
            frame.max_wait_ms,
            frame.queue_depth,
            frame.in_flight,
            frame.queue_us,
            frame.decode_us,
            frame.handler_us,
            frame.encode_us,
            frame.exec_us,
            frame.executor,
            0,
        )
    except struct.error as exc:
        raise FrameError(Fault.RANGE, str(exc)) from exc
    return header + entry


def encode(frame: Frame, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> bytes:
    """A whole frame as bytes, length prefix included. Raises FrameError as `encode_head` does."""
    return encode_head(frame, max_frame_bytes) + frame.payload


def decode(body: bytes | bytearray | memoryview) -> Frame:
    """The frame of `body`, which is what a length prefix counted. The payload is copied out.

    Raises:
        FrameError: for anything that is not exactly one valid frame.
    """
    size = len(body)
    if size == 0:
        raise FrameError(Fault.EMPTY)
    if size < HEADER_BYTES:
        raise FrameError(Fault.TRUNCATED, f"{size} bytes, the header alone has {HEADER_BYTES}")
    (
        version,
        kind,
        codec,
        status,
        entry_bytes,
        flags,
        request_id,
        generation,
        payload_bytes,
        deadline_ns,
        sent_ns,
        max_wait_ms,
        queue_depth,
        in_flight,
        queue_us,
        decode_us,
        handler_us,
        encode_us,
        exec_us,
        executor,
        reserved,
    ) = _HEADER.unpack_from(body)
    if version != VERSION:
        raise FrameError(Fault.VERSION, f"{version}, this side speaks {VERSION}")
    kind_value = KINDS[kind]
    if kind_value is None:
        raise FrameError(Fault.KIND, str(kind), request_id, generation)
    codec_value = CODECS[codec]
    if codec_value is None:
        raise FrameError(Fault.CODEC, str(codec), request_id, generation)
    status_value = STATUSES[status]
    if status_value is None if kind_value is _RESPONSE else status:
        raise FrameError(Fault.STATUS, f"{status} in a {kind_value.name} frame", request_id, generation)
    if reserved or flags & _UNKNOWN_FLAGS:
        raise FrameError(Fault.FLAGS, f"{flags:#x}, reserved {reserved:#x}", request_id, generation)
    payload_at = HEADER_BYTES + entry_bytes
    expected = payload_at + payload_bytes
    if size != expected:
        fault = Fault.TRUNCATED if size < expected else Fault.TRAILING
        raise FrameError(fault, f"{size} bytes, the header says {expected}", request_id, generation)
    if not entry_bytes:
        if kind_value is not _RESPONSE:
            raise FrameError(Fault.ENTRY, "empty", request_id, generation)
        entry = ""
    elif entry_bytes > MAX_ENTRY_BYTES:
        text = f"{entry_bytes} bytes, {MAX_ENTRY_BYTES} at most"
        raise FrameError(Fault.ENTRY, text, request_id, generation)
    else:
        try:
            entry = str(body[HEADER_BYTES:payload_at], "utf-8")
        except UnicodeDecodeError as exc:
            raise FrameError(Fault.ENTRY, "not valid UTF-8", request_id, generation) from exc
    return Frame(
        kind_value,
        request_id,
        entry,
        bytes(body[payload_at:]),
        codec_value,
        status_value,
        flags,
        generation,
        deadline_ns,
        sent_ns,
        max_wait_ms,
        queue_depth,
        in_flight,
        queue_us,
        decode_us,
        handler_us,
        encode_us,
        exec_us,
        executor,
    )


def peek(data: bytes) -> Frame | None:
    """The frame that these bytes begin with, without its payload, however much of that is there; None: there is none.

    For looking at a request while others work on it.
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
        return decode(_HEADER.pack(*fields) + data[PREFIX_BYTES + HEADER_BYTES : PREFIX_BYTES + end])
    except FrameError:
        return None


def _owner(header: bytearray) -> tuple[int, int]:
    """Request id and generation in the header of a frame that can't be decoded; zeros where it has none."""
    if len(header) < HEADER_BYTES or header[0] != VERSION:
        return 0, 0
    fields = _HEADER.unpack(header)
    return fields[6], fields[7]


_Member = TypeVar("_Member", bound=enum.IntEnum)


def _by_byte(members: Iterable[_Member]) -> tuple[_Member | None, ...]:
    """What each value of a byte stands for. A tuple is the fastest table; the enumeration is slow, and raises."""
    known = {int(member): member for member in members}
    return tuple(known.get(value) for value in range(256))


KINDS: Final = _by_byte(Kind)
CODECS: Final = _by_byte(Codec)
STATUSES: Final = _by_byte(Status)
_RESPONSE: Final = Kind.RESPONSE
_UNKNOWN_FLAGS: Final = ~FLAG_COMPILED


class FrameParser:
    """Cuts a byte stream into frames, whatever way the bytes were split.

    Never holds more than one frame's limit of undecoded bytes beyond what one `feed` brought: an oversized
    frame is reported once, when its header is there, and its bytes are dropped as they come.
    """

    def __init__(self, max_frame_bytes: int = DEFAULT_MAX_FRAME_BYTES) -> None:
        self._max = max_frame_bytes
        self._buffer = bytearray()
        self._skip = 0  # bytes of an oversized frame still to come

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take in the next bytes of the stream."""
        if self._skip:
            dropped = min(self._skip, len(data))
            self._skip -= dropped
            data = memoryview(data)[dropped:]
        self._buffer += data

    @property
    def buffered(self) -> int:
        """How many bytes wait for the rest of their frame."""
        return len(self._buffer)

    @property
    def missing(self) -> int:
        """At least how many more bytes the frame under way needs; a hint for the size of the next read."""
        have = len(self._buffer)
        if have < PREFIX_BYTES:
            return PREFIX_BYTES - have
        return PREFIX_BYTES + int(_LENGTH.unpack_from(self._buffer)[0]) - have

    @property
    def mid_frame(self) -> bool:
        """Whether the stream stands inside a frame; if it ends here, that frame is lost."""
        return bool(self._buffer or self._skip)

    def frames(self) -> list[Frame | FrameError]:
        """Every frame that is complete by now, and in the place of each malformed one its error."""
        buffer = self._buffer
        items: list[Frame | FrameError] = []
        at = 0
        end = len(buffer)
        with memoryview(buffer) as view:
            while end - at >= PREFIX_BYTES:
                (size,) = _LENGTH.unpack_from(buffer, at)
                start = at + PREFIX_BYTES
                if size > self._max:
                    head = buffer[start : start + HEADER_BYTES]
                    if len(head) < min(size, HEADER_BYTES) and head[:1] in (b"", _VERSION_BYTE):
                        break  # a frame of this version: the rest of its header will say whose it is
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
                        items.append(decode(body))
                    except FrameError as exc:
                        items.append(exc)
        if at:
            del buffer[:at]
        return items
