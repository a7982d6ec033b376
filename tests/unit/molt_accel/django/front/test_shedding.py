"""molt_accel.django.front.shedding and asgi: what each refuses, and what it lets pass."""

import asyncio
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import django
import pytest
from asgiref.sync import iscoroutinefunction
from django.conf.urls.i18n import i18n_patterns
from django.http import Http404, HttpRequest, HttpResponse
from django.test import RequestFactory, override_settings
from django.urls import path, register_converter
from django.utils import translation
from django.utils.decorators import method_decorator
from django.views import View as ClassView
from django.views.decorators.csrf import csrf_exempt

from molt_accel import CallMetrics, Client, molt_offload
from molt_accel.django import ShedASGI, ShedMiddleware, ShedWSGI, responses
from molt_accel.django.front.shedding import offload_at, refuse
from molt_accel.errors import BusyReason, MoltBusy
from molt_accel.ipc import outcomes
from molt_accel.overload.episode import Episode
from tests.support import EXPORTS

AnswerOf = Callable[..., HttpResponse]


class Shedding:
    """A transport's answer to whether it would refuse."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []
        self.entries = {"echo"}

    def __call__(self, entry: str, left_ns: int | None) -> MoltBusy | None:
        self.asked.append((entry, left_ns))
        return outcomes.busy(BusyReason.QUEUE_DELAY, 5_000_000_000) if entry in self.entries else None


@pytest.fixture
def shedding(monkeypatch: pytest.MonkeyPatch, client: Client) -> Shedding:
    made = Shedding()
    monkeypatch.setattr(client._transport, "refusal", made)
    return made


@pytest.fixture
def client() -> Iterator[Client]:
    with Client(transport="inline", exports=EXPORTS) as client:
        yield client


def by_middleware(asked: HttpRequest) -> HttpResponse:
    return ShedMiddleware(lambda _: HttpResponse("passed"))(asked)  # type: ignore[return-value]


def by_async_middleware(asked: HttpRequest) -> HttpResponse:
    async def get_response(_: HttpRequest) -> HttpResponse:
        return HttpResponse("passed")

    middleware = ShedMiddleware(get_response)
    assert iscoroutinefunction(middleware)

    async def run() -> Any:
        return await middleware(asked)  # type: ignore[misc]

    return asyncio.run(run())  # type: ignore[no-any-return]


def by_wsgi(asked: HttpRequest) -> HttpResponse:
    made = HttpResponse()

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        code, _, made.reason_phrase = status.partition(" ")
        made.status_code = int(code)
        for name, value in headers:
            made[name] = value

    def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        start_response("200 OK", [])
        return [b"passed"]

    environ = {**asked.environ, "SCRIPT_NAME": "/prefix"}  # type: ignore[attr-defined]
    made.content = b"".join(ShedWSGI(application)(environ, start_response))
    return made


def by_asgi(asked: HttpRequest) -> HttpResponse:
    async def application(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"passed"})

    scope = {
        "type": "http", "method": asked.method, "headers": [], "query_string": b"", "root_path": "/prefix",
        "path": "/prefix" + asked.path,
    }  # fmt: skip
    sent: list[Any] = []

    async def receive() -> Any:
        raise AssertionError("nothing of the body is read")

    async def send(message: Any) -> None:
        sent.append(message)

    asyncio.run(ShedASGI(application)(scope, receive, send))
    start, body = sent
    made = HttpResponse(body["body"], status=start["status"])
    for name, value in start["headers"]:
        made[name.decode()] = value.decode()
    return made


@pytest.fixture(params=[by_middleware, by_async_middleware, by_wsgi, by_asgi])
def answer_of(request: pytest.FixtureRequest) -> AnswerOf:
    """The answer of each that refuses, to a request for the only view; ``passed`` if the view has it."""

    def answer(view: Any, method: str = "get", where: str = "/view/") -> HttpResponse:
        urls: Any = ModuleType("urls")
        urls.urlpatterns = [path("view/", view)]
        with override_settings(ROOT_URLCONF=urls):
            made: HttpResponse = request.param(getattr(RequestFactory(), method)(where))
            return made

    return answer


def never(request: HttpRequest, **_: object) -> HttpResponse:
    raise AssertionError("it is not run here")


def status_and_reason(response: HttpResponse) -> tuple[int, str | None]:
    body = json.loads(response.content) if response.status_code != 200 else {}
    return response.status_code, body.get("reason")


def test_a_view_that_is_shed_is_answered_as_its_decorator_would(
    client: Client, shedding: Shedding, answer_of: AnswerOf
) -> None:
    seen: list[CallMetrics] = []
    view = molt_offload(entry="echo", client=client, timeout_ms=250, metrics_hook=seen.append)(never)
    response = answer_of(view)
    body = json.loads(response.content)
    assert (response.status_code, body["error"], body["reason"]) == (429, "MoltBusy", "queue_delay")
    assert int(response["Retry-After"]) == body["retry_after_s"] >= 5
    assert shedding.asked == [("echo", 250_000_000)]
    assert [(each.status, each.reason, each.request_id) for each in seen] == [
        ("Busy", "queue_delay", body["request_id"])
    ]


@pytest.mark.parametrize(
    "options", [{"on_error": "raise"}, {"on_error": lambda *_: None}, {"queue_timeout_ms": 50}]
)
def test_views_that_answer_errors_themselves_and_calls_that_may_wait_pass(
    client: Client, shedding: Shedding, answer_of: AnswerOf, options: dict[str, Any]
) -> None:
    view = molt_offload(entry="echo", client=client, **options)(never)
    assert answer_of(view).content == b"passed"
    assert shedding.asked == []


def test_other_views_and_addresses_pass(client: Client, shedding: Shedding, answer_of: AnswerOf) -> None:
    assert answer_of(never).content == b"passed"
    assert answer_of(never, where="/nowhere/").content == b"passed"
    assert answer_of(molt_offload(entry="to_json", client=client)(never)).content == b"passed"
    assert shedding.asked == [("to_json", 30_000_000_000)]


def test_a_pool_that_was_never_called_is_not_started(
    answer_of: AnswerOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molt_accel.client._clients", {})
    assert answer_of(molt_offload(entry="echo")(never)).content == b"passed"


def test_a_view_is_found_below_other_decorators(
    client: Client, shedding: Shedding, answer_of: AnswerOf
) -> None:
    view = csrf_exempt(molt_offload(entry="echo", client=client)(never))
    assert status_and_reason(answer_of(view)) == (429, "queue_delay")


def test_of_a_class_only_the_handlers_that_offload_are_refused(
    client: Client, shedding: Shedding, answer_of: AnswerOf
) -> None:
    class Items(ClassView):
        @method_decorator(molt_offload(entry="echo", client=client))
        def get(self, request: HttpRequest) -> HttpResponse:
            raise AssertionError("it is not run here")

        def post(self, request: HttpRequest) -> HttpResponse:
            raise AssertionError("it is not run here")

    view = Items.as_view()
    assert status_and_reason(answer_of(view)) == (429, "queue_delay")
    assert status_and_reason(answer_of(view, "head"))[0] == 429
    assert answer_of(view, "post").content == b"passed"
    assert answer_of(view, "delete").content == b"passed"


def test_function_views_of_rest_framework_are_found(
    client: Client, shedding: Shedding, answer_of: AnswerOf
) -> None:
    from rest_framework.decorators import api_view

    view = api_view(["GET"])(molt_offload(entry="echo", client=client)(never))
    assert status_and_reason(answer_of(view)) == (429, "queue_delay")


def test_a_view_without_a_hash_is_found_too(client: Client, shedding: Shedding, answer_of: AnswerOf) -> None:
    class Callable_:
        __hash__ = None  # type: ignore[assignment]
        molt_offload: Any = molt_offload(entry="echo", client=client)(never).molt_offload  # type: ignore[attr-defined]

        def __call__(self, request: HttpRequest) -> HttpResponse:
            raise AssertionError("it is not run here")

        def __eq__(self, other: object) -> bool:
            return self is other

    assert status_and_reason(answer_of(Callable_())) == (429, "queue_delay")


def test_a_view_whose_places_are_taken_is_refused(client: Client, answer_of: AnswerOf) -> None:
    view = molt_offload(entry="echo", client=client, max_in_flight=1)(never)
    places = view.molt_offload.places  # type: ignore[attr-defined]
    assert answer_of(view).content == b"passed"
    places.take(self := object())
    assert status_and_reason(answer_of(view)) == (429, "in_flight")
    places.give_up(self)
    assert places.taken == 0


def test_below_i18n_patterns_each_language_is_looked_up(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    django.setup()  # which languages there are is asked of the apps too
    # Django decides once whether it translates, and the other tests' settings say no.
    monkeypatch.setattr(translation, "_trans", type(translation._trans)())  # type: ignore[attr-defined]

    @molt_offload(entry="echo", client=client)
    def view(request: HttpRequest) -> HttpResponse:
        raise AssertionError("it is not run here")

    urls: Any = ModuleType("urls")
    languages = [("en", "English"), ("fr", "French")]
    with override_settings(USE_I18N=True, LANGUAGE_CODE="en", LANGUAGES=languages, ROOT_URLCONF=urls):
        urls.urlpatterns = i18n_patterns(path("view/", view))
        assert offload_at("/en/view/", "GET", urls) is offload_at("/fr/view/", "GET", urls) is not None
        assert offload_at("/view/", "GET", urls) is offload_at("/fr/nowhere/", "GET", urls) is None


def test_what_looking_a_url_up_raises_is_left_to_django() -> None:
    class Gone:
        regex = "[a-z]+"

        def to_python(self, value: str) -> str:
            raise Http404("no such item")

        def to_url(self, value: str) -> str:
            return value

    urls: Any = ModuleType("urls")
    register_converter(Gone, "molt_gone")
    urls.urlpatterns = [path("<molt_gone:item>/", never)]
    assert offload_at("/item/", "GET", urls) is None


def test_the_first_refusal_of_an_episode_is_in_djangos_log_in_front_of_it_too(
    client: Client, shedding: Shedding, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(responses, "_refused", Episode())
    offload = molt_offload(entry="echo", client=client)(never).molt_offload  # type: ignore[attr-defined]
    with caplog.at_level("WARNING", "django.request"):
        for _ in range(2):
            refuse(offload, RequestFactory().get("/view/"), outcomes.busy(BusyReason.QUEUE_DELAY))
    assert [each.getMessage() for each in caplog.records] == ["Too Many Requests: /view/"]
