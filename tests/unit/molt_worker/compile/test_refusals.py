"""What is left in Python since mypyc does it otherwise. Each was seen to give another result, or to crash."""

from __future__ import annotations

import ast

import pytest

from molt_worker.compile import refusals


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("class A(B, frozen=True): ...", [1]),
        ("x = 1\nclass A(B, frozen=True, kw_only=True): ...", [2]),
        ("class A(B, metaclass=M): ...", []),
        ("class A(B, **options): ...", []),
        ("class A(B): ...", []),
        ("class A(Struct): ...\nclass C(msgspec.Struct): ...", [1, 2]),
        ("class A(dict[str, int]): ...\nclass B(UserDict): ...", [1]),
    ],
)
def test_classes(text: str, lines: list[int]) -> None:
    assert {line for line, _ in refusals.found(ast.parse(text))} == set(lines)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("x = 1\n\ny = __file__", 3),
        ("def f(self):\n    vars(self).update(a=1)", 2),
        ("def f(self):\n    return self.__dict__", 2),
        ("setattr(m, 'a', 1)", 1),
        ("'{x}'.format(**locals())", 1),
        ("eval('a')", 1),
        ("globals()['a'] = 1", 1),
        ("import sys\nsys._getframe(1)", 2),
        ("try: ...\nexcept RecursionError: ...", 2),
        ("import re, inspect", 1),
        ("from unittest import mock", 1),
        ("from os.path import *", 1),
        ("import weakref", 1),
        ("def f(x: int): ...\ng = typing.get_type_hints(f)", 2),
        ("match x:\n    case [a, *b]: ...", 2),
        ("match x:\n    case [a, b]: ...", 0),
        ("from functools import cached_property\nclass A:\n    @cached_property\n    def a(self): ...", 3),
        ("class A:\n    def f(self): return self.__x", 2),
        ("class A:\n    def f(self): return self.__class__", 0),
        ("class A:\n    def __del__(self): ...", 2),
        ("class A:\n    def __next__(self): ...", 2),
        ("class A:\n    def __getattr__(self, name): ...", 0),
        ("def __getattr__(name): ...", 1),
        ("class A:\n    def f(self): ...\n    g = f", 3),
        ("class A:\n    def f(self): ...\nA.f = len", 3),
        ("class A:\n    n = 1\nA.n = 2", 0),
        ("class A(ABC): ...\nA.register(int)", 2),
        ("def f(x): ...\nf.register(int)", 0),
        ("g = (x for x in y)", 1),
        ("def f(y): return filter(None, (x for x in y))", 1),
        ("a = sum(x for x in y) + next((x for x in y), 0)", 0),
        ("def f(n):\n    for i in range(n):\n        n -= 1", 2),
        ("def f(l):\n    for i, x in enumerate(l):\n        if x:\n            l = []", 2),
        ("def f(l):\n    for i in l:\n        i = i + 1\n        l.append(i)", 0),
        ("def f(n):\n    i = 7\n    for i in range(n):\n        ...\n    return i", 5),
        ("def f(n):\n    for i in range(n):\n        g(i)\n    for i in range(n):\n        g(i)", 0),
        ("def f(l):\n    for x in l:\n        ...\n    return x", 0),
        ("def f():\n    with a:\n        yield 1", 2),
        ("def f():\n    try:\n        yield 1\n    finally:\n        a()", 2),
        ("@contextlib.contextmanager\ndef f():\n    try:\n        yield 1\n    finally:\n        a()", 0),
        ("def f():\n    with a:\n        b()\n    yield 1", 0),
        ("x: float = 0", 1),
        ("x: float = -1", 1),
        ("def f(x) -> int:\n    return x == 1", 2),
        ("def f(x) -> bool:\n    y: bool = not x\n    return x == 1", 0),
        ("def f(x) -> float:\n    return 1 if x else 0.5", 2),
        ("def f(x) -> float:\n    return x or 0", 2),
        ("def f(x) -> float:\n    return 1.0 if x == 1 else 0.5", 0),
        ("class A:\n    x: list[int] = []", 2),
        ("class A:\n    x = (1, {})", 2),
        ("class A:\n    x: float = time.time()", 2),
        ("class A:\n    x: ClassVar[list[int]] = []\n    y: typing.Final = f()\n    z = ('a', -1)", 0),
        ("@dataclass(slots=True)\nclass A:\n    x: list[int] = field(default_factory=list)", 0),
        ("class A(enum.Enum):\n    x = auto()", 0),
        ("class A:\n    def __iter__(self): ...\ndef f(a): return 1 in a", 1),
        ("class A:\n    def __iter__(self): ...\ndef f(a): return list(a)", 0),
        (
            "class A:\n    def __iter__(self): ...\n    def __contains__(self, x): ...\ndef f(a): return 1 in a",
            0,
        ),
        ("try: ...\nexcept E as e:\n    g(e.__cause__)", 3),
        ("async def f(): await asyncio.gather(g(), h())", 1),
        ("def f():\n    def g(): ...\n    return g.__name__", 3),
        ("def f(): ...\nprint(f.__name__, type(f).__name__)", 0),
        ("def f(x: float = 0.0, *, y: int = True): ...", 1),
        ("def f(x) -> float:\n    return 0", 2),
        ("def f(x) -> float:\n    def g() -> int:\n        return 0\n    return 0.5", 0),
        ("def f(x: int = 0, y: float = 1.0) -> int:\n    return 1", 0),
    ],
)
def test_constructs(text: str, line: int) -> None:
    assert {at for at, _ in refusals.found(ast.parse(text))} == ({line} if line else set())


def test_the_reason_says_what_and_why() -> None:
    assert list(refusals.found(ast.parse("x: float = 0"))) == [
        (1, "gives 0 where float is declared, to which compiled code converts it")
    ]
