"""Executors of a project on PostgreSQL: connections that persist, psycopg's pools, transactions left open."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.django.test_project import worker_log
from tests.support import TRANSPORTS
from tests.support.processes import wait_until

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["molt_accel.django", "shop"]
DATABASES = {{
    "default": {{
        "ENGINE": "django.db.backends.postgresql", "NAME": "postgres", "USER": "postgres", "HOST": "{host}", **{more}
    }}
}}
MOLT_WORKER_EXECUTORS = 1
"""
#: How a project keeps connections.
KEPT = {
    "persistent": {"CONN_MAX_AGE": None, "CONN_HEALTH_CHECKS": True},
    "pool": {"OPTIONS": {"pool": {"min_size": 1, "max_size": 2}}, "CONN_HEALTH_CHECKS": True},
}
FILES = {
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    number = models.IntegerField()
""",
    "shop/entrypoints.py": """
import os
from django.db import connection, transaction
from molt_worker import export
from shop.models import Order

def backend():
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        return cursor.fetchone()[0]

IMPORTED_BY = os.getpid(), backend()  # in the fork server, whose connection no executor may share

@export
def backends(payload):
    return [os.getpid(), backend(), list(IMPORTED_BY)]

@export
def leaves_open(payload):
    transaction.set_autocommit(False)
    Order.objects.create(number=1)

@export
def leaves_atomic(payload):
    transaction.atomic().__enter__()
    Order.objects.create(number=2)

@export
def creates(payload):
    with transaction.atomic():
        Order.objects.create(number=3)

@export
def numbers(payload):
    return list(Order.objects.values_list("number", flat=True))
""",
    "main.py": """
import json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.db import connection
from molt_accel import default_client
from shop.models import Order

with connection.schema_editor() as editor:
    editor.create_model(Order)

def ask(query):
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchall()

client, seen = default_client(), {}
client.start()
seen["first"] = [client.call("backends", timeout_ms=60_000) for _ in range(3)]
alive = [pid for pid, in ask("SELECT pid FROM pg_stat_activity WHERE backend_type = 'client backend'")]
seen["import's is closed"] = seen["first"][0][2][1] not in alive
for entry in ("leaves_open", "leaves_atomic", "creates"):
    client.call(entry, timeout_ms=60_000)
seen["numbers"] = client.call("numbers")
seen["states"] = sorted({state for state, in ask("SELECT state FROM pg_stat_activity WHERE state <> 'active'")})
lost = client.call("backends")[1]
ask(f"SELECT pg_terminate_backend({lost}, 10000)")
seen["lost"], seen["afterwards"] = lost, client.call("backends", timeout_ms=60_000)
with connection.schema_editor() as editor:
    editor.delete_model(Order)
client.close()
print(json.dumps(seen))
""",
}


def program(name: str) -> str:
    """A program of PostgreSQL; Debian keeps those of the server out of the path."""
    versions = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    found = shutil.which(name) or (str(versions[-1]) if versions else None)
    if found is None:
        pytest.skip(f"{name} is missing: install PostgreSQL (on Debian: apt-get install postgresql)")
    return found


@pytest.fixture
def postgres() -> Iterator[Path]:
    """A server that listens on a socket in this folder only. It refuses to run as root, so root lends it a user."""
    account: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="molt-postgres-") as name:
        if os.geteuid() == 0:
            user = pwd.getpwnam("postgres")
            account = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
            os.chown(name, user.pw_uid, user.pw_gid)
        data = f"{name}/data"
        initdb = [program("initdb"), "--auth=trust", "--username=postgres", "--no-sync", "-D", data]
        subprocess.run(initdb, check=True, capture_output=True, cwd=name, timeout=60, **account)
        options = ["-D", data, "-k", name, "-h", "", "-F"]
        with open(f"{name}/log", "w+") as log:
            server = subprocess.Popen(
                [program("postgres"), *options], cwd=name, stdout=log, stderr=log, **account
            )
            try:
                wait_until(
                    lambda: "ready to accept connections" in Path(name, "log").read_text() or server.poll(),
                    60,
                )
                assert server.poll() is None, Path(name, "log").read_text()
                yield Path(name)
            finally:
                server.send_signal(signal.SIGQUIT)  # at once, whoever is connected
                server.wait(60)


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", TRANSPORTS, indirect=True)
def test_connections_to_postgresql_are_an_executor_s_own_and_survive(
    transport: str, postgres: Path, tmp_path: Path
) -> None:
    for kept, more in KEPT.items():
        folder = tmp_path / kept
        for name, text in {**FILES, "settings.py": SETTINGS.format(host=postgres, more=more)}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
        environment = {
            **os.environ,
            "MOLT_TRANSPORT": transport,
            "MOLT_IMPORT_PATH": "",
            "MOLT_LOG_JSON": "1",
        }
        done = subprocess.run(
            [sys.executable, "main.py"],
            cwd=folder, env=environment, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        seen = json.loads(done.stdout)
        ((pid, backend, (importer, imported)), *_) = seen["first"]
        assert importer != pid
        for answer in seen["first"]:  # a pool gives any of its connections
            assert answer[0] == pid
            assert answer[1] == backend or (kept == "pool" and answer[1] != imported)
        assert backend != imported
        assert seen["import's is closed"] is True
        assert seen["numbers"] == [3]
        assert seen["states"] == ["idle"]  # and not "idle in transaction"
        assert seen["afterwards"][0] == pid
        assert seen["afterwards"][1] != seen["lost"]
        said = [json.loads(line) for line in worker_log(done.stderr)]
        left = [line["entry"] for line in said if line["event"] == "transaction_left_open"]
        assert left[-2:] == ["leaves_open", "leaves_atomic"]
