"""Which modules belong to exports, read off the sources."""

import ast
from pathlib import Path

import pytest

from molt_worker.compile import plan as subject
from molt_worker.compile.record import CompiledError
from tests.support import build_project as project


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return project.write(tmp_path)


def parsed(text: str) -> ast.Module:
    return ast.parse(text)


def test_the_closure_is_what_is_imported_of_the_project_with_its_packages(folder: Path) -> None:
    found = subject.closure(["shop.core"])
    modules = {"core", "money", "broken", "here", "options", "late"}
    modules |= {"bag", "grown", "price", "slug", "shown"}
    assert found.keys() == {"shop", "rates", "models", *(f"shop.{name}" for name in modules)}
    assert found["rates"].path == folder / "rates.py"
    assert found["rates"].data == (folder / "rates.py").read_bytes()


def test_relative_imports_and_imports_in_functions_count(folder: Path) -> None:
    (folder / "shop/core.py").write_text(
        "from . import money\nfrom .here import HERE\ndef f():\n    import rates\n"
    )
    assert {"shop.money", "shop.here", "rates", "models"} <= subject.closure(["shop.core"]).keys()
    (folder / "shop/__init__.py").write_text("from .money import Money\n")
    assert "shop.money" in subject.closure(["shop"])


def test_to_compile_is_what_is_beside_and_below_the_entrypoints(folder: Path) -> None:
    (folder / "shop/__init__.py").write_text("")
    (folder / "shop/deep").mkdir()
    (folder / "shop/deep/__init__.py").write_text("")
    (folder / "shop/deep/er.py").write_text("")
    (folder / "shop/core.py").write_text("import rates, shop.money, shop.deep.er\n")
    sources = subject.closure(["shop.core"])
    names = [source.name for source in subject.belonging(sources, ["shop.core"])]
    assert names == ["shop.core", "shop.deep.er", "shop.money"]
    names = [source.name for source in subject.belonging(sources, ["shop.core"], ["rates"])]
    assert names == ["rates", "shop.core", "shop.deep.er", "shop.money"]


def test_entrypoints_at_the_top_have_the_modules_at_the_top_beside_them(folder: Path) -> None:
    sources = subject.closure(["rates"])
    assert [source.name for source in subject.belonging(sources, ["rates"])] == ["models", "rates"]


def test_what_comes_with_the_worker_is_never_compiled() -> None:
    sources = subject.closure(["molt_worker.entrypoints.builtin"])
    assert subject.belonging(sources, ["molt_worker.entrypoints.builtin"]) == []


def test_a_module_that_is_not_there_or_no_python_is_named(folder: Path) -> None:
    with pytest.raises(CompiledError, match=r"shop.nothing: there is no such Python module"):
        subject.closure(["shop.nothing"])
    (folder / "shop/money.py").write_text("def\n")
    with pytest.raises(CompiledError, match=r"money.py.*invalid syntax"):
        subject.closure(["shop.core"])


def test_an_included_name_that_nothing_imports_is_an_error_that_names_what_there_is(folder: Path) -> None:
    sources = subject.closure(["shop.core"])
    with pytest.raises(
        CompiledError,
        match=r"--include ratse: .*no such module; they import: models, .*rates, shop, shop.bag",
    ):
        subject.belonging(sources, ["shop.core"], ["rates", "ratse"])


@pytest.mark.parametrize(
    ("package", "module", "line"),
    [
        ("from .slug import slug", "from shop import slug", 1),
        ("from shop.slug import slug", "\ndef f():\n    from . import slug", 3),
        ("from .slug import *", "import shop.slug as s", 1),
        ("def slug(): ...", "from shop import slug", 1),
        ("slug = 1", "from shop import slug", 1),
        ("from .slug import slug as other", "from shop import slug", 0),
        ("from . import slug", "from shop import slug", 0),
        ("from .slug import slug", "from shop.slug import slug", 0),
    ],
)
def test_a_module_that_imports_what_hides_another_module_is_left_in_python(
    folder: Path, package: str, module: str, line: int
) -> None:
    (folder / "shop/__init__.py").write_text(package + "\n")
    (folder / "shop/core.py").write_text(module + "\nimport shop.money\n")
    sources = subject.closure(["shop.core"])
    sources.update(subject.closure(["shop.slug"]))
    left = subject.refused(sources, subject.belonging(sources, ["shop.core"]))
    assert {name: each.line for name, each in left.items()} == ({"shop.core": line} if line else {})


def test_a_class_that_a_module_in_python_derives_from_can_t_be_compiled(folder: Path) -> None:
    (folder / "shop/core.py").write_text("from shop import money as m\nclass Purse(m.Money[int]): ...\n")
    sources = subject.closure(["shop.core"])
    able = subject.belonging(sources, ["shop.core"])
    assert subject.extended(sources, able) == {}
    left = subject.extended(sources, [source for source in able if source.name != "shop.core"])
    assert {name: each.reason for name, each in left.items()} == {
        "shop.money": "shop.core, which is in Python, derives a class from its Money"
    }


def test_functions_without_types_are_noted_with_what_they_lack() -> None:
    text = (
        "def a(x): ...\ndef b(x: int): ...\ndef c(self, x: int) -> int: ...\nasync def d(*, y=1) -> int: ..."
    )
    assert subject.notes(parsed(text)) == [
        "line 1: a has no type for its arguments x",
        "line 2: b has no type for its return value",
        "line 4: d has no type for its arguments y",
    ]
