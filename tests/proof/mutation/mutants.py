"""Deliberate faults, each in one place of one file.

In Python they are made by operators, most of them cosmic-ray's. In the native core they are patches, made by hand and
kept in patches.toml: what a C compiler makes of an operator is too often the same program.
"""

from __future__ import annotations

import ast
import difflib
import functools
import random
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tests.proof.mutation.modules import ROOT, own_tests, promises

PATCHES: Final = Path(__file__).with_name("patches.toml")

_SWAPPED: Final = (
    *("Eq_NotEq", "NotEq_Eq", "Is_IsNot", "IsNot_Is", "Lt_LtE", "Lt_GtE", "LtE_Lt", "LtE_Gt"),
    *("Gt_GtE", "Gt_LtE", "GtE_Gt", "GtE_Lt"),
)
_OPERATORS: Final = (
    *(f"ReplaceComparisonOperator_{swapped}" for swapped in _SWAPPED),
    *(f"ReplaceBinaryOperator_{swapped}" for swapped in ("Add_Sub", "Sub_Add", "Mul_FloorDiv", "Div_Mul")),
    *(f"ReplaceBinaryOperator_{swapped}" for swapped in ("BitOr_BitAnd", "BitAnd_BitOr", "LShift_RShift")),
    *("ReplaceUnaryOperator_Delete_Not", "AddNot", "ReplaceTrueWithFalse", "ReplaceFalseWithTrue"),
    *("ReplaceAndWithOr", "ReplaceOrWithAnd", "ReplaceBreakWithContinue", "ReplaceContinueWithBreak"),
    *("ExceptionReplacer", "NumberReplacer", "ZeroIterationForLoop"),
)
#: Statements that tell people something, or are there for tests: no outcome hangs on them.
_TELLS: Final = ("log.", "self._log.", "failpoint(", "warnings.")
#: Lines whose mutants are as good: a check for type checkers, and flags of structures, which are for speed and typos.
_SAME: Final = ("if TYPE_CHECKING", "@dataclass", "class ")


@dataclass(frozen=True)
class Mutant:
    """One fault: a file, and its text with the fault in it."""

    file: str
    operator: str  #: what made it; for a patch, its name
    line: int
    where: str  #: the class and function it is in
    before: str  #: the lines that differ, joined by spaces
    after: str
    text: str
    tests: tuple[
        tuple[str, ...], ...
    ]  #: files of tests, in stages: the next one is run if one notices nothing

    @property
    def builds(self) -> bool:
        """Whether its tests need the native core built anew. The core's own programs are built by their tests."""
        own = all(
            test.startswith("tests/proof/native/test_core.py") for stage in self.tests for test in stage
        )
        return not self.file.endswith(".py") and not own

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What stays the same when other lines change."""
        return (self.file, self.where, self.before, self.after)


@dataclass(frozen=True)
class _Place:
    """Where an operator can be used, without having been used yet, which would take a while."""

    operator: str
    occurrence: int


@functools.cache
def _operators() -> dict[str, Any]:
    """The operators by name. Imported late, since only who mutates needs cosmic-ray."""
    import parso
    from cosmic_ray.operators.operator import Operator
    from cosmic_ray.plugins import get_operator

    class SkipStatement(Operator):
        """Leaves out a call, an assignment to something's field, or a raise."""

        def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
            if node.type == "simple_stmt" and _can_be_left_out(node.children[0]):
                yield node.start_pos, node.end_pos

        def mutate(self, node: Any, index: int) -> Any:
            indent = node.get_first_leaf().prefix
            return parso.parse(f"{indent}pass\n")

        @classmethod
        def examples(cls) -> Iterable[Any]:
            return ()

    class NeverIf(Operator):
        """Drops a check: its branch is never taken."""

        def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
            if node.type in ("if_stmt", "while_stmt"):
                yield node.children[1].start_pos, node.children[1].end_pos

        def mutate(self, node: Any, index: int) -> Any:
            node.children[1] = parso.parse(" False")
            return node

        @classmethod
        def examples(cls) -> Iterable[Any]:
            return ()

    found = {name: get_operator(f"core/{name}")() for name in _OPERATORS}
    return {**found, "SkipStatement": SkipStatement(), "NeverIf": NeverIf()}


def _can_be_left_out(statement: Any) -> bool:
    if statement.get_code(include_prefix=False).startswith(_TELLS):
        return False
    if statement.type == "atom_expr":  # a call: nothing else is a statement of this type
        return True
    if statement.type == "expr_stmt":
        return statement.children[0].type in ("atom_expr", "power") and len(statement.children) == 3
    return statement.type in ("raise_stmt", "yield_expr", "del_stmt")


def _places(source: str) -> list[_Place]:
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast(source)))
    found = []
    for name, operator in _operators().items():
        count = sum(1 for node in nodes for _ in operator.mutation_positions(node))
        found += [_Place(name, occurrence) for occurrence in range(count)]
    return found


def _without_types(source: str) -> str:
    """What of a module is run, as a text: no annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            node.returns = None
        elif isinstance(node, ast.arg):
            node.annotation = None
        elif isinstance(node, ast.AnnAssign):
            node.annotation = ast.Constant(0)
    return ast.dump(tree)


def _where(source: str, line: int) -> str:
    """The names of the class and function that a line is in."""
    around = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return ".".join(node.name for node in sorted(around, key=lambda node: node.lineno))


def _difference(before: str, after: str) -> tuple[int, str, str]:
    """The first line that differs, and the lines that do, before and after, each as one line."""
    old, new = before.splitlines(), after.splitlines()
    codes = [
        code
        for code in difflib.SequenceMatcher(None, old, new, autojunk=False).get_opcodes()
        if code[0] != "equal"
    ]
    gone = " ".join(line.strip() for _, i, j, _, _ in codes for line in old[i:j])
    come = " ".join(line.strip() for _, _, _, i, j in codes for line in new[i:j])
    return codes[0][1] + 1, gone, come


def _python_mutant(file: str, source: str, place: _Place) -> Mutant | None:
    """The mutant of a place; None if the program is the same, or is no program."""
    from cosmic_ray.mutating import mutate_code

    try:
        text = mutate_code(source, _operators()[place.operator], place.occurrence)
    except AttributeError:  # cosmic-ray's ExceptionReplacer knows no names with a dot in them
        return None
    if text is None:
        return None
    try:
        if _without_types(text) == _without_types(source):
            return None
    except SyntaxError:
        return None
    line, before, after = _difference(source, text)
    if before.startswith((*_TELLS, *_SAME)):
        return None
    return Mutant(
        file,
        place.operator,
        line,
        _where(source, line),
        before,
        after,
        text,
        (own_tests(file), promises(file)),
    )


def in_module(file: str, rng: random.Random) -> Iterator[Mutant]:
    """The mutants of a Python module, in an order of chance in which each kind of operator has its turn."""
    source = (ROOT / file).read_text()
    kinds: dict[str, list[_Place]] = {}
    for place in _places(source):
        kinds.setdefault(place.operator.partition("_")[0], []).append(place)
    for places in kinds.values():
        rng.shuffle(places)
    order = list(kinds)
    seen = set()
    while kinds:
        rng.shuffle(order)
        for kind in order:
            mutant = _python_mutant(file, source, kinds[kind].pop())
            if not kinds[kind]:
                del kinds[kind]
            if mutant is not None and mutant.text not in seen:
                seen.add(mutant.text)
                yield mutant
        order = list(kinds)


def _patch(row: dict[str, Any]) -> Mutant:
    source = (ROOT / row["file"]).read_text()
    if source.count(row["before"]) != 1:
        raise ValueError(
            f"{row['name']}: {row['file']} has {row['before']!r} {source.count(row['before'])} times, not once"
        )
    text = source.replace(row["before"], row["after"])
    line = source[: source.index(row["before"])].count("\n") + 1
    _, before, after = _difference(source, text)
    return Mutant(row["file"], row["name"], line, row["name"], before, after, text, (tuple(row["tests"]),))


def patches() -> list[Mutant]:
    """The patches of the native core. Raises ValueError if one no longer fits its file."""
    return [_patch(row) for row in tomllib.loads(PATCHES.read_text()).get("patch", [])]


def sample(sources: dict[str, Iterator[Mutant]], size: int | None) -> list[Mutant]:
    """So many mutants, from each source in turn; None: all."""
    found: list[Mutant] = []
    sources = dict(sources)
    while sources and (size is None or len(found) < size):
        for name in list(sources):
            if size is not None and len(found) >= size:
                break
            mutant = next(sources[name], None)
            if mutant is None:
                del sources[name]
            else:
                found.append(mutant)
    return found
