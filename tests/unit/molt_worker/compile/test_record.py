"""When a build is used, and what is said when it isn't."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from molt_worker.compile import record as compiled
from molt_worker.compile.record import CompiledError
from molt_worker.entrypoints import exports
from molt_worker.entrypoints.exports import ExportsError
from molt_worker.entrypoints.importer import installed, is_compiled
from tests.support import build_project as project
from tests.support.builds import Built

pytestmark = pytest.mark.usefixtures("import_state")


@pytest.fixture
def manifest(built: Built) -> str:
    """The manifest of a project that is built, and can be imported."""
    sys.path.insert(0, str(built.folder))
    return str(built.manifest)


def spoil_source(built: Built) -> str:
    (built.folder / "models.py").write_text("LIMIT = 1\n")
    return "models has changed"


def remove_source(built: Built) -> str:
    (built.folder / "models.py").unlink()
    return "models is gone"


def remove_library(built: Built) -> str:
    library = built.record.libraries["shop.money"]
    (built.manifest.parent / ".molt-build" / built.record.key / library).unlink()
    return f"{library} is missing"


def cut_record(built: Built) -> str:
    path = compiled.record_path(str(built.manifest))
    path.write_bytes(path.read_bytes()[:-20])
    return "can't be read"


def other_version(built: Built) -> str:
    path = compiled.record_path(str(built.manifest))
    path.write_text(path.read_text().replace(f'"version": {compiled.VERSION}', '"version": 0'))
    return "is of another version"


def writable_by_all(built: Built) -> str:
    compiled.record_path(str(built.manifest)).chmod(0o666)
    return "others can write there"


def writable_folder(built: Built) -> str:
    compiled.record_path(str(built.manifest)).parent.chmod(0o777)
    return "others can write there"


FAULTS = [
    spoil_source, remove_source, remove_library, cut_record, other_version, writable_by_all,
    writable_folder,
]  # fmt: skip


def test_a_build_of_the_very_sources_is_used(manifest: str) -> None:
    assert compiled.enable(manifest) == ""
    table = exports.resolve(manifest)
    assert table.compiled == ["total", "refuse", "fail", "polite", "stubborn", "pid", "double", "faults"]
    compiled.require(table, manifest)


def test_off_is_python(manifest: str) -> None:
    assert compiled.enable(manifest, "off") == ""
    assert installed() == []
    assert exports.resolve(manifest).compiled == []


@pytest.mark.parametrize("fault", FAULTS)
def test_an_unusable_build_is_told_of(manifest: str, built: Built, fault: Callable[[Built], str]) -> None:
    assert fault(built) in compiled.enable(manifest, "prefer")
    assert installed() == []


@pytest.mark.parametrize("fault", FAULTS)
def test_required_it_says_what_to_do(manifest: str, built: Built, fault: Callable[[Built], str]) -> None:
    with pytest.raises(CompiledError, match=fault(built)) as caught:
        compiled.enable(manifest, "require")
    assert f"molt-worker build {manifest}" in str(caught.value)


@pytest.mark.parametrize("foreign", ["folder", "record", "key", "library"])
def test_a_build_that_another_user_owns_is_refused_and_root_s_is_not(
    foreign: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    record = compiled.Record(compiled.VERSION, "key", compiled.ABI, "", "", 0.0, [], {}, {"a": "a.so"})
    (tmp_path / "key").mkdir()
    (tmp_path / "key" / "a.so").touch()
    path.write_bytes(msgspec.json.encode(record))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    paths = {
        "folder": tmp_path,
        "record": path,
        "key": tmp_path / "key",
        "library": tmp_path / "key" / "a.so",
    }
    owners = dict.fromkeys(paths.values(), 1000)
    stat = Path.stat

    def owned(self: Path, **options: Any) -> os.stat_result:
        found = stat(self, **options)
        return found if self not in owners else os.stat_result((*found[:4], owners[self], *found[5:10]))

    monkeypatch.setattr(Path, "stat", owned)
    assert compiled.read_record(path) == record
    which = paths[foreign]
    owners[which] = 0
    assert compiled.read_record(path) == record
    owners[which] = 1001
    with pytest.raises(CompiledError, match="others can write there") as caught:
        compiled.read_record(path)
    assert str(caught.value).startswith(f"{which}:")


def test_nobody_is_warned_where_there_is_no_build(tmp_path: Path) -> None:
    project.write(tmp_path)
    manifest = str(tmp_path / project.MANIFEST)
    assert compiled.enable(manifest, "prefer") == ""
    with pytest.raises(CompiledError, match=r"there is no build; make one by: molt-worker build /"):
        compiled.enable(manifest, "require")


def test_a_module_that_is_imported_already_stays(manifest: str) -> None:
    exports.resolve(manifest)
    assert "imported before the build could be used: shop.core, shop.money" in compiled.enable(manifest)
    assert not is_compiled("shop.core")


def test_enabling_twice_is_enabling_once(manifest: str) -> None:
    compiled.enable(manifest)
    exports.resolve(manifest)
    assert compiled.enable(manifest, "require") == ""
    assert len(installed()) == 1


def test_required_are_all_entrypoints_but_those_of_the_worker(manifest: str, built: Built) -> None:
    rows = built.manifest.read_text().replace("shop.core:pid", "shop.broken:wrong")
    mixed = built.manifest.with_name("mixed.json")
    mixed.write_text(rows)
    os.rename(compiled.record_path(manifest), compiled.record_path(str(mixed)))
    assert compiled.enable(str(mixed), "require") == ""
    with pytest.raises(CompiledError, match=r"pid is in Python: shop.broken: Incompatible return value"):
        compiled.require(exports.resolve(str(mixed)), str(mixed))
    compiled.require(exports.resolve(""), "")


def test_where_builds_are(manifest: str, built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.folder)
    beside = built.folder / "shop" / ".molt-build"
    assert compiled.record_path(project.MANIFEST).parent == compiled.record_path(manifest).parent == beside
    assert compiled.record_path(project.MANIFEST) == compiled.record_path(manifest)
    assert compiled.record_path("shop.core").parent == beside
    assert compiled.record_path("rates").parent == built.folder / ".molt-build"
    assert compiled.record_path("shop.core", "x").parent == built.folder / "x"
    assert compiled.ABI in compiled.record_path(manifest).name
    with pytest.raises(CompiledError, match=r"no.such: there is no such Python module"):
        compiled.record_path("no.such")
    with pytest.raises(ExportsError, match="can't be read"):
        compiled.enable("no.json")


def test_an_unknown_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: prefer, require, off"):
        compiled.enable("", "sometimes")


def test_a_build_runs_where_there_is_no_compiler(in_python: Callable[[str], str]) -> None:
    program = """
import sys
for name in ("mypy", "mypyc", "mypy_extensions", "librt", "setuptools"):
    sys.modules[name] = None
from molt_worker.compile import record as compiled
compiled.enable("shop/molt_exports.json", "require")
import shop.core
print(shop.core.__file__.endswith(".so"), shop.core.total([1, 2]))
"""
    assert in_python(program) == "True 6\n"


def test_a_source_that_can_t_be_read_is_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = compiled.Record(compiled.VERSION, "key", compiled.ABI, "", "", 0.0, [], {"shop": "x"}, {})
    monkeypatch.setattr(compiled, "find_source", lambda name: tmp_path)  # a folder
    assert compiled.changes(record, tmp_path) == ["shop can't be read (Is a directory)"]
    monkeypatch.setattr(compiled, "find_source", lambda name: None)
    assert compiled.changes(record, tmp_path) == ["shop is gone"]
