"""Django's connections that are opened while the exports are imported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from molt_accel import Client
from tests.support.processes import logged_worker

EXPORTS = """
import django, os
from django.conf import settings
settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "opened.sqlite3"}})
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
