"""Whether the code that was imported is still the code on the disk."""

from __future__ import annotations

import importlib
import os
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from molt_worker.processes import sources


def _append(path: Path) -> None:
    path.write_text("x = 11\n")


def _replace_by_same_size_and_times(path: Path) -> None:
    before = path.stat()
    other = path.with_suffix(".new")
    other.write_text("x = 2\n")
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    other.replace(path)


@pytest.mark.parametrize("change", [_append, _replace_by_same_size_and_times, Path.unlink])
def test_a_file_that_was_written_replaced_or_removed_is_changed(
    tmp_path: Path, change: Callable[[Path], object]
) -> None:
    manifest = tmp_path / "exports.json"
    manifest.write_text("x = 1\n")
    long_ago = time.time_ns() - 10**12
    os.utime(manifest, ns=(long_ago, long_ago))
    files = sources.imported(str(manifest), time.time_ns())
    assert {str(manifest), str(Path(__file__)), os.__file__} <= {path for path, _ in files.files}
    assert not sources.changed(files)
    change(manifest)
    assert sources.changed(files)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[sources.Sources]:
    """What is known of a project of which only `shop_of_sources.core` was imported."""
    for path in ("shop_of_sources/core.py", "shop_of_sources/pricing.py", "stock/__init__.py"):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text("x = 1\n")
        os.utime(tmp_path / path, ns=(10**18, 10**18))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("shop_of_sources.core")
    yield sources.imported("shop_of_sources.core", time.time_ns())
    for name in ("shop_of_sources.core", "shop_of_sources"):
        del sys.modules[name]


@pytest.mark.parametrize(
    "name",
    [
        "shop_of_sources/pricing.py",
        "shop_of_sources/local.py",
        "stock/__init__.py",
        "settings.py",
        "new/a.py",
        ".env",
        "shop_of_sources/.env.local",
        "new/config.toml",
        "../.env",
    ],
)
def test_a_source_or_settings_file_that_was_not_imported_and_a_new_one_count_too(
    project: sources.Sources, tmp_path: Path, name: str
) -> None:
    assert not sources.changed(project)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x = 22\n")
    assert sources.changed(project)
    (tmp_path / name).unlink()
    assert sources.changed(project) is (name in ("shop_of_sources/pricing.py", "stock/__init__.py"))


def test_what_a_program_writes_beside_its_sources_does_not(project: sources.Sources, tmp_path: Path) -> None:
    (tmp_path / "venv").mkdir()
    (tmp_path / "media").mkdir()
    for name in ("venv/pyvenv.cfg", "venv/a.py", "db.sqlite3", "shop_of_sources/.#core.py", "conf.json"):
        (tmp_path / name).write_text("x")
    for number in range(sources._MAX_ENTRIES + 1):
        (tmp_path / f"media/{number}.py").touch()
    (tmp_path / "shop_of_sources/circle").symlink_to(tmp_path)
    (tmp_path / "shop_of_sources/nowhere.py").symlink_to(tmp_path / "gone")
    (tmp_path / "shop_of_sources/__pycache__").mkdir(exist_ok=True)
    (tmp_path / "shop_of_sources/__pycache__/x.py").write_text("x")
    assert not sources.changed(project)


def test_an_archive_that_was_replaced_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "of_sources.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("in_an_archive.py", "")
    os.utime(archive, ns=(10**18, 10**18))
    monkeypatch.syspath_prepend(str(archive))
    importlib.import_module("in_an_archive")
    known = sources.imported("in_an_archive", time.time_ns())
    del sys.modules["in_an_archive"]
    assert not sources.changed(known)
    archive.touch()
    assert sources.changed(known)


def test_a_file_that_changed_during_the_import_counts_as_changed(tmp_path: Path) -> None:
    manifest = tmp_path / "exports.json"
    began_ns = time.time_ns()
    manifest.write_text("x = 1\n")
    assert sources.changed(sources.imported(str(manifest), began_ns))


def test_a_file_of_the_future_does_not(tmp_path: Path) -> None:
    manifest = tmp_path / "exports.json"
    manifest.write_text("x = 1\n")
    soon_ns = time.time_ns() + 10**12
    os.utime(manifest, ns=(soon_ns, soon_ns))
    assert not sources.changed(sources.imported(str(manifest), time.time_ns()))
