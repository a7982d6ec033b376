"""Values that msgpack has no form for: each as a message of its extension type `EXT`, whose first byte says the kind.

The codec asks for them once plain msgpack has refused a value, so a value of plain types costs nothing more. There is
one extension type for all, so that the others stay free for applications. Nothing here names a class of an application:
what is no value of a known type travels as its parts, and typed entrypoints build their own objects of those.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable, Iterable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import msgpack
import msgspec

from molt_accel import lenient
from molt_accel.forms.response import Response

EXT: Final = 77  #: the type of this library's extensions to msgpack
#: What a set may hold: values that are still hashable when they have travelled.
_MEMBERS: Final = (
    *(str, bytes, int, float, type(None), tuple, frozenset, enum.Enum),
    *(date, time, timedelta, Decimal, UUID),
)

_PLAIN: Final = (str, bytes, int, float, bool, type(None), list, dict, tuple)

_PACK: Final[dict[type, tuple[bytes, Callable[[Any], bytes]]]] = {
    datetime: (b"s", lambda value: _in_zone(value).encode()),
    date: (b"d", lambda value: value.isoformat().encode()),
    time: (b"t", lambda value: _in_zone(value).encode()),
    timedelta: (b"i", lambda value: msgpack.packb((value.days, value.seconds, value.microseconds))),
    Decimal: (b"D", lambda value: str(value).encode()),
    UUID: (b"U", lambda value: value.bytes),
    frozenset: (b"F", lambda value: _members(value)),
    set: (b"S", lambda value: _members(value)),
}
_UNPACK: Final[dict[int, Callable[[bytes], Any]]] = {
    ord("s"): lambda data: _zoned(data.decode(), datetime.fromisoformat),
    ord("d"): lambda data: date.fromisoformat(data.decode()),
    ord("t"): lambda data: _zoned(data.decode(), time.fromisoformat),
    ord("i"): lambda data: timedelta(*unpack(data)),
    ord("D"): lambda data: Decimal(data.decode()),
    ord("U"): lambda data: UUID(bytes=data),
    ord("F"): lambda data: frozenset(map(lenient.hashable, unpack(data))),
    ord("S"): lambda data: set(map(lenient.hashable, unpack(data))),
    ord("R"): lambda data: Response.of(unpack(data)),
}


def pack(value: object) -> bytes:
    """Return a value as msgpack. Raises TypeError, ValueError, OverflowError: it has no form."""
    data: bytes = msgpack.Packer(default=_form).pack(value)
    return data


def pack_response(response: Response) -> bytes:
    """Return a response, whose body is bytes or text, as msgpack."""
    return pack(msgpack.ExtType(EXT, b"R" + pack(response.parts())))


def unpack(data: bytes | bytearray | memoryview, **options: Any) -> Any:
    """Return the value that these bytes of msgpack encode; `options` are those of ``msgpack.unpackb``."""
    return msgpack.unpackb(data, strict_map_key=False, ext_hook=unpack_ext, **options)


class NotValid(ValueError):
    """An extension that has no value."""


def unpack_ext(code: int, data: bytes | memoryview) -> Any:
    """Return the value of an extension. One of a foreign type stays a `msgpack.ExtType`.

    Raises NotValid: it is of the type `EXT` and not valid, or of one that is reserved for msgpack itself.
    """
    if code < 0:
        raise NotValid(f"the extension type {code} is reserved")
    if code != EXT:
        return msgpack.ExtType(code, bytes(data))
    data = bytes(data)
    try:
        return _UNPACK[data[0]](data[1:])
    except Exception as exc:
        raise NotValid(f"a value of the extension type {EXT} is not valid: {exc}") from exc


def _form(value: Any) -> Any:
    """What stands for a value that msgpack refuses. Raises TypeError, OverflowError: nothing does."""
    for cls in type(value).__mro__:
        if cls in _PACK:
            kind, data_of = _PACK[cls]
            return msgpack.ExtType(EXT, kind + data_of(value))
    if isinstance(value, enum.Enum):
        # msgpack asks only once for what stands for a value.
        return value.value if type(value.value) in _PLAIN else _form(value.value)
    if isinstance(value, msgspec.Struct):
        return _struct(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if type(value) is int:
        raise OverflowError("a whole number has 64 bits at most; send it as text")
    return lenient.plain(value)


def _struct(value: msgspec.Struct) -> object:
    """A Struct as msgspec writes it, with its own names of fields and its tag."""
    config = value.__struct_config__
    parts = [getattr(value, name) for name in value.__struct_fields__]
    if config.array_like:
        return parts if config.tag is None else [config.tag, *parts]
    pairs: Iterable[tuple[str, Any]] = zip(value.__struct_encode_fields__, parts, strict=True)
    named = {name: part for name, part in pairs if part is not msgspec.UNSET}
    return named if config.tag is None else {str(config.tag_field): config.tag, **named}


def _members(value: set[Any] | frozenset[Any]) -> bytes:
    for item in value:
        if not isinstance(item, _MEMBERS):
            raise TypeError(f"a set with a {type(item).__name__} in it can't be made again; send a list")
    return pack(list(value))


def _in_zone(value: datetime | time) -> str:
    """In ISO 8601, and behind it the name of the zone, if it has one."""
    zone = getattr(value.tzinfo, "key", None)
    return f"{value.isoformat()}[{zone}]" if zone else value.isoformat()


def _zoned(text: str, parse: Callable[[str], Any]) -> Any:
    """The opposite of `_in_zone`. A zone that is not known here leaves the offset."""
    text, _, name = text.removesuffix("]").partition("[")
    value = parse(text)
    if not name:
        return value
    try:
        zone = ZoneInfo(name)
    except (ZoneInfoNotFoundError, OSError):
        return value
    local = value.replace(tzinfo=zone)
    # An hour that clocks show twice: the offset says which of the two it is.
    return local if local.utcoffset() == value.utcoffset() else local.replace(fold=1)
