"""molt_accel.django.checks: what is wrong with the pools, by id, without an import of an entrypoint."""

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.core.checks import CheckMessage
from django.test import override_settings

from molt_accel import Config
from molt_accel.django import checks, placement
from tests.support.documents import read

_ENTRYPOINTS = """
from molt_worker import export
import molt_worker
raise RuntimeError("imported")

@export
def plain(payload): ...

@molt_worker.export(name="named", codec_out="json")
def other(payload): ...
"""


urlpatterns: list[object] = []  # of the project that is checked


@pytest.fixture(autouse=True)
def _project_of_its_own(_project: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(placement, "_decorated", {})
    monkeypatch.setattr("molt_accel.config._django_settings", lambda: settings)
    with override_settings(ROOT_URLCONF=__name__):
        yield


def found(**settings: Any) -> list[str]:
    """The ids of what the checks of pools say, with these settings."""
    with override_settings(**settings):
        return [_checked(message).id or "" for message in checks.check_pools()]


def _checked(message: CheckMessage) -> CheckMessage:
    assert message.hint == checks.HINTS[str(message.id)]
    return message


def test_a_project_in_order_has_nothing_to_say() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("settings", "number"),
    [
        ({"MOLT_WORKER_EXECUTORS": -1}, "molt.E001"),
        ({"MOLT_POOLS": {"reports": {"EXECUTOR": 1}}}, "molt.E001"),
        ({"MOLT_EXPORTS": "no.such.module"}, "molt.E002"),
        ({"MOLT_EXPORTS": "no_such.json"}, "molt.E002"),
        ({"MOLT_WORKER_NAME": "n" * 64, "MOLT_RUNTIME_DIR": "/tmp/" + "d" * 60}, "molt.E003"),
        ({"MOLT_COMPILED": "require"}, "molt.E005"),
    ],
)
def test_what_can_t_work_is_an_error(settings: dict[str, Any], number: str) -> None:
    assert [each for each in found(**settings) if each != "molt.W002"] == [number]


def test_a_runtime_directory_that_others_may_use_is_an_error(tmp_path: Path) -> None:
    os.chmod(tmp_path, 0o755)
    assert found(MOLT_RUNTIME_DIR=str(tmp_path)) == ["molt.E004"]
    os.chmod(tmp_path, 0o700)
    assert found(MOLT_RUNTIME_DIR=str(tmp_path)) == []


def test_an_entry_that_no_export_has_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "some_entrypoints.py").write_text(_ENTRYPOINTS)
    monkeypatch.syspath_prepend(str(tmp_path))
    for entry in ("plain", "named", "missing"):
        placement.note("default", entry, found)
    placement.note("default", "missing", test_a_project_in_order_has_nothing_to_say)  # the first one is named
    with override_settings(MOLT_EXPORTS="some_entrypoints"):
        (message,) = checks.check_pools()
    assert _checked(message).id == "molt.W001"
    assert message.msg == f"The pool 'default': {__name__}.found offloads 'missing', which no export has."


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ("from molt_worker import export\n@export\ndef f(p): ...\ndef g(p): ...", {"export", "f"}),
        ("from other import a, b as c\n", {"a", "c"}),
        ("from other import *\n", None),
        ("@export(name='a' + 'b')\ndef f(p): ...", None),
        ("f = export(g)\n", None),
        ("for f in g: export(f)\n", None),
    ],
)
def test_what_a_module_may_export_is_read_and_not_run(source: str, names: set[str] | None) -> None:
    assert checks._marked(ast.parse(source)) == names


def test_compiled_code_is_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks.shutil, "which", lambda name: None)
    assert found(MOLT_COMPILED="require") == ["molt.E005", "molt.W002"]
    assert found(MOLT_COMPILED="off", DEBUG=True) == []
    monkeypatch.setattr(checks.record, "read_record", lambda path: None)
    monkeypatch.setattr(checks.record, "check_fresh", lambda record, path: None)
    assert found(MOLT_COMPILED="require") == []
    assert found(DEBUG=True) == ["molt.W003"]


def test_a_deployment_s_builds_and_memory_are_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deployed(**settings: Any) -> list[str]:
        with override_settings(MOLT_WORKER_EXECUTORS=2, **settings):
            return [_checked(message).id or "" for message in checks.check_deployment()]

    assert deployed(MOLT_BUILD_DIR=str(tmp_path / "missing")) == []
    os.chmod(tmp_path, 0o775)
    assert deployed(MOLT_BUILD_DIR=str(tmp_path)) == ["molt.W011"]
    free = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize // 2**20
    if free < 65536:  # the most that can be asked for
        assert deployed(MOLT_WORKER_ARENA_MB=65536, MOLT_TRANSPORT="shm") == ["molt.W012"]
    assert deployed(MOLT_WORKER_ARENA_MB=65536, MOLT_TRANSPORT="stdio") == []
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(checks, "_LIMIT", limit)
    limit.write_text("max\n")
    assert deployed(MOLT_WORKER_MAX_RSS_MB=100) == []
    limit.write_text(f"{150 * 2**20}\n")
    assert deployed(MOLT_WORKER_MAX_RSS_MB=100) == ["molt.W013"]
    assert deployed(MOLT_WORKER_MAX_RSS_MB=75) == []


def test_the_documents_list_every_id_with_what_to_do() -> None:
    listed = re.findall(r"^\| `(molt\.\w+)` \|.*\| (.*) \|$", read("reference/checks.md"), re.M)
    assert {number: hint.replace("`", "") for number, hint in listed} == checks.HINTS
    assert Config.load().compiled == "prefer"
