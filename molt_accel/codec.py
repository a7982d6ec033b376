"""Encodes objects as msgpack, json or raw bytes, and decodes them.

The json codec passes bytes unchanged, as the JSON text that they are. So a view can send an HTTP body of JSON to the
worker without decoding and encoding it.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Final

import msgpack
import msgspec

from molt_accel import lenient
from molt_accel.errors import NoSharedMemory
from molt_accel.forms import values
from molt_accel.ipc.messages import MAX_METADATA_BYTES, Codec
from molt_accel.ipc.shm.arena import native

_BYTES = (bytes, bytearray, memoryview)
#: How msgpack's timestamps begin: in 4, 8 and 12 bytes.
_TIMESTAMPS: Final = (b"\xd6\xff", b"\xd7\xff", b"\xc7\x0c\xff")
UNDECODABLE: Final = (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException)
#: A packer's buffer never shrinks, so a packer that has packed more bytes than this is not kept.
_KEPT_BYTES: Final = 256 * 1024


class EncodeError(ValueError):
    """The codec can't encode the value.

    Args:
        text: What can't be done.
        path: The way from the value to the part at fault, such as ``["rows"][3]["owner"]``; empty: it is the value.
        rest: What of the text stands behind the path.
        by_data: Not for a type that it has no form for, but for a text, number or depth: a visitor may have chosen it.
    """

    def __init__(self, text: str, path: str = "", rest: str = "", *, by_data: bool = False) -> None:
        super().__init__(f"{text} at {path}{rest}" if path else text + rest)
        self._parts = text, path, rest
        self.by_data = by_data

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), self._parts, vars(self))

    def of(self, name: str, whole: str) -> str:
        """The text about a value that has a name: `whole` begins the sentence, and the path begins with `name`."""
        text, path, rest = self._parts
        return f"{whole} {text} at {name}{path}{rest}" if path else f"{whole} {text}{rest}"


class DecodeError(ValueError):
    """The bytes are not valid in this codec."""


def _encode_raw(value: object) -> bytes:
    if isinstance(value, _BYTES):
        return bytes(value)
    raise TypeError(f"raw takes bytes, not {type(value).__name__}")


def _encode_json(value: object) -> bytes:
    if isinstance(value, _BYTES):
        return bytes(value)
    try:
        try:
            return _json_encode(value)
        except TypeError:
            return _json_encode(lenient.with_text_keys(value))
    except UnicodeEncodeError:
        return lenient.escaped(value)


def _encode_msgpack(value: object) -> bytes:
    # Packers are kept: making one costs twice as much as packing a small value. Each use takes one out, because another
    # thread may pack meanwhile, and so may the `items` method of the value itself.
    try:
        packer = _packers.pop()
    except IndexError:
        packer = msgpack.Packer()
    try:
        data: bytes = packer.pack(value)  # after an error it may hold half a value, so it isn't put back
    except TypeError:  # not all of it is plain
        return values.pack(value)
    if len(data) <= _KEPT_BYTES:
        _packers.append(packer)
    return data


def _decode_msgpack(data: bytes | bytearray | memoryview) -> Any:
    if type(data) is not bytes:
        data = bytes(data)
    # msgspec takes a tenth of msgpack's time for a small value. But it makes datetimes of msgpack's timestamps, which
    # have no nanoseconds, and takes less deep nesting. So msgpack has the last word.
    if 0xFF not in data or not _timestamp_finder()(data):
        try:
            return _msgpack_decode(data)
        except UNDECODABLE:
            pass
    try:
        return values.unpack(data)
    except TypeError:  # perhaps a key is an array, which can't be one of a dict
        try:
            return values.unpack(data, object_pairs_hook=lenient.with_tuple_keys)
        except UNDECODABLE:
            pass
        raise


@functools.cache
def _timestamp_finder() -> Callable[[bytes], bool]:
    """What tells whether a timestamp may begin somewhere in bytes: the native core if it is there, much sooner."""
    try:
        found: Callable[[bytes], bool] = native().has_timestamp
    except NoSharedMemory:
        return lambda data: any(each in data for each in _TIMESTAMPS)
    return found


#: Not a list, which would give its memory back whenever its only packer is taken out.
_packers: Final[deque[msgpack.Packer]] = deque()
_msgpack_decode: Final = msgspec.msgpack.Decoder(ext_hook=values.unpack_ext).decode
_json_encode: Final = msgspec.json.Encoder(enc_hook=lenient.plain).encode

ENCODERS: Final[dict[Codec, Callable[[Any], bytes]]] = {
    Codec.MSGPACK: _encode_msgpack,
    Codec.JSON: _encode_json,
    Codec.RAW: _encode_raw,
}
DECODERS: Final[dict[Codec, Callable[[Any], Any]]] = {
    Codec.MSGPACK: _decode_msgpack,
    Codec.JSON: msgspec.json.Decoder().decode,
    Codec.RAW: bytes,
}
#: What encoders raise for a value that they have no form for.
UNENCODABLE: Final = (
    *(TypeError, ValueError, OverflowError, RecursionError, AttributeError, msgspec.MsgspecError),
)
_NAMES: Final = {codec.label: codec for codec in Codec}


def parse(name: Codec | str) -> Codec:
    """Return the codec of this name. Raises ValueError for an unknown name; the text lists those allowed."""
    codec = _NAMES.get(name) if isinstance(name, str) else name
    if not isinstance(codec, Codec):
        raise ValueError(f"unknown codec {name!r}; allowed: {', '.join(_NAMES)}")
    return codec


def encode(codec: Codec | str, value: object) -> bytes:
    """Return the value as bytes.

    Args:
        codec: ``msgpack``, ``json`` (bytes pass unchanged, as JSON text) or ``raw`` (bytes only).

    Raises:
        EncodeError: the codec can't encode this value.
    """
    if type(codec) is not Codec:
        codec = parse(codec)
    try:
        return ENCODERS[codec](value)
    except UNENCODABLE as exc:
        raise unencodable(codec, value, ENCODERS[codec], exc) from exc


def unencodable(codec: Codec, value: object, encode: Callable[[Any], object], why: Exception) -> EncodeError:
    """Return the error for a value that `encode` has refused: what of it, where that stands, and why."""
    if isinstance(why, RecursionError) or "recursion limit" in str(why):
        levels = lenient.depth(value)
        where = ", since it contains itself" if levels is None else f", {levels} levels deep"
        return EncodeError(f"can't be encoded as {codec.label}{where}: {why}", by_data=levels is not None)
    path, kind = lenient.culprit(value, encode)
    return EncodeError(
        f"can't be encoded as {codec.label}",
        path,
        f", of type {kind}: {why}" if path else f": {why}",
        by_data=isinstance(why, (OverflowError, UnicodeError)),
    )


#: What the metadata of a call may hold.
Metadata = dict[str, str | int | float | bool | None]
_metadata_decode: Final = msgspec.msgpack.Decoder(Metadata).decode


def encode_metadata(metadata: Mapping[str, Any]) -> bytes:
    """Return a call's metadata as bytes. Raises EncodeError: it is too long, or is no `Metadata`."""
    try:
        encoded = msgspec.msgpack.encode(msgspec.convert(dict(metadata), Metadata))
    except (TypeError, ValueError, OverflowError) as exc:
        raise EncodeError(
            f"can't be sent; it must map texts to texts, numbers, booleans or None: {exc}"
        ) from exc
    if len(encoded) > MAX_METADATA_BYTES:
        raise EncodeError(f"has {len(encoded)} bytes, {MAX_METADATA_BYTES} at most")
    return encoded


def decode_metadata(data: bytes) -> Metadata:
    """Return the metadata that the bytes encode. Raises DecodeError if they encode none."""
    try:
        metadata: Metadata = _metadata_decode(data)
    except UNDECODABLE as exc:
        raise DecodeError(f"not valid: {exc}") from exc
    return metadata


def decode(codec: Codec | str, data: bytes | bytearray | memoryview) -> Any:
    """Return the object that the bytes encode. Raises DecodeError if they are not valid in this codec."""
    if type(codec) is not Codec:
        codec = parse(codec)
    try:
        return DECODERS[codec](data if type(data) is bytes else bytes(data))
    except UNDECODABLE as exc:
        raise undecodable(codec, exc) from exc


def undecodable(codec: Codec, why: Exception) -> DecodeError:
    """Return the error for bytes that a decoder has refused."""
    return DecodeError(f"not valid {codec.label}: {str(why) or type(why).__name__}")
