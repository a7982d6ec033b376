"""Exports are found where Python's import finds them: by the worker, and by ``molt-worker --check``."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from molt_accel import MoltStartFailed
from tests.support import ROOT
from tests.support.pools import MakeClient

CODE = "from molt_worker import export\n\n@export\ndef where(_):\n    return __name__\n"


def namespace(root: Path) -> str:
    """Packages without ``__init__``, one in another."""
    (root / "apps/shop").mkdir(parents=True)
    (root / "apps/shop/core.py").write_text(CODE)
    return str(root)


def archive(root: Path) -> str:
    with zipfile.ZipFile(root / "apps.zip", "w") as file:
        file.writestr("apps/__init__.py", "")
        file.writestr("apps/shop/__init__.py", "")
        file.writestr("apps/shop/core.py", CODE)
    return str(root / "apps.zip")


def src_layout(root: Path) -> str:
    (root / "src/apps/shop").mkdir(parents=True)
    for package in ("apps", "apps/shop"):
        (root / "src" / package / "__init__.py").touch()
    (root / "src/apps/shop/core.py").write_text(CODE)
    return str(root / "src")


@pytest.fixture(params=[namespace, archive, src_layout])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project, whose modules the client finds by `sys.path` only."""
    monkeypatch.delenv("MOLT_IMPORT_PATH")
    monkeypatch.syspath_prepend(request.param(tmp_path))
    rows = [{"name": "where", "target": "apps.shop.core:where"}]
    (tmp_path / "exports.json").write_text(json.dumps({"abi_version": "0.1", "exports": rows}))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("exports", ["apps.shop.core", "exports.json"])
def test_the_worker_and_its_check_find_what_python_finds(
    make_client: MakeClient, folder: Path, exports: str
) -> None:
    assert make_client(exports=exports).call("where") == "apps.shop.core"
    done = subprocess.run(
        [sys.executable, "-m", "molt_worker", "--check", "--exports", exports],
        env={**os.environ, "PYTHONPATH": f"{sys.path[0]}{os.pathsep}{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "where  apps.shop.core:where  msgpack -> msgpack\n", done.stderr


def test_a_module_that_is_not_found_says_where_it_was_looked_for(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MoltStartFailed) as caught:
        make_client(exports="nowhere.at_all").call("where")
    assert (
        "can't import nowhere.at_all: ModuleNotFoundError: No module named 'nowhere'" in caught.value.detail
    )
    assert f"; looked in {tmp_path}, " in caught.value.detail
    # If the worker was gone before the call could be handed over, it is the next start that is refused for now.
    end = r" or add that to sys\.path or MOLT_IMPORT_PATH( \(the next start is tried in 0\.\d s\))?$"
    assert re.search(end, caught.value.detail)


def test_a_working_directory_that_was_deleted_is_said(
    make_client: MakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "release").mkdir()
    monkeypatch.chdir(tmp_path / "release")
    client = make_client()
    (tmp_path / "release").rmdir()
    with pytest.raises(MoltStartFailed, match="working directory is gone"):
        client.call("echo", 1)
