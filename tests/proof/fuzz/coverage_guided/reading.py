"""Fuzz targets of what reads bytes: frames, codecs, error bodies, manifests, words, and the arena's own fast path.

A target takes any bytes and returns; what it lets through is a finding.
"""

import contextlib
import os
import pickle
import socket
import tempfile
from array import array
from pathlib import Path

from molt_accel import codec
from molt_accel.call import _error_of
from molt_accel.errors import MoltError, MoltWorkerUnavailable, Status, error_body, to_wire
from molt_accel.ipc import control, outcomes
from molt_accel.ipc.frame import (
    HEADER_BYTES,
    PEEK_BYTES,
    PREFIX_BYTES,
    FrameError,
    FrameParser,
    Item,
    decode,
    encode,
    peek,
)
from molt_accel.ipc.messages import Codec, Response
from molt_accel.ipc.shm.attach import handshake
from molt_accel.ipc.shm.layout import (
    bucket_bounds,
    epoch_of,
    failed_executor,
    failure_error,
    generation_of,
    idle_word,
    quantile,
    slot_of,
    state_of,
)
from molt_worker.entrypoints.exports import ExportsError, check
from tests.proof.fuzz.coverage_guided.taking import Bytes

_LIMIT = 400
#: The prefix and the fields up to `payload_bytes`, which every frame carries. Behind them is what some kinds ignore.
_CARRIED_BY_ALL = PREFIX_BYTES + 24


def frames(data: bytes) -> None:
    """A stream cut anywhere gives the same frames and errors, and frames encode to the bytes that they were."""
    taken = Bytes(data)
    pieces = [taken.some(taken.number(1)) for _ in range(1 + taken.number(1) % 6)]
    stream = b"".join(pieces) + taken.rest()
    cut, whole = FrameParser(_LIMIT), FrameParser(_LIMIT)
    items = []
    for piece in [*pieces, stream[sum(map(len, pieces)) :]]:
        cut.feed(piece)
        items += cut.frames()
        assert len(cut._buffer) <= _LIMIT + PREFIX_BYTES
    whole.feed(stream)
    same = whole.frames()
    assert [_shown(item) for item in items] == [_shown(item) for item in same]
    assert cut.mid_frame == whole.mid_frame
    for item in same:
        if not isinstance(item, FrameError):
            body = encode(item)
            assert decode(body[PREFIX_BYTES:]) == item
            assert body[:_CARRIED_BY_ALL] in stream
            assert body[PREFIX_BYTES + HEADER_BYTES :] in stream
    peek(stream[:PEEK_BYTES])


def _shown(item: Item | FrameError) -> object:
    if isinstance(item, FrameError):
        return item.fault, item.detail, item.raw_id, item.raw_generation
    return item


def codecs(data: bytes) -> None:
    """Each codec gives an object or says why not; an object that it can write comes back."""
    for each in Codec:
        try:
            value = codec.decode(each, data)
        except codec.DecodeError:
            continue
        with contextlib.suppress(codec.EncodeError):
            assert type(codec.decode(each, codec.encode(each, value))) is type(value)


def errors(data: bytes) -> None:
    """Whatever stands in an error response, the caller gets one of this library's errors, and can show it."""
    statuses = [each for each in Status if each is not Status.OK]
    error = _error_of(Response(7, statuses[data[0] % 5 if data else 0], data[1:]))
    assert isinstance(error, MoltError)
    _show(error)


def _show(error: MoltError) -> None:
    str(error), error_body(error)
    for fact in ("retry_after_s", "phase", "signal", "exit_code", "may_have_run"):
        getattr(error, fact, None)
    same = pickle.loads(pickle.dumps(error))
    assert (type(same), same.detail) == (type(error), error.detail)
    assert isinstance(codec.decode(Codec.MSGPACK, codec.encode(Codec.MSGPACK, to_wire(error))), dict)


def words(data: bytes) -> None:
    """Any word of the arena has a meaning, be it that there is none."""
    taken = Bytes(data)
    word = taken.number(8)
    state_of(word), slot_of(word), epoch_of(word), failed_executor(word)
    assert generation_of(idle_word(word)) == generation_of(word)
    _show(failure_error(word, taken.text(8)))
    outcomes.exit_text(taken.number(4) - 2**31)
    counts = [taken.number(taken.number(1) % 9) for _ in range(128)]
    low, high = bucket_bounds(taken.number(1) % 128)
    assert 0 <= low < high
    assert 0 <= quantile(counts, 0.5) <= quantile(counts, 0.99) <= bucket_bounds(127)[1]


_manifest = Path(tempfile.gettempdir()) / f"molt-fuzz-{os.getpid()}.json"


def manifests(data: bytes) -> None:
    """A manifest is good, or one line says what is wrong with it."""
    _manifest.write_bytes(data)
    try:
        check(str(_manifest))
    except ExportsError as exc:
        assert str(_manifest) in str(exc)  # noqa: PT017 - good or bad, both are right
    finally:
        _manifest.unlink()


def messages(data: bytes) -> None:
    """What a worker may answer to a client that attaches: it is attached, or told why not; descriptors don't stay."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    taken = Bytes(data)
    fds = tuple(os.memfd_create("molt-fuzz") for _ in range(taken.number(1) % 3))
    before = len(os.listdir("/proc/self/fd"))
    try:
        with contextlib.suppress(OSError):
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds))] if fds else []
            far.sendmsg([taken.rest()], rights)
        far.shutdown(socket.SHUT_WR)
        with contextlib.suppress(MoltWorkerUnavailable):
            handshake(near, {})
        assert len(os.listdir("/proc/self/fd")) == before
    finally:
        near.close()
        far.close()
        control.close_all(list(fds))
