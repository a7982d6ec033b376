"""Which modules to compile for exports, and what speaks against one. Reads the sources and runs nothing."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from molt_worker.compile import refusals
from molt_worker.compile.record import CompiledError, Module, source_of
from molt_worker.entrypoints.importer import find_source


@dataclass
class Source:
    """A module of the project that the exports need."""

    name: str
    path: Path
    data: bytes
    tree: ast.Module
    imports: list[str] = field(default_factory=list)  #: names that it may import as modules


def _is_installed(path: Path) -> bool:
    """Whether a file belongs to Python or to an installed package, and not to the project."""
    folders = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    return any(path.is_relative_to(place) for place in folders)


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in ("molt_accel", "molt_worker")


def _imported(tree: ast.Module, name: str, *, is_package: bool) -> list[str]:
    """Return what a module may import. `from a import b` gives a and a.b, since b may be a module or a name."""
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, name, is_package=is_package)
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


def _base(node: ast.ImportFrom, name: str, *, is_package: bool) -> str:
    """Return the absolute name of what a module imports from."""
    base = node.module or ""
    if not node.level:
        return base
    parts = name.split(".") if is_package else name.split(".")[:-1]
    parts = parts[: len(parts) - node.level + 1]
    return ".".join([*parts, *([base] if base else [])])


def closure(entries: Sequence[str]) -> dict[str, Source]:
    """Return the modules of the project that the entry modules import, directly or not, and their packages.

    Raises CompiledError: an entry module isn't found, or a source isn't valid Python.
    """
    found: dict[str, Source] = {}
    waiting = list(entries)
    seen = set(waiting)
    while waiting:
        name = waiting.pop(0)
        path = source_of(name) if name in entries else find_source(name)
        if path is None or (name not in entries and (_is_own(name) or _is_installed(path))):
            continue
        data = path.read_bytes()
        try:
            tree = ast.parse(data, str(path))
        except (SyntaxError, ValueError) as exc:
            raise CompiledError(f"{path}: {exc}") from exc
        is_package = path.name == "__init__.py"
        found[name] = Source(name, path, data, tree, _imported(tree, name, is_package=is_package))
        for each in (name.rpartition(".")[0], *found[name].imports):
            if each and each not in seen:
                seen.add(each)
                waiting.append(each)
    return found


def belonging(
    sources: dict[str, Source], entries: Sequence[str], include: Sequence[str] = ()
) -> list[Source]:
    """Return the sources to compile: entry modules, modules beside and below them, and what `include` names.

    Other imported modules stay in Python. A project's models and settings are no part of the computation, and may
    rely on what compiled code doesn't have.

    Raises CompiledError: an included name is of none of the sources.
    """
    for each in include:
        if not any(name == each or name.startswith(f"{each}.") for name in sources):
            there = ", ".join(sorted(name for name in sources if name not in entries)) or "none"
            raise CompiledError(f"--include {each}: the exports import no such module; they import: {there}")
    entries = [entry for entry in entries if not _is_own(entry)]
    packages = {entry.rpartition(".")[0] for entry in entries}
    chosen = []
    for name, source in sources.items():
        package = name.rpartition(".")[0]
        beside = any(package == each or (each and name.startswith(f"{each}.")) for each in packages)
        wanted = any(name == each or name.startswith(f"{each}.") for each in include)
        if name in entries or ((beside or wanted) and source.path.name != "__init__.py"):
            chosen.append(source)
    return sorted(chosen, key=lambda source: source.name)


def refused(sources: dict[str, Source], modules: Sequence[Source]) -> dict[str, Module]:
    """Return the modules that stay in Python since compiled code could answer otherwise, each with its first reason."""
    shadowed = _shadowed(sources)
    left = {}
    for source in modules:
        found = sorted([*refusals.found(source.tree), *_imports_shadowed(source, shadowed)])
        if found:
            line, reason = found[0]
            left[source.name] = Module(source.name, False, reason, line)
    return left


def extended(sources: dict[str, Source], able: Sequence[Source]) -> dict[str, Module]:
    """Return the modules among `able` with a class that one in Python derives from: it can't from a compiled class."""
    names = {source.name for source in able}
    left = {}
    for source in sources.values():
        if source.name not in names:
            for base in _bases(source):
                module, _, name = base.rpartition(".")
                if module in names:
                    why = f"{source.name}, which is in Python, derives a class from its {name}"
                    left[module] = Module(module, False, why)
    return left


def _bases(source: Source) -> Iterator[str]:
    """Yield the absolute names of the classes that a module derives from, as far as its imports tell."""
    aliases: dict[str, str] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            aliases |= {alias.asname: alias.name for alias in node.names if alias.asname}
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, source.name, is_package=source.path.name == "__init__.py")
            aliases |= {alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.ClassDef):
            for each in node.bases:
                first, dot, rest = ast.unparse(
                    each.value if isinstance(each, ast.Subscript) else each
                ).partition(".")
                yield aliases.get(first, first) + dot + rest


def _shadowed(sources: dict[str, Source]) -> set[str]:
    """Return the modules whose names their packages have given to something else, such as a function of theirs.

    Python imports that other thing by `from package import name`, and compiled code the module.
    """
    found = set()
    for package in sources.values():
        if package.path.name == "__init__.py":
            for name, origin in _bound(package, sources):
                whole = f"{package.name}.{name}"
                if whole in sources and origin != whole:
                    found.add(whole)
    return found


def _bound(source: Source, sources: dict[str, Source]) -> Iterator[tuple[str, str]]:
    """Yield the names that a package binds at its top, and where each comes from; empty: from the package itself."""
    for node in source.tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name, ""
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, "") for target in targets if isinstance(target, ast.Name))
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, source.name, is_package=True)
            for alias in node.names:
                if alias.name != "*":
                    yield alias.asname or alias.name, f"{base}.{alias.name}"
                elif base in sources and base != source.name:
                    yield from ((name, f"{base}.{name}") for name, _ in _bound(sources[base], sources))


def _imports_shadowed(source: Source, shadowed: set[str]) -> Iterator[tuple[int, str]]:
    for node in ast.walk(source.tree):
        if not isinstance(node, (ast.Import, ast.ImportFrom)):
            continue
        base = ""
        if isinstance(node, ast.ImportFrom):
            base = _base(node, source.name, is_package=source.path.name == "__init__.py") + "."
        names = [base + alias.name for alias in node.names]
        for name in shadowed.intersection(names):
            package, _, own = name.rpartition(".")
            yield (
                node.lineno,
                f"imports {name}, which is a module and, in {package}, also another thing named {own}",
            )


def notes(tree: ast.Module) -> list[str]:
    """Return a note, with its line, for each function without types: compiled, it is hardly faster."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            own = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            missing = [each.arg for each in own if not each.annotation and each.arg not in ("self", "cls")]
            if missing or node.returns is None:
                what = f"arguments {', '.join(missing)}" if missing else "return value"
                found.append(f"line {node.lineno}: {node.name} has no type for its {what}")
    return found
