"""`molt_offload`: what the decorated view is, what the entrypoint is given, and what the browser gets."""

from __future__ import annotations

import asyncio
import inspect
import json
import subprocess
import sys
import uuid
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory
from django.utils.decorators import method_decorator
from django.views import View as ClassView
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET

from molt_accel import CallInfo, CallMetrics, CallOptions, Client, codec, molt_offload
from molt_accel.client import default_client
from molt_accel.django import request_id_of
from molt_accel.ipc.messages import Codec
from tests.conftest import wait_until

JSON = "application/json"
MakeView = Callable[..., Callable[..., Any]]


def posted(body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
    return RequestFactory().post("/items/", data=body, content_type=content_type)


# -- the decorated function ---------------------------------------------------------------------------------


def test_the_decorated_view_keeps_name_doc_and_attributes() -> None:
    def items(request: HttpRequest) -> HttpResponse:
        """Lists items."""
        return HttpResponse()

    items.csrf_exempt = True  # type: ignore[attr-defined]
    view = molt_offload(entry="echo")(items)

    assert (view.__name__, view.__doc__, view.__module__) == ("items", "Lists items.", __name__)
    assert view.csrf_exempt is True  # type: ignore[attr-defined]
    assert view.__wrapped__ is items  # type: ignore[attr-defined]
    assert inspect.signature(view) == inspect.signature(items)


def test_a_sync_view_stays_sync_and_an_async_view_async() -> None:
    @molt_offload(entry="echo")
    def sync_view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    @molt_offload(entry="echo")
    async def async_view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    assert [iscoroutinefunction(sync_view), iscoroutinefunction(async_view)] == [False, True]
    assert [inspect.iscoroutinefunction(view) for view in (sync_view, async_view)] == [False, True]


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"entry": "echo", "codec": "yaml"}, ValueError, "unknown codec 'yaml'; allowed: msgpack, json, raw"),
        ({"entry": "echo", "codec": 2}, ValueError, "unknown codec 2; allowed: msgpack, json, raw"),
        ({"entry": "echo", "timeout_ms": -1}, ValueError, "timeout_ms: -1 is not allowed"),
        ({"entry": "echo", "timeout_ms": 0}, ValueError, "timeout_ms: 0 is not allowed"),
        ({"entry": "echo", "timeout_ms": float("nan")}, ValueError, "timeout_ms: nan is not allowed"),
        ({"entry": "echo", "retries": -1}, ValueError, "retries: -1 is not allowed"),
        ({"entry": "echo", "tiemout_ms": 5}, TypeError, "tiemout_ms"),
        ({"entry": ""}, ValueError, "entry: '' is not allowed"),
        ({}, TypeError, "entry"),
    ],
)
def test_wrong_options_fail_where_they_are_written(
    options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        molt_offload(**options)


# -- what the entrypoint is given ---------------------------------------------------------------------------


def test_the_default_payload_is_the_request_as_a_dict(any_client: Client, offloaded: MakeView) -> None:
    view = offloaded(entry="to_json", client=any_client)
    request = RequestFactory().post("/items/7/?a=1&a=2&b=%C3%A9", data=b"\x00body", content_type="text/x")

    assert json.loads(view(request, 7, "x", slug="y").content) == {
        "method": "POST",
        "path": "/items/7/",
        "query": {"a": ["1", "2"], "b": ["é"]},
        "args": [7, "x"],
        "kwargs": {"slug": "y"},
        "body": "AGJvZHk=",
    }


def test_url_arguments_that_a_converter_made_objects_of_travel_as_their_text(
    inline_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    view = offloaded(entry="to_json", client=inline_client)
    key = uuid.UUID("12345678-1234-5678-1234-567812345678")

    payload = json.loads(view(get, key, 3, key=key, number=4).content)

    assert payload["args"] == [str(key), 3]
    assert payload["kwargs"] == {"key": str(key), "number": 4}


@pytest.mark.parametrize("codec_name", ["json", Codec.JSON, "raw", Codec.RAW])
def test_the_default_payload_of_json_and_raw_is_the_body(
    inline_client: Client, offloaded: MakeView, codec_name: str
) -> None:
    entry = f"echo_{codec.parse(codec_name).label}"
    view = offloaded(entry=entry, codec=codec_name, client=inline_client)
    assert view(posted(b"[1,2]")).content == b"[1,2]"


def test_a_codec_may_be_given_as_its_enum_member(inline_client: Client, offloaded: MakeView) -> None:
    view = offloaded(entry="to_json", codec=Codec.MSGPACK, client=inline_client)
    assert json.loads(view(posted(b"x")).content)["method"] == "POST"


def test_a_payload_builder_gets_request_and_url_arguments(inline_client: Client, offloaded: MakeView) -> None:
    view = offloaded(
        entry="echo",
        client=inline_client,
        payload_builder=lambda request, *args, **kwargs: [request.method, list(args), kwargs],
    )
    assert json.loads(view(posted(b""), 1, b="x").content) == ["POST", [1], {"b": "x"}]


# -- what the browser gets ----------------------------------------------------------------------------------


def test_a_json_result_is_the_workers_bytes_and_is_never_decoded(
    offloaded: MakeView, monkeypatch: pytest.MonkeyPatch, get: HttpRequest
) -> None:
    text = b' { "odd" : 1.50e0,\n"twice":1, "twice":2 }'
    with Client(
        transport="stdio", exports="tests.support.entrypoints", executors=1, log_level="error"
    ) as client:
        view = offloaded(entry="to_json", client=client, payload_builder=lambda request: text)

        def no_decode(*args: object) -> None:
            raise AssertionError("the result was decoded")

        monkeypatch.setattr(codec, "decode", no_decode)
        response = view(get)
    assert response.content == text
    assert (response.status_code, response["Content-Type"]) == (200, JSON)


def test_a_msgpack_result_becomes_json(any_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    value = {"b": [1, -2.5, None, True], "a": "é", "3": {}}
    response = offloaded(entry="echo", client=any_client, payload_builder=lambda request: value)(get)
    assert response.content == '{"b":[1,-2.5,null,true],"a":"é","3":{}}'.encode()
    assert (response.status_code, response["Content-Type"]) == (200, JSON)


def test_a_raw_result_goes_out_as_bytes(any_client: Client, offloaded: MakeView) -> None:
    response = offloaded(entry="echo_raw", codec="raw", client=any_client)(posted(b"\x00\xff\xfe"))
    assert response.content == b"\x00\xff\xfe"
    assert (response.status_code, response["Content-Type"]) == (200, "application/octet-stream")


@pytest.mark.parametrize(
    ("entry", "codec_name", "payload", "seen"),
    [
        ("to_json", "msgpack", {"a": [1]}, {"a": [1]}),
        ("echo", "msgpack", {"a": b"\x00"}, {"a": b"\x00"}),
        ("echo_raw", "raw", b"\xff", b"\xff"),
    ],
)
def test_a_response_factory_gets_request_and_decoded_value(
    inline_client: Client,
    offloaded: MakeView,
    get: HttpRequest,
    entry: str,
    codec_name: str,
    payload: object,
    seen: object,
) -> None:
    given = []

    def factory(request: HttpRequest, value: object) -> HttpResponse:
        given.append((request, value))
        return HttpResponse("made", status=201)

    view = offloaded(
        entry=entry,
        codec=codec_name,
        client=inline_client,
        payload_builder=lambda request: payload,
        response_factory=factory,
    )
    response = view(get)

    assert (response.status_code, response.content) == (201, b"made")
    assert given == [(get, seen)]


# -- hooks and the client -----------------------------------------------------------------------------------


def test_hooks_see_the_call_before_and_after(
    any_client: Client, offloaded: MakeView, get: HttpRequest
) -> None:
    seen: list[Any] = []
    view = offloaded(
        entry="echo",
        client=any_client,
        payload_builder=lambda request: "hello",
        before_send=seen.append,
        after_recv=seen.append,
        metrics_hook=seen.append,
    )
    view(get)

    before, metrics, after = seen
    assert before == CallInfo("echo", metrics.request_id, payload_bytes=6)
    assert isinstance(metrics, CallMetrics)
    assert (metrics.entry, metrics.status, metrics.payload_bytes, metrics.response_bytes) == (
        ("echo", "Ok", 6, 6)
    )
    assert after == CallInfo("echo", metrics.request_id, 6, error=None, metrics=metrics)


def test_hooks_see_a_failed_call_too(any_client: Client, offloaded: MakeView, get: HttpRequest) -> None:
    seen: list[Any] = []
    view = offloaded(
        entry="fail",
        client=any_client,
        payload_builder=lambda request: "value",
        after_recv=seen.append,
        metrics_hook=seen.append,
    )
    body = json.loads(view(get).content)

    metrics, after = seen
    assert metrics.status == "InternalError"
    assert after.error.detail == "'fail' raised ValueError"
    assert {metrics.request_id, after.error.request_id} == {body["request_id"]}


def test_a_failing_reporting_hook_changes_nothing(
    inline_client: Client, offloaded: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: object) -> None:
        raise RuntimeError("a hook failed")

    view = offloaded(
        entry="echo",
        client=inline_client,
        payload_builder=lambda request: 1,
        after_recv=fail,
        metrics_hook=fail,
    )
    assert view(get).content == b"1"
    assert [record.message.split(" for ")[0] for record in caplog.records] == [
        "metrics_hook failed",
        "after_recv failed",
    ]


def test_the_clients_options_are_the_views_defaults(get: HttpRequest, offloaded: MakeView) -> None:
    options = CallOptions(codec="json", timeout_ms=1234)
    with Client(transport="inline", exports="tests.support.entrypoints", options=options) as client:
        view = offloaded(entry="echo_json", client=client, payload_builder=lambda request: b'{"a":1}')
        assert view(get).content == b'{"a":1}'
        as_msgpack = offloaded(
            entry="echo", codec="msgpack", client=client, payload_builder=lambda request: 7
        )
        assert as_msgpack(get).content == b"7"


def executors() -> set[bytes]:
    return {str(pid).encode() for pid in default_client().ping()["executors"]["pids"]}


def test_views_without_a_client_share_one(get: HttpRequest, offloaded: MakeView) -> None:
    pids = [offloaded(entry="pid")(get).content for _ in range(3)]
    assert default_client() is default_client()
    assert default_client().ping()["outcomes"] == {"Ok": 3}
    # An executor may answer before the supervisor has been told its pid.
    wait_until(lambda: set(pids) <= executors())


# -- among other decorators and in classes ------------------------------------------------------------------


def test_other_decorators_stack_around_and_inside(
    inline_client: Client, get: HttpRequest, offloaded: MakeView
) -> None:
    @csrf_exempt
    @require_GET
    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda request: 1)
    @never_cache
    def view(request: HttpRequest) -> HttpResponse:
        """A view."""
        return HttpResponse("here")

    assert (view.__name__, view.__doc__, view.csrf_exempt) == ("view", "A view.", True)
    assert view(get).content == b"1"
    assert view(posted(b"")).status_code == 405


def test_async_views_stay_async_between_djangos_decorators(inline_client: Client) -> None:
    @csrf_exempt
    @require_GET
    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda request: 1)
    @never_cache
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    assert iscoroutinefunction(view)
    assert asyncio.run(view(AsyncRequestFactory().get("/"))).content == b"1"


def test_methods_of_class_based_views_take_it(inline_client: Client, get: HttpRequest) -> None:
    offload = molt_offload(
        entry="echo", client=inline_client, payload_builder=lambda request, **kwargs: kwargs
    )

    class Sync(ClassView):
        @method_decorator(offload)
        def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return HttpResponse("here")

    class Async(ClassView):
        @method_decorator(offload)
        async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return HttpResponse("here")

    @method_decorator(offload, name="dispatch")
    class Whole(ClassView):
        pass

    assert Sync.as_view()(get, a=1).content == b'{"a":1}'
    assert asyncio.run(Async.as_view()(get, a=1)).content == b'{"a":1}'
    assert Whole.as_view()(get, a=1).content == b'{"a":1}'


def test_a_view_that_is_only_marked_as_async_is_treated_as_async(
    inline_client: Client, get: HttpRequest
) -> None:
    """`as_view` of a class with async handlers is a plain function with a mark; so are partials."""

    class Items(ClassView):
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("here")

    view = molt_offload(entry="echo", client=inline_client, payload_builder=lambda request: 1)(
        Items.as_view()
    )

    assert iscoroutinefunction(view)
    assert asyncio.run(view(get)).content == b"1"


# -- request ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sane", ["7f3a", "a" * 128, "Root=1-67891233-abcdef012345678912345678", "a.b:c/d_e+f-g="]
)
def test_a_sane_x_request_id_is_taken(sane: str) -> None:
    assert request_id_of(RequestFactory().get("/", headers={"X-Request-ID": sane}), "own") == sane


@pytest.mark.parametrize(
    "hostile", ["", "a" * 129, "a b", 'a"b', "a\nb", "abc\n", "a\x00b", "<script>", "é", "٣", "a;b", "%0a"]
)
def test_a_hostile_x_request_id_is_ignored(hostile: str) -> None:
    request = RequestFactory().get("/", headers={"X-Request-ID": hostile})
    assert request_id_of(request, "own") == "own"
    made = [request_id_of(request) for _ in range(2)]
    assert made[0] != made[1]
    assert all(len(each) == 16 and int(each, 16) >= 0 for each in made)


# -- without Django -----------------------------------------------------------------------------------------

_WITHOUT_DJANGO = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "django":
            raise ModuleNotFoundError(f"{name} is blocked", name=name)

sys.meta_path.insert(0, Blocker())
import molt_accel
with molt_accel.Client(transport="inline") as client:
    assert client.call("echo", [1]) == [1]
assert not any(name.startswith("django") for name in sys.modules)
try:
    molt_accel.molt_offload
except ModuleNotFoundError as exc:
    print(exc.name)
"""


def test_the_library_works_without_django_until_the_decorator_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITHOUT_DJANGO], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout.partition(".")[0].strip(), done.stderr, done.returncode) == ("django", "", 0)
