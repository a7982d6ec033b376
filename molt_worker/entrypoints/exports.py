"""The exports of a worker: the manifest, its checks, and the functions behind its names.

Only `resolve` imports user code. The fork server calls it; so does the inline transport, in its caller's process.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib
import inspect
import json
import operator
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, TypeVar, overload

from molt_accel import codec
from molt_accel.config import DOTTED_NAME, is_manifest_path
from molt_accel.errors import MoltEntryError
from molt_accel.ipc.frame import MAX_ENTRY_BYTES
from molt_accel.ipc.messages import FLAG_COMPILED, RESERVED_PREFIX, Codec, Request
from molt_accel.overload.priority import Priority
from molt_worker.entrypoints import typed
from molt_worker.entrypoints.importer import is_compiled

ABI_VERSION: Final = "0.1"
PACKAGED: Final = Path(__file__).with_name("molt_exports.json")
_OWN: Final = "molt_worker."  #: where the targets of the packaged exports are
_NAMED: Final = 8  #: how many folders of sys.path an error names
MAX_CONCURRENCY: Final = 512  #: as many as a pool can have executors
_PRIORITIES: Final = tuple(each.value for each in Priority)
_MOST_OFFERED: Final = 10  #: names of entrypoints in an error's text
_MARK: Final = "__molt_export__"
#: Marks of compiled functions, which take no attributes, by id. The function is kept so that its id isn't reused.
_marked_compiled: Final[dict[int, tuple[Any, Export]]] = {}

Function = TypeVar("Function", bound=Callable[..., Any])


class ExportsError(ValueError):
    """The exports can't be served. The text is one line that says where and why."""


def look_in(folders: Iterable[str]) -> None:
    """Import from the working directory first, then from these. Raises ExportsError: that directory is gone."""
    try:
        sys.path[:0] = [os.getcwd(), *folders]
    except OSError as exc:
        raise ExportsError(f"the working directory is gone ({exc.strerror}); change to another") from exc


@dataclass(frozen=True, slots=True)
class Export:
    """An entrypoint: its public name, where it lives, how payload and result are encoded, how it shares the pool."""

    name: str
    target: str
    codec_in: Codec = Codec.MSGPACK
    codec_out: Codec = Codec.MSGPACK
    function: Callable[[Any], Any] | None = field(default=None, compare=False)
    compiled: bool = field(default=False, compare=False)  #: its module is native code
    #: For typed parameters and results; None: the codec decodes or encodes.
    decode: typed.Decode | None = field(default=None, compare=False)
    encode: typed.Encode | None = field(default=None, compare=False)
    max_concurrency: int | None = (
        None  #: how many of its requests may run at once; None: as many as there are executors
    )
    priority: Priority = Priority.NORMAL  #: who is taken up first


#: What running an entrypoint consists of: the codec of its payload, what decodes that, the function, what encodes the
#: result, the codec of that, and the flags of its responses; and the export. A plain tuple is unpacked fastest.
Steps = tuple[
    Codec,
    Callable[[bytes | memoryview], Any],
    Callable[[Any], Any],
    Callable[[Any], bytes],
    Codec,
    int,
    Export,
]


def _steps_of(export: Export) -> Steps:
    return (
        export.codec_in,
        export.decode or codec.DECODERS[export.codec_in],
        export.function or _unresolved,
        export.encode or codec.ENCODERS[export.codec_out],
        export.codec_out,
        FLAG_COMPILED if export.compiled else 0,
        export,
    )


def _unresolved(payload: object) -> object:
    raise AssertionError("the exports are not resolved")


class ExportTable:
    """The exports of a worker, by name."""

    def __init__(self, exports: Iterable[Export]) -> None:
        self._by_name = {export.name: export for export in exports}
        #: How each is run, by its name: worked out once, and not for every request.
        self.steps: Final = {name: _steps_of(export) for name, export in self._by_name.items()}

    def __iter__(self) -> Iterator[Export]:
        return iter(self._by_name.values())

    def __len__(self) -> int:
        return len(self._by_name)

    @property
    def compiled(self) -> list[str]:
        """The names of the exports that are native code."""
        return [export.name for export in self._by_name.values() if export.compiled]

    @functools.cached_property
    def digest(self) -> str:
        """16 hexadecimal digits that tell it from tables of other exports, whatever folder they are in."""
        rows = [
            (each.name, each.target, each.codec_in, each.codec_out, each.max_concurrency, each.priority)
            for each in sorted(self, key=lambda each: each.name)
        ]
        return hashlib.sha256(json.dumps(rows).encode()).hexdigest()[:16]

    def find(self, request: Request) -> Export:
        """Return the export that a request names. Raises MoltEntryError: no such name, or another codec."""
        export = self._by_name.get(request.entry)
        if export is None:
            offer = f"unknown entry {request.entry!r}; the pool offers {self._offer(request.entry)}"
            if self._by_name and all(each.target.startswith(_OWN) for each in self):
                offer += ", the packaged ones only; set MOLT_EXPORTS, or install the app molt_accel.django"
            raise MoltEntryError(offer)
        if request.codec is not export.codec_in:
            given, wanted = request.codec.label, export.codec_in.label
            raise MoltEntryError(f"entry {request.entry!r} takes {wanted} payloads, not {given}")
        return export

    def _offer(self, wanted: str) -> str:
        """The names that the table has, those like `wanted` first; not more than `_MOST_OFFERED` of them."""
        near = difflib.get_close_matches(wanted, self._by_name, _MOST_OFFERED)
        names = list(dict.fromkeys([*near, *sorted(self._by_name)]))
        more = len(names) - _MOST_OFFERED
        return ", ".join(map(repr, names[:_MOST_OFFERED])) + (f" and {more} more" if more > 0 else "")


@overload
def export(function: Function) -> Function: ...


@overload
def export(
    *,
    name: str | None = None,
    codec_in: str = "msgpack",
    codec_out: str = "msgpack",
    max_concurrency: int | None = None,
    priority: str = "normal",
) -> Callable[[Function], Function]: ...


def export(
    function: Any = None,
    *,
    name: str | None = None,
    codec_in: str = "msgpack",
    codec_out: str = "msgpack",
    max_concurrency: int | None = None,
    priority: str = "normal",
) -> Any:
    """Mark a function as an entrypoint, for ``--exports package.module``. The function can be called as before.

    Args:
        name: The public name. Default: the function's name.
        codec_in, codec_out: Codecs of the payload and of the result: ``msgpack``, ``json`` or ``raw``.
        max_concurrency: How many of its requests may run at once in a pool. Default: as many as there are executors.
        priority: Which requests are taken up first: ``high``, ``normal`` or ``low``.

    Raises:
        ExportsError: the name, the limit or the priority is not allowed.
        ValueError: a codec is unknown.
    """

    def mark(function: Any) -> Any:
        target = f"{function.__module__}:{function.__qualname__}"
        public = function.__name__ if name is None else name
        _check_name(public, target)
        codecs = codec.parse(codec_in), codec.parse(codec_out)
        limit = _check_limit(max_concurrency, f"{target}: max_concurrency")
        wanted = _check_priority(priority, f"{target}: priority")
        as_marked = Export(public, target, *codecs, max_concurrency=limit, priority=wanted)
        try:
            setattr(function, _MARK, as_marked)
        except AttributeError:
            _marked_compiled[id(function)] = function, as_marked
        return function

    return mark if function is None else mark(function)


def mark_of(value: object) -> Export | None:
    """Return what `export` has noted of a function; None if it isn't marked."""
    # Looked up statically: a lazy object (Django's settings) must not be evaluated.
    mark = inspect.getattr_static(value, _MARK, None) or _marked_compiled.get(id(value), (None, None))[1]
    return mark if isinstance(mark, Export) else None


def _check_name(name: object, where: str) -> str:
    if not isinstance(name, str) or not name.isprintable() or not 0 < len(name.encode()) <= MAX_ENTRY_BYTES:
        why = f"it must be 1 to {MAX_ENTRY_BYTES} bytes of printable text"
    elif name.startswith(RESERVED_PREFIX):
        why = f"{RESERVED_PREFIX}... is reserved"
    else:
        return name
    raise ExportsError(f"{where}: {name!r} is not allowed; {why}")


def _check_limit(value: object, where: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 < value <= MAX_CONCURRENCY:
        allowed = f"it must be a whole number from 1 to {MAX_CONCURRENCY}; without one there is no limit"
        raise ExportsError(f"{where}: {value!r} is not allowed; {allowed}")
    return value


def _check_priority(value: object, where: str) -> Priority:
    if isinstance(value, str) and value in _PRIORITIES:
        return Priority(value)
    raise ExportsError(f"{where}: {value!r} is not allowed; allowed: {', '.join(_PRIORITIES)}")


def manifest_of(reference: str) -> Path | None:
    """Return the manifest that an exports reference means: its path, or the packaged one for "". None: modules."""
    if not reference:
        return PACKAGED
    return Path(reference) if is_manifest_path(reference) else None


def read_manifest(path: Path) -> list[Export]:
    """Read and check a manifest file, and return its exports. Nothing is imported.

    Raises ExportsError: the file can't be read, or a value in it isn't allowed.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as exc:
        raise ExportsError(f"{path}: can't be read: {exc.strerror}") from exc
    except (ValueError, RecursionError) as exc:
        raise ExportsError(f"{path}: not valid JSON: {exc}") from exc
    _check_fields(document, ("abi_version", "exports"), str(path))
    version = document.get("abi_version")
    if version != ABI_VERSION:
        raise ExportsError(f"{path}: abi_version: {version!r} is not allowed; it must be {ABI_VERSION!r}")
    rows = document.get("exports")
    if not isinstance(rows, list) or not rows:
        raise ExportsError(f"{path}: exports: must be a list of at least one export")
    exports = [_read_row(row, f"{path}: exports[{index}]") for index, row in enumerate(rows)]
    _check_unique(exports, str(path))
    return exports


def _check_fields(row: object, allowed: tuple[str, ...], where: str) -> None:
    if not isinstance(row, dict):
        raise ExportsError(f"{where}: must be an object")
    for name in row:
        if name not in allowed:
            raise ExportsError(f"{where}: unknown field {name!r}; allowed: {', '.join(allowed)}")


def _read_row(row: Any, where: str) -> Export:
    fields = ("name", "target", "codec_in", "codec_out", "max_concurrency", "priority")
    _check_fields(row, fields, where)
    name = _check_name(row.get("name"), f"{where}.name")
    target = row.get("target")
    if not isinstance(target, str) or not re.fullmatch(f"{DOTTED_NAME}:{DOTTED_NAME}", target):
        raise ExportsError(f"{where}.target: {target!r} is not allowed; it must be package.module:function")
    codecs = []
    for side in ("codec_in", "codec_out"):
        value = row.get(side, Codec.MSGPACK.label)
        try:
            codecs.append(codec.parse(value if isinstance(value, str) else repr(value)))
        except ValueError as exc:
            raise ExportsError(f"{where}.{side}: {exc}") from exc
    limit = _check_limit(row.get("max_concurrency"), f"{where}.max_concurrency")
    priority = _check_priority(row.get("priority", Priority.NORMAL.value), f"{where}.priority")
    return Export(name, target, codecs[0], codecs[1], max_concurrency=limit, priority=priority)


def _check_unique(exports: list[Export], where: str) -> None:
    seen: set[str] = set()
    for item in exports:
        if item.name in seen:
            raise ExportsError(f"{where}: the name {item.name!r} is exported twice")
        seen.add(item.name)


def check(reference: str) -> None:
    """Check a reference as far as that needs no import. Raises ExportsError."""
    if path := manifest_of(reference):
        read_manifest(path)


def resolve(reference: str) -> ExportTable:
    """Import the exports of a reference: a manifest's path, modules with marked functions, or "" (packaged).

    Raises ExportsError: a check or an import failed. The text is one line that says where; the cause is chained.
    """
    path = manifest_of(reference)
    if path is None:
        marked = [item for module in reference.split(",") for item in _marked(module)]
        if not marked:
            own = "; in a worker, __main__ is the worker: name the module" if reference == "__main__" else ""
            raise ExportsError(f"{reference}: no function is marked with @molt_worker.export{own}")
        _check_unique(marked, reference)
        return ExportTable(marked)
    return ExportTable(
        _resolve_target(item, f"{path}: exports[{index}] ({item.name})")
        for index, item in enumerate(read_manifest(path))
    )


def _import(module: str, where: str) -> Any:
    try:
        return importlib.import_module(module)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # a module may raise anything when imported, also SystemExit
        text = f"{where}: can't import {module}: {type(exc).__name__}: {exc}"
        if isinstance(exc, ModuleNotFoundError) and f"{module}.".startswith(f"{exc.name}."):
            folders = list(dict.fromkeys(each or "." for each in sys.path if isinstance(each, str)))
            text += (
                f"; looked in {', '.join(folders[:_NAMED])}; start the process in the folder "
                "that has it, or add that to sys.path or MOLT_IMPORT_PATH"
            )
        raise ExportsError(text) from exc


def _resolve_target(item: Export, where: str) -> Export:
    module, _, path = item.target.partition(":")
    imported = _import(module, where)
    try:
        found = operator.attrgetter(path)(imported)
    except AttributeError as exc:
        raise ExportsError(f"{where}: {module} has no {path}") from exc
    return _with_function(item, found, where)


def _with_function(item: Export, function: Any, where: str) -> Export:
    if not callable(function):
        raise ExportsError(f"{where}: {item.target} is not callable")
    if inspect.iscoroutinefunction(function):
        raise ExportsError(f"{where}: {item.target} is async; an entrypoint is a plain function")
    module = item.target.partition(":")[0]
    try:
        parameter, result = typed.hints(function, module)
        decode, encode = typed.decoder(parameter, item.codec_in), typed.encoder(result, item.codec_out)
    except typed.NoCodec as exc:
        raise ExportsError(f"{where}: {item.target}: {exc}") from exc
    return replace(item, function=function, compiled=is_compiled(module), decode=decode, encode=encode)


def _marked(module: str) -> list[Export]:
    # Keyed by id: a function that has two names in the module is exported once.
    values = {id(value): value for value in vars(_import(module, module)).values()}.values()
    marked = [(mark, value) for value in values if (mark := mark_of(value)) is not None]
    return [_with_function(mark, value, module) for mark, value in marked]
