"""What becomes of each module, what is built again, and what a build leaves behind."""

import os
import re
from pathlib import Path

import msgspec
import pytest

from molt_worker.cli import build as command
from molt_worker.compile import compiler
from molt_worker.compile import record as compiled
from molt_worker.compile.attempts import Attempts, BuildError
from tests.support import build_project as project
from tests.support.builds import Built, run_build


def fates(record: compiled.Record) -> dict[str, tuple[bool, str, int]]:
    return {module.name: (module.compiled, module.reason, module.line) for module in record.modules}


#: What the compilers, or an import of what they made, say of a module, and the line that they name.
REJECTED = {
    "shop.grown": ("mypyc fails (exit code 1): AssertionError: object", 0),
    "shop.price": ("mypyc fails: AssertionError: Expected return type annotation for property 'euros'", 3),
    "shop.late": ("it can't be imported when compiled: AttributeError", 0),
}


def test_each_module_is_compiled_or_left_in_python_with_the_reason_and_the_line(
    original: Built, pytestconfig: pytest.Config
) -> None:
    found = fates(original.record)
    for name in ("core", "money", "slug"):
        assert found.pop(f"shop.{name}") == (True, "", 0)
    expected = {
        "shop.bag": ("uses vars: an instance of a compiled class has no __dict__", 5),
        "shop.shown": ("imports shop.slug, which is a module and, in shop, also another thing named slug", 2),
        "shop.broken": ("Incompatible return value type", 4),
        "shop.here": ("uses __file__", 4),
        "shop.options": ("frozen", 5),
        **REJECTED,
    }
    if not pytestconfig.getoption("whole"):  # see `project.QUICK`
        for name in REJECTED:
            lines = (original.folder / f"{name.replace('.', '/')}.py").read_text().splitlines()
            expected[name] = ("uses __file__", len(lines))
    assert found.keys() == expected.keys()
    for name, (text, line) in expected.items():
        is_compiled, reason, seen = found[name]
        assert (is_compiled, seen) == (False, line)
        assert text in reason


@pytest.mark.sample(1)
@pytest.mark.parametrize("name", project.COSTLY)
def test_a_module_that_the_compilers_reject_is_left_in_python_and_another_compiled(
    tmp_path: Path, quick_cc: str, name: str
) -> None:
    module = name.removesuffix(".py").replace("/", ".")
    project.write(tmp_path, **{"shop/__init__.py": "", "shop/core.py": f"import {module}\n"})
    done = run_build("shop.core", "--json", cwd=tmp_path, CC=quick_cc)
    assert done.returncode == 0, done.stderr
    found = fates(msgspec.json.decode(done.stdout, type=compiled.Record))
    assert found.pop("shop.core") == (True, "", 0)
    ((rejected, (is_compiled, reason, line)),) = found.items()
    assert (rejected, is_compiled, line) == (module, False, REJECTED[module][1])
    assert REJECTED[module][0] in reason


def test_modules_outside_of_the_exports_package_count_but_are_not_compiled(original: Built) -> None:
    assert {"rates", "models", "shop"} <= original.record.sources.keys()
    assert "shop.unused" not in original.record.sources
    assert not any(name.startswith("molt_") and "." in name for name in original.record.sources)


def test_functions_without_types_are_noted(original: Built) -> None:
    notes = {module.name: module.notes for module in original.record.modules if module.notes}
    assert notes == {"shop.money": ["line 15: untyped has no type for its arguments other"]}


def test_what_is_up_to_date_is_not_built_again(built: Built) -> None:
    before = {path: path.stat().st_mtime_ns for path in built.manifest.parent.rglob("*.so")}
    done = run_build(project.MANIFEST, cwd=built.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 11 modules compiled, up to date" in done.stdout
    assert before
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.usefixtures("import_state")
def test_an_edit_is_built_again_and_the_build_before_is_kept(
    built: Built, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = built.folder / "rates.py"
    source.write_text(source.read_text().replace("= 2", "= 3"))
    core = "from rates import RATE\n\ndef total(payload: list[int]) -> int:\n    return len(payload) * RATE\n"
    (built.folder / "shop" / "__init__.py").write_text("")
    (built.folder / "shop" / "core.py").write_text(core)  # so that the compilers have little to do
    monkeypatch.chdir(built.folder)
    monkeypatch.setattr(compiler, "OPT_LEVEL", "0")  # the C compiler is slow enough
    assert command.main([project.MANIFEST, "--include", "rates"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"^rates +compiled$", out, re.M)
    assert "2 of 2 modules compiled, built in" in out
    folder = built.manifest.parent / compiled.FOLDER
    keys = {path.name for path in folder.iterdir() if path.is_dir()}
    assert len(keys) == 2
    assert built.record.key in keys
    assert not [path.name for path in folder.iterdir() if path.name.startswith(".work")]


def test_builds_that_nobody_uses_go_but_for_the_youngest(built: Built) -> None:
    path = compiled.record_path(str(built.manifest))
    for number in range(3):
        old = path.parent / f"{number:016x}"
        old.mkdir()
        os.utime(old, (number + 1, number + 1))
    (path.parent / "something-else").mkdir()
    compiler._prune(path, compiled.read_record(path))
    left = {each.name for each in path.parent.iterdir() if each.is_dir()}
    assert left == {built.record.key, f"{2:016x}", "something-else"}


def test_the_key_is_of_sources_modules_and_compiler() -> None:
    keys = {
        compiler.key_of({"a": "1"}, [], "mypyc 1"),
        compiler.key_of({"a": "2"}, [], "mypyc 1"),
        compiler.key_of({"b": "1"}, [], "mypyc 1"),
        compiler.key_of({"a": "1"}, [], "mypyc 2"),
    }
    assert len(keys) == 4


def test_a_build_that_is_cut_short_changes_nothing(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    path = compiled.record_path(str(built.manifest))
    before = path.read_bytes()
    monkeypatch.setattr(Attempts, "once", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.syspath_prepend(str(built.folder))
    with pytest.raises(KeyboardInterrupt):
        compiler.build(str(built.manifest), force=True, say=lambda _: None)
    assert path.read_bytes() == before
    assert compiled.changes(compiled.read_record(path), path.parent) == []
    assert not [each for each in path.parent.iterdir() if each.name.startswith(".work")]


def test_without_a_compiler_it_says_what_to_install(built: Built, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(built.folder))
    monkeypatch.setenv("CC", "/nowhere/cc")
    with pytest.raises(BuildError, match="apt install gcc python3-dev"):
        compiler.build(str(built.manifest), say=lambda _: None)


def test_without_mypyc_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BuildError, match=re.escape("pip install 'mypy[mypyc]' setuptools")):
        compiler.compiler()


def test_a_build_that_was_verified_stays_in_use_without_the_calls_and_is_made_again_for_others() -> None:
    plain, verified = (compiler.key_of({"a": "1"}, [], "mypyc 1", calls) for calls in ("", "2"))
    assert plain == compiler.key_of({"a": "1"}, [], "mypyc 1") != verified
