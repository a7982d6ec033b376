"""The decorator on each kind of view of Django, REST framework and django-ninja, and calls from what is no view."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

FILES = {
    "settings.py": """
SECRET_KEY = "tests"
INSTALLED_APPS = [
    "molt_accel.django", "django.contrib.contenttypes", "django.contrib.auth", "rest_framework", "ninja", "shop",
]
ROOT_URLCONF = "shop.urls"
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
CACHES = {"default": {"BACKEND": "django.core.cache.backends.locmem.LocMemCache"}}
ALLOWED_HOSTS, USE_TZ, STATIC_URL = ["*"], True, "/static/"
MOLT_WORKER_EXECUTORS = 1
""",
    "shop/__init__.py": "",
    "shop/management/__init__.py": "",
    "shop/management/commands/__init__.py": "",
    "shop/management/commands/score.py": """
from django.core.management.base import BaseCommand
from molt_accel import offload
from shop.entrypoints import double

class Command(BaseCommand):
    def handle(self, *args, **options):
        self.stdout.write(str(offload(double, 21)))
""",
    "shop/entrypoints.py": """
import os
from typing import Any
from molt_worker import InvalidInput, export

@export(codec_out="json")
def told(payload):
    return {"pid": os.getpid(), "secret": "s", "args": payload["args"], "kwargs": payload["kwargs"]}

@export(codec_out="json")
def spaced(payload):
    return b'{ "a" : 1.50 }'

@export
def double(payload):
    return payload * 2

@export
def refuses(payload):
    raise InvalidInput("not this")

@export(codec_out="json")
def rows(numbers):
    return [{"number": number, "pid": os.getpid()} for number in numbers]

@export
def page(payload):
    from inspect import unwrap
    from molt_accel.django import rebuilt_request
    from shop import views

    return unwrap(views.page)(rebuilt_request(payload))
""",
    "shop/models.py": """
from django.db import models
from django.db.models.signals import pre_save
from molt_accel import offload

class Order(models.Model):
    number = models.IntegerField()

def doubles(sender, instance, **kwargs):
    instance.number = offload("double", instance.number)

pre_save.connect(doubles, sender=Order)
""",
    "shop/views.py": """
import json
import os
from django.http import HttpResponse
from django.template import engines
from django.utils.decorators import method_decorator
from django.views import View
from django.views.decorators.csrf import csrf_protect
from rest_framework import mixins, pagination, permissions, renderers, serializers, throttling, views, viewsets
from rest_framework.decorators import action, api_view, renderer_classes
from molt_accel import molt_offload, offload
from molt_accel.django import request_parts
from shop.entrypoints import double, refuses, spaced, told

offloaded = molt_offload(entry=told, timeout_ms=60_000)

@offloaded
def function(request, number): ...

@offloaded
async def afunction(request, number): ...

class Class(View):
    _request = None  # of its own

    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self._request = request

    @offloaded
    def get(self, request, number): ...

    @method_decorator(offloaded)
    def post(self, request, number): ...

    @molt_offload(entry=double, timeout_ms=60_000, payload_builder=lambda request, number: number)
    def put(self, request, number): ...

@method_decorator(offloaded, name="get")
class Named(View):
    def get(self, request, number): ...

class AsyncClass(View):
    @offloaded
    async def get(self, request, number): ...

    @method_decorator(offloaded)
    async def post(self, request, number): ...

class Upper(renderers.JSONRenderer):
    def render(self, data, *args, **kwargs):
        return super().render({key.upper(): value for key, value in data.items()}, *args, **kwargs)

class Once(throttling.SimpleRateThrottle):
    rate, scope = "1/day", "once"
    def get_cache_key(self, request, view):
        return "one"

@api_view(["GET"])
@offloaded
def api_function(request, number): ...

@api_view(["GET"])
@renderer_classes([Upper])
@offloaded
def api_upper(request, number): ...

class Api(views.APIView):
    throttle_classes = [Once]
    @offloaded
    def get(self, request, number): ...

    @molt_offload(entry=refuses, timeout_ms=60_000)
    def post(self, request, number): ...

class Set(viewsets.ViewSet):
    @molt_offload(entry=spaced, timeout_ms=60_000)
    def list(self, request): ...

    @method_decorator(offloaded)
    def retrieve(self, request, pk): ...

    @action(detail=True, permission_classes=[permissions.IsAuthenticated])
    @offloaded
    def closed(self, request, pk): ...

    @offloaded
    @action(detail=True, url_path="open")
    def opened(self, request, pk): ...

    @action(detail=False)
    @molt_offload(entry=double, payload_builder=lambda request: request.user.pk or 4, timeout_ms=60_000)
    def decoded(self, request): ...

class Few(pagination.PageNumberPagination):
    page_size = 2

def rows_of_page(request):
    view = request.parser_context["view"]
    return view.paginate_queryset(view.filter_queryset(view.get_queryset()))

def as_page(request, rows):
    return request.parser_context["view"].get_paginated_response(rows)

@method_decorator(
    molt_offload(entry="rows", payload_builder=rows_of_page, response_factory=as_page, timeout_ms=60_000),
    name="list",
)
class Pages(mixins.ListModelMixin, viewsets.GenericViewSet):
    pagination_class = Few
    def get_queryset(self):
        return [1, 2, 3, 4, 5]

@csrf_protect
@molt_offload(entry="page", payload_builder=lambda request: request_parts(request, csrf=True), timeout_ms=60_000)
def page(request):
    template = engines["django"].from_string("{{ pid }} {{ csrf_token }} {{ request.build_absolute_uri }}")
    return HttpResponse(template.render({"pid": os.getpid(), "request": request}, request))

class Serialized(serializers.Serializer):
    number = serializers.IntegerField()
    doubled = serializers.SerializerMethodField()
    def get_doubled(self, value):
        return offload(double, value["number"])

@api_view(["GET"])
def serialized(request):
    return views.Response(Serialized({"number": 5}).data)
""",
    "shop/api.py": """
from __future__ import annotations
import enum
from typing import List
from ninja import NinjaAPI, Query, Schema
from ninja.renderers import BaseRenderer
from molt_accel import molt_offload
from shop.entrypoints import spaced, told

class Size(enum.Enum):
    SMALL = "small"

class Wanted(Schema):
    size: Size
    numbers: List[int] = []

class Shown(Schema):
    args: list
    kwargs: dict

offloaded = molt_offload(entry=told, timeout_ms=60_000)
api = NinjaAPI()

@api.post("/plain/{number}")
@offloaded
def plain(request, number: int, wanted: Wanted, size: Size): ...

@api.post("/declared/{number}", response=Shown)
@offloaded
def declared(request, number: int, wanted: Wanted): ...

@api.get("/async/{number}")
@offloaded
async def aplain(request, number: int): ...

@api.get("/adeclared/{number}", response={200: Shown})
@offloaded
async def adeclared(request, number: int): ...

@api.get("/spaced")
@molt_offload(entry=spaced, timeout_ms=60_000)
def as_it_is(request): ...

@api.get("/closed", auth=lambda request: None)
@offloaded
def closed(request): ...

class Renderer(BaseRenderer):
    media_type = "text/plain"
    def render(self, request, data, *, response_status):
        return f"number {data['kwargs']['number']}"

other = NinjaAPI(urls_namespace="other", renderer=Renderer())

@other.get("/{number}")
@offloaded
def rendered(request, number: int): ...
""",
    "shop/urls.py": """
from django.urls import include, path
from rest_framework.routers import SimpleRouter
from shop import views
from shop.api import api, other

router = SimpleRouter()
router.register("set", views.Set, basename="set")
router.register("pages", views.Pages, basename="pages")
kinds = {
    "function": views.function, "afunction": views.afunction, "class": views.Class.as_view(),
    "named": views.Named.as_view(), "aclass": views.AsyncClass.as_view(), "api_function": views.api_function,
    "api_upper": views.api_upper, "api": views.Api.as_view(),
}
urlpatterns = [
    *(path(f"{name}/<int:number>", view) for name, view in kinds.items()),
    path("page", views.page),
    path("serialized", views.serialized), path("ninja/", api.urls), path("other/", other.urls),
    path("", include(router.urls)),
]
""",
    "main.py": """
import asyncio, io, json, os
os.environ["DJANGO_SETTINGS_MODULE"] = "settings"
import django
django.setup()
from django.core.management import call_command
from django.db import connection
from django.test import AsyncClient, Client
from molt_accel import default_client
from shop.models import Order

JSON = {"content_type": "application/json"}
default_client().start()
browser, abrowser, seen = Client(), AsyncClient(), {}

def note(name, response):
    try:
        body = json.loads(response.content)
    except ValueError:
        body = None
    text, headers = response.content.decode(), dict(response.headers)
    seen[name] = [response.status_code, response.get("Content-Type"), text, body, headers]

for name in ("function", "afunction", "class", "named", "aclass", "api_function", "api_upper"):
    note(name, browser.get(f"/{name}/7"))
    note(f"{name} in a loop", asyncio.run(abrowser.get(f"/{name}/7")))
for name in ("class", "aclass"):
    note(f"{name} post", browser.post(f"/{name}/7"))
note("class put", browser.put("/class/7"))
note("class delete", browser.delete("/class/7"))
note("api refused", browser.post("/api/7"))
note("api throttled", browser.get("/api/7"))
note("list", browser.get("/set/"))
note("list indented", browser.get("/set/", headers={"accept": "application/json; indent=4"}))
note("list browsed", browser.get("/set/", headers={"accept": "text/html"}))
note("list unacceptable", browser.get("/set/", headers={"accept": "image/png"}))
note("pages", browser.get("/pages/?page=2"))
note("pages browsed", browser.get("/pages/?page=2", headers={"accept": "text/html"}))
note("pages beyond", browser.get("/pages/?page=9"))
strict = Client(enforce_csrf_checks=True)
note("page", strict.get("/page?a=%C3%BC", secure=True, headers={"host": "shop.example"}))
own = {"secure": True, "headers": {"host": "shop.example", "referer": "https://shop.example/"}}
note("page posted", strict.post("/page", {"csrfmiddlewaretoken": seen["page"][2].split()[1]}, **own))
note("page forged", strict.post("/page", {"csrfmiddlewaretoken": "x"}, **own))
note("retrieve", browser.get("/set/x/"))
note("action closed", browser.get("/set/x/closed/"))
note("action open", browser.get("/set/x/open/"))
note("action decoded", browser.get("/set/decoded/"))
note("serialized", browser.get("/serialized"))
wanted = {"size": "small", "numbers": [1, 2]}
note("ninja", browser.post("/ninja/plain/7?size=small", wanted, **JSON))
note("ninja invalid", browser.post("/ninja/plain/7?size=none", wanted, **JSON))
note("ninja declared", browser.post("/ninja/declared/7", wanted, **JSON))
for name in ("async", "adeclared"):
    note(f"ninja {name}", browser.get(f"/ninja/{name}/7"))
    note(f"ninja {name} in a loop", asyncio.run(abrowser.get(f"/ninja/{name}/7")))
note("ninja spaced", browser.get("/ninja/spaced"))
note("ninja closed", browser.get("/ninja/closed"))
note("ninja rendered", browser.get("/other/7"))
seen["openapi"] = browser.get("/ninja/openapi.json").json()["paths"]["/ninja/plain/{number}"]["post"]
out = io.StringIO()
call_command("score", stdout=out)
seen["command"] = out.getvalue()
with connection.schema_editor() as editor:
    editor.create_model(Order)
seen["signal"] = Order.objects.create(number=4).number
seen["pid"] = os.getpid()
print(json.dumps(seen))
""",
}


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What all requests of the program were answered: status, content type, body, the body decoded, headers."""
    folder = tmp_path_factory.mktemp("everywhere")
    for name, text in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    environment = {
        **{name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"},
        "MOLT_WORKER_LINGER_MS": "0",
        "MOLT_RUNTIME_DIR": str(folder / "run"),
        "MOLT_WORKER_CMD": f"{sys.executable} -m molt_worker",
    }
    command = [sys.executable, "-W", "error::RuntimeWarning", "main.py"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def answer(ran: dict[str, Any], name: str) -> Any:
    """The decoded body of a good JSON answer that an executor gave."""
    status, content_type, text, body, _ = ran[name]
    assert (status, content_type.partition(";")[0]) == (200, "application/json"), text
    assert body.pop("pid") != ran["pid"]
    return body


TOLD = {"secret": "s", "args": [], "kwargs": {"number": 7}}


def test_functions_and_handlers_of_classes_take_it(ran: dict[str, Any]) -> None:
    for name in ("function", "afunction", "class", "named", "aclass"):
        assert answer(ran, name) == answer(ran, f"{name} in a loop") == TOLD, name
    assert answer(ran, "class post") == answer(ran, "aclass post") == TOLD
    assert ran["class put"][:3] == [200, "application/json", "14"]
    assert ran["class delete"][0] == 405


def test_rest_framework_checks_and_renders(ran: dict[str, Any]) -> None:
    assert answer(ran, "api_function") == answer(ran, "api_function in a loop") == TOLD
    upper = {"SECRET": "s", "ARGS": [], "KWARGS": {"number": 7}}
    for name in ("api_upper", "api_upper in a loop"):
        assert ran[name][3].pop("PID") != ran["pid"]
        assert ran[name][3] == upper
    assert ran["api refused"][0] == 400
    assert ran["api refused"][3]["error"] == "MoltInvalidInput"
    assert ran["api throttled"][0] == 429
    assert ran["api throttled"][3]["detail"].startswith("Request was throttled")


def test_json_goes_out_as_it_is_where_rest_framework_would_make_plain_json(ran: dict[str, Any]) -> None:
    status, content_type, text, _, headers = ran["list"]
    assert (status, content_type, text) == (200, "application/json", '{ "a" : 1.50 }')
    assert (headers["Allow"], headers["Vary"]) == ("GET, HEAD, OPTIONS", "Accept")
    status, content_type, text, _, _ = ran["list indented"]
    assert (status, text) == (200, '{\n    "a": 1.5\n}')
    assert content_type.startswith("application/json")
    status, content_type, text, _, _ = ran["list browsed"]
    assert (status, content_type) == (200, "text/html; charset=utf-8")
    assert "&quot;a&quot;: 1.5" in text
    assert ran["list unacceptable"][0] == 406


def test_view_sets_and_their_actions_take_it(ran: dict[str, Any]) -> None:
    assert answer(ran, "retrieve") == answer(ran, "action open") == {**TOLD, "kwargs": {"pk": "x"}}
    assert ran["action closed"][0] == 403
    assert ran["action decoded"][:3] == [200, "application/json", "8"]


def test_a_list_that_a_class_inherits_has_its_pages(ran: dict[str, Any]) -> None:
    status, _, text, body, _ = ran["pages"]
    assert status == 200, text
    assert {row.pop("pid") for row in body["results"]}.isdisjoint({ran["pid"]})
    start = "http://testserver/pages/"
    assert body == {
        "count": 5, "next": f"{start}?page=3", "previous": start, "results": [{"number": 3}, {"number": 4}],
    }  # fmt: skip
    status, _, text, _, _ = ran["pages browsed"]
    assert (status, '<ul class="pagination">' in text) == (200, True)
    assert (ran["pages beyond"][0], ran["pages beyond"][3]) == (404, {"detail": "Invalid page."})


def test_an_executor_runs_a_view_as_it_is_with_a_request_made_anew(ran: dict[str, Any]) -> None:
    status, _, text, _, _ = ran["page"]
    pid, token, url = text.split()
    assert (status, url, len(token)) == (200, "https://shop.example/page?a=%C3%BC", 64)
    assert int(pid) != ran["pid"]
    assert [ran["page posted"][0], ran["page forged"][0]] == [200, 403]


def test_operations_of_ninja_take_it(ran: dict[str, Any]) -> None:
    wanted = {"size": "small", "numbers": [1, 2]}
    assert answer(ran, "ninja") == {**TOLD, "kwargs": {"number": 7, "wanted": wanted, "size": "small"}}
    assert answer(ran, "ninja async") == answer(ran, "ninja async in a loop") == TOLD
    assert ran["ninja spaced"][2] == '{ "a" : 1.50 }'
    assert [ran["ninja invalid"][0], ran["ninja closed"][0]] == [422, 401]
    assert [each["name"] for each in ran["openapi"]["parameters"]] == ["number", "size"]
    assert "requestBody" in ran["openapi"]


def test_a_schema_of_a_response_hides_what_it_has_not(ran: dict[str, Any]) -> None:
    for name in ("ninja declared", "ninja adeclared", "ninja adeclared in a loop"):
        assert ran[name][0] == 200
        assert set(ran[name][3]) == {"args", "kwargs"}
    assert ran["ninja rendered"][:3] == [200, "text/plain; charset=utf-8", "number 7"]


def test_what_is_no_view_calls_it(ran: dict[str, Any]) -> None:
    assert ran["serialized"][3] == {"number": 5, "doubled": 10}
    assert ran["command"] == "42\n"
    assert ran["signal"] == 8
