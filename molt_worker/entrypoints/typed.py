"""Typed entrypoints: msgspec decodes and validates payloads, and encodes results, by the function's annotations.

The annotations are read once, when the exports are resolved. A parameter or result is typed if its annotation
contains a msgspec.Struct, a dataclass or a TypedDict. Any other value goes through the codec without validation.
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

from molt_accel.forms import values
from molt_accel.ipc.messages import Codec
from molt_worker.entrypoints.importer import find_source, is_compiled
from molt_worker.entrypoints.request import InvalidInput

Decode = Callable[[bytes | memoryview], Any]
Encode = Callable[[Any], bytes]

#: Characters of an error text. It quotes names and values that the client chose, so it is cut.
_LONGEST_TEXT: Final = 400
_EXTENSION: Final = "got `ext`"  #: in what msgspec says of an extension that comes where a type is not one
#: Types whose values the codec sends as `molt_accel.forms.values` has them.
_NOT_PLAIN: Final = (
    *(msgspec.inspect.DateTimeType, msgspec.inspect.DateType, msgspec.inspect.TimeType),
    *(msgspec.inspect.TimeDeltaType, msgspec.inspect.DecimalType, msgspec.inspect.UUIDType),
    *(msgspec.inspect.SetType, msgspec.inspect.FrozenSetType, msgspec.inspect.AnyType),
    msgspec.inspect.CustomType,
)
#: What msgspec raises for a bad input. Its own ValidationError and DecodeError are ValueErrors.
_REFUSALS: Final = (ValueError, TypeError, OverflowError, RecursionError)
#: Python 3.14 evaluates annotations when they are read. With FORWARDREF, one that fails doesn't hide the others.
_AS_WRITTEN: Final[dict[str, Any]] = {}
if sys.version_info >= (3, 14):
    import annotationlib

    _AS_WRITTEN["annotation_format"] = annotationlib.Format.FORWARDREF


class NoCodec(TypeError):
    """Values of a type can't be decoded or encoded. The text says which type, and why."""


def hints(function: Any, module: str) -> tuple[Any, Any]:
    """Return the types of the first parameter and of the result; None for each that isn't annotated.

    A compiled function has no annotations, so they are read from its source. `module` is where the function was found;
    it may be defined in another one.

    Raises NoCodec: the parameter's annotation can't be evaluated, so its payloads would silently not be validated. A
    result with such an annotation counts as not annotated.
    """
    try:
        signature = inspect.signature(function, **_AS_WRITTEN)
    except (TypeError, ValueError):  # a function of C that doesn't tell its signature
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
    except Exception:  # only other tools can read it
        return takes, None


def _evaluated(hint: Any, namespace: dict[str, Any]) -> Any:
    if hint is inspect.Signature.empty:
        return None
    holder = SimpleNamespace(__annotations__={"it": hint})
    return typing.get_type_hints(holder, namespace, include_extras=True)["it"]


def _in_source(module: str, qualname: str, parameter: str) -> tuple[Any, Any]:
    """Read the annotations of a parameter and of the result from the source, as texts."""
    path = find_source(module)
    node: ast.AST | None = None if path is None else ast.parse(path.read_bytes())
    for name in qualname.split("."):
        node = _definition(node, name) if node else None
    if not isinstance(node, ast.FunctionDef):
        return inspect.Signature.empty, inspect.Signature.empty
    named = [*node.args.posonlyargs, *node.args.args, *([node.args.vararg] if node.args.vararg else [])]
    written = next((each.annotation for each in named if each.arg == parameter), None)
    empty = inspect.Signature.empty
    return ast.unparse(written) if written else empty, ast.unparse(node.returns) if node.returns else empty


def _definition(node: ast.AST, name: str) -> ast.AST | None:
    """Return the last function or class of this name in the body of a module or class, also below `if` or `try`."""
    found = None
    for each in ast.iter_child_nodes(node):
        if not isinstance(each, (ast.FunctionDef, ast.ClassDef)):
            found = _definition(each, name) or found
        elif each.name == name:
            found = each
    return found


def is_typed(hint: Any) -> bool:
    """Whether a type is, or contains, a msgspec.Struct, a dataclass or a TypedDict."""
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


def decoder(hint: Any, codec: Codec) -> Decode | None:
    """Return the function that decodes a payload into this type; None if the type isn't a typed one.

    For a bad payload the function raises InvalidInput, which names the field. A ValueError of a `__post_init__` becomes
    InvalidInput too. Any other exception of user code passes unchanged.

    Raises NoCodec: the codec has no objects, or msgspec can't decode the type.
    """
    if not is_typed(hint):
        return None
    if codec is Codec.RAW:
        raise NoCodec(f"codec_in {codec.label} has no objects, but the parameter is {_name(hint)}")
    _check(hint)
    decode: Decode
    if codec is Codec.JSON:
        decode = msgspec.json.Decoder(hint).decode
    else:
        decode = msgspec.msgpack.Decoder(hint, ext_hook=values.unpack_ext).decode

    def validated(payload: bytes | memoryview) -> Any:
        try:
            return decode(payload)
        except _REFUSALS as exc:
            # An extension in the place of another type, such as Decimal.
            if codec is Codec.MSGPACK and _EXTENSION in str(exc):
                try:
                    value = values.unpack(payload)
                except _REFUSALS as bad:
                    _refuse(bad.with_traceback(None), f"not valid {codec.label}: ")
                try:
                    return msgspec.convert(value, hint)
                except _REFUSALS as again:
                    _refuse(again, f"not valid {codec.label}: ")
            _refuse(exc, f"not valid {codec.label}: ")

    return validated


def encoder(hint: Any, codec: Codec) -> Encode | None:
    """Return the function that encodes results of this type; None if the codec does. Raises NoCodec if neither can.

    The function doesn't check that a result is of the type. It encodes whatever msgspec can.
    """
    if not is_typed(hint) or codec is Codec.JSON:  # the json codec knows these types, and passes JSON bytes
        return None
    if codec is not Codec.MSGPACK:
        raise NoCodec(f"codec_out {codec.label} has no objects, but the result is {_name(hint)}")
    if not _is_plain(hint):
        return None  # the codec sends a Decimal as one, where msgspec's encoder writes a text
    encode: Encode = msgspec.msgpack.Encoder().encode
    return encode


def _is_plain(hint: Any) -> bool:
    """Whether msgpack has a form for all that a type says; False for a type that can't be looked into."""
    try:
        return not any(isinstance(each, _NOT_PLAIN) for each in _walk(msgspec.inspect.type_info(hint)))
    except Exception:  # also NameError, for a type of a field that exists for type checkers only
        return False


def convert(value: Any, hint: Any) -> Any:
    """Convert a decoded payload to the type `hint`, as a worker does. For calling an entrypoint without a worker.

    Raises InvalidInput: the value isn't valid; the text is as in a worker.
    """
    try:
        return msgspec.convert(value, hint)
    except _REFUSALS as exc:
        _refuse(exc, "not valid: ")


def _refuse(exc: Exception, prefix: str) -> NoReturn:
    """Raise InvalidInput for a bad input. An exception that user code raised is raised again as it is."""
    # msgspec adds no frames to a traceback, so a frame below the caller's is user code's.
    in_user_code = exc.__traceback__ is not None and exc.__traceback__.tb_next is not None
    if in_user_code and not isinstance(exc, values.NotValid):
        raise exc
    if isinstance(exc.__cause__, TypeError):  # a bug in a `__post_init__`; msgspec takes it for a bad input
        raise exc.__cause__ from None
    text = str(exc) if isinstance(exc, msgspec.ValidationError) else prefix + (str(exc) or type(exc).__name__)
    text = f"the payload is {text}" if text.startswith("not ") else f"the payload: {text}"
    # The client chose some of the names, so the text may hold any character: escape those that don't print.
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: _LONGEST_TEXT + 1])
    raise InvalidInput(text if len(text) <= _LONGEST_TEXT else text[:_LONGEST_TEXT] + "...") from exc


def _check(hint: Any) -> None:
    """Raise NoCodec if msgspec can't decode a type."""
    try:
        kinds = list(_walk(msgspec.inspect.type_info(hint)))
        for each in kinds:
            cls = getattr(each, "cls", object)
            # msgspec accepts a type that it doesn't know as a custom one, and fails only when such a value comes.
            if isinstance(each, msgspec.inspect.CustomType) and cls is not object:
                raise TypeError(f"it contains {_name(cls)}")
            if is_compiled(cls.__module__):
                raise TypeError(f"{_name(cls)} is in a compiled module, where types of fields get lost")
    except Exception as exc:  # also NameError: a field's type may exist for type checkers only
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
        seen.add(id(info))  # a type may contain itself
        yield info
        for name in info.__struct_fields__:
            yield from _walk(getattr(info, name), seen)


def _name(hint: Any) -> str:
    return hint.__qualname__ if isinstance(hint, type) and not typing.get_args(hint) else str(hint)
