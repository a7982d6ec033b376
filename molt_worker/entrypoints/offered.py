"""What exports offer, as far as that can be told without an import: modules are read, and their code doesn't run.

The modules of entrypoints may be large, and a server or a command of a project has no other use for them. What this
process has imported anyway is not read but looked at.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from molt_worker.entrypoints.exports import ExportsError, manifest_of, mark_of, read_manifest
from molt_worker.entrypoints.importer import find_source, is_there

_LIBRARIES: Final = {"site-packages", "dist-packages"}
_OWN: Final = "molt_worker"
#: Of a name in a module that is an entrypoint: what it is a name for, and the public name.
_Marks = dict[str, tuple[object, str]]


def offered(reference: str) -> set[str] | None:
    """Return the names of all entrypoints of a reference; None: there may be others than can be seen.

    Raises ExportsError: the reference can't be served, as far as that can be told.
    """
    if path := manifest_of(reference):
        items = read_manifest(path)
        for index, item in enumerate(items):
            _check_target(item.target, f"{path}: exports[{index}] ({item.name})")
        return {item.name for item in items}
    sources = _Sources()
    names: set[str] = set()
    for module in reference.split(","):
        if not is_there(module):
            raise ExportsError(f"{module}: there is no module of this name")
        # As in an import: a function that has two names in a module is exported once.
        for name in dict(sources.marks(module).values()).values():
            if name in names:
                raise ExportsError(f"{reference}: the name {name!r} is exported twice")
            names.add(name)
    return names if sources.are_clear else None


def _check_target(target: str, where: str) -> None:
    module, _, attribute = target.partition(":")
    if not is_there(module):
        raise ExportsError(f"{where}: there is no module {module}")
    source = find_source(module)
    if source is None:
        return
    names = _names(_parsed(source, where))
    if names.isdisjoint((attribute.partition(".")[0], "*", "__getattr__")):
        raise ExportsError(f"{where}: {module} has no {attribute}")


def _parsed(source: Path, where: str) -> ast.Module:
    try:
        return ast.parse(source.read_bytes(), str(source))
    except (OSError, SyntaxError, ValueError) as exc:
        raise ExportsError(f"{where}: can't be read: {type(exc).__name__}: {exc}") from exc


def _names(tree: ast.Module) -> set[str]:
    """All names that a module may have, and some that only functions in it have."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.alias):
            names.add(node.asname or node.name.partition(".")[0])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


class _Sources:
    """Reads modules, each once. `are_clear` becomes false where one may have marked functions that aren't seen."""

    def __init__(self) -> None:
        self.are_clear = True
        self._known: dict[str, _Marks] = {}

    def marks(self, module: str) -> _Marks:
        """The marked functions of a module, by the names that they have in it. Raises ExportsError: it is no Python."""
        if module not in self._known:
            self._known[module] = {}  # while it is read: modules may import each other
            self._known[module] = self._found(module)
        return self._known[module]

    def _found(self, module: str) -> _Marks:
        if module in sys.modules:
            values = list(getattr(sys.modules[module], "__dict__", {}).items())
            marked = ((name, value, mark_of(value)) for name, value in values)
            return {name: (id(value), mark.name) for name, value, mark in marked if mark is not None}
        if module.partition(".")[0] in (*sys.stdlib_module_names, _OWN):
            return {}
        source = find_source(module)
        if source is None:  # in an archive, or no Python
            self.are_clear = self.are_clear and not is_there(module)
            return {}
        if not _LIBRARIES.isdisjoint(source.parts) and _OWN.encode() not in source.read_bytes():
            return {}
        return self._read(module, _parsed(source, module), is_package=source.name == "__init__.py")

    def _read(self, module: str, tree: ast.Module, *, is_package: bool) -> _Marks:
        package = module if is_package else module.rpartition(".")[0]
        marking = _Marking(tree)
        marks: _Marks = {}
        for node in _statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                marks |= self._imported(node, package)
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                name, is_clear = marking.name_of(node)
                self.are_clear &= is_clear
                if name is not None:
                    marks[node.name] = (module, node.name), name
            elif isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute):
                # `f = module.f`; names of constants are no functions'.
                self.are_clear &= all(
                    isinstance(each, ast.Name) and each.id.isupper() for each in node.targets
                )
        self.are_clear &= marking.is_used_up()
        return marks

    def _imported(self, node: ast.ImportFrom, package: str) -> _Marks:
        base = "." * node.level + (node.module or "")
        try:
            base = importlib.util.resolve_name(base, package)
            if base.partition(".")[0] == _OWN:
                return {}
            there = self.marks(base)
        except (ImportError, ExportsError):  # the import itself will say so
            self.are_clear = False
            return {}
        if any(each.name == "*" for each in node.names):
            self.are_clear = False
            return there
        return {each.asname or each.name: there[each.name] for each in node.names if each.name in there}


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run when a module is imported, in branches of it too."""
    for node in body:
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(node, field, []))
            for handler in getattr(node, "handlers", []):
                yield from _statements(handler.body)


class _Marking:
    """What a module calls `molt_worker.export`, and where it uses that."""

    def __init__(self, tree: ast.Module) -> None:
        names, modules = set(), set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == _OWN:
                names |= {each.asname or each.name for each in node.names if each.name == "export"}
            elif isinstance(node, ast.Import):
                modules |= {each.asname or _OWN for each in node.names if each.name == _OWN}
        self._names, self._modules = names, modules
        self._left = {id(node) for node in ast.walk(tree) if self._is_export(node)}

    def name_of(self, function: ast.FunctionDef | ast.AsyncFunctionDef) -> tuple[str | None, bool]:
        """The public name that a function has been given, if any; and whether there can be no other."""
        name: object = None
        is_clear = True
        for mark in function.decorator_list:
            called = mark.func if isinstance(mark, ast.Call) else mark
            if not self._is_export(called):
                is_clear = False  # it may do anything, unless the function is marked anyway
                continue
            self._left.discard(id(called))
            for word in mark.keywords if isinstance(mark, ast.Call) else ():
                if word.arg in ("name", None):
                    if not isinstance(word.value, ast.Constant):
                        return None, False
                    name = word.value.value
            return str(name or function.name), True
        return None, is_clear

    def is_used_up(self) -> bool:
        """Whether each use was a mark of a function, of those asked for."""
        return not self._left

    def _is_export(self, node: ast.AST) -> bool:
        if isinstance(node, ast.Name):
            return node.id in self._names and isinstance(node.ctx, ast.Load)
        return (
            isinstance(node, ast.Attribute)
            and node.attr == "export"
            and isinstance(node.value, ast.Name)
            and node.value.id in self._modules
        )
