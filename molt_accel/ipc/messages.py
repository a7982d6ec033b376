"""The messages between client, supervisor, fork server and executors. `frame` makes bytes of them.

A request gets exactly one response. All others are control messages: they are for the peer itself, never for an
entrypoint, and get no response. Each is a class of its own, and each direction of a connection has one decoder, which
checks names, types and ranges. docs/reference/protocol.md says when each is sent.
"""

from __future__ import annotations

import enum
from typing import Annotated, Final, final

import msgspec

from molt_accel.errors import Status

#: "As the worker is configured", in `Request.max_wait_ms`.
WORKER_DEFAULT_WAIT: Final = 0xFFFF_FFFF
FLAG_COMPILED: Final = 1
U32_MAX: Final = 0xFFFF_FFFF
RESERVED_PREFIX: Final = "__"  #: no entrypoint's name begins so
#: Names in the metadata of a call that a Django view makes.
METADATA_REQUEST_ID: Final = "request_id"
METADATA_LANGUAGE: Final = "language"
METADATA_TIME_ZONE: Final = "time_zone"
MAX_METADATA_BYTES: Final = 4096  #: of a request, encoded
UNDECODABLE: Final = "undecodable"  #: fact of an InvalidInput: the payload is not valid in its codec
PING: Final = "__ping__"  #: a request that the supervisor answers itself
PING_FOLDERS: Final = "folders"  #: as its payload: the answer has the folders of the project's sources too


class Codec(enum.IntEnum):
    """How a payload is encoded."""

    MSGPACK = 1
    JSON = 2
    RAW = 3

    @property
    def label(self) -> str:
        """The codec's name in manifests and options, for example ``msgpack``."""
        return self.name.lower()


@final
class Request(msgspec.Struct, gc=False):
    """Run an entrypoint."""

    request_id: int  #: chosen by the client; no two requests in flight have the same
    entry: str  #: the entrypoint's name
    payload: bytes | memoryview = b""  #: its argument, in `codec`, and behind it the metadata
    codec: Codec = Codec.MSGPACK
    generation: int = 0  #: which of the client's connections it belongs to, from 1
    deadline_ns: int = 0  #: when the call has to end, by CLOCK_MONOTONIC; 0: no deadline
    sent_ns: int = 0  #: when the call began, by CLOCK_MONOTONIC; 0: unknown
    max_wait_ms: int = WORKER_DEFAULT_WAIT  #: longest wait for a place in a full queue
    metadata_bytes: int = 0  #: how many bytes of the payload are metadata: a map of msgpack; 0: there is none
    queue_depth: int = 0  #: how many requests waited when this one was handed to its executor
    in_flight: int = 0  #: how many ran then, this one included


@final
class Response(msgspec.Struct, gc=False):
    """The outcome of a request. Its spans (`*_us`) are microseconds; those that nobody measured are 0."""

    request_id: int  #: as in the request; so are `generation`, `queue_depth` and `in_flight`
    status: Status = Status.OK
    #: The result in `codec`; with any status but OK `errors.to_wire` as msgpack.
    payload: bytes | memoryview = b""
    codec: Codec = Codec.MSGPACK
    flags: int = 0  #: FLAG_COMPILED: the entrypoint ran as compiled code
    generation: int = 0
    queue_depth: int = 0
    in_flight: int = 0
    queue_us: int = 0  #: from the request's `sent_ns` until an executor took it up
    decode_us: int = 0  #: decoding the payload
    handler_us: int = 0  #: running the entrypoint
    encode_us: int = 0  #: encoding the result
    exec_us: int = 0  #: all of the request's time in the executor
    executor: int = 0  #: the executor's number, from 1; 0: none had it


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
    """Worker: it could not read or use a frame, and can't tell which request it belongs to."""

    detail: str


class Cancel(Message):
    """Client: end a request. Not answered; one that is not in flight is ignored."""

    request_id: U64
    generation: U32


# On the control socket of a shared pool:


class Attach(Message):
    """Client, first: its version, and how many channels it asks for. Answered by `Attached` or `Refused`.

    `identity` is what it must have in common with the worker (`molt_accel.process.identity`); an observer's and a
    bridge's are empty.
    `nested`: it is part of a worker itself, and keeps the pool alive only while it calls.
    """

    version: str
    observer: bool
    channels: U32
    identity: dict[str, str] = {}
    nested: bool = False


class Attached(Message):
    """Worker: the client's first channels, and facts of the pool. The arena's descriptor comes along.

    The arena has most of them too, but another client may have scribbled over those.
    """

    channels: list[U32]
    max_frame_bytes: U32
    max_wait_ms: U32
    grace_ms: U32
    capacity: U32
    spin_ns: U64
    client_spinners: U32
    executors: U32
    queue_target_ms: U32


class Reloading(Message):
    """Worker: the answer to `Attach` comes when executors with newer code serve, or after so many ms."""

    timeout_ms: U32


class Refused(Message):
    """Worker: the client can't attach, and why."""

    error: ErrorBody


class Lease(Message):
    """Client: it asks for more channels. Answered by `Grant`."""

    count: U32


class Grant(Message):
    """Worker: these channels are the client's, too. An empty answer to `Lease`: other clients hold all for now."""

    channels: list[U32]


class Recall(Message):
    """Worker: the client shall give back up to `count` free channels. Answered by `Return`."""

    count: U32


class Return(Message):
    """Client: it gives these channels back."""

    channels: list[U32]


class LeaseBell(Message):
    """Client: an event loop of its process waits for calls, and it asks for a bell. Answered by `GrantBell`."""


class GrantBell(Message):
    """Worker: the bell is the client's as long as it is attached. The pipe that is read comes along.

    Without a bell: there is none left, or the client has as many as one may have.
    """

    bell: U32 | None = None


class CancelChannel(Message):
    """Client: it gave up the request of this generation on its channel, which an executor may have. Not answered."""

    channel: U32
    generation: U32


class Detach(Message):
    """Client: none of its threads touches its channels any more, and it closes the socket."""


class Draining(Message):
    """Worker: it finishes the requests that it has and takes no new ones; its successor does."""


#: What each direction of a connection may carry.
STDIO_FROM_CLIENT: Final = msgspec.msgpack.Decoder(Cancel)
STDIO_FROM_WORKER: Final = msgspec.msgpack.Decoder(Hello | StartFailed | BadFrame)
SHM_FROM_CLIENT: Final = msgspec.msgpack.Decoder(Attach | Lease | Return | LeaseBell | CancelChannel | Detach)
SHM_FROM_WORKER: Final = msgspec.msgpack.Decoder(
    Attached | Reloading | Refused | Grant | Recall | GrantBell | Hello | Draining | StartFailed
)
