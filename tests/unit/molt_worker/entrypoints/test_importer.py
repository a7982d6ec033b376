"""Modules that come from a build: found first, told apart, and their sources with them."""

import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from molt_worker.entrypoints.importer import BuildFinder, find_source, installed, is_compiled, sources
from tests.support import build_project as project
from tests.support.builds import Built

pytestmark = pytest.mark.usefixtures("import_state")


@pytest.fixture
def libraries(built: Built) -> Iterator[dict[str, Path]]:
    sys.path.insert(0, str(built.folder))
    importlib.invalidate_caches()
    folder = built.manifest.parent / ".molt-build" / built.record.key
    return {name: folder / library for name, library in built.record.libraries.items()}


def test_a_source_is_found_without_importing_the_packages_above_it(tmp_path: Path) -> None:
    project.write(tmp_path, **{"shop/__init__.py": "raise SystemExit('imported')"})
    sys.path.insert(0, str(tmp_path))
    importlib.invalidate_caches()
    assert find_source("shop.money") == tmp_path / "shop/money.py"
    assert find_source("shop") == tmp_path / "shop/__init__.py"
    assert find_source("rates") == tmp_path / "rates.py"
    assert "shop" not in sys.modules


@pytest.mark.parametrize(
    "name", ["no_such_module", "shop.no_such_module", "rates.x", "sys", "math", "no.such.module"]
)
def test_what_has_no_python_source_is_none(libraries: dict[str, Path], name: str) -> None:
    assert find_source(name) is None


def test_modules_come_from_the_build_and_the_rest_from_sources(libraries: dict[str, Path]) -> None:
    BuildFinder(libraries).install()
    core = importlib.import_module("shop.core")
    assert core.__file__ == str(libraries["shop.core"])
    assert is_compiled("shop.core")
    assert is_compiled("shop.money")  # imported by the other, in C
    assert not any(map(is_compiled, ("shop.options", "shop", "rates", "sys", "never.imported")))
    assert core.total([1, 2]) == 6


def test_sources_of_compiled_modules_can_be_watched(libraries: dict[str, Path], built: Built) -> None:
    assert sources() == []
    BuildFinder(libraries).install()
    assert sorted(sources()) == [built.folder / f"shop/{name}.py" for name in ("core", "money", "slug")]


def test_a_build_takes_the_place_of_another_of_the_same_modules_only() -> None:
    first, other, second = (BuildFinder({name: Path(name)}) for name in ("a", "b", "a"))
    for finder in (first, other, second):
        finder.install()
    assert installed() == [second, other]
    assert sys.meta_path[:2] == [second, other]


def test_a_module_in_an_archive_has_no_source_file(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "apps.zip", "w") as archive:
        archive.writestr("packed/core.py", "def f(payload: int) -> int:\n    return payload\n")
    sys.path.insert(0, str(tmp_path / "apps.zip"))
    importlib.invalidate_caches()
    assert find_source("packed.core") is None
