"""What compiled code does otherwise than Python without a word: modules that use it stay in Python.

This is the one table of it. What mypyc itself refuses with an error isn't here, nor what depends on the values of a
call, which no source shows. docs/reference/compiled-code.md has all three.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import Final

_NO_DICT: Final = "an instance of a compiled class has no __dict__, or one without its attributes"
_BINDS_EARLY: Final = "compiled code goes on with the functions and constants that it was compiled with"
_NO_FRAMES: Final = "a compiled function has no frame and no code object"

#: Names and attributes, however they are used.
NAMES: Final = {
    "__file__": "it is the library's when compiled",
    "__dict__": _NO_DICT,
    "vars": _NO_DICT,
    "setattr": f"{_NO_DICT}; and {_BINDS_EARLY}",
    "delattr": "attributes of compiled classes can't be deleted",
    "globals": _BINDS_EARLY,
    "locals": _NO_FRAMES,
    "eval": _NO_FRAMES,
    "exec": _NO_FRAMES,
    "_getframe": _NO_FRAMES,
    "__code__": _NO_FRAMES,
    "__closure__": _NO_FRAMES,
    "__defaults__": _NO_FRAMES,
    "cached_property": "mypyc computes it at each use",
}
#: Modules, whoever imports them.
IMPORTS: Final = {
    "inspect": _NO_FRAMES,
    "traceback": _NO_FRAMES,
    "doctest": "it finds no examples in compiled code",
    "unittest.mock": _BINDS_EARLY,
}
#: Methods of classes.
METHODS: Final = {
    "__del__": "mypyc calls it at another time",
    "__index__": "mypyc doesn't call it",
    "__getattribute__": "mypyc doesn't call it",
    "__get__": "a compiled class can't have descriptors",
}
#: Classes, as bases of others.
BASES: Final = {
    "Struct": "it validates by its fields' types, which mypyc keeps in part",
    **dict.fromkeys(
        ("dict", "list", "set", "int", "str", "float", "tuple", "defaultdict", "OrderedDict", "Counter"),
        "compiled code doesn't look for overridden methods and class attributes in it",
    ),
}
#: What consumes a generator expression whole, so that it doesn't matter that mypyc makes a list of it.
_CONSUMERS: Final = {
    "list",
    "tuple",
    "set",
    "frozenset",
    "dict",
    "sum",
    "sorted",
    "min",
    "max",
    "any",
    "all",
    "join",
}


def found(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the reason of each construct that is refused."""
    consumed = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and _last(node.func) in _CONSUMERS
    }
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
                yield node.lineno, f"uses {name}: {NAMES[name]}"
            case ast.Attribute(attr=name) if name.startswith("__") and not name.endswith("__"):
                yield (
                    node.lineno,
                    f"uses {name}: mypyc keeps one attribute of this name for a class and its subclasses",
                )
            case ast.Import(names=names):
                yield from _imported(node, [alias.name for alias in names])
            case ast.ImportFrom(module=module, names=names, level=0):
                yield from _imported(node, [str(module), *(f"{module}.{alias.name}" for alias in names)])
            case ast.GeneratorExp() if id(node) not in consumed:
                yield (
                    node.lineno,
                    "has a generator expression, which mypyc computes at once; use a generator function",
                )
            case ast.ClassDef():
                yield from _of_class(node)
            case ast.AnnAssign(annotation=annotation, value=ast.Constant(value=value)):
                yield from _converted(annotation, value)
            case ast.FunctionDef(args=arguments) | ast.AsyncFunctionDef(args=arguments):
                every = [*arguments.posonlyargs, *arguments.args][-len(arguments.defaults) or 10**9 :]
                pairs = [
                    *zip(every, arguments.defaults, strict=True),
                    *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True),
                ]
                for argument, default in pairs:
                    if argument.annotation and isinstance(default, ast.Constant):
                        yield from _converted(argument.annotation, default.value)


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _imported(node: ast.stmt, names: list[str]) -> Iterator[tuple[int, str]]:
    yield from ((node.lineno, f"imports {name}: {IMPORTS[name]}") for name in names if name in IMPORTS)


def _of_class(node: ast.ClassDef) -> Iterator[tuple[int, str]]:
    lost = [keyword.arg for keyword in node.keywords if keyword.arg not in (None, "metaclass")]
    if lost:
        yield node.lineno, f"class {node.name} has options ({', '.join(map(str, lost))}), which mypyc ignores"
    for base in node.bases:
        name = _last(base.value if isinstance(base, ast.Subscript) else base)
        if name in BASES:
            yield node.lineno, f"class {node.name} is a {name}: {BASES[name]}"
    for method in node.body:
        if isinstance(method, ast.FunctionDef) and method.name in METHODS:
            yield method.lineno, f"class {node.name} has {method.name}: {METHODS[method.name]}"


def _converted(annotation: ast.expr, value: object) -> Iterator[tuple[int, str]]:
    """Constants of a type that mypyc converts: 0 is written as 0.0 then, and True as 1."""
    match ast.unparse(annotation), value:
        case ("float", int()) | ("int", bool()):
            wanted = ast.unparse(annotation)
            yield (
                annotation.lineno,
                f"gives {value!r} where {wanted} is declared, to which compiled code converts it",
            )
