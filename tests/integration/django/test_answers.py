"""What an entrypoint raises or answers, as Django, REST framework and an error tracker see it: in a real project."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from tests.support import TRANSPORTS
from tests.support.processes import marked, wait_until

FILES = {
    "settings.py": """
SECRET_KEY = "tests"
INSTALLED_APPS = ["molt_accel.django", "rest_framework", "shop"]
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "shop.sqlite3"}}
MIDDLEWARE = ["shop.middleware.Seen"]
REST_FRAMEWORK = {"DEFAULT_AUTHENTICATION_CLASSES": [], "UNAUTHENTICATED_USER": None}
ALLOWED_HOSTS = ["*"]
USE_TZ = True
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"own": {"format": "{name} {levelname} {message}", "style": "{"}},
    "handlers": {"file": {"class": "logging.FileHandler", "filename": "own.log", "formatter": "own"}},
    "root": {"handlers": ["file"], "level": "INFO"},
}
MOLT_WORKER_EXECUTORS = 1
""",
    "shop/__init__.py": "",
    "shop/models.py": """
from django.db import models

class Order(models.Model):
    number = models.IntegerField()
""",
    "shop/errors.py": """
from rest_framework.exceptions import APIException

class Teapot(APIException):
    status_code = 418

    def __init__(self, spout, handle):
        super().__init__({"pot": [f"{spout} and {handle}"]}, "stout")
""",
    "shop/middleware.py": """
seen = []

class Seen:
    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        return self.get_response(request)

    def process_exception(self, request, exception):
        seen.append(f"{type(exception).__module__}.{type(exception).__qualname__}")
""",
    "shop/entrypoints.py": """
from decimal import Decimal
from django.core.exceptions import BadRequest, PermissionDenied, SuspiciousFileOperation, ValidationError
from django.http import Http404, HttpResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404
from molt_worker import Response, export
from rest_framework import exceptions
from shop.errors import Teapot
from shop.models import Order

def wrong(field):
    return ValidationError({field: [ValidationError("%(n)s%% wrong", code="bad", params={"n": 5})]})

RAISED = {
    "Http404": lambda: Http404("no order 7"),
    "PermissionDenied": lambda: PermissionDenied("not yours"),
    "BadRequest": lambda: BadRequest("odd"),
    "SuspiciousFileOperation": lambda: SuspiciousFileOperation("../x"),
    "ValidationError": lambda: wrong("name"),
    "drf.ValidationError": lambda: exceptions.ValidationError({"name": ["wrong"]}),
    "Throttled": lambda: exceptions.Throttled(wait=3),
    "Teapot": lambda: Teapot("short", "stout"),
    "RuntimeError": lambda: RuntimeError("secret of the executor"),
}

@export
def raises(kind):
    if kind == "get":
        Order.objects.get(pk=7)
    if kind == "get_object_or_404":
        get_object_or_404(Order, pk=7)
    raise RAISED[kind]()

@export(codec_out="json")
def answers(kind):
    if kind == "json":
        return Response({"price": Decimal("1.50")}, 201, {"Location": "/7"})
    if kind == "bytes":
        return Response(b"a,b", content_type="text/csv")
    if kind == "stream":
        return StreamingHttpResponse([b"a"])
    made = HttpResponse("<p>", status=202, reason="Later", headers={"ETag": "7"})
    made.set_cookie("seen", "a b", max_age=60, httponly=True)
    made.set_cookie("other", "1")
    return made
""",
    "shop/urls.py": """
from django.http import HttpResponse
from django.urls import path
from molt_accel import molt_offload
from rest_framework.decorators import api_view
from shop.entrypoints import answers, raises

def kind(request):
    return request.GET["kind"]

async def akind(request):
    return request.GET["kind"]

async def page(request, value):
    return HttpResponse(f"page of {value}")

options = {"timeout_ms": 60_000}

@molt_offload(entry=raises, payload_builder=kind, **options)
def plain(request): ...

@api_view(["GET", "POST"])
@molt_offload(entry=raises, payload_builder=kind, **options)
def api(request): ...

@molt_offload(entry=raises, payload_builder=akind, **options)
async def later(request): ...

@molt_offload(entry=raises, payload_builder=kind, on_error="raise", **options)
def raising(request): ...

@molt_offload(entry=answers, payload_builder=akind, response_factory=page, **options)
async def answer(request): ...

def handler404(request, exception):
    return HttpResponse(f"own 404: {exception}", status=404)

urlpatterns = [
    path("plain", plain), path("api", api), path("later", later), path("raising", raising), path("answer", answer)
]
""",
    "main.py": """
import json, os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.signals import got_request_exception
from django.db import connection
from django.test import Client as Browser, override_settings
from molt_accel import MoltInternalError, MoltInvalidInput, default_client
from shop.entrypoints import RAISED, answers, raises
from shop.middleware import seen as by_middleware
from shop.models import Order
import sentry_sdk
from sentry_sdk.transport import Transport

events, told = [], []

class Kept(Transport):
    def capture_envelope(self, envelope):
        event = envelope.get_event()
        if event is not None:
            events.append(event)

sentry_sdk.init(dsn="https://key@localhost/1", transport=Kept, send_default_pii=True, max_value_length=20_000)
got_request_exception.connect(lambda **_: told.append(type(sys.exc_info()[1]).__name__), weak=False)
with connection.schema_editor() as editor:
    editor.create_model(Order)
browser, client, out = Browser(raise_request_exception=False), default_client(), {}
client.start()

def ask(path, kind, **options):
    del by_middleware[:], told[:]
    response = browser.get(path, {"kind": kind}, **options)
    return [response.status_code, response.content.decode(), list(by_middleware), list(told)]

kinds = [*RAISED, "get", "get_object_or_404"]
out["plain"] = {kind: ask("/plain", kind) for kind in kinds}
out["later"] = {kind: ask("/later", kind) for kind in ("Http404", "RuntimeError")}
out["api"] = {kind: ask("/api", kind) for kind in kinds}
out["retry"] = browser.get("/api", {"kind": "Throttled"}).headers["Retry-After"]
out["raising"] = ask("/raising", "RuntimeError")

del events[:]
sent = {"note": "of the browser"}
failed = browser.post(
    "/plain?kind=RuntimeError", sent, content_type="application/json", headers={"x-request-id": "abc-7"}
)
out["failed"] = failed.json()
out["events"] = list(events)
with override_settings(DEBUG=True):
    out["debug"] = ask("/plain", "RuntimeError", headers={"accept": "text/html"})
    out["debug text"] = ask("/later", "RuntimeError", headers={"accept": "text/plain"})
    out["debug 404"] = ask("/plain", "Http404", headers={"accept": "text/html"})

def answered(kind):
    response = browser.get("/answer", {"kind": kind})
    cookies = sorted(morsel.OutputString() for morsel in response.cookies.values())
    head = {name: response.headers.get(name) for name in ("Content-Type", "Location", "ETag")}
    return [response.status_code, response.reason_phrase, response.content.decode(), head, cookies]

out["answers"] = {kind: answered(kind) for kind in ("json", "bytes", "django")}
chosen = client.call(answers, "json")
out["chosen"] = [type(chosen).__name__, chosen.status, chosen.body.decode()]
out["direct"] = []
for entry, kind in ((raises, "RuntimeError"), (raises, "Http404"), (answers, "stream")):
    try:
        client.call(entry, kind)
    except (MoltInternalError, MoltInvalidInput) as exc:
        cause = exc.__cause__
        named = [type(exc).__name__, exc.detail, type(cause).__name__]
        out["direct"].append([*named, exc.remote_traceback.strip() == str(cause).strip(), exc.remote_traceback])
print(json.dumps(out, default=str))
""",
}


@pytest.fixture(scope="module", params=TRANSPORTS)
def done(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str, dict[str, Any]]:
    """What one run of the project has said: its folder, the standard error, and what it has seen."""
    folder = tmp_path_factory.mktemp("project")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    with tempfile.TemporaryDirectory(prefix="molt-") as runtime:  # a short path, as a socket needs it
        environment = {
            **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
            "MOLT_TRANSPORT": request.param,
            "MOLT_WORKER_LINGER_MS": "0",
            "MOLT_RUNTIME_DIR": runtime,
            "MOLT_LOG_JSON": "1",
            "MOLT_TEST_ID": runtime,
        }
        command = [sys.executable, "main.py"]
        run = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240
        )
        wait_until(lambda: not marked("MOLT_TEST_ID", runtime))
        logs = "".join(path.read_text(encoding="utf-8") for path in Path(runtime).rglob("*.log"))
    assert run.returncode == 0, run.stderr
    return folder, run.stderr + logs, json.loads(run.stdout)


Done = tuple[Path, str, dict[str, Any]]


def test_what_an_entrypoint_raises_is_what_a_view_of_django_raises(done: Done) -> None:
    plain = done[2]["plain"]
    statuses = {kind: row[0] for kind, row in plain.items()}
    assert statuses == {
        "Http404": 404,
        "PermissionDenied": 403,
        "BadRequest": 400,
        "SuspiciousFileOperation": 400,
        "ValidationError": 500,
        "drf.ValidationError": 500,
        "Throttled": 500,
        "Teapot": 500,
        "RuntimeError": 500,
        "get": 500,
        "get_object_or_404": 404,
    }
    assert plain["Http404"][1] == "own 404: no order 7"
    by_middleware = {kind: row[2] for kind, row in plain.items()}
    assert by_middleware["Http404"] == ["django.http.response.Http404"]
    assert by_middleware["SuspiciousFileOperation"] == ["django.core.exceptions.SuspiciousFileOperation"]
    assert by_middleware["get"] == ["shop.models.Order.DoesNotExist"]
    assert by_middleware["Teapot"] == ["shop.errors.Teapot"]
    assert by_middleware["RuntimeError"] == []  # the decorator answers it
    assert done[2]["later"]["Http404"][:2] == [404, "own 404: no order 7"]


def test_rest_framework_answers_its_own_exceptions(done: Done) -> None:
    api = done[2]["api"]
    assert [api["drf.ValidationError"][0], json.loads(api["drf.ValidationError"][1])] == [
        400,
        {"name": ["wrong"]},
    ]
    assert [api["Teapot"][0], json.loads(api["Teapot"][1])] == [418, {"pot": ["short and stout"]}]
    assert [api["Throttled"][0], done[2]["retry"]] == [429, "3"]
    assert [api[kind][0] for kind in ("Http404", "PermissionDenied", "get", "ValidationError")] == [
        404,
        403,
        500,
        500,
    ]
    assert json.loads(api["PermissionDenied"][1]) == {"detail": "not yours"}


def test_django_is_told_of_an_error_once(done: Done) -> None:
    out = done[2]
    assert out["plain"]["RuntimeError"][3] == ["RuntimeError"]
    assert out["later"]["RuntimeError"][3] == ["RuntimeError"]
    assert out["plain"]["get"][3] == ["DoesNotExist"]
    assert out["plain"]["Http404"][3] == []
    status, body, by_middleware, told = out["raising"]
    assert (status, by_middleware, told) == (
        500,
        ["molt_accel.errors.MoltInternalError"],
        ["MoltInternalError"],
    )
    assert "secret" not in body


def test_an_error_has_one_id_in_the_answer_and_in_both_logs(done: Done) -> None:
    folder, worker_log, out = done
    assert out["failed"] == {
        "error": "MoltInternalError",
        "detail": "the request failed",
        "request_id": "abc-7",
    }
    logged = (folder / "own.log").read_text(encoding="utf-8")
    (line,) = [line for line in logged.splitlines() if "(request abc-7, " in line]
    assert line.startswith("django.request ERROR Internal Server Error: /plain (request abc-7, call ")
    assert "RuntimeError: secret of the executor" in logged  # below that line: the executor's traceback
    said = [json.loads(line) for line in worker_log.splitlines() if line.startswith("{")]
    raised = {row["request_id"] for row in said if row["event"] == "entrypoint_raised"}
    assert "abc-7" in raised


def test_an_error_tracker_gets_one_event_with_the_executor_s_stack_and_the_request(done: Done) -> None:
    (event,) = done[2]["events"]
    values = event["exception"]["values"]
    assert [value["type"] for value in values] == ["RemoteError", "RuntimeError"]
    assert values[1]["value"] == "secret of the executor"
    last = values[1]["stacktrace"]["frames"][-1]
    assert (last["module"], last["function"]) == ("shop.entrypoints", "raises")
    assert "shop/entrypoints.py" in values[0]["value"]
    assert "RuntimeError: secret of the executor" in values[0]["value"]
    assert event["request"]["data"] == {"note": "of the browser"}


def test_only_with_debug_the_answer_says_what_happened(done: Done) -> None:
    out = done[2]
    for rows in (out["plain"], out["api"], out["later"]):
        for kind in ("RuntimeError", "get", "ValidationError"):
            if kind in rows:
                for private in ("secret", "Traceback", "entrypoints.py", "wrong"):
                    assert private not in rows[kind][1]
    status, page, _, told = out["debug"]
    assert (status, told) == (500, ["RuntimeError"])
    for text in ("<!DOCTYPE html>", "<title>RuntimeError\n", "secret of the executor", "shop/entrypoints.py"):
        assert text in page
    assert out["debug text"][0] == 500
    assert "RuntimeError: secret of the executor" in out["debug text"][1]
    assert out["debug 404"][0] == 404


def test_an_entrypoint_chooses_the_answer(done: Done) -> None:
    out = done[2]
    plain = "text/html; charset=utf-8"
    assert out["answers"]["json"] == [
        *(201, "Created", '{"price":"1.50"}'),
        *({"Content-Type": "application/json", "Location": "/7", "ETag": None}, []),
    ]
    assert out["answers"]["bytes"][:3] == [200, "OK", "a,b"]
    assert out["answers"]["bytes"][3]["Content-Type"] == "text/csv"
    status, reason, body, head, cookies = out["answers"]["django"]
    assert (status, reason, body, head["Content-Type"], head["ETag"]) == (202, "Later", "<p>", plain, "7")
    assert cookies[0] == "other=1; Path=/"
    assert cookies[1].startswith('seen="a b"; ')
    assert {"HttpOnly", "Max-Age=60"} <= set(cookies[1].split("; "))
    assert out["chosen"] == ["Response", 201, '{"price":"1.50"}']


def test_a_direct_call_has_the_executor_s_traceback(done: Done) -> None:
    failed, refused, streamed = done[2]["direct"]
    assert failed[:4] == ["MoltInternalError", "'raises' raised RuntimeError", "RemoteError", True]
    assert "secret of the executor" in failed[4]
    assert refused[:4] == ["MoltInvalidInput", "'raises' raised Http404", "RemoteError", True]
    assert streamed[1] == (
        "the result of 'answers' is a StreamingHttpResponse, whose parts can't be sent; "
        "return an HttpResponse with all of its content"
    )
