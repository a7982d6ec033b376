"""The command ``molt-worker build``."""

import msgspec
import pytest

from molt_worker.cli import build
from molt_worker.compile import record as compiled
from molt_worker.compile.record import Module, Record
from tests.support import build_project as project
from tests.support.builds import Built, run_build


def test_check_says_whether_it_is_up_to_date(built: Built) -> None:
    done = run_build(project.MANIFEST, "--check", cwd=built.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "3 of 11 modules compiled, up to date" in done.stdout
    (built.folder / "models.py").write_text("LIMIT = 1\n")
    done = run_build(project.MANIFEST, "--check", cwd=built.folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "the build is stale: models has changed" in done.stderr


def test_strict_fails_where_a_module_is_left_in_python(built: Built) -> None:
    assert run_build(project.MANIFEST, "--strict", cwd=built.folder).returncode == 1


def test_the_record_is_printed_for_programs(built: Built) -> None:
    done = run_build(project.MANIFEST, "--json", cwd=built.folder)
    assert msgspec.json.decode(done.stdout, type=Record) == built.record


def test_exports_come_from_the_environment_too(built: Built) -> None:
    done = run_build("--check", cwd=built.folder, MOLT_EXPORTS="shop.core", MOLT_BUILD_DIR="elsewhere")
    assert done.returncode == 1
    assert f"{built.folder}/elsewhere/core-" in done.stderr
    assert "there is no build" in done.stderr


@pytest.mark.parametrize(
    ("exports", "text"),
    [("no.json", "can't be read"), ("no.such.module", "there is no such Python module with a source")],
)
def test_exports_that_are_not_in_order_are_wrong_usage(built: Built, exports: str, text: str) -> None:
    done = run_build(exports, cwd=built.folder)
    assert done.returncode == 2
    assert text in done.stderr


def test_the_report_shows_what_became_of_each_module() -> None:
    modules = [
        Module("shop.core", True, notes=["line 3: f has no type for its return value"]),
        Module("shop.models", False, "uses __file__", 7),
        Module("shop.late", False, "it can't be imported"),
    ]
    record = Record(compiled.VERSION, "key", "abi", "", "mypyc 2, cc 1, -O3", 2.5, modules, {}, {})
    assert build.report(record, is_new=True).splitlines() == [
        "shop.core      compiled",
        "               note: line 3: f has no type for its return value",
        "shop.models:7  left in Python: uses __file__",
        "shop.late      left in Python: it can't be imported",
        "1 of 3 modules compiled, built in 2.5 s (mypyc 2, cc 1, -O3)",
    ]
    assert "up to date" in build.report(record, is_new=False)


def test_nothing_to_compile_is_no_error(built: Built) -> None:
    (built.folder / "empty.json").write_text(
        '{"abi_version": "0.1", "exports": [{"name": "health", "target": "molt_worker.entrypoints.builtin:health"}]}'
    )
    done = run_build("empty.json", cwd=built.folder)
    assert (done.returncode, done.stdout.startswith("0 of 0 modules compiled")) == (0, True), done.stderr
