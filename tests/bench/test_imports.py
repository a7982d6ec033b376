"""The import arrows inside bench: no circle between modules, and none from a lower package to a higher one."""

from __future__ import annotations

import ast
import graphlib

import pytest

from tests.conftest import ROOT

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "bench").rglob("*.py"))
}
#: Each package with those of bench that it may import besides itself.
ALLOWED = {
    "core": set(),
    "demo": {"core"},
    "demo.load": {"core"},
    "demo.studies": {"core", "demo", "demo.load"},
    "demo.report": {"core", "demo", "demo.load", "demo.studies"},
    "micro": {"core"},
    "micro.peers": {"core", "micro"},
    "micro.report": {"core", "micro", "micro.peers"},
    "programs": set(),
    "scripts": {
        "core",
        "demo",
        "demo.report",
        "demo.studies",
        "micro",
        "micro.peers",
        "micro.report",
        "programs",
    },
}
#: Modules above the packages of their own benchmark: they run it or plan it, or host its peers.
ABOVE = {"bench.demo.session", "bench.demo.plan"} | {
    f"bench.micro.{name}" for name in ("session", "options", "caller", "client_process")
}


def imports(module: str) -> set[str]:
    """The modules of bench that a module imports anywhere: at the start, in a function, or for its types only."""
    found = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {
                full if (full := f"{node.module}.{each.name}") in SOURCES else node.module
                for each in node.names
            }
    return found & SOURCES.keys()


def package(module: str) -> str:
    """The package in the table that a module belongs to."""
    inside = module.removeprefix("bench.")
    return max((name for name in ALLOWED if f"{inside}.".startswith(f"{name}.")), key=len, default="")


def test_there_is_no_circle() -> None:
    list(graphlib.TopologicalSorter({module: imports(module) for module in SOURCES}).static_order())


@pytest.mark.parametrize("name", ALLOWED)
def test_a_package_imports_only_what_is_below_it(name: str) -> None:
    members = [module for module in SOURCES if package(module) == name and module not in ABOVE]
    assert members
    used = {package(target) for module in members for target in imports(module)}
    assert used <= ALLOWED[name] | {name}


def test_the_benchmarks_do_not_know_each_other() -> None:
    for one, other in (("bench.demo", "bench.micro"), ("bench.micro", "bench.demo")):
        known = {target for module in SOURCES if module.startswith(one) for target in imports(module)}
        assert not [target for target in known if target.startswith(other)]
