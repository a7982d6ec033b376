"""Django's test runner on a project of its own: nothing that a test does reaches the real database."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["notes"]
ROOT_URLCONF = "notes.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "real.sqlite3", "TEST": {"NAME": TEST_NAME}}}
MOLT_EXPORTS = "notes.core"
MOLT_TRANSPORT = "shm"
MOLT_WORKER_EXECUTORS = 1
"""
FILES = {
    "notes/__init__.py": "",
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

urlpatterns = [path("add", add)]
""",
    "notes/tests.py": """
import os
from django.test import TestCase, TransactionTestCase, override_settings
from molt_accel import Client, MoltStartFailed
from notes.models import Note

class Default(TestCase):
    def test_inline(self):
        self.assertEqual(self.client.get("/add").json(), os.getpid())
        self.assertEqual(Note.objects.count(), 1)

class AskedFor(TransactionTestCase):
    def test_a_worker_has_the_tests_database(self):
        for transport in ("shm", "stdio"):
            with Client(transport=transport) as client:
                self.assertNotEqual(client.call("add", transport, timeout_ms=60_000), os.getpid())
        self.assertEqual(set(Note.objects.values_list("text", flat=True)), {"shm", "stdio"})

class InMemory(TestCase):
    @override_settings(MOLT_TRANSPORT="stdio")
    def test_says_that_it_can_not(self):
        with Client() as client, self.assertRaisesRegex(MoltStartFailed, "is in the memory of this process"):
            client.call("add", "x")
""",
}


def run(folder: Path, *words: str) -> str:
    environ = {**os.environ, "DJANGO_SETTINGS_MODULE": "project_settings", "PYTHONPATH": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "django", *words],
        cwd=folder,
        env=environ,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="there are no shared pools")
@pytest.mark.parametrize(
    ("name", "cases"), [("test.sqlite3", ["Default", "AskedFor"]), (None, ["Default", "InMemory"])]
)
def test_tests_never_touch_the_real_database(tmp_path: Path, name: str | None, cases: list[str]) -> None:
    for path, source in {**FILES, "project_settings.py": f"TEST_NAME = {name!r}\n{SETTINGS}"}.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(source)
    run(tmp_path, "migrate", "--run-syncdb", "--verbosity", "0")
    run(tmp_path, "test", *(f"notes.tests.{case}" for case in cases))
    with sqlite3.connect(tmp_path / "real.sqlite3") as real:
        assert real.execute("SELECT count(*) FROM notes_note").fetchone() == (0,)
    real.close()
