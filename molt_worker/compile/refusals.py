"""What compiled code does otherwise than Python without a word: modules that use it stay in Python.

This is the one table of it. What mypyc itself refuses with an error isn't here, nor what depends on the values of a
call, which no source shows. docs/reference/compiled-code.md has all three.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from typing import Final

_NO_DICT: Final = "an instance of a compiled class has no __dict__, or one without its attributes"
_BOUND_EARLY: Final = (
    "compiled code goes on with the functions, classes and constants that it was compiled with"
)
_NO_FRAMES: Final = "a compiled function has no frame and no code object"

#: Names and attributes, however they are used.
NAMES: Final = {
    "__file__": "it is the library's when compiled",
    "get_data": "it looks beside the library when compiled",
    "__dict__": _NO_DICT,
    "vars": _NO_DICT,
    "setattr": f"{_NO_DICT}, and {_BOUND_EARLY}",
    "delattr": "attributes of compiled classes can't be deleted",
    "globals": _BOUND_EARLY,
    "locals": "it gives the caller's names when compiled",
    "eval": "it sees the caller's names when compiled",
    "exec": "it sees the caller's names when compiled",
    "_getframe": _NO_FRAMES,
    "__code__": _NO_FRAMES,
    "__closure__": _NO_FRAMES,
    "__defaults__": _NO_FRAMES,
    "__annotations__": "mypyc doesn't keep them",
    "get_type_hints": "mypyc doesn't keep annotations",
    "cached_property": "mypyc computes it at each use",
    "RecursionError": "compiled recursion ends the process instead",
    "__cause__": "mypyc drops the cause of raise ... from",
    "__suppress_context__": "mypyc drops the cause of raise ... from",
    "gather": "mypyc expects the tuple that asyncio's types promise, and gets a list",
}
#: Modules, whoever imports them.
IMPORTS: Final = {
    "inspect": _NO_FRAMES,
    "traceback": _NO_FRAMES,
    "doctest": "it finds no examples in compiled code",
    "unittest.mock": _BOUND_EARLY,
    "weakref": "nothing can refer weakly to an instance of a compiled class",
}
#: Functions of a module, and methods of classes.
FUNCTIONS: Final = {"__getattr__": "mypyc crashes when it is called"}
METHODS: Final = {
    "__del__": "mypyc calls it at another time",
    "__index__": "mypyc doesn't call it",
    "__getattribute__": "mypyc doesn't call it",
    "__next__": "mypyc crashes at the end of the iteration; use a generator function",
    "__setattr__": "mypyc doesn't call it for attributes that __init__ sets first",
    "__get__": "a compiled class can't have descriptors",
}
#: Classes, as bases of others.
BASES: Final = {
    "Struct": "it validates by its fields' types, which mypyc keeps in part",
    "dict": "mypyc loses its class attributes",
}
#: What uses up a generator expression at once, or what mypyc makes a loop of.
_CONSUMERS: Final = {
    *(
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
        "next",
    ),
}
#: Calls whose arguments a compiled loop reads at each turn.
_LOOPS: Final = {"range", "enumerate", "zip", "reversed"}
_FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
#: Expressions whose values are other objects each time.
_MADE: Final = (ast.Call, ast.List, ast.Dict, ast.Set, ast.ListComp, ast.DictComp, ast.SetComp)
Found = Iterator[tuple[int, str]]


def found(tree: ast.Module) -> Found:
    """Yield the line and the reason of each construct that is refused."""
    consumed = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and node.args and _last(node.func) in _CONSUMERS
    }
    asks = any(isinstance(node, (ast.In, ast.NotIn)) for node in ast.walk(tree))
    nested = {
        inner.name
        for node in ast.walk(tree)
        if isinstance(node, _FUNCTIONS)
        for inner in _within(node)
        if isinstance(inner, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    own = {node.name for node in tree.body if isinstance(node, (ast.ClassDef, ast.FunctionDef))}
    for top in tree.body:
        if isinstance(top, ast.FunctionDef) and top.name in FUNCTIONS:
            yield top.lineno, f"has {top.name}: {FUNCTIONS[top.name]}"
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in NAMES:
                yield node.lineno, f"uses {name}: {NAMES[name]}"
            case ast.Attribute(value=ast.Name(id=name), attr="__name__" | "__qualname__") if name in nested:
                yield (
                    node.lineno,
                    f"uses {name}.{node.attr}: a compiled function inside of another one has no name",
                )
            case ast.Attribute(attr=name) if name.startswith("__") and not name.endswith("__"):
                yield node.lineno, f"uses {name}: mypyc has one such attribute for a class and its subclasses"
            case ast.Attribute(value=ast.Name(id=name), attr="register") if name[:1].isupper():
                yield (
                    node.lineno,
                    f"uses {name}.register: a compiled class doesn't know of virtual subclasses",
                )
            case ast.Import(names=names):
                yield from _imported(node, [alias.name for alias in names])
            case ast.ImportFrom(module=module, names=names):
                yield from _imported(node, [str(module), *(f"{module}.{alias.name}" for alias in names)])
                if names[0].name == "*":
                    yield node.lineno, f"imports all of {module}: mypyc doesn't find the names"
            case ast.GeneratorExp() if id(node) not in consumed:
                yield (
                    node.lineno,
                    "has a generator expression, which mypyc computes at once; use a generator function",
                )
            case ast.MatchStar():
                yield (
                    node.lineno,
                    "matches the rest of a sequence by a star, which fails for a tuple when compiled",
                )
            case ast.ClassDef():
                yield from _of_class(node)
                if asks and not node.bases and (reason := _no_contains(node)):
                    yield node.lineno, reason
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id=name), attr=attribute)]) if name in own:
                if any(attribute == each for each in _methods(tree, name)):
                    yield node.lineno, f"replaces {name}.{attribute}: {_BOUND_EARLY}"
            case ast.AnnAssign(annotation=annotation, value=value):
                yield from _converted(annotation, value)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield from _of_function(node)


def _last(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""


def _within(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what is in a function or loop, but not in functions and classes inside."""
    for child in ast.iter_child_nodes(node):
        yield child
        if not isinstance(child, (*_FUNCTIONS, ast.ClassDef)):
            yield from _within(child)


def _names(nodes: Iterable[ast.AST], context: type[ast.expr_context]) -> list[ast.Name]:
    return [node for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, context)]


def _imported(node: ast.stmt, names: list[str]) -> Found:
    yield from ((node.lineno, f"imports {name}: {IMPORTS[name]}") for name in names if name in IMPORTS)


def _methods(tree: ast.Module, name: str) -> list[str]:
    """Return the names of the methods of a module's class."""
    classes = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == name)
    return [each.name for node in classes for each in node.body if isinstance(each, ast.FunctionDef)]


def _of_class(node: ast.ClassDef) -> Found:
    lost = [keyword.arg for keyword in node.keywords if keyword.arg not in (None, "metaclass")]
    if lost:
        yield node.lineno, f"class {node.name} has options ({', '.join(map(str, lost))}), which mypyc ignores"
    for base in node.bases:
        name = _last(base.value if isinstance(base, ast.Subscript) else base)
        if name in BASES:
            yield node.lineno, f"class {node.name} is a {name}: {BASES[name]}"
    methods = {
        each.name: each for each in node.body if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for name, method in methods.items():
        if name in METHODS:
            yield method.lineno, f"class {node.name} has {name}: {METHODS[name]}"
    yield from _own_values(node)
    for each in node.body:
        if isinstance(each, ast.Assign) and isinstance(each.value, ast.Name) and each.value.id in methods:
            yield (
                each.lineno,
                f"class {node.name} has another name for {each.value.id}: mypyc crashes when it is called",
            )


def _no_contains(node: ast.ClassDef) -> str:
    methods = {each.name for each in node.body if isinstance(each, ast.FunctionDef)}
    if methods.isdisjoint(("__iter__", "__getitem__")) or "__contains__" in methods:
        return ""
    return f"class {node.name} has no __contains__, without which `in` fails for its instances when compiled"


def _own_values(node: ast.ClassDef) -> Found:
    """Attributes of the class that each instance gets anew: all but constants, which can't be told apart."""
    if any(
        _last(each.func if isinstance(each, ast.Call) else each) == "dataclass"
        for each in node.decorator_list
    ):
        return
    if any(_last(base).endswith(("Enum", "Flag", "NamedTuple", "TypedDict")) for base in node.bases):
        return
    for each in node.body:
        shared = isinstance(each, ast.AnnAssign) and re.search(
            r"\b(ClassVar|Final)\b", ast.unparse(each.annotation)
        )
        if not isinstance(each, (ast.Assign, ast.AnnAssign)) or each.value is None or shared:
            continue
        if any(isinstance(part, _MADE) for part in ast.walk(each.value)):
            why = "a value that mypyc makes anew for each instance; annotate it as ClassVar"
            yield each.lineno, f"class {node.name} has {why}"


def _of_function(node: ast.FunctionDef | ast.AsyncFunctionDef) -> Found:
    arguments = node.args
    positional = [*arguments.posonlyargs, *arguments.args][::-1]
    defaults = [*zip(positional, arguments.defaults[::-1], strict=False)]
    for argument, default in [*defaults, *zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)]:
        yield from _converted(argument.annotation, default)
    closes = any("contextmanager" in _last(each) for each in node.decorator_list)
    for inner in _within(node):
        match inner:
            case ast.Return(value=value):
                yield from ((inner.lineno, reason) for _, reason in _converted(node.returns, value))
            case ast.For():
                yield from _of_loop(inner, node)
            case ast.Try(finalbody=[_, *_]) | ast.With() if not closes:
                if any(isinstance(each, (ast.Yield, ast.YieldFrom)) for each in _within(inner)):
                    why = "a compiled generator that is given up doesn't clean up"
                    yield inner.lineno, f"{node.name} yields inside of try ... finally or with: {why}"


def _of_loop(loop: ast.For, function: ast.AST) -> Found:
    call = loop.iter if isinstance(loop.iter, ast.Call) and _last(loop.iter.func) in _LOOPS else None
    over = call.args if call else [loop.iter]
    body = [each for statement in loop.body for each in (statement, *_within(statement))]
    assigned = {each.id for each in _names(body, ast.Store)}
    for name in assigned.intersection(each.id for each in over if isinstance(each, ast.Name)):
        yield loop.lineno, f"assigns to {name} in a loop over it, which mypyc heeds"
    if call and _last(call.func) == "range" and isinstance(loop.target, ast.Name):
        bound = {
            id(each)
            for other in _within(function)
            if isinstance(other, (ast.For, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp))
            and any(each.id == loop.target.id for each in _names(_within(other), ast.Store))
            for each in _within(other)
        }
        for each in _names(_within(function), ast.Load):
            if each.id == loop.target.id and each.lineno > (loop.end_lineno or 0) and id(each) not in bound:
                yield (
                    each.lineno,
                    f"uses {each.id} after its loop: mypyc sets it to the start if there was no turn",
                )


def _converted(annotation: ast.expr | None, value: ast.expr | None) -> Found:
    """Constants of a type that mypyc converts: 0 is written as 0.0 then, and True as 1."""
    wanted = ast.unparse(annotation) if annotation is not None else ""
    match value:
        case ast.Constant(value=given) if (wanted, type(given)) in (("float", int), ("int", bool)):
            yield (
                value.lineno,
                f"gives {given!r} where {wanted} is declared, to which compiled code converts it",
            )
        case ast.Compare() | ast.UnaryOp(op=ast.Not()) if wanted == "int":
            yield value.lineno, "gives a bool where int is declared, to which compiled code converts it"
        case ast.UnaryOp(op=ast.USub() | ast.UAdd(), operand=operand):
            yield from _converted(annotation, operand)
        case ast.IfExp(body=one, orelse=other):
            yield from _converted(annotation, one)
            yield from _converted(annotation, other)
        case ast.BoolOp(values=values):
            for each in values:
                yield from _converted(annotation, each)
