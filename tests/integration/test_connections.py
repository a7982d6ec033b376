"""Django's connections that are opened while the exports are imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import Client
from tests.support.processes import logged_worker

EXPORTS = """
import django
from django.conf import settings
file = __file__ + ".sqlite3"
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": file}})
django.setup()
from django.db import connection
from molt_worker import export

connection.ensure_connection()
at_import = connection.connection

@export
def look(payload):
    before = connection.connection
    with connection.cursor() as cursor:
        cursor.execute("select 1")
    return [before is None, connection.connection is at_import]
"""


def test_no_executor_shares_a_connection_that_was_made_at_import(
    make_module: Callable[[str, str], Path], transport: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    log = tmp_path / "worker.log"
    monkeypatch.setenv("MOLT_WORKER_CMD", logged_worker(log))
    make_module("opened_at_import", EXPORTS)
    with Client(transport=transport, exports="opened_at_import", executors=1, log_json=True) as client:
        assert client.call("look", timeout_ms=60_000) == [True, False]
    said = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    assert [line["databases"] for line in said if line["event"] == "connections_at_import"] == ["default"]


UNREAD = """
import os
import django.db
from django.conf import settings
from molt_worker import export

os.environ["DJANGO_SETTINGS_MODULE"] = "no.such_settings"

@export
def configured(payload):
    return settings.configured
"""


def test_exports_that_import_django_alone_need_no_settings(
    make_module: Callable[[str, str], Path], transport: str
) -> None:
    make_module("settings_unread", UNREAD)
    with Client(transport=transport, exports="settings_unread", executors=1) as client:
        assert client.call("configured", timeout_ms=60_000) is False
