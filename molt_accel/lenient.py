"""What the codecs do with values that are not plain, and how they say what they can't encode.

Nothing here is on a good call's way: it runs once a codec has refused a value.
"""

from __future__ import annotations

import datetime
import decimal
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec

_MOST_STEPS: Final = 20
_MOST_LEVELS: Final = 10_000
#: What stands for rows of a database, and what to send instead.
_QUERIED: Final = (
    (
        "Model",
        "a model instance ({}) can't be sent; send its pk and query in the entrypoint, or its fields' values",
    ),
    ("QuerySet", "a QuerySet can't be sent; send list(queryset.values(...)), or the pks"),
    ("Manager", "a manager ({}) can't be sent; send list(manager.values(...)), or the pks"),
)
_BASES: Final[tuple[Any, ...]] = (str, int, float, bytes, dict, list, tuple, decimal.Decimal)


def plain(value: object) -> object:
    """What stands for a value in JSON, as Django's JsonResponse has it; for `msgspec.json.Encoder(enc_hook=...)`.

    Objects of subclasses of plain types (such as SafeString), of Decimal and of dates and times (such as pandas'
    Timestamp), lazy translations, models of pydantic, and scalars of NumPy.

    Raises:
        TypeError: nothing does. For what Django reads from a database the text says what to send instead.
    """
    for base in _BASES:
        if isinstance(value, base) and type(value) not in (base, bool):
            # `str()` of a subclass may return it unchanged.
            return str.__str__(value) if base is str else base(value)
    if isinstance(value, (datetime.date, datetime.time)):
        text = value.isoformat()
        return f"{text[:-6]}Z" if text.endswith("+00:00") else text
    if isinstance(value, datetime.timedelta):
        return datetime.timedelta(value.days, value.seconds, value.microseconds)
    if _is(value, "django.utils.functional", "Promise"):
        return str.__str__(str(value))
    if _is(value, "pydantic", "BaseModel"):
        return value.model_dump()  # type: ignore[attr-defined]
    for name, instead in _QUERIED:
        if _is(value, "django.db.models", name):
            raise TypeError(instead.format(type(value).__name__))
    if hasattr(value, "dtype") and getattr(value, "ndim", None) == 0:
        return value.item()  # type: ignore[attr-defined]  # a scalar of NumPy
    raise TypeError(f"objects of type {type(value).__name__} are not supported")


def _is(value: object, module: str, name: str) -> bool:
    """Whether a value is of a class, which it can't be where that is not imported."""
    cls = getattr(sys.modules.get(module), name, None)
    return cls is not None and isinstance(value, cls)


#: How JsonResponse writes them as keys.
_TEXT_KEYS: Final[dict[object, str]] = {None: "null", True: "true", False: "false"}


def with_text_keys(value: object) -> object:
    """The value with None, True and False as texts where they are keys."""
    if isinstance(value, dict):
        return {
            _TEXT_KEYS[key] if key is None or isinstance(key, bool) else key: with_text_keys(item)
            for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return [with_text_keys(item) for item in value]
    return value


def text_of(value: object) -> str:
    """Return an object's text as it can be encoded; the name of its type if it has none."""
    try:
        return str.__str__(str(value)).encode(errors="replace").decode()
    except Exception:  # user code, and lazy translations, may fail here
        return f"<{type(value).__name__}>"


def escaped(value: object) -> bytes:
    """The JSON of a value with halves of surrogate pairs, as in names of files that aren't UTF-8: they are escaped."""
    parts = msgspec.to_builtins(with_text_keys(value), enc_hook=plain, str_keys=True)
    return json.dumps(_finite(parts), separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def with_tuple_keys(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    """A map of msgpack some of whose keys are arrays: those were tuples, and become tuples again."""
    return {hashable(key): value for key, value in pairs}


def hashable(key: Any) -> Any:
    """An array of msgpack as the tuple that it was where only that can stand: as a key, or in a set."""
    return tuple(hashable(item) for item in key) if isinstance(key, list) else key


def culprit(value: object, encode: Callable[[Any], object]) -> tuple[str, str]:
    """Where in a value that `encode` refuses the part stands that it refuses, and the name of that part's type.

    The place is a path such as ``["rows"][3]["price"]``; empty if it is the value itself.
    """
    path = ""
    for _ in range(_MOST_STEPS):
        for step, part in _parts(value):
            try:
                encode(part)
            except Exception:
                path, value = path + step, part
                break
        else:
            return path, type(value).__name__
    return "", ""  # it contains itself, or is nested too deep for a path to help


def depth(value: object) -> int | None:
    """How many levels of lists and maps a value has, at most `_MOST_LEVELS`; None: it contains itself.

    Each part is looked through once, however often it occurs: a circle of a few objects has endlessly many ways.
    """
    known: dict[int, tuple[object, int]] = {}  # by `id`, with the object, so that no other gets its id
    above = {id(value)}
    path, levels = [(value, _parts(value))], [0]
    while path:
        part, parts = path[-1]
        for _, inner in parts:
            if id(inner) in above:
                return None
            if id(inner) in known:
                levels[-1] = max(levels[-1], known[id(inner)][1] + 1)
            elif len(path) <= _MOST_LEVELS:
                above.add(id(inner))
                path.append((inner, _parts(inner)))
                levels.append(0)
                break
        else:
            path.pop()
            above.remove(id(part))
            height = levels.pop()
            known[id(part)] = part, height
            if levels:
                levels[-1] = max(levels[-1], height + 1)
    return known[id(value)][1]


def _parts(value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        yield from ((f"[{_quoted(key):.40}]", item) for key, item in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", item) for index, item in enumerate(value))
    elif not isinstance(value, type):  # a msgspec.Struct or a dataclass
        names = (
            getattr(value, "__struct_fields__", None) or getattr(value, "__dataclass_fields__", None) or ()
        )
        yield from ((f".{name}", getattr(value, name)) for name in names if hasattr(value, name))


def _quoted(key: object) -> str:
    return json.dumps(key, ensure_ascii=False) if isinstance(key, str) else repr(key)
