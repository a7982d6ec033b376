"""The import arrows inside bench: no circle between modules, and none from a lower package to a higher one."""

import ast
import graphlib

import pytest

from tests.support import ROOT

SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "bench").rglob("*.py"))
}
#: Each package, or module that stands above its package, with what of bench it may import besides itself.
ALLOWED = {
    "attribution": "core",
    "core": "",
    "demo": "core",
    "demo.load": "core",
    "demo.studies": "core demo demo.load",
    "demo.report": "core demo demo.load demo.studies",
    "demo.plan": "core demo demo.studies",
    "demo.session": "core demo demo.load demo.plan demo.report demo.studies",
    "micro": "core",
    "micro.peers": "core micro",
    "micro.options": "core micro micro.peers",
    "micro.client_process": "core micro.peers",
    "micro.caller": "micro micro.peers",
    "micro.report": "core micro micro.options micro.peers",
    "micro.session": "core micro micro.client_process micro.options micro.peers micro.report",
    "cluster": "core micro micro.options micro.peers micro.report",
    "cluster.peers": "cluster core micro micro.peers",
    "cluster.report": "cluster core micro micro.options micro.report",
    "cluster.caller": "cluster micro micro.caller",
    "cluster.load": "cluster micro micro.caller",
    "cluster.sites": "cluster core micro.client_process micro.peers",
    "cluster.goodput": "cluster cluster.sites core micro.client_process",
    "cluster.session": "cluster cluster.goodput cluster.report cluster.sites core micro.client_process micro.options "
    "micro.peers micro.report",
    "growth": "core micro.client_process",
    "growth.report": "core growth",
    "growth.session": "core growth growth.report micro.client_process micro.peers",
    "instructions": "",
    "overload": "core",
    "programs": "",
    "scripts": "attribution cluster cluster.report cluster.session core growth growth.report growth.session "
    "instructions overload programs demo demo.report demo.session demo.studies micro micro.options micro.peers "
    "micro.client_process micro.report micro.session",
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
    """The entry of the table that a module belongs to."""
    inside = module.removeprefix("bench.") + "."
    return max((name for name in ALLOWED if inside.startswith(f"{name}.")), key=len, default="")


def test_there_is_no_circle() -> None:
    list(graphlib.TopologicalSorter({module: imports(module) for module in SOURCES}).static_order())


@pytest.mark.parametrize("name", ALLOWED)
def test_a_package_imports_only_what_is_below_it(name: str) -> None:
    members = [module for module in SOURCES if package(module) == name]
    assert members
    assert {package(target) for module in members for target in imports(module)} <= {
        name,
        *ALLOWED[name].split(),
    }
