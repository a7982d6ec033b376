"""Which modules to compile for exports, and what speaks against one. Reads the sources and runs nothing."""

from __future__ import annotations

import ast
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from molt_worker.compile.record import CompiledError, source_of
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
            base = node.module or ""
            if node.level:
                parts = name.split(".") if is_package else name.split(".")[:-1]
                parts = parts[: len(parts) - node.level + 1]
                base = ".".join([*parts, *([base] if base else [])])
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return found


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
    """
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


def blockers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the reason where compiled code would silently differ from Python."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Name) and node.id == "__file__":
            yield node.lineno, "uses __file__, which is the library's when compiled"
        if isinstance(node, ast.ClassDef):
            lost = [keyword.arg for keyword in node.keywords if keyword.arg not in (None, "metaclass")]
            if lost:
                options = ", ".join(map(str, lost))
                yield node.lineno, f"class {node.name} has options ({options}), which mypyc ignores"
            elif any(ast.unparse(base) in ("Struct", "msgspec.Struct") for base in node.bases):
                why = "is a Struct, which validates by its fields' types; mypyc keeps them in part"
                yield node.lineno, f"class {node.name} {why}"


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
