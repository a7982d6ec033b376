"""The test kit in a project's own tests: Django's runner in parallel, and pytest with pytest-django and xdist."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import marked, wait_until

FILES = {
    "manage.py": """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
""",
    "settings.py": """
SECRET_KEY = "tests"
INSTALLED_APPS = ["molt_accel.django", "notes"]
ROOT_URLCONF = "notes.urls"
DATABASES = {
    "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "real.sqlite3", "TEST": {"NAME": "test.sqlite3"}}
}
MOLT_WORKER_EXECUTORS = 1
MOLT_WORKER_NAME = "production"
""",
    "pytest.ini": """
[pytest]
DJANGO_SETTINGS_MODULE = settings
filterwarnings = error
""",
    "notes/__init__.py": "",
    "notes/models.py": """
from django.db import models

class Note(models.Model):
    text = models.TextField()
""",
    "notes/entrypoints.py": """
import os
from django.db import connection
from molt_worker import export
from notes.models import Note

@export
def facts(payload):
    texts = list(Note.objects.values_list("text", flat=True))
    return {"pid": os.getpid(), "database": str(connection.settings_dict["NAME"]), "texts": texts}
""",
    "notes/urls.py": """
from django.http import JsonResponse
from django.urls import path
from molt_accel import molt_offload
from notes.entrypoints import facts

@molt_offload(entry=facts, payload_builder=lambda request: {"asked": request.GET.get("q")}, timeout_ms=60_000)
def view(request):
    return JsonResponse({"here": True})

urlpatterns = [path("facts", view)]
""",
    # What both runners have in common.
    "notes/common.py": """
import json, os, pathlib
from django.db import connection
from molt_accel import client_for
from notes.models import Note

def check_real(browser, pool, label):
    Note.objects.create(text=label)
    found = browser.get("/facts").json()
    assert found["texts"] == [label], found
    assert found["database"] == str(connection.settings_dict["NAME"]), found
    supervisor = pool.ping()["pid"]
    assert os.getpid() not in (supervisor, found["pid"])
    row = {"runner": os.getpid(), "database": found["database"], "pids": [supervisor, found["pid"]]}
    with open("pools.jsonl", "a") as file:
        file.write(json.dumps(row) + "\\n")

def check_inline(browser, label):
    Note.objects.create(text=label)
    found = browser.get("/facts").json()
    assert (found["pid"], found["texts"]) == (os.getpid(), [label]), found

def check_settings(change):
    default = client_for("default")
    with change(MOLT_POOLS={"reports": {"MAX_QUEUE": 3}}):
        reports = client_for("reports")
        assert reports.config.max_queue == 3
        assert (reports.config.linger_ms, reports.config.transport) == (0, "inline")
        assert client_for("default") is default
        with change(MOLT_POOLS={"reports": {"MAX_QUEUE": 4}}):
            assert client_for("reports").config.max_queue == 4
            assert client_for("default") is default
    with change(MOLT_WORKER_MAX_QUEUE=5):
        assert client_for("default").config.max_queue == 5
    assert client_for("default").config.max_queue == 64
    assert client_for("default").call("facts")["pid"] == os.getpid()
""",
    "notes/tests.py": """
from django.test import TestCase, TransactionTestCase, override_settings
from molt_accel import MoltBusy
from molt_accel.testing import busy, crashed, forced, inline_pool, real_pool, recorded_calls, returns
from notes.common import check_inline, check_real, check_settings

class Kit(TestCase):
    def setUp(self):
        self.calls = self.enterContext(recorded_calls())

    def test_an_answer(self):
        self.enterContext(forced("facts", busy(retry_after_s=1)))
        response = self.client.get("/facts?q=x", headers={"X-Request-ID": "one"})
        self.assertEqual((response.status_code, response["Retry-After"]), (429, "1"))
        (call,) = self.calls
        self.assertEqual((call.pool, call.entry, call.payload), ("default", "facts", {"asked": "x"}))
        self.assertEqual(call.metadata["request_id"], "one")
        self.assertIsInstance(call.error, MoltBusy)

    @forced("facts", returns([1]))
    async def test_a_result(self):
        self.assertEqual((await self.async_client.get("/facts")).json(), [1])

    @forced("facts", returns([2]))
    def test_a_decorated_test(self):
        self.assertEqual(self.client.get("/facts").json(), [2])

class Settings(TestCase):
    def test_inline(self):
        check_inline(self.client, "inline")

    def test_overridden(self):
        check_settings(override_settings)

class RealOne(TransactionTestCase):
    label = "one"

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.pool = cls.enterClassContext(real_pool())

    def test_real(self):
        check_real(self.client, self.pool, self.label)
        with override_settings(MOLT_WORKER_MAX_QUEUE=3):
            self.assertNotEqual(self.client.get("/facts").json()["database"], "")
        self.client.raise_request_exception = False
        with inline_pool(), forced("facts", crashed(), times=1):
            self.assertEqual(self.client.get("/facts").status_code, 500)

class RealTwo(RealOne):
    label = "two"
""",
    "test_notes.py": """
import os
import pytest
from django.test import override_settings
from molt_accel import client_for, testing
from notes.common import check_inline, check_real, check_settings

@pytest.mark.parametrize("label", ["one", "two", "three", "four"])
@pytest.mark.django_db(transaction=True)
def test_real(client, molt_pool, label):
    check_real(client, molt_pool, label)

@pytest.mark.django_db
def test_inline_again(client):
    check_inline(client, "inline")

@pytest.mark.django_db
def test_settings(settings):
    check_settings(override_settings)
    default = client_for("default")
    settings.MOLT_WORKER_MAX_QUEUE = 9
    assert client_for("default").config.max_queue == 9
    settings.MOLT_POOLS = {"default": {"MAX_QUEUE": 8}}
    assert client_for("default").config.max_queue == 8

def test_forced(client, molt_force, molt_calls, molt_inline):
    molt_force("facts", testing.unavailable())
    client.raise_request_exception = False
    assert client.get("/facts").status_code == 503
    molt_force("facts", testing.returns("given"))
    assert client.get("/facts?q=y").json() == "given"
    assert [call.payload for call in molt_calls] == [{"asked": None}, {"asked": "y"}]
""",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for path, source in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "MOLT_WORKER_LINGER_MS", "MOLT_IMPORT_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def check_pools(folder: Path) -> None:
    """No two processes that ran tests have met in a pool or a database, and nothing is left of any."""
    wait_until(lambda: not marked("MOLT_TEST_ID", os.environ["MOLT_TEST_ID"]))
    rows = [json.loads(line) for line in (folder / "pools.jsonl").read_text().splitlines()]
    runners = {row["runner"] for row in rows}
    assert len(runners) == 2
    for thing in ("database", "pids"):
        kept = [{str(row[thing]) for row in rows if row["runner"] == runner} for runner in runners]
        assert not set.intersection(*kept)
    with sqlite3.connect(folder / "real.sqlite3") as real:
        assert real.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,)
    real.close()


def test_django_s_runner_in_parallel(project: Path) -> None:
    printed = run(project, "manage.py", "test", "--parallel", "2")
    assert "Ran 7 tests" in printed
    check_pools(project)


def test_pytest_in_parallel(project: Path) -> None:
    options = ["-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "each"]
    printed = run(project, "-m", "pytest", *options, "test_notes.py")
    assert "14 passed" in printed
    check_pools(project)
