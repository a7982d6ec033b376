"""molt_accel.django.placement: no view is replaced together with what protects it, unless that is asked for."""

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.auth.decorators import login_required, permission_required
from django.core.exceptions import ImproperlyConfigured
from django.http import HttpRequest, HttpResponse
from django.test import RequestFactory
from django.utils.decorators import method_decorator
from django.views import View as ClassView
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_POST

from molt_accel import Client, molt_offload

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


@pytest.fixture
def drf() -> SimpleNamespace:
    """What the tests use of Django REST framework, which reads the project's settings as it is imported."""
    from rest_framework import decorators, permissions, views

    return SimpleNamespace(
        decorators=decorators, IsAuthenticated=permissions.IsAuthenticated, APIView=views.APIView
    )


def logged(view: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(view)
    def wrapper(*args: Any) -> Any:
        return view(*args)

    return wrapper


def items(request: HttpRequest) -> HttpResponse:
    return HttpResponse("here")


async def aitems(request: HttpRequest) -> HttpResponse:
    return HttpResponse("here")


@pytest.mark.parametrize(
    ("decorator", "name"),
    [
        (login_required, "user_passes_test"), (permission_required("x.y"), "user_passes_test"),
        (require_POST, "require_http_methods"), (csrf_exempt, "csrf_exempt"),
        (csrf_protect, "make_middleware_decorator"), (never_cache, "never_cache"), (logged, "logged"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("view", [items, aitems])
def test_a_wrapped_view_is_refused_by_the_name_of_its_wrapper(
    decorator: Decorator, name: str, view: Callable[..., Any]
) -> None:
    with pytest.raises(
        ImproperlyConfigured, match=rf"the view '{view.__name__}' together with what '{name}'"
    ):
        molt_offload(entry="echo")(decorator(view))


@pytest.mark.parametrize("made_by", ["as_view", "APIView", "api_view"])
def test_the_function_of_a_class_based_view_is_refused(made_by: str, drf: SimpleNamespace) -> None:
    protected = drf.decorators.permission_classes([drf.IsAuthenticated])(items)
    view = {
        "as_view": lambda: ClassView.as_view(),
        "APIView": lambda: drf.APIView.as_view(),
        "api_view": lambda: drf.decorators.api_view(["POST"])(protected),
    }[made_by]()
    with pytest.raises(ImproperlyConfigured, match="would replace all of the class-based view"):
        molt_offload(entry="echo")(view)


def guarded_without_wraps(view: Callable[..., Any]) -> Callable[..., Any]:
    def guard(request: HttpRequest, **kwargs: Any) -> Any:
        return view(request, **kwargs)

    return guard


def guarded_by_default(view: Callable[..., Any]) -> Callable[..., Any]:
    def guard(request: HttpRequest, guarded: Callable[..., Any] = view) -> Any:
        return guarded(request)

    return guard


class Guard:
    def __init__(self, view: Callable[..., Any]) -> None:
        self.view = view

    def __call__(self, request: HttpRequest) -> Any:
        return self.view(request)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (
            lambda: guarded_without_wraps(items),
            r"'guarded_without_wraps.<locals>.guard', which holds the callable 'view'",
        ),
        (lambda: guarded_without_wraps(Guard(items)), "holds the callable 'view'"),
        (lambda: guarded_without_wraps(functools.partial(items)), "holds the callable 'view'"),
        (lambda: guarded_by_default(items), "holds the callable 'guarded'"),
        (lambda: Guard(items), "of the type 'Guard'"),
        (lambda: async_to_sync(login_required(aitems)), "of the type 'AsyncToSync'"),
        (lambda: functools.partial(guarded_without_wraps(items)), "holds the callable 'view'"),
        (lambda: functools.partial(login_required(items)), "together with what 'user_passes_test'"),
        (
            lambda: functools.partial(ClassView.as_view()),
            "all of the class-based view",
        ),
    ],
)
def test_a_guard_is_refused_however_it_is_written(
    make: Callable[[], Callable[..., Any]], named: str, inline_client: Client
) -> None:
    view = make()
    with pytest.raises(ImproperlyConfigured, match=named):
        molt_offload(entry="echo")(view)
    replace = molt_offload(
        entry="echo", client=inline_client, payload_builder=lambda _: 1, replaces_wrapped=True
    )
    assert replace(view)(RequestFactory().get("/")).content == b"1"


def test_a_view_of_a_factory_may_hold_what_no_request_could_be_given_to(inline_client: Client) -> None:
    def now() -> int:
        return 1

    def make(model: type, name: str, limit: int = 3, count: Callable[..., int] = len) -> Callable[..., Any]:
        def view(request: HttpRequest, fallback: str = name) -> Any:
            return model, limit, now(), count(fallback), view

        return view

    offload = molt_offload(entry="echo", client=inline_client, payload_builder=lambda _: 1)
    assert offload(make(Guard, "x"))(RequestFactory().get("/")).content == b"1"


def test_machinery_that_is_decorated_in_its_class_is_refused() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"would replace '.*Items.setup'"):

        class Items(ClassView):
            @molt_offload(entry="echo")
            def setup(self, request: HttpRequest) -> None: ...

    @molt_offload(entry="echo")
    def setup(request: HttpRequest) -> None: ...


@pytest.mark.parametrize("base", ["View", "APIView"])
def test_dispatch_is_refused_and_nothing_is_answered(base: str, drf: SimpleNamespace) -> None:
    @method_decorator(molt_offload(entry="echo"), name="dispatch")
    class Items(ClassView if base == "View" else drf.APIView):  # type: ignore[misc]
        pass

    with pytest.raises(ImproperlyConfigured, match=r"would replace '\w+\.dispatch'"):
        Items.as_view()(RequestFactory().get("/"))


def test_what_checks_a_request_before_its_handler_is_refused(drf: SimpleNamespace) -> None:
    @method_decorator(molt_offload(entry="echo"), name="initial")
    class Items(drf.APIView):  # type: ignore[misc,name-defined]
        permission_classes = (drf.IsAuthenticated,)

    with pytest.raises(ImproperlyConfigured, match=r"would replace 'APIView.initial'"):
        Items.as_view()(RequestFactory().get("/"))


def test_a_wrapped_handler_of_a_class_is_refused() -> None:
    class Items(ClassView):
        @method_decorator(molt_offload(entry="echo"))
        @method_decorator(login_required)
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("here")

    with pytest.raises(ImproperlyConfigured, match=r"together with what '_multi_decorate'"):
        Items.as_view()(RequestFactory().get("/"))


def test_a_drf_handler_is_replaced_below_its_permissions(inline_client: Client, drf: SimpleNamespace) -> None:
    class Items(drf.APIView):  # type: ignore[misc,name-defined]
        permission_classes = (drf.IsAuthenticated,)
        authentication_classes = ()

        @method_decorator(molt_offload(entry="echo", client=inline_client, payload_builder=lambda _: 1))
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("here")

    assert Items.as_view()(RequestFactory().get("/")).status_code == 403
    Items.permission_classes = ()
    assert Items.as_view()(RequestFactory().get("/")).render().content == b"1"


def test_whoever_asks_for_it_replaces_a_wrapped_view(inline_client: Client) -> None:
    offload = molt_offload(
        entry="echo", client=inline_client, payload_builder=lambda r: 1, replaces_wrapped=True
    )
    assert offload(require_POST(items))(RequestFactory().get("/")).content == b"1"
