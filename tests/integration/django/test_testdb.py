"""Django's test runner on a project of its own: nothing that a test does reaches the real database."""

import contextlib
import os
import socket
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.processes import wait_until

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["notes"]
ROOT_URLCONF = "notes.urls"
ALLOWED_HOSTS = ["*"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "real.sqlite3", "TEST": {"NAME": TEST_NAME}}}
MOLT_EXPORTS = "notes.core"
MOLT_TRANSPORT = "shm"
MOLT_WORKER_EXECUTORS = 1
"""
FILES = {
    "notes/__init__.py": "",
    "notes/apps.py": """
from django.apps import AppConfig
from molt_accel import default_client

class Notes(AppConfig):
    name = "notes"

    def ready(self):
        default_client().start()
""",
    "notes/models.py": """
from django.db import models

class Note(models.Model):
    text = models.TextField()
""",
    "notes/core.py": """
import os
from django.apps import apps
import django
if not apps.ready:
    django.setup()
from molt_worker import export
from notes.models import Note

@export
def add(payload):
    Note.objects.create(text=payload)
    return os.getpid()
""",
    "notes/urls.py": """
from django.http import HttpResponse
from django.urls import path
from molt_accel import molt_offload

@molt_offload(entry="add", payload_builder=lambda _: "noted", timeout_ms=60_000)
def add(request):
    return HttpResponse("here")

@molt_offload(entry="add", payload_builder=lambda _: "noted", timeout_ms=60_000)
async def add_async(request):
    return HttpResponse("here")

urlpatterns = [path("add", add), path("add_async", add_async)]
""",
    "notes/tests.py": """
import os
from django.test import TestCase, TransactionTestCase, override_settings
from molt_accel import Client, ConfigError, MoltStartFailed, default_client
from notes.models import Note

class Default(TestCase):
    def test_inline(self):
        for url in ("/add", "/add_async"):
            with self.assertNoLogs("molt_accel"):
                self.assertEqual(self.client.get(url).json(), os.getpid())
        self.assertEqual(Note.objects.count(), 2)

    async def test_inline_in_an_event_loop(self):
        for url in ("/add", "/add_async"):
            self.assertEqual((await self.async_client.get(url)).json(), os.getpid())
        self.assertEqual(await Note.objects.acount(), 2)

    @override_settings(MOLT_TRANSPORT="pigeon")
    def test_overridden_settings_are_followed_whatever_ran_before(self):
        with override_settings(MOLT_WORKER_EXECUTORS=3), self.assertRaisesRegex(ConfigError, "'pigeon'"):
            default_client()
        with override_settings(MOLT_TRANSPORT="inline", MOLT_WORKER_EXECUTORS=3):
            self.assertEqual(default_client().config.executors, 3)

class AskedFor(TransactionTestCase):
    def test_a_worker_has_the_tests_database(self):
        for transport in ("shm", "stdio"):
            with Client(transport=transport) as client:
                self.assertNotEqual(client.call("add", transport, timeout_ms=60_000), os.getpid())
        with override_settings(MOLT_TRANSPORT="stdio"):
            self.assertNotEqual(self.client.get("/add").json(), os.getpid())
        self.assertEqual(set(Note.objects.values_list("text", flat=True)), {"shm", "stdio", "noted"})

class InMemory(TestCase):
    @override_settings(MOLT_TRANSPORT="stdio")
    def test_says_that_it_can_not(self):
        with Client() as client, self.assertRaisesRegex(MoltStartFailed, "is in the memory of this process"):
            client.call("add", "x")
""",
}


#: A runner without a command of Django's: only its set-up of the test environment tells that tests run.
OWN_RUNNER = """
import django
from django.conf import settings
from django.test.utils import get_runner
django.setup()
raise SystemExit(get_runner(settings)(verbosity=0).run_tests(["notes.tests.Default"]))
"""


@pytest.fixture
def project(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A project whose worker is warmed in ``AppConfig.ready``; at the end its real database must still be empty."""
    for path, source in {
        **FILES,
        "project_settings.py": f"TEST_NAME = {request.param!r}\n{SETTINGS}",
    }.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    run(tmp_path, "-m", "django", "migrate", "--run-syncdb", "--verbosity", "0")
    yield tmp_path
    with sqlite3.connect(tmp_path / "real.sqlite3") as real:
        assert real.execute("SELECT count(*) FROM notes_note").fetchone() == (0,)
    real.close()


def environ(folder: Path) -> dict[str, str]:
    own = {
        "DJANGO_SETTINGS_MODULE": "project_settings",
        "PYTHONPATH": str(folder),
        "MOLT_WORKER_LINGER_MS": "0",
    }
    return {**os.environ, **own}


def run(folder: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=folder,
        env=environ(folder),
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
@pytest.mark.parametrize(
    ("project", "cases"),
    [("test.sqlite3", ["Default", "AskedFor"]), (None, ["Default", "InMemory"])],
    indirect=["project"],
)
def test_tests_never_touch_the_real_database(project: Path, cases: list[str]) -> None:
    run(project, "-m", "django", "test", *(f"notes.tests.{case}" for case in cases))


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
@pytest.mark.parametrize("project", ["test.sqlite3"], indirect=True)
def test_nor_where_a_worker_was_warmed_before_anything_told_of_tests(project: Path) -> None:
    run(project, "-c", OWN_RUNNER)


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


@pytest.mark.parametrize("project", ["test.sqlite3"], indirect=True)
def test_nor_does_a_server_on_the_tests_databases(project: Path) -> None:
    (project / "notes.json").write_text(
        '[{"model": "notes.note", "pk": 7, "fields": {"text": "of a fixture"}}]'
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "django",
        "testserver",
        "notes.json",
        "--noinput",
        "--addrport",
        str(port),
    ]
    server = subprocess.Popen(command, cwd=project, env=environ(project))
    try:
        wait_until(lambda: accepts(port))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/add", timeout=60) as answer:
            assert int(answer.read()) == server.pid
    finally:
        server.terminate()
        server.wait()
    with sqlite3.connect(project / "test.sqlite3") as tests:
        assert tests.execute("SELECT text FROM notes_note").fetchall() == [("of a fixture",), ("noted",)]
    tests.close()
