"""The import arrows between packages, as ARCHITECTURE.md draws them, and nothing else."""

import ast
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import ROOT

#: What each package or module may import of this project. A name stands for itself and for all that is below it,
#: unless that has a row of its own.
ALLOWED = {
    "molt_accel.version": (),
    "molt_accel.durations": (),
    "molt_accel.errors": (),
    "molt_accel.ipc": ("molt_accel.errors", "molt_accel.durations"),
    "molt_accel.overload": ("molt_accel.errors", "molt_accel.durations"),
    "molt_accel.ipc.shm": ("molt_accel.errors", "molt_accel.version", "molt_accel.ipc"),
    "molt_accel.lenient": (),
    "molt_accel.forms": ("molt_accel.lenient",),
    "molt_accel.codec": (
        *(
            "molt_accel.errors",
            "molt_accel.ipc",
            "molt_accel.ipc.shm",
            "molt_accel.lenient",
            "molt_accel.forms",
        ),
    ),
    "molt_accel.process": (),
    "molt_accel.process.testdb": ("molt_accel.errors",),
    "molt_accel.process.role": ("molt_accel.errors",),
    "molt_accel.process.identity": ("molt_accel.errors", "molt_accel.version", "molt_accel.process.testdb"),
    "molt_accel.config": (
        "molt_accel.durations",
        "molt_accel.errors",
        *(f"molt_accel.process.{each}" for each in ("identity", "role", "testdb")),
        "molt_accel.ipc",
        "molt_accel.overload",
    ),
}
FLOOR = tuple(ALLOWED)
ALLOWED |= {
    "molt_accel.options": FLOOR,
    "molt_accel.hangup": (),
    "molt_accel.cluster": FLOOR,
    "molt_accel.transports": (*FLOOR, "molt_accel.cluster"),
    "molt_accel.transports.shm": (*FLOOR, "molt_accel.transports"),
    # The client library depends on the worker's here only.
    "molt_accel.transports.opening": (
        *(*FLOOR, "molt_accel.transports", "molt_accel.transports.shm", "molt_worker.inline"),
    ),
    "molt_accel.waits": (*FLOOR, "molt_accel.transports"),
    "molt_accel.bulkheads": (*FLOOR, "molt_accel.transports"),
    "molt_accel.call": (
        *(*FLOOR, "molt_accel.options", "molt_accel.hangup", "molt_accel.transports", "molt_accel.waits"),
        "molt_accel.bulkheads",
    ),
    "molt_accel.client": (
        *(*FLOOR, "molt_accel.options", "molt_accel.transports", "molt_accel.transports.opening"),
        *("molt_accel.waits", "molt_accel.bulkheads", "molt_accel.call"),
    ),
    "molt_accel.django": (
        *(*FLOOR, "molt_accel.options", "molt_accel.hangup", "molt_accel.waits", "molt_accel.call"),
        *("molt_accel.client", "molt_accel.django.autoreload", "molt_accel.django.checks"),
    ),
    # What exports and builds are is the worker's to say too.
    "molt_accel.django.checks": (
        *(*FLOOR, "molt_accel.django", "molt_worker.compile", "molt_worker.compile.compiler"),
        *("molt_worker.entrypoints", "molt_worker.runtime"),
    ),
    "molt_accel.django.management": (
        *(*FLOOR, "molt_accel.transports", "molt_worker.cli", "molt_worker.entrypoints"),
    ),
    # What counts as code is the worker's to say; this is for development servers.
    "molt_accel.django.autoreload": (*FLOOR, "molt_accel.client", "molt_worker.processes.sources"),
    # For tests of others: it stands between clients and workers, and runs entrypoints as the inline transport does.
    "molt_accel.testing": (
        *(*FLOOR, "molt_accel.options", "molt_accel.transports", "molt_accel.transports.opening"),
        *("molt_accel.waits", "molt_accel.bulkheads", "molt_accel.call", "molt_accel.client"),
        "molt_worker.entrypoints",
    ),
    "molt_worker.runtime": FLOOR,
    "molt_worker.entrypoints": FLOOR,
    "molt_worker.compile": (*FLOOR, "molt_worker.entrypoints"),
    "molt_worker.compile.verify": (
        *(*FLOOR, "molt_accel.options", "molt_accel.client", "molt_worker.compile"),
    ),
    "molt_worker.compile.compiler": (
        *(*FLOOR, "molt_worker.entrypoints", "molt_worker.compile", "molt_worker.compile.verify"),
    ),
    "molt_worker.inline": (*FLOOR, "molt_accel.transports", "molt_worker.entrypoints"),
    "molt_worker.processes": (
        *FLOOR,
        *(f"molt_worker.{each}" for each in ("runtime", "entrypoints", "compile", "processes.sources")),
    ),
    "molt_worker.processes.sources": ("molt_worker.entrypoints", "molt_worker.processes"),
}
_WORKER = tuple(f"molt_worker.{each}" for each in ("runtime", "entrypoints", "compile", "processes"))
ALLOWED |= {
    "molt_worker.supervisor": (*FLOOR, *_WORKER),
    "molt_worker.supervisor.stdio": (*FLOOR, *_WORKER, "molt_worker.supervisor"),
    "molt_worker.supervisor.shm": (*FLOOR, *_WORKER, "molt_worker.supervisor"),
    "molt_worker.bridge": (
        *(*FLOOR, "molt_accel.cluster", "molt_accel.transports", "molt_accel.transports.opening"),
        *("molt_accel.waits", "molt_accel.call", "molt_worker.entrypoints"),
    ),
    "molt_worker.cli": (
        *FLOOR,
        *_WORKER,
        "molt_worker.bridge",
        "molt_worker.compile.compiler",
        *(f"molt_worker.supervisor{each}" for each in ("", ".stdio", ".shm")),
    ),
}
# The faces: they import from inside, and the inside never imports them.
ALLOWED["molt_accel"] = ALLOWED["molt_worker"] = tuple(ALLOWED)
#: Packages of others that only these may import.
KNOWN_TO = {
    "django": ("molt_accel.django", "molt_accel.process.testdb", "molt_worker.entrypoints.project"),
    "asgiref": ("molt_accel.django",),
    "uvloop": ("molt_accel.cluster.loop",),
    "nats": ("molt_accel.cluster.nats", "molt_accel.cluster.nats_client", "molt_worker.bridge.service"),
}


def _name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {
    _name(path): ast.parse(path.read_text(encoding="utf-8"))
    for package in ("molt_accel", "molt_worker", "demo")
    for path in sorted((ROOT / package).rglob("*.py"))
}


def _imports(node: ast.AST, module: str) -> Iterator[str]:
    """The modules that are imported in this module's tree, but for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            above = module.split(".")[: -child.level] if child.level else []
            base = ".".join([*above, *([child.module] if child.module else [])])
            whole = [f"{base}.{alias.name}" for alias in child.names]
            yield from (each if each in MODULES else base for each in whole)
        else:
            if isinstance(child, ast.Call) and ast.unparse(child.func).endswith("import_module"):
                yield from (str(arg.value) for arg in child.args[:1] if isinstance(arg, ast.Constant))
            yield from _imports(child, module)


def _package(module: str, packages: dict[str, tuple[str, ...]] = ALLOWED) -> str:
    """The row of `ALLOWED` that a module belongs to."""
    while module and module not in packages:
        module = module.rpartition(".")[0]
    return module


ARROWS = sorted(
    {(module, imported) for module, tree in MODULES.items() for imported in _imports(tree, module)}
)


def test_the_imports_were_found() -> None:
    """The checks below would pass on nothing."""
    assert {
        ("molt_accel.client", "molt_accel.call"),
        ("molt_accel.django.decorator", "django.http"),
        ("molt_worker.inline", "molt_accel.transports.base"),
        ("molt_worker.processes.executor", "molt_worker.entrypoints.runner"),
    } <= set(ARROWS)


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_imports_only_what_is_below_it(package: str) -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in ARROWS
        if _package(importer) == package
        and imported.startswith(("molt_accel", "molt_worker"))
        and _package(imported) not in (package, *ALLOWED[package])
    ]
    assert wrong == []


def test_every_module_has_a_row() -> None:
    """A row of a face, which may import everything, is that module's alone."""
    faces = ("molt_accel", "molt_worker")
    packages = {module for module in MODULES if module.startswith(faces)}
    assert {module for module in packages if _package(module) in faces} == {*faces, "molt_worker.__main__"}


def test_only_the_django_package_knows_django() -> None:
    wrong = [
        f"{importer} imports {imported}"
        for importer, imported in ARROWS
        if (allowed := KNOWN_TO.get(imported.partition(".")[0])) is not None
        and not importer.startswith((*allowed, "demo.django_app"))
    ]
    assert wrong == []


def test_the_demo_s_worker_side_knows_nothing_of_its_django_side() -> None:
    assert [
        arrow
        for arrow in ARROWS
        if arrow[0].startswith("demo.molt_worker_app") and arrow[1].startswith(("django", "demo.django_app"))
    ] == []


def test_there_is_no_circle() -> None:
    graph: dict[str, set[str]] = {}
    for importer, imported in ARROWS:
        if imported in MODULES and imported != importer and imported not in ("molt_accel", "molt_worker"):
            graph.setdefault(importer, set()).add(imported)
    graphlib.TopologicalSorter(graph).prepare()
