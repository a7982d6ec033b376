"""The type stubs of the native core say what the module has: names, parameters, defaults, what can be set."""

from __future__ import annotations

import ast
import inspect
import mmap
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support.handover import channel_of, core, new_arena, slot_of

STUB = ast.parse((ROOT / "molt_accel" / "ipc" / "shm" / "_native.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}


def stubbed(body: list[ast.stmt]) -> Iterator[str]:
    """The public names that statements of the stub define."""
    for node in body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            yield node.target.id


def public(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.startswith("_")}


def own(cls: type) -> set[str]:
    """The public names that a class has itself, its attributes in C included."""
    return public(vars(cls))


def functions() -> Iterator[tuple[str, ast.FunctionDef, Any]]:
    for node in STUB.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node, getattr(core, node.name)
    for name, cls in CLASSES.items():
        for node in cls.body:
            if isinstance(node, ast.FunctionDef) and not node.decorator_list and node.name != "__new__":
                yield f"{name}.{node.name}", node, getattr(getattr(core, name), node.name)


def test_it_has_the_module_s_names_and_no_others() -> None:
    assert public(stubbed(STUB.body)) == public(vars(core))


@pytest.mark.parametrize("name", CLASSES)
def test_its_classes_have_the_real_ones_names_and_bases(name: str) -> None:
    cls = getattr(core, name)
    assert public(stubbed(CLASSES[name].body)) == own(cls)
    bases = [ast.unparse(base) for base in CLASSES[name].bases] or ["object"]
    assert bases == [base.__name__ for base in cls.__bases__]


@pytest.mark.parametrize(
    ("node", "real"), [pytest.param(node, real, id=name) for name, node, real in functions()]
)
def test_its_functions_take_what_the_real_ones_take(node: ast.FunctionDef, real: Any) -> None:
    stub = [argument.arg for argument in node.args.args]
    defaults = [ast.unparse(default) for default in node.args.defaults]
    parameters = list(inspect.signature(real).parameters.values())
    assert stub == [each.name for each in parameters]
    assert defaults == [repr(each.default) for each in parameters if each.default is not each.empty]


def _image_of_an_arena() -> mmap.mmap:
    memory = mmap.mmap(-1, core.arena_size(1, 1, 4096))
    core.Arena(memory, 1, 1, 4096)
    return memory


def _instances() -> dict[str, Any]:
    arena = new_arena()
    return {
        "ArenaView": core.ArenaView(_image_of_an_arena()),
        "Arena": arena,
        "Channel": channel_of(arena),
        "Slot": slot_of(arena),
        "ParkMeter": core.ParkMeter(),
    }


@pytest.mark.parametrize("name", [name for name in CLASSES if name != "Corrupt"])
def test_only_what_the_stub_says_can_be_set(name: str) -> None:
    read_only, settable = set(), set()
    for node in CLASSES[name].body:
        if isinstance(node, ast.AnnAssign):
            is_final = ast.unparse(node.annotation).startswith("Final")
            (read_only if is_final else settable).update(stubbed([node]))
        elif isinstance(node, ast.FunctionDef) and node.decorator_list:
            is_property = ast.unparse(node.decorator_list[0]) == "property"
            (read_only if is_property else settable).add(node.name)
    instance = _instances()[name]
    for attribute in read_only | settable:
        value = getattr(instance, attribute)
        assert isinstance(value, int)
        if attribute in settable:
            setattr(instance, attribute, value)
        else:
            with pytest.raises(AttributeError):
                setattr(instance, attribute, value)


def test_constants_are_numbers_as_the_stub_says() -> None:
    for node in STUB.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            if node.target.id.startswith("_"):
                continue
            value = getattr(core, node.target.id)
            expected = "tuple[int, ...]" if isinstance(value, tuple) else "int"
            assert ast.unparse(node.annotation) == f"Final[{expected}]"
