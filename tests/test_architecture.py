"""The import arrows and the rules of ARCHITECTURE.md that can be read off the source."""

from __future__ import annotations

import ast
import graphlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from molt_accel.ipc.shm.layout import CHANNEL_TRANSITIONS, ChannelState
from tests.conftest import ROOT

PACKAGES = ("molt_accel", "molt_worker")
IPC = ROOT / "molt_accel" / "ipc" / "shm"
CORE = (IPC / "core" / "molt_core.h").read_text()


@dataclass(frozen=True)
class Import:
    """One import: who imports what, and whether that happens when the importer is imported."""

    importer: str
    imported: str
    line: int
    at_import: bool

    def is_of(self, *packages: str) -> bool:
        """Whether what is imported is one of these packages, or in one."""
        return any(self.imported == each or self.imported.startswith(each + ".") for each in packages)

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {
    _module_name(path): path
    for package in (*PACKAGES, "demo")
    for path in sorted((ROOT / package).rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def _targets(importer: str, node: ast.AST) -> list[str]:
    """The modules that an import statement names, submodules taken from their package included."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    base = node.module or ""
    if node.level:
        package = importer.split(".") if SOURCES[importer].name == "__init__.py" else importer.split(".")[:-1]
        base = ".".join([*package[: len(package) - node.level + 1], *([base] if base else [])])
    return [
        full if (full := f"{base}.{alias.name}") in SOURCES else f"{base}:{alias.name}"
        for alias in node.names
    ]


def _imports(importer: str, node: ast.AST, at_import: bool = True) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if _is_type_checking(child):
            continue
        for target in _targets(importer, child):
            yield Import(importer, target.partition(":")[0], child.lineno, at_import)  # type: ignore[attr-defined]
        inside = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        yield from _imports(importer, child, at_import and not inside)


IMPORTS = [each for name, tree in TREES.items() for each in _imports(name, tree)]


def of_package(package: str) -> list[Import]:
    """The imports made by a package's modules."""
    return [each for each in IMPORTS if each.importer == package or each.importer.startswith(package + ".")]


def test_the_imports_were_found() -> None:
    """The checks below would pass on nothing."""
    found = {(each.importer, each.imported) for each in IMPORTS}
    assert {
        ("molt_accel.client", "molt_accel.config"),
        ("molt_accel.call", "molt_accel.codec"),
        ("molt_accel.transports.base", "molt_accel.transports.stdio"),
        ("molt_accel.django.decorator", "django.http"),
        ("molt_worker.cli.serve", "molt_worker.supervisor.stdio.supervisor"),
        ("molt_worker.inline", "molt_accel"),
    } <= found
    assert (
        "molt_worker.supervisor.stdio.lifecycle",
        "molt_worker.processes.handles",
    ) not in found  # for type checkers only


def test_the_client_library_never_imports_the_worker() -> None:
    assert [str(each) for each in of_package("molt_accel") if each.is_of("molt_worker")] == []


def test_the_one_place_that_loads_a_worker_module_by_name_is_the_seam_s_inline_transport() -> None:
    found = [
        (name, ast.unparse(node))
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if name.startswith("molt_accel.")  # the package itself loads its own modules only, relatively
        and isinstance(node, ast.Call)
        and ast.unparse(node.func) in ("importlib.import_module", "import_module", "__import__")
    ]
    assert found == [("molt_accel.transports.base", "importlib.import_module('molt_worker.inline')")]


def test_the_package_itself_loads_only_its_own_modules() -> None:
    loads = [
        [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(TREES["molt_accel"])
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "importlib.import_module"
    ]
    assert loads == [["'.' + _MODULE_OF.get(name, 'errors')", "'molt_accel'"]]


#: What the worker may use of the client library; of these, `status` alone attaches to a pool.
FLOOR = (
    "molt_accel.ipc",
    "molt_accel.errors",
    "molt_accel.codec",
    "molt_accel.config",
    "molt_accel.ipc.shm.attach",
)


def test_the_worker_stands_on_the_floor_of_the_client_library_only() -> None:
    others = [
        each for each in of_package("molt_worker") if each.is_of("molt_accel") and not each.is_of(*FLOOR)
    ]
    for each in others:
        if each.imported == "molt_accel.transports.base":
            assert each.importer == "molt_worker.inline", each
        else:
            assert each.imported == "molt_accel", each
    names = {
        alias.name
        for name, tree in TREES.items()
        if name.startswith("molt_worker")
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == "molt_accel"
        for alias in node.names
    }
    assert names <= {"__version__", "codec", "config", "errors"}


def test_only_the_decorator_and_its_django_package_import_django() -> None:
    importers = {
        each.importer
        for each in IMPORTS
        if each.is_of("django", "asgiref") and not each.importer.startswith("demo")
    }
    allowed = {
        name
        for name in SOURCES
        if name == "molt_accel.django.decorator" or name.startswith("molt_accel.django")
    }
    assert importers <= allowed
    assert "molt_accel.django.decorator" in importers


def test_nothing_but_the_decorator_imports_what_knows_django() -> None:
    knowing = ("molt_accel.django.decorator", "molt_accel.django")
    at_import = [each for each in IMPORTS if each.is_of(*knowing) and each.at_import]
    assert {each.importer for each in at_import if not each.importer.startswith(knowing)} <= {
        name for name in SOURCES if name.startswith("demo.django_app")
    }


def test_the_floor_knows_nothing_but_errors() -> None:
    above = [each for each in of_package("molt_accel.ipc") if each.is_of(*PACKAGES)]
    assert {each.imported for each in above if not each.is_of("molt_accel.ipc")} == {"molt_accel.errors"}


def test_the_demo_s_worker_side_never_imports_django_or_its_django_side() -> None:
    forbidden = ("django", "demo.django_app")
    assert [str(each) for each in of_package("demo.molt_worker_app") if each.is_of(*forbidden)] == []


def test_one_module_of_the_floor_has_nothing_but_the_core_below_it() -> None:
    """What each module of ipc needs of the others; the core itself knows none of them."""
    needs: dict[str, set[str]] = {}
    for each in of_package("molt_accel.ipc"):
        if each.is_of("molt_accel.ipc") and each.imported != each.importer:
            needs.setdefault(each.importer.rpartition(".")[2], set()).add(each.imported.rpartition(".")[2])
    assert needs == {
        "arena": {"frame", "ipc"},  # and the core, of the package
        "control": {"frame"},
        "stream": {"frame"},
    }
    binding = (IPC / "_native.pyx").read_text()
    assert set(re.findall(r"^(?:from|import|cimport) (\S+)", binding, re.MULTILINE)) <= {
        *("cpython.buffer", "cpython.bytes", "cpython.exc", "cpython.unicode"),
        *("libc.errno", "libc.stdint", "libc.string", "posix.mman"),
    }


def test_the_core_is_c_alone() -> None:
    """So that it can be tried by itself, under sanitizers."""
    included = re.findall(r"^#include (.+)$", CORE, re.MULTILINE)
    assert "<stdatomic.h>" in included
    assert [each for each in included if not each.startswith("<") or "Python" in each] == []
    assert re.findall(r"\b(?:malloc|calloc|realloc|free)\(", CORE) == []


def test_the_native_core_is_loaded_in_one_place_which_says_why_where_there_is_none() -> None:
    loaders = {
        each.importer
        for each in IMPORTS
        if each.imported == "molt_accel.ipc.shm._native"
        or each.imported.startswith("molt_accel.ipc.shm._native")
    }
    assert loaders <= {"molt_accel.transports.shm.channels"}  # which has an arena already
    asked = {
        name
        for name, tree in TREES.items()
        if name.split(".")[0] in PACKAGES
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and "_native" in {alias.name for alias in node.names}
    }
    assert asked == {"molt_accel.ipc.shm.arena"}


def test_without_the_native_core_everything_but_its_transport_can_be_imported() -> None:
    modules = sorted(
        name
        for name in SOURCES
        if name.split(".")[0] in PACKAGES
        and name not in ("molt_accel.transports.shm.transport", "molt_worker.__main__")
        and not name.startswith(("molt_accel.django.decorator", "molt_accel.django"))
    )
    script = f"""
import importlib, sys
sys.modules["molt_accel.ipc.shm._native"] = None
for name in {modules}:
    importlib.import_module(name)
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)


# -- the hand-over ----------------------------------------------------------------------------------------


def test_the_states_of_the_core_are_those_of_the_table() -> None:
    (body,) = re.findall(r"enum molt_state \{(.*?)\};", CORE, re.DOTALL)
    assert re.findall(r"MOLT_(\w+) = (\d+)", body) == [
        (state.name, str(int(state))) for state in ChannelState
    ]
    assert {state for step in CHANNEL_TRANSITIONS for state in step} == set(ChannelState)


def test_state_words_are_changed_where_the_table_s_steps_are_tested_and_nowhere_else() -> None:
    """`tests/unit/molt_worker/supervisor/shm/test_handover_steps.py` has every function that is named here do all it can."""
    in_core = {_function_at(CORE, match.start()) for match in re.finditer(r"(?<!int )molt_step\(", CORE)}
    assert in_core == {"molt_publish", "molt_give_up", "molt_claim", "molt_finish"}
    assert re.findall(r"atomic_(\w+)\(&a->words\[", CORE) == ["load", "compare_exchange_strong"]

    binding = (IPC / "_native.pyx").read_text()
    methods = {_method_at(binding, match.start()) for match in re.finditer(r"\bmolt_step\(&?[sa]", binding)}
    assert methods == {"step", "take", "clear"}

    steppers = {
        name
        for name, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "step"
    }
    assert steppers == {"molt_worker.supervisor.shm.supervisor"}


def _function_at(source: str, position: int) -> str:
    """The C function that a position is in."""
    return re.findall(r"^static inline [\w ]+?\*?(\w+)\(", source[:position], re.MULTILINE)[-1]


def _method_at(source: str, position: int) -> str:
    """The method of the binding that a position is in."""
    return str(re.findall(r"^    (?:def|cdef [\w ]+) (\w+)\(", source[:position], re.MULTILINE)[-1])


@pytest.mark.parametrize("package", [*PACKAGES, "demo"])
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    graph = {name: set[str]() for name in SOURCES if name.split(".")[0] == package}
    for each in of_package(package):
        # A package's own __init__ runs before its modules anyway; what counts is what it needs of them.
        if each.at_import and each.imported in graph and each.imported != package:
            graph[each.importer].add(each.imported)
    assert len(list(graphlib.TopologicalSorter(graph).static_order())) == len(graph)


def test_the_environment_is_read_in_one_place_and_passed_on_in_one() -> None:
    users = {
        name
        for name, tree in TREES.items()
        if name.split(".")[0] in PACKAGES
        for node in ast.walk(tree)
        if (
            isinstance(node, ast.Attribute)
            and ast.unparse(node) in ("os.environ", "os.environb", "os.getenv")
        )
        or (
            isinstance(node, ast.ImportFrom)
            and node.module == "os"
            and {"environ", "getenv"} & {a.name for a in node.names}
        )
    }
    # The compiler's own variables (CC, CFLAGS) are the compiler's business, and it gets the environment as it is.
    assert users == {"molt_accel.config", "molt_accel.transports.launcher", "molt_worker.compile.compiler"}


def test_every_module_opens_by_stating_its_job() -> None:
    assert [name for name, tree in TREES.items() if not ast.get_docstring(tree)] == []


_LOADED = "import sys, {}; print(*sorted(set(m.split('.')[0] for m in sys.modules)))"


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        ("molt_accel", {"django", "molt_worker"}),
        ("molt_accel.transports.stdio", {"django", "molt_worker"}),
        ("molt_accel.django.decorator", {"molt_worker"}),
        ("molt_worker.cli.serve", {"django"}),
        ("demo.molt_worker_app.core", {"django"}),
    ],
)
def test_importing_a_module_loads_nothing_it_has_no_business_with(module: str, absent: set[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(module)], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = set(done.stdout.split())
    assert module.split(".")[0] in loaded
    assert loaded & absent == set()


def test_the_public_names_are_there_and_django_is_loaded_only_for_the_decorator() -> None:
    script = """
import sys, molt_accel
for name in molt_accel.__all__:
    if name != "molt_offload":
        getattr(molt_accel, name)
assert "django" not in sys.modules
assert callable(molt_accel.molt_offload)
assert "django" in sys.modules
try:
    molt_accel.no_such_name
except AttributeError as exc:
    assert str(exc) == "module 'molt_accel' has no attribute 'no_such_name'", exc
else:
    raise AssertionError
"""
    subprocess.run([sys.executable, "-c", script], timeout=60, check=True)
