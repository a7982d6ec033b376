"""What travels between clients and bridges: a byte that says what it is, and its body. No I/O here.

A request's deadline travels as the time that is left, since clocks of hosts differ. A frame that is longer than a
message may be goes in pieces, in order; see `Pieces`.

| byte | from | body |
|:--|:--|:--|
| ``Q`` | client | a request's frame |
| ``q`` | client | the first piece of one; the bridge asks for the others, at a subject of its own |
| ``r`` | client | another piece |
| ``A`` | bridge | a response's frame |
| ``a`` | bridge | a piece of one |
| ``G`` | bridge | go on: send the other pieces to the reply subject of this message; without one: they are coming |
| ``T`` | bridge | taken, and not ended yet; each half second |
| ``N`` | bridge | not taken: the frame is of another version; a byte says which one the bridge speaks |

These bytes are the same in all versions of frames, so that sides of different releases can tell each other.
"""

from __future__ import annotations

import functools
import struct
import time
from collections.abc import Iterator
from typing import Final
from urllib.parse import quote

import msgspec

from molt_accel.ipc import frame
from molt_accel.ipc.frame import PREFIX_BYTES, Fault, FrameError
from molt_accel.ipc.messages import Request, Response

REQUEST, FIRST_PIECE, NEXT_PIECE = b"Q", b"q", b"r"
RESPONSE, RESPONSE_PIECE, GO_ON, TAKEN, OTHER_VERSION = b"A", b"a", b"G", b"T", b"N"
#: What a bridge says to a request of another version.
NOT_MINE: Final = OTHER_VERSION + bytes([frame.VERSION])
#: Of a subject, behind the prefix: where requests are ended. No entrypoint's name begins so.
CANCEL: Final = "__cancel__"
#: The same: where a request goes that nobody asks for; the entrypoint's name comes behind it. Bridges listen there also
#: while their pool is full, and say Busy then.
FULL: Final = "__full__"
#: The same: where further pieces of requests go, below a word of the bridge's own.
PIECES: Final = "__pieces__"
#: A piece's place: bytes of the whole, and of those before it.
_PIECE: Final = struct.Struct("<II")
_HEAD_BYTES: Final = 1 + _PIECE.size
#: More time than this is left to no request, in ns: with the clock added it must fit a frame.
_MOST_LEFT_NS: Final = 2**62


@functools.lru_cache(1024)
def subject_of(prefix: str, entry: str) -> str:
    """Return where requests for an entrypoint go. What NATS does not allow in a subject is written as in a URL."""
    name = quote(entry, safe="")
    if name.startswith(".") or name.endswith(".") or ".." in name:  # a subject has no empty words
        name = name.replace(".", "%2E")
    return f"{prefix}.{name}"


def encode_request(request: Request, max_frame_bytes: int) -> bytes:
    """Encode a request. Raises FrameError: it fits no frame."""
    now_ns = time.monotonic_ns()
    left_ns = max(1, request.deadline_ns - now_ns) if request.deadline_ns else 0
    travelling = msgspec.structs.replace(request, deadline_ns=left_ns, sent_ns=0, generation=0)
    return frame.encode(travelling, max_frame_bytes)[PREFIX_BYTES:]


def decode_request(body: bytes) -> Request:
    """Decode a request; its deadline is by this host's clock, from now on. Raises FrameError: it is none."""
    request = frame.decode(body)
    if type(request) is not Request:
        raise FrameError(Fault.KIND, "not a request")
    now_ns = time.monotonic_ns()
    request.sent_ns = now_ns
    if request.deadline_ns:
        if request.deadline_ns > _MOST_LEFT_NS:
            raise FrameError(Fault.RANGE, f"{request.deadline_ns} ns are left: no deadline")
        request.deadline_ns = now_ns + request.deadline_ns
    return request


def encode_response(response: Response, max_frame_bytes: int) -> bytes:
    """Encode a response. Raises FrameError: it fits no frame."""
    return frame.encode(response, max_frame_bytes)[PREFIX_BYTES:]


def decode_response(body: bytes) -> Response:
    """Decode a response. Raises FrameError: it is none."""
    response = frame.decode(body)
    if type(response) is not Response:
        raise FrameError(Fault.KIND, "not a response")
    return response


def pieces_of(body: bytes, kind: bytes, max_payload: int) -> Iterator[bytes]:
    """Cut a frame into messages that are not longer than `max_payload` bytes."""
    room = max(1, max_payload - _HEAD_BYTES)
    for offset in range(0, len(body), room):
        yield b"".join((kind, _PIECE.pack(len(body), offset), body[offset : offset + room]))


class Pieces:
    """Puts a frame together again from its pieces, which come in order.

    Args:
        max_bytes: The longest frame that is taken.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes: Final = max_bytes
        self._whole = -1
        self._body = bytearray()

    def add(self, message: bytes) -> bytes | None:
        """Take the next piece, with its first byte. Returns the frame once it is complete.

        Raises:
            FrameError: it is not the next piece of the same frame, or the frame is too long.
        """
        if len(message) < _HEAD_BYTES:
            raise FrameError(Fault.TRUNCATED, "a piece without its place")
        whole, offset = _PIECE.unpack_from(message, 1)
        if whole > self._max_bytes:
            raise FrameError(Fault.TOO_LARGE, f"{whole} bytes, {self._max_bytes} are allowed")
        if self._whole not in (-1, whole) or offset != len(self._body) or len(message) == _HEAD_BYTES:
            raise FrameError(Fault.RANGE, "not the next piece of the frame")
        self._whole = whole
        self._body += memoryview(message)[_HEAD_BYTES:]
        if len(self._body) > whole:
            raise FrameError(Fault.TRAILING, "more bytes than its pieces say")
        return bytes(self._body) if len(self._body) == whole else None
