"""Entrypoints with types: payloads decoded and validated straight from the bytes, results encoded straight to them.

The types are those of the function's annotations, found once, when the exports are resolved. A parameter or result
counts as typed if its annotation has a msgspec.Struct, a dataclass or a TypedDict in it; whatever else it says, it goes
through the codec as it is.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import inspect
import sys
import typing
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, Final, NoReturn

import msgspec

from molt_accel.ipc.messages import Codec
from molt_worker.compile.importer import find_source, is_compiled
from molt_worker.entrypoints.request import InvalidInput

Decode = Callable[[bytes | memoryview], Any]
Encode = Callable[[Any], bytes]

#: Names and values that the sender chose can be in it.
_LONGEST_TEXT: Final = 400
_DECODERS: Final[dict[Codec, Any]] = {
    Codec.MSGPACK: msgspec.msgpack.Decoder,
    Codec.JSON: msgspec.json.Decoder,
}
#: What msgspec raises for an input, besides its own ValidationError and DecodeError, which are ValueErrors.
_REFUSALS: Final = (ValueError, TypeError, OverflowError, RecursionError)
#: Where annotations are evaluated only when asked for, one that can't be must not keep the others from it.
_AS_WRITTEN: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 14):
    import annotationlib

    _AS_WRITTEN["annotation_format"] = annotationlib.Format.FORWARDREF


class NoCodec(TypeError):
    """Values of a type can't be decoded or encoded; the text says which and why."""


# -- what a function's annotations say -------------------------------------------------------------------


def hints(function: Any, module: str) -> tuple[Any, Any]:
    """The types of the argument that a call with one fills, and of the result; None for what isn't annotated.

    A compiled function has no annotations; they are read from its source.

    Args:
        module: Where the function was found; it may be defined in another one.

    Raises:
        NoCodec: the parameter's annotation can't be evaluated. A result's says nothing then; but a parameter's would
            be a validation that never happens, and nobody is told.
    """
    try:
        signature = inspect.signature(function, **_AS_WRITTEN)
    except (TypeError, ValueError):  # of C, with nothing to read it from
        return None, None
    first = next((each for each in signature.parameters.values() if each.kind is not each.KEYWORD_ONLY), None)
    parameter = signature.empty if first is None or first.kind is first.VAR_KEYWORD else first.annotation
    result = signature.return_annotation
    inner = function
    while isinstance(inner, functools.partial):
        inner = inner.func
    home = getattr(inner, "__module__", None) or module
    if inspect.isbuiltin(inner):
        parameter, result = _in_source(home, inner.__qualname__, first.name if first else "")
    namespace = vars(sys.modules[home]) if home in sys.modules else {}
    try:
        takes = _evaluated(parameter, namespace)
    except Exception as exc:
        raise NoCodec(
            f"the parameter's type {_name(parameter)} can't be evaluated: {type(exc).__name__}: {exc}; "
            "what it names has to be there when the module runs, not only if TYPE_CHECKING"
        ) from exc
    try:
        return takes, _evaluated(result, namespace)
    except Exception:  # whatever it means to others
        return takes, None


def _evaluated(hint: Any, namespace: dict[str, Any]) -> Any:
    if hint is inspect.Signature.empty:
        return None
    holder = SimpleNamespace(__annotations__={"it": hint})
    return typing.get_type_hints(holder, namespace, include_extras=True)["it"]


def _in_source(module: str, qualname: str, parameter: str) -> tuple[Any, Any]:
    """The annotations of a parameter and of the result, as texts."""
    path = find_source(module)
    node: ast.AST | None = None if path is None else ast.parse(path.read_bytes())
    for name in qualname.split("."):
        node = _definition(node, name) if node else None
    if not isinstance(node, ast.FunctionDef):
        return inspect.Signature.empty, inspect.Signature.empty
    named = [*node.args.posonlyargs, *node.args.args, *([node.args.vararg] if node.args.vararg else [])]
    written = next((each.annotation for each in named if each.arg == parameter), None)
    return _text(written), _text(node.returns)


def _text(annotation: ast.expr | None) -> Any:
    return inspect.Signature.empty if annotation is None else ast.unparse(annotation)


def _definition(node: ast.AST, name: str) -> ast.AST | None:
    """The function or class of a name in the body of a module or class, be it inside of an `if` or `try`."""
    found = None
    for each in ast.iter_child_nodes(node):
        if not isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            found = _definition(each, name) or found
        elif each.name == name:
            found = each
    return found


def is_typed(hint: Any) -> bool:
    """Whether a type is a msgspec.Struct, a dataclass or a TypedDict, or has one in it."""
    return any(
        issubclass(each, msgspec.Struct) or dataclasses.is_dataclass(each) or typing.is_typeddict(each)
        for each in _classes(hint)
    )


def _classes(hint: Any) -> Iterator[type]:
    origin = typing.get_origin(hint)
    for alias in ("__supertype__", "__value__", "__bound__"):  # of NewType, the `type` statement, and TypeVar
        if not isinstance(hint, type) and not origin and hasattr(hint, alias):
            yield from _classes(getattr(hint, alias))
    for each in (hint, origin):
        if isinstance(each, type):
            yield each
    if origin is typing.Annotated:
        yield from _classes(typing.get_args(hint)[0])
    elif origin is not typing.Literal:
        for each in typing.get_args(hint):
            yield from _classes(each)


# -- decoding and encoding -------------------------------------------------------------------------------


def decoder(hint: Any, codec: Codec) -> Decode | None:
    """What makes a parameter of this type from a payload; None if it isn't typed.

    Its errors: InvalidInput that names the field, and whatever user code raises when an object is made. A ValueError of
    its `__post_init__` is a refusal too.

    Raises:
        NoCodec: there can't be one.
    """
    if not is_typed(hint):
        return None
    if codec not in _DECODERS:
        raise NoCodec(f"codec_in {codec.label} has no objects, but the parameter is {_name(hint)}")
    _check(hint)
    decode = _DECODERS[codec](hint).decode

    def validated(payload: bytes | memoryview) -> Any:
        try:
            return decode(payload)
        except _REFUSALS as exc:
            _refuse(exc, f"not valid {codec.label}: ")

    return validated


def encoder(hint: Any, codec: Codec) -> Encode | None:
    """What makes bytes of a result of this type; None if the codec itself does. Raises NoCodec: there can't be one.

    What is returned need not be of that type, as far as it can be encoded.
    """
    if not is_typed(hint) or codec is Codec.JSON:  # it knows these types, and bytes that are JSON already
        return None
    if codec is not Codec.MSGPACK:
        raise NoCodec(f"codec_out {codec.label} has no objects, but the result is {_name(hint)}")
    encode: Encode = msgspec.msgpack.Encoder().encode
    return encode


def convert(value: Any, hint: Any) -> Any:
    """The parameter that a payload of this value gives, for running an entrypoint without a worker.

    Raises:
        InvalidInput: as the worker would.
    """
    try:
        return msgspec.convert(value, hint)
    except _REFUSALS as exc:
        _refuse(exc, "not valid: ")


def _refuse(exc: Exception, prefix: str) -> NoReturn:
    """Raise InvalidInput for what is wrong with an input; but what user code has raised as it is."""
    # msgspec has no frames of its own, so where there is one behind that of the caller, it is user code's.
    if exc.__traceback__ is not None and exc.__traceback__.tb_next is not None:
        raise exc
    if isinstance(exc.__cause__, TypeError):  # a bug in a `__post_init__`, which msgspec takes for a refusal
        raise exc.__cause__ from None
    text = str(exc) if isinstance(exc, msgspec.ValidationError) else prefix + (str(exc) or type(exc).__name__)
    text = f"the payload is {text}" if text.startswith("not ") else f"the payload: {text}"
    # Names that the sender chose may hold anything.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _LONGEST_TEXT + 1])
    raise InvalidInput(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...") from exc


def _check(hint: Any) -> None:
    """Raise NoCodec for a type that msgspec can't decode."""
    try:
        kinds = list(_walk(msgspec.inspect.type_info(hint)))
        for each in kinds:
            cls = getattr(each, "cls", object)
            # What it doesn't know it takes for the application's own, and fails at it when such a value comes.
            if isinstance(each, msgspec.inspect.CustomType) and cls is not object:
                raise TypeError(f"it contains {_name(cls)}")
            if is_compiled(cls.__module__):
                raise TypeError(f"{_name(cls)} is in a compiled module, where types of fields get lost")
    except Exception as exc:  # also NameError, where a field's type is there for type checkers only
        text = " ".join(str(exc).split())
        raise NoCodec(f"the parameter {_name(hint)} can't be decoded: {text}") from exc


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
