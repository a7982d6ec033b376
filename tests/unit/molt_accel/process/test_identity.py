"""molt_accel.process.identity: what decides who may share a pool."""

import os
import sys
from pathlib import Path

import pytest

from molt_accel.errors import MoltStartFailed
from molt_accel.process import identity


def own(exports: str = "", path: list[str] | None = None, ignored: str = "") -> dict[str, str]:
    return identity.of_this_process(exports, path or [], ignored)


@pytest.mark.parametrize(
    "name", ["DJANGO_SETTINGS_MODULE", "DATABASE_URL", "LANG", "PATH", "PYTHONPATH", "TZ", "SECRET"]
)
def test_all_environment_variables_count_none_is_told(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "one")
    before = own()
    monkeypatch.setenv(name, "two")
    assert identity.differences(before, own()) == [f"environment variable {name}"]
    monkeypatch.delenv(name)
    assert identity.differences(before, own()) == [f"environment variable {name}"]
    assert "one" not in str(before)
    assert identity.differences(own(ignored=f"OTHER, {name}"), own()) == []


@pytest.mark.parametrize("name", ["TERM", "SSH_TTY", "INVOCATION_ID", "SERVER_SOFTWARE", "MOLT_TRANSPORT"])
def test_variables_of_terminals_and_services_do_not_count(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    monkeypatch.setenv(name, "x")
    assert own() == before


def test_the_working_directory_counts_and_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = own()
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    assert identity.differences(before, own()) == ["working directory"]
    gone.rmdir()
    with pytest.raises(MoltStartFailed, match="working directory is gone"):
        own()


def test_environments_of_one_python_differ_however_alike_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "one"))
    one = own()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "other"))
    assert identity.differences(one, own()) == ["Python"]
    (tmp_path / "other").symlink_to(tmp_path / "one")  # another path to the same
    assert own() == one


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a umask can't be read")
def test_the_umask_counts() -> None:
    before = own()
    umask = os.umask(0o077)
    try:
        assert identity.differences(before, own()) in ([], ["umask"])
        os.umask(0o027)
        assert identity.differences(before, own()) == ["umask"]
    finally:
        os.umask(umask)


def test_exports_count_where_both_say_them() -> None:
    assert identity.differences(own("shop.entrypoints"), own("other")) == ["exports"]
    assert identity.differences(own("shop.entrypoints"), own()) == []
    assert identity.differences(own(path=["/a", "/b"]), own(path=["/b", "/a"])) == ["sys.path"]


def test_the_import_path_is_what_the_process_has_besides_pythons_and_its_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lib, here = tmp_path / "lib", tmp_path / "here"
    for folder in (lib, here):
        folder.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(
        sys, "path", ["", str(here), str(lib), f"{sys.prefix}/bin", str(tmp_path / "missing"), str(lib)]
    )
    assert identity.import_path() == [str(lib)]
