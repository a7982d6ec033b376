"""A worker as a part of a Django project: nothing but the app in INSTALLED_APPS and a module named `entrypoints`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import TRANSPORTS

SETTINGS = """
SECRET_KEY = "tests"
INSTALLED_APPS = ["molt_accel.django", "shop", "empty"]
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3", "CONN_MAX_AGE": None}}
MIDDLEWARE = ["django.middleware.locale.LocaleMiddleware"]
LANGUAGES = [("en", "English"), ("de", "German")]
LANGUAGE_CODE = "en"
USE_TZ, TIME_ZONE, DEBUG = True, "UTC", True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {
        "own": {
            "()": "logging.Formatter",
            "fmt": "{levelname} {request_id} {message}",
            "style": "{",
            "defaults": {"request_id": "-"},
        }
    },
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}},
    "root": {"handlers": ["file"], "level": "INFO"},
}
MOLT_WORKER_EXECUTORS = 1
MOLT_POOLS = {"reports": {"MAX_QUEUE": 3}}
"""
FILES = {
    "settings.py": SETTINGS,
    "shop/__init__.py": "",
    "empty/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    number = models.IntegerField()
""",
    "shop/entrypoints.py": """
import logging, os
from django.db import connection, transaction
from django.utils import formats, timezone, translation
from molt_worker import current_request, export
from shop.models import Order

@export
def surroundings(payload):
    logging.getLogger("shop").info("seen")
    return [translation.get_language(), timezone.get_current_timezone_name(), current_request().metadata, os.getpid()]

@export
def count(payload):
    before = len(connection.queries_log), id(connection.connection)
    Order.objects.count()
    return [*before, len(connection.queries_log), id(connection.connection)]

@export
def leaves_open(payload):
    transaction.set_autocommit(False)
    Order.objects.create(number=1)

@export
def leaves_atomic(payload):
    transaction.atomic().__enter__()
    Order.objects.create(number=2)

@export
def numbers(payload):
    return list(Order.objects.values_list("number", flat=True))

@export
def fails(payload):
    raise RuntimeError("private")
""",
    "shop/urls.py": """
from django.http import HttpResponse
from django.urls import path
from django.utils import timezone
from molt_accel import molt_offload
from shop.entrypoints import fails, surroundings

@molt_offload(entry=surroundings, timeout_ms=60_000)
def view(request): ...

@molt_offload(entry=fails, pool="reports", timeout_ms=60_000)
def failing(request): ...

def elsewhere(request):
    with timezone.override("Asia/Tokyo"):
        return view(request)

urlpatterns = [path("view", view), path("elsewhere", elsewhere), path("failing", failing)]
""",
    "main.py": """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.management import call_command
from django.test import Client as Browser, override_settings
from molt_accel import client_for, default_client, offload
from shop.entrypoints import count, numbers
from shop.models import Order
from django.db import connection
with connection.schema_editor() as editor:
    editor.create_model(Order)
import sentry_sdk
from django.core.handlers.wsgi import WSGIHandler
from wsgiref.util import setup_testing_defaults
from sentry_sdk.transport import Transport
from django.test import override_settings

events = []

class Kept(Transport):
    def capture_envelope(self, envelope):
        events.append(envelope.get_event())

sentry_sdk.init(dsn="https://key@example.invalid/1", transport=Kept)
browser, client, seen = Browser(), default_client(), {}
client.start()
seen["plain"] = browser.get("/view").json()
seen["german"] = browser.get("/elsewhere", headers={"accept-language": "de", "x-request-id": "abc-1"}).json()

def fail(request_id, query):
    environ = {"PATH_INFO": "/failing", "QUERY_STRING": query, "HTTP_X_REQUEST_ID": request_id}
    setup_testing_defaults(environ)
    started = []
    body = b"".join(application(environ, lambda *start: started.append(start)))
    return [started[0][0], body.decode()]

application = WSGIHandler()
seen["page"] = fail("abc-2", "")
with override_settings(DEBUG=False):
    seen["failed"] = fail("abc-3", "number=3")
seen["events"] = [
    [
        *(event["request"][name] for name in ("url", "query_string")),
        [each["value"] for each in event["exception"]["values"]],
    ]
    for event in events
]
seen["count"] = [offload(count), client.call(count)]
for entry in ("leaves_open", "leaves_atomic"):
    client.call(entry, timeout_ms=60_000)
seen["numbers"] = offload(numbers)
seen["pools"] = [client.config.max_queue, client_for("reports").config.max_queue, client_for("reports") is client]
seen["pids"] = [client.ping()["pid"], client_for("reports").ping()["pid"], os.getpid()]
print(json.dumps(seen))
""",
}


def run(folder: Path, transport: str, program: str = "main.py") -> subprocess.CompletedProcess[str]:
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        "MOLT_TRANSPORT": transport,
        "MOLT_WORKER_LINGER_MS": "0",
        "MOLT_LOG_JSON": "1",
    }
    command = [sys.executable, program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.mark.sample(1)
@pytest.mark.parametrize("transport", TRANSPORTS)
def test_entrypoints_of_a_project_are_found_and_run_in_its_surroundings(
    tmp_path: Path, transport: str
) -> None:
    done = run(tmp_path, transport)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    worker, reports, own = seen["pids"]
    assert len({worker, reports, own, seen["plain"][3]}) == 4
    assert seen["plain"][:3] == ["en", "UTC", {}]
    told = {"language": "de", "time_zone": "Asia/Tokyo", "request_id": "abc-1"}
    assert seen["german"][:3] == ["de", "Asia/Tokyo", told]
    status, page = seen["page"]
    assert status == "500 Internal Server Error"
    assert "RuntimeError: private" in page  # Django's own, with the traceback of the executor
    status, body = seen["failed"]
    public = {"error": "MoltInternalError", "detail": "the request failed", "request_id": "abc-3"}
    assert (status, json.loads(body)) == ("500 Internal Server Error", public)
    assert [event[:2] for event in seen["events"]] == [
        ["http://127.0.0.1/failing", ""],
        ["http://127.0.0.1/failing", "number=3"],
    ]
    for _, _, (cause, error) in seen["events"]:
        assert error == "private"  # the text of what the entrypoint has raised
        assert "in fails" in cause
        assert cause.endswith("RuntimeError: private\n")
    first, second = seen["count"]
    assert [first[0], first[2], second[0], second[2]] == [0, 1, 0, 1]  # DEBUG's log begins anew
    assert first[3] == second[1] == second[3]  # the connection persists
    assert seen["numbers"] == []
    assert seen["pools"] == [64, 3, False]
    logged = (tmp_path / "own.log").read_text(encoding="utf-8").splitlines()
    assert "INFO abc-1 seen" in logged
    said = [json.loads(line) for line in worker_log(done.stderr)]
    left = [line["entry"] for line in said if line["event"] == "transaction_left_open"]
    assert left == ["leaves_open", "leaves_atomic"]
    raised = [line["request_id"] for line in said if line["event"] == "entrypoint_raised"]
    assert raised == ["abc-2", "abc-3"]
    assert sum("abc-3" in line for line in logged) == 1, logged  # the id that the browser was told


def worker_log(stderr: str) -> list[str]:
    """What the worker has logged: on the stderr of its client, or to a file of its own."""
    logs = Path(os.environ["MOLT_RUNTIME_DIR"]).rglob("*.log")
    text = stderr + "".join(path.read_text(encoding="utf-8") for path in logs)
    return [line for line in text.splitlines() if line.startswith("{")]


def test_an_app_without_entrypoints_is_told_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "lone.py").write_text(
        """
import os
os.environ["DJANGO_SETTINGS_MODULE"] = "lone_settings"
import django
django.setup()
from molt_accel import MoltStartFailed, default_client
try:
    default_client().start()
except MoltStartFailed as exc:
    print(exc.detail)
"""
    )
    (tmp_path / "lone_settings.py").write_text(
        'SECRET_KEY = "x"\nINSTALLED_APPS = ["molt_accel.django", "empty"]\n'
    )
    done = run(tmp_path, "stdio", "lone.py")
    assert "no installed app has a module named 'entrypoints'; make one" in done.stdout, done.stderr
