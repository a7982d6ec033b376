"""molt_accel.django.decorator: the decorated view, its options, and which errors it answers, logs or falls back on."""

import asyncio
import base64
import functools
import inspect
import json
import logging
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import iscoroutinefunction
from django.core.exceptions import ImproperlyConfigured
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.signals import got_request_exception
from django.http import HttpRequest, HttpResponse
from django.test import AsyncRequestFactory, RequestFactory, override_settings
from django.utils.datastructures import MultiValueDict
from django.utils.decorators import method_decorator
from django.views import View as ClassView
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET

from molt_accel import (
    CallOptions,
    Client,
    MoltBusy,
    MoltClientClosed,
    MoltError,
    MoltInternalError,
    MoltInvalidInput,
    MoltWorkerUnavailable,
    molt_offload,
    testing,
)
from molt_accel.errors import ERROR_TABLE, http_status
from molt_accel.ipc.frame import Codec
from tests.support.views import MakeView, body_of


@pytest.fixture
def viewed(offloaded: MakeView, inline_client: Client) -> MakeView:
    """Makes an offloaded view whose entrypoint runs here; its payload is always the same, unless it has a builder."""

    def make(entry: str, payload: object = None, **options: Any) -> Callable[..., Any]:
        known = {"client": inline_client, "payload_builder": lambda request: payload}
        return offloaded(entry=entry, **{**known, **options})

    return make


def posted(body: bytes, content_type: str = "application/octet-stream") -> HttpRequest:
    return RequestFactory().post("/items/", data=body, content_type=content_type)


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
def test_wrong_options_fail_at_once(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        molt_offload(**options)


def test_a_codec_may_be_given_as_its_enum_member(inline_client: Client, offloaded: MakeView) -> None:
    view = offloaded(entry="to_json", codec=Codec.MSGPACK, client=inline_client)
    assert json.loads(view(posted(b"x")).content)["method"] == "POST"


def test_a_payload_builder_gets_request_and_url_arguments(viewed: MakeView) -> None:
    view = viewed("echo", payload_builder=lambda request, *args, **names: [request.method, list(args), names])
    assert json.loads(view(posted(b""), 1, b="x").content) == ["POST", [1], {"b": "x"}]


def test_a_failing_reporting_hook_changes_nothing(
    viewed: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(report: object) -> None:
        raise RuntimeError("a hook failed")

    assert viewed("echo", 1, after_recv=fail, metrics_hook=fail)(get).content == b"1"
    assert [record.message.split(" for ")[0] for record in caplog.records] == [
        "metrics_hook failed",
        "after_recv failed",
    ]


def test_the_clients_options_are_the_views_defaults(get: HttpRequest, offloaded: MakeView) -> None:
    options = CallOptions(codec="json", timeout_ms=1234)
    with Client(transport="inline", exports="tests.support.entrypoints", options=options) as client:
        view = offloaded(entry="echo_json", client=client, payload_builder=lambda _: b'{"a":1}')
        assert view(get).content == b'{"a":1}'
        as_msgpack = offloaded(entry="echo", codec="msgpack", client=client, payload_builder=lambda _: 7)
        assert as_msgpack(get).content == b"7"


def test_other_decorators_stack_with_it(inline_client: Client, get: HttpRequest, offloaded: MakeView) -> None:
    @csrf_exempt
    @require_GET
    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda _: 1)
    def view(request: HttpRequest) -> HttpResponse:
        """A view."""
        return HttpResponse("here")

    assert (view.__name__, view.__doc__, view.csrf_exempt) == ("view", "A view.", True)
    assert view(get).content == b"1"
    assert view(posted(b"")).status_code == 405


def test_async_views_stay_async_between_djangos_decorators(inline_client: Client) -> None:
    @csrf_exempt
    @require_GET
    @molt_offload(entry="echo", client=inline_client, payload_builder=lambda _: 1)
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    assert iscoroutinefunction(view)
    assert asyncio.run(view(AsyncRequestFactory().get("/"))).content == b"1"


def test_methods_of_class_based_views_take_it(inline_client: Client, get: HttpRequest) -> None:
    offload = molt_offload(entry="echo", client=inline_client, payload_builder=lambda _, **kwargs: kwargs)

    class Sync(ClassView):
        @method_decorator(offload)
        def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return HttpResponse("here")

    class Async(ClassView):
        @method_decorator(offload)
        async def get(self, request: HttpRequest, **kwargs: Any) -> HttpResponse:
            return HttpResponse("here")

    assert Sync.as_view()(get, a=1).content == b'{"a":1}'
    assert asyncio.run(Async.as_view()(get, a=1)).content == b'{"a":1}'


def test_a_view_that_is_only_marked_as_async_is_async(inline_client: Client, get: HttpRequest) -> None:
    """`as_view` of a class with async handlers is a plain function with a mark; so are partials."""

    class Items(ClassView):
        async def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("here")

    offload = molt_offload(
        entry="echo", client=inline_client, payload_builder=lambda _: 1, replaces_wrapped=True
    )
    view = offload(Items.as_view())

    assert iscoroutinefunction(view)
    assert asyncio.run(view(get)).content == b"1"


@pytest.mark.parametrize(
    ("entry", "codec", "payload", "detail"),
    [
        ("echo_json", "json", b"[1,", "the payload is not valid json: Input data was truncated"),
        ("fail", "msgpack", "invalid", "name: 'x' is not allowed"),
    ],
)
def test_invalid_input_is_400_and_says_what_is_wrong(
    viewed: MakeView, get: HttpRequest, entry: str, codec: str, payload: Any, detail: str
) -> None:
    response = viewed(entry, payload, codec=codec)(get)
    assert response.status_code == 400
    assert body_of(response) == {"error": "MoltInvalidInput", "detail": detail}


@pytest.mark.parametrize(
    ("entry", "codec", "payload", "logged"),
    [
        ("ech", "msgpack", 1, "unknown entry 'ech'; the pool offers 'echo', "),
        ("echo", "json", b"1", "entry 'echo' takes msgpack payloads, not json"),
        ("e" * 256, "msgpack", 1, "bad entry name: 256 bytes, 255 at most"),
    ],
)
def test_a_view_that_does_not_fit_the_pool_is_500_and_an_error_in_the_log(
    viewed: MakeView,
    get: HttpRequest,
    caplog: pytest.LogCaptureFixture,
    entry: str,
    codec: str,
    payload: Any,
    logged: str,
) -> None:
    response = viewed(entry, payload, codec=codec)(get)
    assert response.status_code == 500
    assert body_of(response) == {"error": "MoltEntryError", "detail": "the request failed"}
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert f"MoltEntryError: {logged}" in record.getMessage()


@pytest.mark.parametrize(
    ("codec", "payload", "detail"),
    [
        (
            "msgpack",
            object(),
            "the payload can't be encoded as msgpack: objects of type object are not supported",
        ),
        ("raw", "text", "the payload can't be encoded as raw: raw takes bytes, not str"),
    ],
)
def test_a_payload_that_the_view_itself_made_wrong_is_no_bad_request(
    viewed: MakeView, get: HttpRequest, codec: str, payload: Any, detail: str
) -> None:
    view = viewed("echo", payload, codec=codec)
    with pytest.raises(MoltInvalidInput, match=detail):
        view(get)


@pytest.mark.parametrize(
    ("payload", "where"),
    [
        ({"n": 2**64}, r' at payload\["n"\], of type int: '),
        ({"a": ["\ud800"]}, r' at payload\["a"\]\[0\], of type str: '),
        (functools.reduce(lambda inner, _: [inner], range(2000), []), ", 2000 levels deep: "),
    ],
    ids=["number", "text", "depth"],
)
def test_what_a_builder_passes_on_of_a_visitor_is_a_bad_request(
    viewed: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture, payload: Any, where: str
) -> None:
    response = viewed("echo", payload)(get)
    assert response.status_code == 400
    assert re.match(f"the payload can't be encoded as msgpack{where}", body_of(response)["detail"])
    (record,) = caplog.records
    assert record.levelname == "WARNING"


@pytest.mark.parametrize("kind", ["value", "exit", "interrupt", "memory", "recursion", "unprintable"])
def test_a_raising_entrypoint_is_500_with_no_reason(viewed: MakeView, get: HttpRequest, kind: str) -> None:
    response = viewed("fail", kind)(get)
    assert response.status_code == 500
    assert body_of(response) == {"error": "MoltInternalError", "detail": "the request failed"}


def test_an_error_may_be_raised_for_the_framework_to_answer(viewed: MakeView, get: HttpRequest) -> None:
    with pytest.raises(MoltInternalError, match="'fail' raised ValueError") as caught:
        viewed("fail", "value", on_error="raise")(get)
    assert "ValueError" in str(caught.value.__cause__)
    with pytest.raises(
        ValueError, match="on_error: 'ignore' is not allowed; it must be 'response', 'raise' or a function"
    ):
        molt_offload(entry="fail", on_error="ignore")


def test_a_failure_is_django_s_where_the_settings_let_exceptions_through(
    viewed: MakeView, get: HttpRequest
) -> None:
    with override_settings(DEBUG_PROPAGATE_EXCEPTIONS=True):
        with pytest.raises(MoltInternalError, match="'fail' raised ValueError"):
            viewed("fail", "value")(get)
        assert viewed("fail", "invalid")(get).status_code == 400  # no failure, so it is answered


def test_receivers_of_the_signal_never_hold_up_an_event_loop(inline_client: Client, get: HttpRequest) -> None:
    @molt_offload(entry="fail", client=inline_client, payload_builder=lambda request: "value")
    async def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    told: list[threading.Thread] = []

    def receive(**kwargs: Any) -> None:
        told.append(threading.current_thread())

    got_request_exception.connect(receive)
    try:
        assert asyncio.run(view(get)).status_code == 500
    finally:
        got_request_exception.disconnect(receive)
    assert [thread is threading.current_thread() for thread in told] == [False]


def test_an_error_that_comes_after_the_call_has_the_call_s_id(viewed: MakeView, get: HttpRequest) -> None:
    def refuse(request: HttpRequest, value: object) -> Any:
        raise MoltInvalidInput("not this result")

    ids: list[str] = []
    view = viewed("echo", response_factory=refuse, after_recv=lambda info: ids.append(info.request_id))
    assert [json.loads(view(get).content)["request_id"]] == ids


def test_no_transport_is_503(offloaded: MakeView, get: HttpRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_transport(pool: str) -> Client:
        raise MoltWorkerUnavailable("no transport: secret reasons")

    monkeypatch.setattr("molt_accel.django.decorator.client_for", no_transport)
    response = offloaded(entry="echo")(get)
    assert response.status_code == 503
    assert body_of(response) == {"error": "MoltWorkerUnavailable", "detail": "the service is not available"}
    assert offloaded(entry="echo", allow_fallback=True)(get).content == b"here"


@pytest.mark.parametrize(
    "error", [MoltBusy("try later", facts={"retry_after_s": 7}), MoltWorkerUnavailable("a secret")]
)
def test_a_molt_error_of_the_views_own_functions_is_answered_alike(
    viewed: MakeView, get: HttpRequest, error: MoltError
) -> None:
    def refuse(request: HttpRequest, value: object = None) -> Any:
        raise error

    bodies = []
    for options in ({"payload_builder": refuse}, {"response_factory": refuse, "payload_builder": str}):
        response = viewed("echo", **options)(get)
        bodies.append((response.status_code, response.get("Retry-After"), body_of(response)["error"]))
    expected = (429, "7", "MoltBusy") if isinstance(error, MoltBusy) else (503, None, "MoltWorkerUnavailable")
    assert bodies == [expected, expected]


def test_other_exceptions_are_djangos(viewed: MakeView, get: HttpRequest) -> None:
    def fail(request: HttpRequest) -> None:
        raise LookupError("no such thing")

    with pytest.raises(LookupError, match="no such thing"):
        viewed("echo", payload_builder=fail)(get)


@pytest.mark.parametrize(("header", "taken"), [("upstream-7", True), ("up\nstream", False)])
def test_an_error_names_the_request_by_the_senders_id_if_that_is_sane(
    viewed: MakeView, caplog: pytest.LogCaptureFixture, header: str, taken: bool
) -> None:
    view = viewed("fail", "value")
    request = RequestFactory().get("/", headers={"X-Request-ID": header})
    request_id = json.loads(view(request).content)["request_id"]

    assert (request_id == header) is taken
    [logged] = [record for record in caplog.records if record.name == "django.request"]
    assert request_id in logged.getMessage()
    assert "\n" not in logged.getMessage()


@pytest.mark.parametrize(("kind", "levels"), [("value", [logging.ERROR]), ("invalid", [])])
def test_only_failures_of_the_service_are_logged_as_errors(
    viewed: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture, kind: str, levels: list[int]
) -> None:
    viewed("fail", kind)(get)
    assert [record.levelno for record in caplog.records if record.name == "django.request"] == levels


def test_only_what_it_may_do_on_an_error_is_allowed() -> None:
    with pytest.raises(
        ValueError, match="on_error: 'ignore' is not allowed; it must be 'response', 'raise' or a function"
    ):
        molt_offload(entry="echo", on_error="ignore")


def test_with_on_error_raise_the_error_is_the_view_s(viewed: MakeView, get: HttpRequest) -> None:
    with pytest.raises(MoltInternalError, match="'fail' raised ValueError") as caught:
        viewed("fail", "value", on_error="raise")(get)
    assert "Traceback" in caught.value.remote_traceback


@pytest.mark.parametrize(("kind", "status"), [("value", 500), ("invalid", 400)])
def test_a_function_of_the_project_answers_errors(
    viewed: MakeView, get: HttpRequest, caplog: pytest.LogCaptureFixture, kind: str, status: int
) -> None:
    def answer(request: HttpRequest, error: MoltError) -> HttpResponse:
        assert request is get
        return HttpResponse(f"<h1>{type(error).__name__}</h1>", status=http_status(error))

    response = viewed("fail", kind, on_error=answer)(get)
    assert (response.status_code, response.content[:8]) == (status, b"<h1>Molt")
    logged = [record for record in caplog.records if record.name == "django.request"]
    assert len(logged) == (status == 500)

    async def later(request: HttpRequest, error: MoltError) -> HttpResponse:
        raise AssertionError

    with pytest.raises(ImproperlyConfigured, match="on_error is async"):
        molt_offload(entry="fail", on_error=later)


@pytest.mark.parametrize("option", ["payload_builder", "response_factory"])
def test_async_functions_of_a_view_need_an_async_one(
    inline_client: Client, get: HttpRequest, option: str
) -> None:
    async def given(request: HttpRequest, value: object = 5) -> Any:
        return HttpResponse(f"made of {value}") if option == "response_factory" else value

    options: dict[str, Any] = {"payload_builder": lambda _: 5, "client": inline_client, option: given}
    decorate = molt_offload(entry="echo", **options)

    @decorate
    async def aview(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    expected = b"made of 5" if option == "response_factory" else b"5"
    assert asyncio.run(aview(get)).content == expected

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse("here")

    with pytest.raises(ImproperlyConfigured, match="given is async and needs an async view"):
        decorate(view)


def test_a_factory_without_a_worker_does_not_run_the_view_too(viewed: MakeView, get: HttpRequest) -> None:
    def factory(request: HttpRequest, value: object) -> HttpResponse:
        raise MoltWorkerUnavailable("another worker's")

    view = viewed("echo", allow_fallback=True, response_factory=factory, payload_builder=None)
    assert view(get).status_code == 503


@pytest.mark.parametrize("idempotent", [False, True])
def test_what_may_have_run_falls_back_only_if_running_it_twice_does_no_harm(
    viewed: MakeView, get: HttpRequest, idempotent: bool
) -> None:
    view = viewed("echo", allow_fallback=True, idempotent=idempotent)
    with testing.forced("echo", testing.unavailable(may_have_run=True)):
        assert view(get).status_code == (200 if idempotent else 503)
    with testing.forced("echo", testing.unavailable(may_have_run=False)):
        assert view(get).content == b"here"


def test_no_other_error_falls_back(viewed: MakeView, get: HttpRequest) -> None:
    others = [row.exception for row in ERROR_TABLE if not issubclass(row.exception, MoltWorkerUnavailable)]
    assert {MoltInternalError, MoltClientClosed} < set(others)
    for exception in others:

        def fail(request: HttpRequest, exception: type[MoltError] = exception) -> None:
            raise exception("not this one")

        view = viewed("echo", allow_fallback=True, payload_builder=fail)
        assert json.loads(view(get).content)["error"] == exception.__name__


def test_lists_of_a_query_travel_whole(inline_client: Client, offloaded: MakeView) -> None:
    view = offloaded(entry="to_json", client=inline_client, payload_builder=lambda request: request.GET)
    assert view(RequestFactory().get("/?a=1&a=2&b=3")).content == b'{"a":["1","2"],"b":["3"]}'


def test_files_of_a_builder_s_form_travel_too(inline_client: Client, offloaded: MakeView) -> None:
    """As in the `request.data` of Django REST framework."""

    def data(request: HttpRequest) -> MultiValueDict[str, Any]:
        return MultiValueDict({**dict(request.POST.lists()), **dict(request.FILES.lists())})

    view = offloaded(entry="echo", client=inline_client, payload_builder=data)
    sent = {"name": "x", "file": SimpleUploadedFile("a.txt", b"some", "text/plain")}
    assert json.loads(view(RequestFactory().post("/", sent)).content) == {
        "name": ["x"],
        "file": [
            {"name": "a.txt", "content_type": "text/plain", "content": base64.b64encode(b"some").decode()}
        ],
    }
