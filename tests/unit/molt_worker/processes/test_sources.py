"""Whether the code that was imported is still the code on the disk."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
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
    assert {str(manifest), str(Path(__file__)), os.__file__} <= {path for path, _ in files}
    assert not sources.changed(files)
    change(manifest)
    assert sources.changed(files)


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
