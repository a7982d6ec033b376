"""Manifests, marked modules, and the one line that says what is wrong with them."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molt_accel import MoltEntryError
from molt_accel.config import is_manifest_path
from molt_accel.ipc.messages import Codec, Request
from molt_accel.overload.priority import Priority
from molt_worker import export
from molt_worker.entrypoints import builtin
from molt_worker.entrypoints.exports import (
    PACKAGED,
    Export,
    ExportsError,
    ExportTable,
    check,
    read_manifest,
    resolve,
)
from tests.support.errors import raised

GOOD = {"name": "echo", "target": "molt_worker.entrypoints.builtin:echo"}


def manifest(**changes: Any) -> dict[str, Any]:
    return {"abi_version": "0.1", "exports": [GOOD], **changes}


def row(**changes: Any) -> dict[str, Any]:
    return manifest(exports=[{**GOOD, **changes}])


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], Path]:
    """Writes a manifest: bytes and texts as they are, anything else as JSON."""

    def write(content: object) -> Path:
        path = tmp_path / "molt_exports.json"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Makes a module of a source text and returns its name."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)

    def make(source: str) -> str:
        name = f"molt_test_module_{len(list(tmp_path.iterdir()))}"
        (tmp_path / f"{name}.py").write_text(source)
        return name

    yield make
    for name in set(sys.modules) - known:
        if name.startswith("molt_test_module"):
            del sys.modules[name]


NAME_RULE = "it must be 1 to 255 bytes of printable text"
FIELDS = "name, target, codec_in, codec_out, max_concurrency, priority"
LIMIT_RULE = "it must be a whole number from 1 to 512; without one there is no limit"
TARGET_RULE = "it must be package.module:function"
BAD_MANIFESTS = [
    ("", "not valid JSON: Expecting value: line 1 column 1 (char 0)"),
    ("{]", "not valid JSON: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
    (b"\xff", "not valid JSON: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"),
    ([], "must be an object"),
    ("null", "must be an object"),
    ({}, "abi_version: None is not allowed; it must be '0.1'"),
    (manifest(abi_version="0.2"), "abi_version: '0.2' is not allowed; it must be '0.1'"),
    (manifest(abi_version=0.1), "abi_version: 0.1 is not allowed; it must be '0.1'"),
    (manifest(extra=1), "unknown field 'extra'; allowed: abi_version, exports"),
    ({"abi_version": "0.1"}, "exports: must be a list of at least one export"),
    (manifest(exports=[]), "exports: must be a list of at least one export"),
    (manifest(exports={"echo": 1}), "exports: must be a list of at least one export"),
    (manifest(exports=[GOOD, "echo"]), "exports[1]: must be an object"),
    (row(codec="json"), f"exports[0]: unknown field 'codec'; allowed: {FIELDS}"),
    (manifest(exports=[{"target": "a:b"}]), f"exports[0].name: None is not allowed; {NAME_RULE}"),
    (row(name=""), f"exports[0].name: '' is not allowed; {NAME_RULE}"),
    (row(name=7), f"exports[0].name: 7 is not allowed; {NAME_RULE}"),
    (row(name="a\nb"), f"exports[0].name: 'a\\nb' is not allowed; {NAME_RULE}"),
    (row(name="\ud800"), f"exports[0].name: '\\ud800' is not allowed; {NAME_RULE}"),
    (row(name="é" * 128), f"exports[0].name: '{'é' * 128}' is not allowed; {NAME_RULE}"),
    (row(name="__x"), "exports[0].name: '__x' is not allowed; __... is reserved"),
    (row(name="__ping__"), "exports[0].name: '__ping__' is not allowed; __... is reserved"),
    (manifest(exports=[{"name": "a"}]), f"exports[0].target: None is not allowed; {TARGET_RULE}"),
    (row(target="module"), f"exports[0].target: 'module' is not allowed; {TARGET_RULE}"),
    (row(target="a.b:"), f"exports[0].target: 'a.b:' is not allowed; {TARGET_RULE}"),
    (row(target=":f"), f"exports[0].target: ':f' is not allowed; {TARGET_RULE}"),
    (row(target="a:f()"), f"exports[0].target: 'a:f()' is not allowed; {TARGET_RULE}"),
    (row(target=".a:f"), f"exports[0].target: '.a:f' is not allowed; {TARGET_RULE}"),
    (row(target="a:1"), f"exports[0].target: 'a:1' is not allowed; {TARGET_RULE}"),
    (row(target=["a:b"]), f"exports[0].target: ['a:b'] is not allowed; {TARGET_RULE}"),
    (row(codec_in="xml"), "exports[0].codec_in: unknown codec 'xml'; allowed: msgpack, json, raw"),
    (row(codec_out=None), "exports[0].codec_out: unknown codec 'None'; allowed: msgpack, json, raw"),
    (row(codec_out=1), "exports[0].codec_out: unknown codec '1'; allowed: msgpack, json, raw"),
    *(
        (row(max_concurrency=each), f"exports[0].max_concurrency: {each!r} is not allowed; {LIMIT_RULE}")
        for each in (0, -1, 513, 1.5, "1", True)
    ),
    *(
        (row(priority=each), f"exports[0].priority: {each!r} is not allowed; allowed: high, normal, low")
        for each in ("highest", None, 1, ["high"])
    ),
    (manifest(exports=[GOOD, {**GOOD, "target": "a:b"}]), "the name 'echo' is exported twice"),
]


@pytest.mark.parametrize(("content", "what"), BAD_MANIFESTS)
def test_a_bad_manifest_says_where_it_is(write: Callable[[object], Path], content: object, what: str) -> None:
    path = write(content)
    for read in (lambda: read_manifest(path), lambda: check(str(path)), lambda: resolve(str(path))):
        error = raised(ExportsError, read)
        assert str(error) == f"{path}: {what}"
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("missing.json", "No such file or directory"),
        ("", "Is a directory"),
        ("a/b", "No such file or directory"),
    ],
)
def test_a_manifest_that_can_t_be_read_says_why(tmp_path: Path, name: str, what: str) -> None:
    path = tmp_path / name
    assert str(raised(ExportsError, check, str(path))) == f"{path}: can't be read: {what}"


def test_deep_nesting_is_an_error_and_no_crash(write: Callable[[object], Path]) -> None:
    path = write("[" * 1_000_000)
    with pytest.raises(ExportsError, match="not valid JSON: "):
        read_manifest(path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["abi_version", "exports", "name", "target", "codec_in", "x"]), inner
        )
    ),
    max_leaves=10,
)


@given(rows=json_values, version=st.just("0.1") | json_values)
def test_any_json_is_either_exports_or_an_error_of_one_line(
    tmp_path_factory: pytest.TempPathFactory, rows: object, version: object
) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.json"
    path.write_text(json.dumps({"abi_version": version, "exports": rows}))
    error = ""
    exports: list[Export] = []
    try:
        exports = read_manifest(path)
    except ExportsError as exc:
        error = str(exc)
    if error:
        assert error.startswith(f"{path}: ")
        assert "\n" not in error
    else:
        assert isinstance(rows, list)
        assert [item.name for item in exports] == [item["name"] for item in rows]


def test_a_good_manifest_gives_names_targets_and_codecs(write: Callable[[object], Path]) -> None:
    path = write(
        manifest(
            exports=[
                {"name": "a.b/c d", "target": "pkg.mod:cls.method", "codec_in": "raw", "codec_out": "json"},
                {"name": "größe", "target": "mod:f"},
            ]
        )
    )
    assert read_manifest(path) == [
        Export("a.b/c d", "pkg.mod:cls.method", Codec.RAW, Codec.JSON),
        Export("größe", "mod:f", Codec.MSGPACK, Codec.MSGPACK),
    ]


def test_the_packaged_exports_are_health_and_echo() -> None:
    check("")
    table = resolve("")
    assert [(item.name, item.function) for item in table] == [
        ("health", builtin.health),
        ("echo", builtin.echo),
    ]
    assert len(table) == 2
    assert read_manifest(PACKAGED) == list(table)


BAD_TARGETS = [
    ("molt_worker.entrypoints.builtin:nothing", "molt_worker.entrypoints.builtin has no nothing"),
    ("molt_worker.entrypoints.builtin:echo.nothing", "molt_worker.entrypoints.builtin has no echo.nothing"),
    (
        "molt_worker.entrypoints.builtin:os.path.sep",
        "molt_worker.entrypoints.builtin:os.path.sep is not callable",
    ),
    (
        "molt_accel.client:Client.acall",
        "molt_accel.client:Client.acall is async; an entrypoint is a plain function",
    ),
]


@pytest.mark.parametrize(("target", "what"), BAD_TARGETS)
def test_a_target_that_can_t_be_says_so(write: Callable[[object], Path], target: str, what: str) -> None:
    path = write(manifest(exports=[GOOD, {"name": "bad", "target": target}]))
    check(str(path))  # nothing is imported for this
    assert str(raised(ExportsError, resolve, str(path))) == f"{path}: exports[1] (bad): {what}"


def test_a_module_that_is_not_found_says_where_it_was_looked_for(
    write: Callable[[object], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        sys, "path", ["", "/nowhere", "", "/nowhere", *(f"/nowhere/{number}" for number in range(9))]
    )
    path = write(manifest(exports=[GOOD, {"name": "bad", "target": "no_such_module:f"}]))
    check(str(path))  # nothing is imported for this
    assert str(raised(ExportsError, resolve, str(path))) == (
        f"{path}: exports[1] (bad): can't import no_such_module: ModuleNotFoundError: No module named "
        "'no_such_module'; looked in ., /nowhere, /nowhere/0, /nowhere/1, /nowhere/2, /nowhere/3, /nowhere/4, "
        "/nowhere/5; start the process in the folder that has it, or add that to sys.path or MOLT_IMPORT_PATH"
    )


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("1/0", "ZeroDivisionError: division by zero"),
        ("class E(BaseException): pass\nraise E('no')", "E: no"),
    ],
)
def test_whatever_an_import_raises_is_reported(module: Callable[[str], str], source: str, what: str) -> None:
    name = module(source)
    check(name)
    error = raised(ExportsError, resolve, name)
    assert str(error) == f"{name}: can't import {name}: {what}"
    assert error.__cause__ is not None


MARKED = """
from molt_worker import export

class Lazy:
    def __getattr__(self, name):
        raise RuntimeError("not configured")

lazy = Lazy()

@export
def first(payload):
    return 1

@export(name="second!", codec_in="json", codec_out="raw")
def other(payload):
    return b"2"

def unmarked(payload):
    return 3

alias = first
"""


def test_a_module_exports_its_marked_functions_each_once(module: Callable[[str], str]) -> None:
    name = module(MARKED)
    table = resolve(name)
    assert list(table) == [
        Export("first", f"{name}:first"),
        Export("second!", f"{name}:other", Codec.JSON, Codec.RAW),
    ]
    assert [item.function(None) for item in table] == [1, b"2"]


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("def f(payload): pass", "no function is marked with @molt_worker.export"),
        (
            "from molt_worker import export\n@export\ndef f(p): pass\n@export(name='f')\ndef g(p): pass",
            "the name 'f' is exported twice",
        ),
    ],
)
def test_a_module_with_bad_marks_is_refused(module: Callable[[str], str], source: str, what: str) -> None:
    name = module(source)
    assert str(raised(ExportsError, resolve, name)) == f"{name}: {what}"


def test_the_program_itself_is_no_module_of_a_worker() -> None:
    text = "__main__: no function is marked with @molt_worker.export; in a worker, __main__ is the worker: "
    assert str(raised(ExportsError, resolve, "__main__")) == f"{text}name the module"


def test_an_async_function_that_is_marked_is_refused(module: Callable[[str], str]) -> None:
    name = module("from molt_worker import export\n@export\nasync def f(payload): pass")
    error = raised(ExportsError, resolve, name)
    assert str(error) == f"{name}: {name}:f is async; an entrypoint is a plain function"


def test_limits_and_classes_are_read_from_manifests_and_marks(
    module: Callable[[str], str], write: Callable[[object], Path]
) -> None:
    path = write(
        manifest(exports=[{**GOOD, "max_concurrency": 2, "priority": "high"}, {**GOOD, "name": "b"}])
    )
    assert [(each.max_concurrency, each.priority) for each in read_manifest(path)] == [
        (2, Priority.HIGH),
        (None, Priority.NORMAL),
    ]
    name = module(
        "from molt_worker import export\n@export(max_concurrency=512, priority='low')\ndef f(p): pass"
    )
    assert [(each.max_concurrency, each.priority) for each in resolve(name)] == [(512, Priority.LOW)]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"max_concurrency": 0}, f"max_concurrency: 0 is not allowed; {LIMIT_RULE}"),
        ({"priority": "urgent"}, "priority: 'urgent' is not allowed; allowed: high, normal, low"),
    ],
)
def test_a_bad_limit_or_class_fails_where_the_function_is_marked(options: dict[str, Any], what: str) -> None:
    def function(payload: object) -> None: ...

    error = raised(ExportsError, export(**options), function)
    assert str(error) == f"{__name__}:{function.__qualname__}: {what}"


def test_marking_leaves_the_function_as_it_is() -> None:
    def function(payload: object) -> object:
        return payload

    assert export(function) is function
    assert export(name="x")(function) is function
    assert function(5) == 5


@pytest.mark.parametrize(
    ("name", "what"),
    [("", f"'' is not allowed; {NAME_RULE}"), ("__x", "'__x' is not allowed; __... is reserved")],
)
def test_a_bad_name_fails_where_the_function_is_marked(name: str, what: str) -> None:
    def function(payload: object) -> None: ...

    error = raised(ExportsError, export(name=name), function)
    assert str(error) == f"{__name__}:{function.__qualname__}: {what}"


def test_an_unknown_codec_fails_where_the_function_is_marked() -> None:
    with pytest.raises(ValueError, match=r"^unknown codec 'xml'; allowed: msgpack, json, raw$"):
        export(codec_in="xml")(print)


@pytest.mark.parametrize(
    ("reference", "is_path"),
    [
        ("molt_exports.json", True), ("package/module", True), ("./x", True), ("package.module", False),
        ("module", False), ("my-exports", True), ("1module", True), ("a..b", True), ("paquet.été", False),
    ],
)  # fmt: skip
def test_a_reference_is_a_path_or_a_module_by_its_looks(reference: str, is_path: bool) -> None:
    assert is_manifest_path(reference) is is_path


@pytest.mark.parametrize(
    ("entry", "codec", "what"),
    [
        ("nothing", Codec.MSGPACK, "unknown entry 'nothing'; the pool offers 'echo'"),
        ("Echo", Codec.MSGPACK, "unknown entry 'Echo'; the pool offers 'echo'"),
        ("echo", Codec.JSON, "entry 'echo' takes msgpack payloads, not json"),
    ],
)
def test_a_request_for_something_else_is_refused_by_name(entry: str, codec: Codec, what: str) -> None:
    table = ExportTable([Export("echo", "a:b")])
    assert table.find(Request(1, "echo")).target == "a:b"
    assert raised(MoltEntryError, table.find, Request(1, entry, codec=codec)).detail == what


def test_what_the_pool_offers_is_told_near_matches_first_and_not_all_of_a_long_list() -> None:
    names = [*(f"report_{number:02}" for number in range(20)), "items", "list_items"]
    table = ExportTable([Export(name, "a:b") for name in names])
    told = raised(MoltEntryError, table.find, Request(1, "list_item")).detail
    reports = ", ".join(repr(name) for name in names[:8])
    assert told == f"unknown entry 'list_item'; the pool offers 'list_items', 'items', {reports} and 12 more"


def test_a_pool_without_exports_of_ones_own_says_how_it_gets_some() -> None:
    told = raised(MoltEntryError, resolve("").find, Request(1, "report")).detail
    assert told == (
        "unknown entry 'report'; the pool offers 'echo', 'health', the packaged ones only; "
        "set MOLT_EXPORTS, or install the app molt_accel.django"
    )


TYPED = """
from __future__ import annotations
import dataclasses
from typing import TYPE_CHECKING, Any
import msgspec
from molt_worker import export
if TYPE_CHECKING:
    from shop import Query

class Own: ...

class Good(msgspec.Struct):
    limit: int = 5

class Unknown(msgspec.Struct):
    query: Query

class Bad(msgspec.Struct):
    own: Own

@dataclasses.dataclass
class Point:
    x: int

"""


@pytest.mark.parametrize(
    ("function", "what"),
    [
        (
            '@export(codec_in="raw")\ndef f(p: Good): ...',
            "codec_in raw has no objects, but the parameter is Good",
        ),
        (
            '@export(codec_out="raw")\ndef f(p) -> Good: ...',
            "codec_out raw has no objects, but the result is Good",
        ),
        (
            "@export\ndef f(p: list[Query]): ...",
            "the parameter's type list[Query] can't be evaluated: NameError: name 'Query' is not defined; "
            "what it names has to be there when the module runs, not only if TYPE_CHECKING",
        ),
        (
            "@export\ndef f(p: Unknown): ...",
            "the parameter Unknown can't be decoded: name 'Query' is not defined",
        ),
        ("@export\ndef f(p: Bad): ...", "the parameter Bad can't be decoded: it contains Own"),
    ],
)
def test_types_that_are_not_there_are_refused(module: Callable[[str], str], function: str, what: str) -> None:
    name = module(TYPED + function)
    assert str(raised(ExportsError, resolve, name)) == f"{name}: {name}:f: {what}"


@pytest.mark.parametrize(
    ("function", "takes", "gives"),
    [
        ("@export\ndef f(p: Good) -> list[Point]: ...", True, True),
        ("@export\ndef f(p: dict[str, Point] | None) -> dict[str, Any]: ...", True, False),
        ('@export(codec_out="json")\ndef f(p: Good) -> Point: ...', True, False),
        ("@export\ndef f(p): ...", False, False),
        ("@export\ndef f(p: dict) -> object: ...", False, False),
        ("@export\ndef f(p: Own) -> Query: ...", False, False),
        ('@export(codec_in="raw", codec_out="raw")\ndef f(p: bytes) -> bytes: ...', False, False),
        ("@export\n@dataclasses.dataclass\nclass f:\n    p: dict\n    q: Good = Good()", False, False),
    ],
)
def test_types_count_where_they_have_fields_and_all_else_is_the_codec_s(
    module: Callable[[str], str], function: str, takes: bool, gives: bool
) -> None:
    (found,) = resolve(module(TYPED + function))
    assert (found.decode is not None, found.encode is not None) == (takes, gives)


def test_tables_of_other_exports_have_other_digests() -> None:
    one = Export("a", "m:a")
    tables = [
        [one],
        [one, Export("b", "m:b")],
        [Export("a", "m:b")],
        [Export("a", "m:a", codec_out=Codec.JSON)],
        [Export("a", "m:a", max_concurrency=2)],
    ]
    digests = [ExportTable(table).digest for table in tables]
    assert len(set(digests)) == len(tables)
    assert ExportTable([Export("b", "m:b"), one]).digest == digests[1]
