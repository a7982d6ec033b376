"""Entrypoints with types: payloads decoded and validated straight from the bytes, results encoded straight to them.

The types are those of the function's annotations, found once, when the exports are resolved. A parameter or result
counts as typed if its annotation has a msgspec.Struct, a dataclass or a TypedDict in it; whatever else it says, it goes
through the codec as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Final

import msgspec

from molt_accel.ipc.frame import Codec
from molt_worker.importer import find_source
from molt_worker.request import InvalidInput

Decode = Callable[[bytes | memoryview], Any]
Encode = Callable[[Any], bytes]

#: Names and values that the sender chose can be in it.
_LONGEST_TEXT: Final = 400
_DECODERS: Final[dict[Codec, Any]] = {
    Codec.MSGPACK: msgspec.msgpack.Decoder,
    Codec.JSON: msgspec.json.Decoder,
}
_ENCODERS: Final[dict[Codec, Any]] = {
    Codec.MSGPACK: msgspec.msgpack.Encoder,
    Codec.JSON: msgspec.json.Encoder,
}


class NoCodec(TypeError):
    """Values of a type can't be decoded or encoded; the text says which and why."""


# -- what a function's annotations say -------------------------------------------------------------------


def hints(function: Any, module: ModuleType) -> tuple[Any, Any]:
    """The types of a function's first parameter and of its result; None for what isn't annotated.

    A compiled function has no annotations; they are read from its source. An annotation that can't be evaluated,
    because its name is imported for type checkers only, says nothing here.
    """
    annotations = getattr(function, "__annotations__", None)
    if annotations is None:
        annotations = _annotations_in_source(function, module)
    result = annotations.get("return")
    parameter = next((hint for name, hint in annotations.items() if name not in ("return", "self")), None)
    return _evaluated(parameter, module), _evaluated(result, module)


def _evaluated(hint: Any, module: ModuleType) -> Any:
    if hint is None:
        return None
    try:
        found = typing.get_type_hints(
            SimpleNamespace(__annotations__={"it": hint}), vars(module), include_extras=True
        )
    except Exception:  # annotations may be anything; what they mean to others is not known here
        return None
    return found["it"]


def _annotations_in_source(function: Any, module: ModuleType) -> dict[str, str]:
    path = find_source(module.__name__)
    if path is None:
        return {}
    node = _definition(ast.parse(Path(path).read_bytes()), getattr(function, "__name__", ""))
    if node is None:
        return {}
    arguments = [*node.args.posonlyargs, *node.args.args]
    found = {each.arg: ast.unparse(each.annotation) for each in arguments[:1] if each.annotation is not None}
    return found | ({"return": ast.unparse(node.returns)} if node.returns is not None else {})


def _definition(tree: ast.Module, name: str) -> ast.FunctionDef | None:
    return next((node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name), None)


def is_typed(hint: Any) -> bool:
    """Whether a type is a msgspec.Struct, a dataclass or a TypedDict, or has one in it."""
    return any(
        isinstance(each, type)
        and (issubclass(each, msgspec.Struct) or dataclasses.is_dataclass(each) or typing.is_typeddict(each))
        for each in _parts(hint)
    )


def _parts(hint: Any) -> Iterator[Any]:
    yield hint if isinstance(hint, type) else typing.get_origin(hint)
    for each in typing.get_args(hint):
        yield from _parts(each)


# -- decoding and encoding -------------------------------------------------------------------------------


def decoder(hint: Any, codec: Codec) -> Decode | None:
    """What makes a parameter of this type from a payload; None if it isn't typed.

    Its errors: InvalidInput that names the field, and what user code raises when an object is made, but for ValueError
    and TypeError, which are the input's fault too.

    Raises:
        NoCodec: there can't be one.
    """
    if not is_typed(hint):
        return None
    if codec not in _DECODERS:
        raise NoCodec(f"codec_in {codec.label} has no objects, but the parameter is {_name(hint)}")
    _check(hint, "parameter")
    decode = _DECODERS[codec](hint).decode

    def validated(payload: bytes | memoryview) -> Any:
        try:
            return decode(payload)
        except (msgspec.DecodeError, RecursionError) as exc:  # a ValidationError is one
            raise _refusal(exc, f"not valid {codec.label}: ") from exc

    return validated


def encoder(hint: Any, codec: Codec) -> Encode | None:
    """What makes bytes of a result of this type; None if it isn't typed. Raises NoCodec: there can't be one."""
    if not is_typed(hint):
        return None
    if codec not in _ENCODERS:
        raise NoCodec(f"codec_out {codec.label} has no objects, but the result is {_name(hint)}")
    _check(hint, "result")
    encode: Encode = _ENCODERS[codec]().encode
    return encode


def convert(value: Any, hint: Any) -> Any:
    """The parameter that a payload of this value gives, for running an entrypoint without a worker.

    Raises:
        InvalidInput: as the worker would.
    """
    try:
        return msgspec.convert(value, hint)
    except msgspec.ValidationError as exc:
        raise _refusal(exc, "") from exc


def _refusal(exc: Exception, prefix: str) -> InvalidInput:
    text = str(exc) if isinstance(exc, msgspec.ValidationError) else prefix + (str(exc) or type(exc).__name__)
    text = f"the payload is {text}" if text.startswith("not ") else f"the payload: {text}"
    # Names that the sender chose may hold anything.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _LONGEST_TEXT + 1])
    return InvalidInput(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...")


def _check(hint: Any, what: str) -> None:
    try:
        # What it doesn't know it takes for the application's own, and fails at it when such a value comes.
        unknown = [
            each
            for each in _walk(msgspec.inspect.type_info(hint))
            if isinstance(each, msgspec.inspect.CustomType)
        ]
    except Exception as exc:
        raise NoCodec(f"the {what} {_name(hint)} has no codec: {exc}") from exc
    if unknown:
        raise NoCodec(f"the {what} {_name(hint)} has no codec: it contains {_name(unknown[0].cls)}")


def _walk(info: Any, seen: set[int] | None = None) -> Iterator[msgspec.inspect.Type]:
    seen = set() if seen is None else seen
    if isinstance(info, (tuple, list)):
        for each in info:
            yield from _walk(each, seen)
    elif isinstance(info, msgspec.inspect.Field):
        yield from _walk(info.type, seen)
    elif isinstance(info, msgspec.inspect.Type) and id(info) not in seen:
        seen.add(id(info))  # types may contain themselves
        yield info
        for name in info.__struct_fields__:
            yield from _walk(getattr(info, name), seen)


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
