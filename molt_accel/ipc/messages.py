"""What client, supervisor, fork server and executors say to each other. `frame` says how it becomes bytes.

A request gets exactly one response. Everything else is a control message: for the peer itself, never for an entrypoint,
and without a response. Each control message is a class of its own, and each direction of a connection has one decoder,
which checks names, types and ranges. docs/reference/protocol.md says when each is sent.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final

import msgspec

from molt_accel.errors import Status

#: "As the worker is configured", in `Request.max_wait_ms`.
WORKER_DEFAULT_WAIT: Final = 0xFFFF_FFFF
FLAG_COMPILED: Final = 1
U32_MAX: Final = 0xFFFF_FFFF
#: Names that begin so are not for entrypoints.
RESERVED_PREFIX: Final = "__"
#: A request that the supervisor answers itself.
PING: Final = "__ping__"


class Codec(enum.IntEnum):
    """How a payload is encoded."""

    MSGPACK = 1
    JSON = 2
    RAW = 3

    @property
    def label(self) -> str:
        """The codec's name in manifests and options, for example ``msgpack``."""
        return self.name.lower()


class Request(msgspec.Struct, gc=False):
    """Run an entrypoint.

    Attributes:
        request_id: Chosen by the client; no two requests in flight have the same.
        entry: The entrypoint's name.
        payload: Its argument, in `codec`.
        generation: Which of the client's connections it belongs to, from 1.
        deadline_ns: When the call has to end, nanoseconds of CLOCK_MONOTONIC; 0: no deadline.
        sent_ns: When the call began, nanoseconds of CLOCK_MONOTONIC; 0: unknown.
        max_wait_ms: Longest wait for a place in a full queue, milliseconds; `WORKER_DEFAULT_WAIT`: as configured.
        queue_depth: How many requests waited when this one was handed to its executor.
        in_flight: How many ran then, this one included.
    """

    request_id: int
    entry: str
    payload: bytes | memoryview = b""
    codec: Codec = Codec.MSGPACK
    generation: int = 0
    deadline_ns: int = 0
    sent_ns: int = 0
    max_wait_ms: int = WORKER_DEFAULT_WAIT
    queue_depth: int = 0
    in_flight: int = 0


class Response(msgspec.Struct, gc=False):
    """The outcome of a request. Its spans (`*_us`) are microseconds; those that nobody measured are 0.

    Attributes:
        request_id: The request's, as is `generation`.
        status: The outcome.
        payload: The result in `codec`; with any status but OK the error as msgpack, see `errors.to_wire`.
        flags: FLAG_COMPILED: the entrypoint ran as compiled code.
        queue_depth: As in the request when it was handed to its executor; so is `in_flight`.
        queue_us: From the request's `sent_ns` until an executor took it up.
        decode_us: Decoding the payload.
        handler_us: The entrypoint.
        encode_us: Encoding the result.
        exec_us: All of the request's time in the executor.
        executor: The executor's number, from 1; 0: none had it.
    """

    request_id: int
    status: Status = Status.OK
    payload: bytes | memoryview = b""
    codec: Codec = Codec.MSGPACK
    flags: int = 0
    generation: int = 0
    queue_depth: int = 0
    in_flight: int = 0
    queue_us: int = 0
    decode_us: int = 0
    handler_us: int = 0
    encode_us: int = 0
    exec_us: int = 0
    executor: int = 0


# -- control messages ---------------------------------------------------------------------------------------

U32 = Annotated[int, msgspec.Meta(ge=0, le=U32_MAX)]
#: 64 bits, which is all that a msgpack integer can have.
U64 = Annotated[int, msgspec.Meta(ge=0)]
#: What `errors.to_wire` makes of an error.
ErrorBody = dict[str, int | str]


class Message(msgspec.Struct, tag=True):
    """A control message: on the wire a msgpack map, in which ``type`` names the class."""


class Hello(Message):
    """Worker: the exports are imported and an executor is ready. Executor: it is ready."""


class StartFailed(Message):
    """Worker: it can't serve, ever. Its connection ends soon."""

    error: ErrorBody


class BadFrame(Message):
    """Worker: it could not read, or had no use for, a frame that says of no request whose it is."""

    detail: str


class Cancel(Message):
    """Client: end a request. Not answered; one that is not in flight is ignored."""

    request_id: U64
    generation: U32


# Those of the control socket of a shared pool.


class Attach(Message):
    """Client, first of all: what it is, and how many channels it would like. Answered by `Attached` or `Refused`."""

    version: str
    observer: bool
    channels: U32


class Attached(Message):
    """Worker: the client's first channels, and what it has to know of the pool. The arena's descriptor comes along.

    The arena says most of it too; but there, other clients may have scribbled over it.
    """

    channels: list[U32]
    max_frame_bytes: U32
    max_wait_ms: U32
    grace_ms: U32
    capacity: U32
    spin_ns: U64
    client_spinners: U32


class Refused(Message):
    """Worker: the client can't attach, and why."""

    error: ErrorBody


class Lease(Message):
    """Client: so many more channels, please. Answered by `Grant`."""

    count: U32


class Grant(Message):
    """Worker: these channels are the client's, too. None in an answer to `Lease`: there are no more for now."""

    channels: list[U32]


class Recall(Message):
    """Worker: give back so many channels, if they are free. Answered by `Return`."""

    count: U32


class Return(Message):
    """Client: these channels are free, and no longer its own."""

    channels: list[U32]


class CancelChannel(Message):
    """Client: it gave up the request of this generation on its channel, which an executor may have. Not answered."""

    channel: U32
    generation: U32


class Detach(Message):
    """Client: none of its threads touches its channels any more, and it closes the socket."""


class Draining(Message):
    """Worker: it finishes what it has and takes nothing new; attach to its successor."""


#: What each direction of a connection may carry.
STDIO_FROM_CLIENT: Final = msgspec.msgpack.Decoder(Cancel)
STDIO_FROM_WORKER: Final = msgspec.msgpack.Decoder(Hello | StartFailed | BadFrame)
SHM_FROM_CLIENT: Final = msgspec.msgpack.Decoder(Attach | Lease | Return | CancelChannel | Detach)
SHM_FROM_WORKER: Final = msgspec.msgpack.Decoder(
    Attached | Refused | Grant | Recall | Hello | Draining | StartFailed
)
