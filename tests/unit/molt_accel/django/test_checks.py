"""molt_accel.django.checks: what is wrong with the pools, by id, without an import of an entrypoint."""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import psutil
import pytest
from django.conf import settings
from django.core.checks import CheckMessage
from django.db import transaction
from django.test import override_settings
from django.urls import clear_url_caches, include, path
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.cache import never_cache

from molt_accel import Config, molt_offload
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
        (
            {"MOLT_TRANSPORT": "shm", "MOLT_WORKER_NAME": "n" * 64, "MOLT_RUNTIME_DIR": "/tmp/" + "d" * 60},
            "molt.E003",
        ),
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


def test_a_pool_that_no_setting_has_is_an_error() -> None:
    placement.note("reports", "missing", found)
    assert found() == ["molt.E006"]
    assert found(MOLT_POOLS={"reports": {}}) == ["molt.W001"]
    assert found(MOLT_POOLS=["reports"]) == ["molt.E001", "molt.E006"]


def test_a_setting_of_all_pools_is_told_once() -> None:
    assert found(MOLT_WORKER_EXECUTORS=-1, MOLT_POOLS={"a": {}, "b": {}}) == ["molt.E001"]


def test_checks_change_nothing_of_what_this_process_imports_from(tmp_path: Path) -> None:
    before = sys.path[:]
    assert found(MOLT_IMPORT_PATH=str(tmp_path), MOLT_COMPILED="require") == ["molt.E005"]
    checks.check_deployment()
    assert sys.path == before


def test_a_path_that_is_too_long_leaves_auto_with_stdio() -> None:
    long = {"MOLT_WORKER_NAME": "n" * 64, "MOLT_RUNTIME_DIR": "/tmp/" + "d" * 60}
    assert found(MOLT_TRANSPORT="auto", **long) == ["molt.W005"]
    assert found(MOLT_TRANSPORT="stdio", **long) == []


def test_a_server_without_a_bound_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver"])
    assert found(DEBUG=False) == ["molt.W006"]
    assert found(DEBUG=True) == []
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", "--nothreading"])
    assert found(DEBUG=False) == []


def test_compiled_code_is_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    assert found(MOLT_COMPILED="require") == ["molt.E005", "molt.W002"]
    assert found(MOLT_COMPILED="off", DEBUG=True) == []
    assert found(MOLT_BUILD_DIR=str(tmp_path)) == []  # none was made, and none is required
    there = checks.record.record_path(settings.MOLT_EXPORTS, str(tmp_path))
    there.write_text("{}")
    assert found(MOLT_BUILD_DIR=str(tmp_path)) == ["molt.W004"]
    monkeypatch.setattr(checks.record, "read_record", lambda path: None)
    monkeypatch.setattr(checks.record, "check_fresh", lambda record, path: None)
    assert found(MOLT_COMPILED="require") == []
    assert found(DEBUG=True) == ["molt.W003"]


def deployed(**settings: Any) -> list[str]:
    """The ids of what the checks of a deployment say, with these settings."""
    with override_settings(MOLT_WORKER_EXECUTORS=2, **settings):
        return [_checked(message).id or "" for message in checks.check_deployment()]


def test_builds_that_others_may_write_to(tmp_path: Path) -> None:
    folder = tmp_path / "builds"
    assert deployed(MOLT_BUILD_DIR=str(folder)) == []
    folder.mkdir()
    os.chmod(folder, 0o775)
    assert deployed(MOLT_BUILD_DIR=str(folder)) == ["molt.W011"]
    assert deployed(MOLT_BUILD_DIR=str(folder), MOLT_POOLS={"a": {}, "b": {}}) == ["molt.W011"]  # told once
    assert deployed(MOLT_BUILD_DIR=str(folder), MOLT_COMPILED="off") == []
    os.chmod(folder, 0o755)
    assert deployed(MOLT_BUILD_DIR=str(folder)) == []
    there = checks.record.record_path(settings.MOLT_EXPORTS, str(folder))
    there.write_text("{}")
    os.chmod(there, 0o666)
    assert deployed(MOLT_BUILD_DIR=str(folder)) == ["molt.W011"]


def test_a_runtime_directory_that_can_t_be_made() -> None:
    assert deployed(MOLT_RUNTIME_DIR="/no/such/place") == ["molt.W014"]
    assert deployed(MOLT_RUNTIME_DIR="/no/such/place", MOLT_TRANSPORT="stdio") == []


def test_room_for_the_pools_that_do_not_run_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    free = os.statvfs_result((4096, 4096, 1000, 2560, 2560, 0, 0, 0, 0, 255))  # 10 MiB
    monkeypatch.setattr(os, "statvfs", lambda path: free)
    assert deployed(MOLT_WORKER_ARENA_MB=16) == ["molt.W012"]
    assert deployed(MOLT_WORKER_ARENA_MB=8) == []
    assert deployed(MOLT_WORKER_ARENA_MB=8, MOLT_POOLS={"more": {}}) == ["molt.W012"]
    assert deployed(MOLT_WORKER_ARENA_MB=16, MOLT_TRANSPORT="stdio") == []
    with override_settings(MOLT_WORKER_NAME="running", MOLT_RUNTIME_DIR=str(tmp_path)):
        assert deployed(MOLT_WORKER_ARENA_MB=16) == ["molt.W012"]
        (tmp_path / "running.sock").touch()
        assert deployed(MOLT_WORKER_ARENA_MB=16) == []


def test_a_setting_whose_name_is_nearly_right_is_a_warning() -> None:
    names = {
        "MOLT_EXECUTORS": 2,
        "MOLT_WORKER_TRANSPORT": "shm",
        "MOLT_DEMO_METRICS_PATH": "",
        "MOLT_POOLS": {},
    }
    with override_settings(**names):
        messages = [each for each in checks.check_pools() if each.id == "molt.W008"]
    assert [each.msg for each in messages] == [
        "MOLT_EXECUTORS is no setting of Molt Accel; MOLT_WORKER_EXECUTORS is.",
        "MOLT_WORKER_TRANSPORT is no setting of Molt Accel; MOLT_TRANSPORT is.",
    ]


def test_memory_for_the_executors(monkeypatch: pytest.MonkeyPatch) -> None:
    own_mb = psutil.Process().memory_info().rss // 2**20
    there = {"mb": 150}
    monkeypatch.setattr(checks.cgroups, "memory", lambda machine: there["mb"] * 2**20)
    assert deployed(MOLT_WORKER_MAX_RSS_MB=100) == ["molt.W013"]
    assert deployed(MOLT_WORKER_MAX_RSS_MB=75) == []
    there["mb"] = own_mb  # for two executors without a limit
    assert deployed() == ["molt.W013"]
    there["mb"] = own_mb * 4
    assert deployed() == []


def test_the_documents_list_every_id_with_what_to_do() -> None:
    listed = re.findall(r"^\| `(molt\.\w+)` \|.*\| (.*) \|$", read("reference/checks.md"), re.M)
    assert {number: hint.replace("`", "") for number, hint in listed} == checks.HINTS
    assert Config.load().compiled == "prefer"


def test_an_offloaded_view_in_a_transaction_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    from rest_framework.decorators import api_view
    from rest_framework.viewsets import ViewSet

    @molt_offload(entry="echo", client=cast(Any, object()))
    def inside(request: object) -> None: ...

    class InClass(View):
        @molt_offload(entry="echo", client=cast(Any, object()))
        def get(self, request: object) -> None: ...

    def plain(request: object) -> None: ...

    class Base(View):
        @method_decorator(molt_offload(entry="echo", client=cast(Any, object())))
        def post(self, request: object) -> None: ...

    class Decorated(Base): ...

    @api_view(["GET"])
    @molt_offload(entry="echo", client=cast(Any, object()))
    def by_rest_framework(request: object) -> None: ...

    class Rows(ViewSet):
        @molt_offload(entry="echo", client=cast(Any, object()))
        def rows(self, request: object) -> None: ...

        def plain(self, request: object) -> None: ...

    outside = transaction.non_atomic_requests(never_cache(inside))
    rows = [Rows.as_view({"get": action}) for action in ("rows", "plain")]
    views = [inside, never_cache(inside), outside, InClass.as_view(), plain]
    views += [Decorated.as_view(), by_rest_framework, *rows]
    nested = [path("nested/", include([path(f"{number}", view) for number, view in enumerate(views)]))]
    monkeypatch.setattr(sys.modules[__name__], "urlpatterns", nested)
    clear_url_caches()
    assert found() == []
    databases = {"default": {"ENGINE": "django.db.backends.sqlite3", "ATOMIC_REQUESTS": True}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(settings, "DATABASES", databases)
        messages = [_checked(message) for message in checks.check_pools()]
    assert [message.id for message in messages] == ["molt.W007"] * 5
    assert "inside runs in a transaction (ATOMIC_REQUESTS of default)" in messages[0].msg
    assert "InClass.get runs in a transaction" in messages[1].msg
    assert messages[2].msg.split(" runs ")[0].endswith(".<locals>.Decorated.post")
    assert messages[3].msg.split(" runs ")[0].endswith(".<locals>.by_rest_framework")
    assert messages[4].msg.split(" runs ")[0].endswith(".<locals>.Rows.rows")
